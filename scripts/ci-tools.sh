#!/bin/sh
# Installs what `make ci` needs and does not find, with Debian's package manager as root. Where that fails,
# whoever needs the package says that it was skipped.
set -eu

have() {
    for tool in "$@"; do command -v "$tool" >/dev/null || return 1; done
}

packages=
need() { packages="$packages $*"; }

have cc readelf || need gcc libc6-dev binutils
have podman buildah runc || need podman buildah runc
have promtool || need prometheus
have valgrind strace || need valgrind strace
have radvd dnsmasq dhcpcd ip nsenter || need radvd dnsmasq-base dhcpcd-base iproute2 util-linux
have shellcheck || need shellcheck

if [ -n "$packages" ]; then
    apt-get update -qq || true
    # One at a time: a release may lack one of them.
    for package in $packages; do
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" >/dev/null ||
            echo "cannot install $package" >&2
    done
fi
cargo=${CARGO:-cargo}
"$cargo" fmt --version >/dev/null 2>&1 || rustup component add rustfmt
"$cargo" clippy --version >/dev/null 2>&1 || rustup component add clippy
"$(dirname "$0")/helm-tools.sh" "${HELM_VENV:-${CARGO_TARGET_DIR:-target}/tools/helm}" ||
    echo "cannot install helm-python-sdk" >&2
