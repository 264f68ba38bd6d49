#!/bin/sh
# Makes a Debian sid root whose Rust toolchain builds for musl, for machines whose own toolchain has no
# musl target: musl-root.sh ROOT. Needs root and debootstrap.
set -eu
root=$1

debootstrap --variant=minbase --include=rustc,cargo,rust-src,musl-tools,gcc,libc6-dev sid "$root"
mkdir -p "$root/musl" "$root/etc/ssl/certs"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /etc/resolv.conf "$root/etc/resolv.conf"
# std asks for libunwind. panic=abort never unwinds, so gcc's own with a stub in place of glibc's part will do.
cat > "$root/musl/stub.c" <<'STUB'
int _dl_find_object(void *pc, void *result) { (void)pc; (void)result; return -1; }
STUB
# shellcheck disable=SC2016 # The shell inside expands it.
chroot "$root" sh -c 'cd /musl && musl-gcc -c stub.c &&
    cp "$(gcc -print-file-name=libgcc_eh.a)" libunwind.a && ar r libunwind.a stub.o'
touch "$root/ready"
