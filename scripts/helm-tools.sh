#!/bin/sh
# Makes a virtual environment of Python with Helm's library in it: helm-tools.sh FOLDER
# If Python lacks the packages for that, installs them with Debian's package manager as root.
set -eu
folder=$1
version=0.2.2

if "$folder/bin/python" -c "from importlib.metadata import version
assert version('helm-python-sdk') == '$version'" 2>/dev/null; then
    exit 0
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3 python3-venv >/dev/null
fi
python3 -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "helm-python-sdk==$version"
touch "$folder/bin/python"
