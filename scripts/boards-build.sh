#!/bin/sh
# Builds k6u and the tests of test-boards for an architecture, in the root that boards-root.sh made:
# boards-build.sh ROOT MUSL_TARGET GLIBC_TARGET GCC DEBIAN_ARCHITECTURE. Needs root.
#
# ROOT/boards/MUSL_TARGET then has musl/k6u, the binary that users run, and the tests, which are linked with glibc: a
# test that fails has to unwind, which the root's musl cannot.
set -eu
root=$1 musl=$2 glibc=$3 gcc=$4 architecture=$5
output=$root/boards/$musl

scripts/musl-cargo.sh "$root" "$musl"

certificates=/etc/ssl/certs/ca-certificates.crt
log=$root/boards/cargo.log
in_root() { # COMMAND [ARGUMENT...]
    command=$1
    shift
    chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin SSL_CERT_FILE=$certificates CARGO_HTTP_CAINFO=$certificates \
        "CC_$(echo "$glibc" | tr - _)=$gcc" "CARGO_TARGET_$(echo "$glibc" | tr a-z- A-Z_)_LINKER=$gcc" \
        RUSTFLAGS="-C target-feature=+crt-static -A linker_messages" \
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo "$command" --manifest-path /build/Cargo.toml --target-dir /target --release --locked --target "$glibc" "$@"
}
in_root build -p k6u-testkit --bin bench
if ! in_root test --no-run --lib --test scenarios 2> "$log"; then
    cat "$log" >&2
    exit 1
fi
# Cargo says: Executable tests/scenarios/main.rs (target/.../deps/scenarios-0123456789abcdef)
test_binary() { sed -n "s|^ *Executable .*$1.* (\\(.*\\))\$|$root/\\1|p" "$log"; }

rm -rf "$output"
install -D "$root/target/$musl/release/k6u" "$output/musl/k6u"
install "$root/boards/busybox-$architecture" "$output/busybox"
install "$root/target/$glibc/release/bench" "$output/bench"
install "$(test_binary src/lib.rs)" "$output/unit-tests"
install "$(test_binary tests/scenarios/main.rs)" "$output/scenarios"
