#!/bin/sh
# Builds this working tree for musl in the root that musl-root.sh made: musl-cargo.sh ROOT TARGET [ARGUMENT...]
# The output is in ROOT/target/TARGET/release. Needs root.
set -eu
root=$1 target=$2
shift 2

rm -rf "$root/build"
mkdir -p "$root/build"
tar -c --exclude=./target --exclude=./.git . | tar -x -C "$root/build"

cc=CC_$(echo "$target" | tr - _)
linker=CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER
certificates=/etc/ssl/certs/ca-certificates.crt
chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin K6U_COMMIT="${K6U_COMMIT:-unknown}" \
    SSL_CERT_FILE=$certificates CARGO_HTTP_CAINFO=$certificates \
    RUSTC_BOOTSTRAP=1 "$cc=musl-gcc" "$linker=musl-gcc" \
    RUSTFLAGS="-C target-feature=+crt-static -C link-self-contained=no -L /musl" \
    cargo build --manifest-path /build/Cargo.toml --target-dir /target --release --locked \
    -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target "$target" "$@"
