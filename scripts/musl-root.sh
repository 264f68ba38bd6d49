#!/bin/sh
# Makes a Debian sid root whose Rust toolchain builds for musl, for machines whose own toolchain lacks rust-src:
# musl-root.sh ROOT. Needs root and debootstrap.
set -eu
root=$1

debootstrap --variant=minbase --include=rustc,cargo,rust-src,musl-tools,gcc,libc6-dev sid "$root"
mkdir -p "$root/etc/ssl/certs"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /etc/resolv.conf "$root/etc/resolv.conf"
touch "$root/ready"
