#!/bin/sh
# Adds the tools of test-boards to the root of musl-root.sh: compilers for arm64 and armv7, qemu, and kernels
# of Debian's releases: boards-root.sh ROOT. Needs root.
#
# ROOT/boards/MACHINE then has vmlinuz and the modules in the order of loading.
set -eu
root=$1

cat > "$root/etc/apt/sources.list" <<'SOURCES'
deb http://deb.debian.org/debian sid main
deb [arch=arm64,armhf] http://deb.debian.org/debian bookworm main
deb [arch=arm64,armhf] http://deb.debian.org/debian bullseye main
SOURCES
rm -rf "$root/boards"
mkdir -p "$root/boards"

cat > "$root/boards/inside.sh" <<'INSIDE'
set -eu
cd /boards
export DEBIAN_FRONTEND=noninteractive

dpkg --add-architecture arm64
dpkg --add-architecture armhf
# An old release may have left the mirror, and a slow mirror is good enough.
apt-get -qq -o Acquire::Check-Valid-Until=no -o Acquire::Languages=none update || true
# Upgrades the compiler as well, because the standard libraries below have to be of its version.
apt-get -qq install -y --no-install-recommends rustc cargo rust-src kmod xz-utils cpio qemu-system-arm binutils \
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross >/dev/null

# The packages are only unpacked, because those of different architectures cannot be installed together.
unpack() { # PACKAGE:ARCHITECTURE/RELEASE FOLDER
    rm -f ./*.deb
    apt-get -qq -o APT::Sandbox::User=root download "$1" >/dev/null
    dpkg-deb -x ./*.deb "$2"
}
# Prints the dependencies of the package that was unpacked last, if they have these names.
needs() { dpkg-deb -f ./*.deb Depends | tr ',' '\n' | sed -n "s/^ *\\($1[^ ]*\\).*/\\1/p"; }

# musl as a C library of gcc's cross compilers, for build-static.sh.
compiler() { # TARGET GCC ARCHITECTURE MUSL_TRIPLE
    for package in musl musl-dev libstd-rust-dev; do unpack "$package:$3/sid" /; done
    mkdir -p "/musl/$1"
    printf '#!/bin/sh\nexec %s "$@" -specs /usr/lib/%s/musl-gcc.specs\n' "$2-gcc" "$4" > "/musl/$1/gcc"
    chmod +x "/musl/$1/gcc"
    unpack "busybox-static:$3/sid" tree
    cp tree/usr/bin/busybox "busybox-$3"
}
compiler aarch64-unknown-linux-musl aarch64-linux-gnu arm64 aarch64-linux-musl
compiler armv7-unknown-linux-musleabihf arm-linux-gnueabihf armhf arm-linux-musleabihf

kernel() { # MACHINE META_PACKAGE:ARCHITECTURE/RELEASE
    machine=/boards/$1 tree=/boards/tree todo=$2 suffix=:${2#*:}
    rm -rf "$tree"
    mkdir -p "$machine/modules" "$tree/for-kmod/lib"
    while [ -n "$todo" ]; do
        package=${todo%% *}
        todo=${todo#"$package"}
        todo=${todo# }
        if ! unpack "$package" "$tree"; then
            rm -rf "$machine"
            return
        fi
        for needed in $(needs 'linux-\(image\|base\|binary\|modules\)-[0-9]'); do todo="$needed$suffix${todo:+ $todo}"; done
    done
    # Old packages use /lib and /boot, new ones /usr/lib; kmod finds modules in both.
    mv "$tree"/lib/modules "$tree"/usr/lib/modules "$tree/for-kmod/lib/" 2>/dev/null || true
    ln -s . "$tree/for-kmod/usr"
    version=$(ls "$tree/for-kmod/lib/modules")
    cp "$tree"/boot/vmlinuz-* "$machine/vmlinuz" 2>/dev/null ||
        cp "$tree/for-kmod/lib/modules/$version/vmlinuz" "$machine/vmlinuz"
    depmod -b "$tree/for-kmod" "$version"
    # In the order of loading; some have parameters, and some come twice.
    for module in veth dummy 8021q bridge pppoe; do
        modprobe -d "$tree/for-kmod" -S "$version" --show-depends "$module"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++ { printf "%02d %s\n", ++n, $0 }' |
        while read -r number file; do cp "$file" "$machine/modules/$number-${file##*/}"; done
    xz -d "$machine"/modules/*.xz 2>/dev/null || true
    echo "$version" > "$machine/version"
}
kernel arm64-bullseye linux-image-arm64:arm64/bullseye
kernel arm64-bookworm linux-image-cloud-arm64:arm64/bookworm
kernel arm64-sid linux-image-cloud-arm64:arm64/sid
kernel arm64-16k-sid linux-image-arm64-16k:arm64/sid
kernel armv7-bullseye linux-image-armmp-lpae:armhf/bullseye
kernel armv7-sid linux-image-armmp-lpae:armhf/sid
rm -rf ./*.deb tree
INSIDE
chroot "$root" sh /boards/inside.sh
touch "$root/boards/ready"
