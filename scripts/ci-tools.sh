#!/bin/sh
# Installs the missing tools of `make ci`, with Debian's package manager as root. Reports a tool that cannot be
# installed; the checks that need it fail then, if K6U_STRICT is 1.
set -eu

have() {
    for tool in "$@"; do command -v "$tool" >/dev/null || return 1; done
}

packages=
need() { packages="$packages $*"; }

have make cc readelf || need make gcc libc6-dev binutils
have git || need git
have podman buildah runc || need podman buildah runc
have promtool || need prometheus
have valgrind strace || need valgrind strace
have radvd dnsmasq dhcpcd ip nsenter || need radvd dnsmasq-base dhcpcd-base iproute2 util-linux
have shellcheck || need shellcheck
have lua5.4 || need lua5.4
have "${KUBECTL:-kubectl}" || need kubernetes-client

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
# Without optimization the build takes a minute and a half of processor time; with it, many minutes.
"$cargo" deny --version >/dev/null 2>&1 || CARGO_PROFILE_DEV_DEBUG=0 \
    "$cargo" install --quiet --locked --debug --version 0.20.2 cargo-deny || echo "cannot install cargo-deny" >&2
"$(dirname "$0")/helm-tools.sh" "${HELM_VENV:-${CARGO_TARGET_DIR:-target}/tools/helm}" ||
    echo "cannot install helm-python-sdk" >&2
