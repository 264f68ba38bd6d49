#!/bin/sh
# Runs tests of address clients on Debian's kernel in an emulated machine, for what this machine's kernel does not
# have (VLAN, PPP): test-clients-vm.sh FOLDER TESTS [FILTER]. Needs root on Debian amd64.
#
# The machine has this machine's files, read-only, with a writable layer in memory. It is connected to no network.
set -eu
folder=$1 tests=$(realpath "$2") filter=${3:-}

skip() { exec scripts/skip.sh "$1"; }
[ "$(id -u)" = 0 ] || skip "root is needed to give the emulated machine all files"
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || skip "the emulated machine is made for Debian on amd64"

packages=
for package in qemu-system-x86 busybox-static kmod; do
    dpkg-query -W -f '${Status}' $package 2>/dev/null | grep -q ' installed' || packages="$packages $package"
done
if [ -n "$packages" ]; then
    apt-get update -qq || true
    # shellcheck disable=SC2086 # several packages
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null ||
        skip "cannot install$packages"
fi

# The kernel is only unpacked, because this machine does not boot it.
if [ ! -e "$folder/ready" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p')
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" >/dev/null) ||
        skip "cannot download a kernel"
    dpkg-deb -x "$folder"/*.deb "$folder/tree"
    rm "$folder"/*.deb
    version=$(ls "$folder/tree/lib/modules")
    depmod -b "$folder/tree" "$version"
    touch "$folder/ready"
fi
version=$(ls "$folder/tree/lib/modules")

# The machine's first process.
init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
for module in /modules/*; do insmod "$module" || echo "$module cannot be loaded"; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 files /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/pts
mount -t devpts devpts /root/dev/pts
mount -t tmpfs tmpfs /root/run
mount -t tmpfs tmpfs /root/tmp
cp /tests.sh /root/tmp/
chroot /root sh /tmp/tests.sh
echo "the machine ends with $?"
poweroff -f
INIT
}

files=$folder/files
rm -rf "$files"
mkdir -p "$files/bin" "$files/sbin" "$files/usr/bin" "$files/usr/sbin" "$files/root" "$files/dev" "$files/proc" "$files/modules"
cp "$(command -v busybox)" "$files/bin/busybox"
init > "$files/init"
chmod +x "$files/init"
cat > "$files/tests.sh" <<TESTS
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd '$PWD'
uname -srm
# Two at a time on two processors.
'$tests' --color never --test-threads 2 $filter
TESTS
# In the order of loading; some come twice.
for module in virtio_pci 9pnet_virtio 9p veth macvlan bridge 8021q pppoe ppp_async; do
    modprobe -d "$folder/tree" -S "$version" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++ { printf "%02d %s\n", ++n, $0 }' |
    while read -r number file; do cp "$file" "$files/modules/$number-${file##*/}"; done
(cd "$files" && find . | busybox cpio -o -H newc 2>/dev/null) > "$folder/initramfs"

log=$folder/log
begun=$(date +%s)
timeout 3600 qemu-system-x86_64 -cpu max -smp 2 -m 1536 -nodefaults -display none -serial stdio -no-reboot \
    -kernel "$folder/tree/boot/vmlinuz-$version" -initrd "$folder/initramfs" -append "console=ttyS0 quiet panic=-1" \
    -virtfs local,path=/,mount_tag=files,security_model=passthrough,readonly=on,multidevs=remap \
    < /dev/null > "$log" 2>&1 || true
tr -d '\r' < "$log" | grep -E '^Linux|^test |^\| |FAILED|SKIPPED|cannot be loaded' || true
echo "the machine took $(($(date +%s) - begun)) s"
if ! grep -q 'the machine ends with 0' "$log"; then
    echo "FAILED: $log says why" >&2
    exit 1
fi
