#!/bin/sh
# Tests the chart with Helm's library: check-chart.sh PYTHON
set -eu
python=$1

if ! "$python" -c 'import helm_python' 2>/dev/null; then
    echo "SKIPPED, NOT PASSED: helm-python-sdk is needed to test the chart: scripts/ci-tools.sh installs it" >&2
    [ "${K6U_STRICT:-}" != 1 ] || { echo "a skip is a failure with K6U_STRICT=1" >&2; exit 1; }
    exit 0
fi
"$python" scripts/helm.py lint charts/k6u
HELM_PYTHON=$python ${CARGO:-cargo} test --quiet --locked --test chart
