#!/bin/sh
# Builds the static binary for a target: build-static.sh TARGET [ARGUMENT OF CARGO...]; musl is this machine's musl
# target. This script builds the binary of the image, of the archives and of `make bench`, with rustup's toolchain or
# Debian's.
#
# For musl it builds the standard library as well, for size and without unwinding: this needs rust-src and musl-gcc
# ($MUSL_GCC). For glibc it uses the one of the toolchain.
set -eu
target=$1
shift
[ "$target" != musl ] || target=$(rustc --print host-tuple | sed 's/-gnu/-musl/')
cargo=${CARGO:-cargo}
output=${CARGO_TARGET_DIR:-target}
mkdir -p "$output"
output=$(cd "$output" && pwd)

# No path of this machine is in the binary, so that every machine builds the same binary.
flags="-C target-feature=+crt-static --remap-path-prefix=$PWD=/k6u --remap-path-prefix=$output=/k6u/target"
flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$(rustc --print sysroot)=/rust"
case $target in
*-musl*)
    gcc=${MUSL_GCC:-musl-gcc}
    libraries=$output/$target/libraries
    mkdir -p "$libraries"
    # std needs libunwind. panic=abort never unwinds, so gcc's own suffices, with a stub for glibc's part.
    echo 'int _dl_find_object(void *pc, void *result) { (void)pc; (void)result; return -1; }' |
        "$gcc" -x c -c - -o "$libraries/stub.o"
    cp "$("$gcc" -print-file-name=libgcc_eh.a)" "$libraries/libunwind.a"
    "$("$gcc" -print-prog-name=ar)" r "$libraries/libunwind.a" "$libraries/stub.o"
    export "CC_$(echo "$target" | tr - _)=$gcc" "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$gcc"
    # Two flags for libc, in the standard library and in k6u: time_t has 64 bits on 32-bit machines as well.
    export RUSTC_BOOTSTRAP=1 RUST_LIBC_UNSTABLE_MUSL_V1_2_3=1
    # Without tables for unwinding, which panic=abort never does, and with packed relative relocations: this saves a
    # sixth of the binary.
    flags="$flags -C link-self-contained=no -L $libraries --cfg libc_unstable_musl_v1_2 -C force-unwind-tables=no"
    flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs"
    set -- -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size "$@"
    ;;
*)
    # glibc's static PIE has some 4000 relative relocations: packed, they take 2 KB in place of 98.
    flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs"
    ;;
esac
RUSTFLAGS=$flags exec "$cargo" build --release --locked --target "$target" "$@"
