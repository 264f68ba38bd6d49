#!/bin/sh
# Builds this working tree for musl in the root that musl-root.sh made: musl-cargo.sh ROOT TARGET [ARGUMENT...]
# The output is in ROOT/target/TARGET/release, and in the same folder of this working tree. Needs root. Also builds the
# targets of boards-root.sh.
set -eu
root=$1 target=$2
shift 2

# check-dist.sh builds in two folders.
build=${BUILD:-/build}
rm -rf "${root:?}$build"
mkdir -p "$root$build"
# Without the files' times: those of another working tree may be older than the last build.
tar -c --exclude=./target --exclude=./.git . | tar -x -m -C "$root$build"

gcc=musl-gcc
if [ -d "$root/musl/$target" ]; then gcc=/musl/$target/gcc; fi
certificates=/etc/ssl/certs/ca-certificates.crt
# shellcheck disable=SC2016 # The shell inside expands it.
chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin K6U_COMMIT="${K6U_COMMIT:-unknown}" MUSL_GCC="$gcc" \
    SSL_CERT_FILE=$certificates CARGO_HTTP_CAINFO=$certificates CARGO_TARGET_DIR=/target \
    sh -c 'cd "$1" && shift && exec scripts/build-static.sh "$@"' sh "$build" "$target" "$@"
output=${CARGO_TARGET_DIR:-target}/$target/release
mkdir -p "$output/examples"
cp "$root/target/$target/release/k6u" "$output/"
rounds=examples/rounds
[ ! -e "$root/target/$target/release/$rounds" ] || cp "$root/target/$target/release/$rounds" "$output/$rounds"
