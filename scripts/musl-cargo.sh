#!/bin/sh
# Builds this working tree for musl in the root that musl-root.sh made: musl-cargo.sh ROOT TARGET [ARGUMENT...]
# The output is in ROOT/target/TARGET/release. Needs root. Targets of boards-root.sh are known as well.
set -eu
root=$1 target=$2
shift 2

rm -rf "$root/build"
mkdir -p "$root/build"
# Without the files' times: those of another working tree may be older than what is built already.
tar -c --exclude=./target --exclude=./.git . | tar -x -m -C "$root/build"

compiler=musl-gcc libraries=/musl
if [ -d "$root/musl/$target" ]; then compiler=/musl/$target/gcc libraries=/musl/$target; fi
cc=CC_$(echo "$target" | tr - _)
linker=CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER
certificates=/etc/ssl/certs/ca-certificates.crt
# Without tables for unwinding, which panic=abort never does, and with relative relocations packed: together they were a
# sixth of the binary.
# The two words for libc, of the standard library and of k6u, that time_t has 64 bits on 32-bit machines as well.
chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin K6U_COMMIT="${K6U_COMMIT:-unknown}" \
    SSL_CERT_FILE=$certificates CARGO_HTTP_CAINFO=$certificates \
    RUSTC_BOOTSTRAP=1 RUST_LIBC_UNSTABLE_MUSL_V1_2_3=1 "$cc=$compiler" "$linker=$compiler" \
    RUSTFLAGS="-C target-feature=+crt-static -C link-self-contained=no -L $libraries --cfg libc_unstable_musl_v1_2 \
        -C force-unwind-tables=no -C link-arg=-Wl,-z,pack-relative-relocs" \
    cargo build --manifest-path /build/Cargo.toml --target-dir /target --release --locked \
    -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size --target "$target" "$@"
