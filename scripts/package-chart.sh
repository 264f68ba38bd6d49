#!/bin/sh
# Packages the chart into a folder, with the same bytes on every machine: package-chart.sh PYTHON FOLDER
set -eu
python=$1 folder=$2

# Everything in the archive has the time of the last commit.
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R charts/k6u "$copy/k6u"
find "$copy" -exec touch -h -d "@$epoch" {} +
mkdir -p "$folder"
"$python" scripts/helm.py package "$copy/k6u" "$folder"
