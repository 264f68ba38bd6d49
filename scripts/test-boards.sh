#!/bin/sh
# Runs unit tests, scenarios and the measurement of memory on emulated arm64 and armv7 machines, one after the
# other: test-boards.sh ROOT [MACHINE...]. Needs root, for the root that musl-root.sh and boards-root.sh make.
# The scenarios are those of tests/scenarios/boards.rs; with SCENARIOS=all all scenarios; with any other word in
# $SCENARIOS those whose names contain it.
#
# A machine has only a file system in memory, with busybox, k6u, the tests, and modules of the kernel.
set -eu
root=$1
shift
chosen="$*"
failed=
part=all arguments=
case "${SCENARIOS:-}" in
    '') part=boards ;;
    all) ;;
    *) arguments=$SCENARIOS ;;
esac

skip() { exec scripts/skip.sh "$1"; }
[ "$(id -u)" = 0 ] || skip "root is needed to make the emulated machines"
if ! command -v debootstrap >/dev/null; then
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends debootstrap; } >/dev/null 2>&1 ||
        skip "debootstrap is needed to make the emulated machines"
fi
[ -e "$root/ready" ] || scripts/musl-root.sh "$root"
[ -e "$root/boards/ready" ] || scripts/boards-root.sh "$root"

# The machine's first process.
init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin TMPDIR=/tmp K6U_BIN=/musl/k6u
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
# The kernel makes variables of unknown arguments on its command line: today and K6U_SCENARIOS.
[ -z "${today:-}" ] || date -u -s "$today"
for module in /modules/*; do insmod "$module" || echo "$module cannot be loaded"; done
echo "Linux $(uname -rm), $(date -u)"
status=0
cd /build
/unit-tests --quiet || status=1
# Two at a time on two processors; the heavy ones need 1 GiB.
/scenarios --color never --test-threads 2 $(cat /arguments) || status=1
/bench /musl/k6u || status=1
echo "the machine ends with $status"
poweroff -f
INIT
}

# Boots a machine with the programs that were built for a target, and shows the results. A name may have a date after an
# @.
boot() { # MACHINE TARGET QEMU...
    name=$1 kernel=$root/boards/${1%@*} target=$2 variables=K6U_SCENARIOS=$part
    shift 2
    case $name in
        *@*) variables="$variables today=${name#*@}" ;;
    esac
    case " ${chosen:-$name} " in *" $name "*) ;; *) return ;; esac
    if [ ! -e "$kernel/vmlinuz" ]; then
        # Debian removes kernels of old releases from its mirrors.
        scripts/skip.sh "$name: there was no such kernel"
        return
    fi
    files=$root/boards/files
    rm -rf "$files"
    mkdir -p "$files/bin" "$files/etc" "$files/dev" "$files/proc" "$files/sys" "$files/tmp" "$files/build"
    init > "$files/init"
    chmod +x "$files/init"
    echo '127.0.0.1 localhost' > "$files/etc/hosts"
    echo "$arguments" > "$files/arguments"
    cp -r "$root/boards/$target"/* "$kernel/modules" "$files/"
    mv "$files/busybox" "$files/bin/"
    # Some scenarios read these.
    cp -r README.md Makefile manifests examples "$files/build/"
    chroot "$root" sh -c 'cd /boards/files && find . | cpio --quiet -o -H newc' > "$root/boards/initramfs"

    log=$root/boards/$name.log
    echo "$name: Linux $(cat "$kernel/version")"
    begun=$(date +%s)
    chroot "$root" timeout 3600 "$@" -M virt -smp 2 -m 2048 -nodefaults -display none -serial stdio -no-reboot \
        -kernel "${kernel#"$root"}/vmlinuz" -initrd /boards/initramfs \
        -append "console=ttyAMA0 quiet panic=-1 $variables" < /dev/null > "$log" 2>&1 || true
    tr -d '\r' < "$log" | grep -E '^Linux|^test result:|^resident|^peak|FAILED|MISSED|SKIPPED|cannot be loaded' || true
    echo "$name took $(($(date +%s) - begun)) s"
    if ! grep -q 'the machine ends with 0' "$log"; then
        failed="$failed $name"
        echo "$name FAILED: $log says why" >&2
    fi
}

scripts/boards-build.sh "$root" aarch64-unknown-linux-musl aarch64-unknown-linux-gnu aarch64-linux-gnu-gcc arm64
scripts/boards-build.sh "$root" armv7-unknown-linux-musleabihf armv7-unknown-linux-gnueabihf arm-linux-gnueabihf-gcc armhf

arm64() { boot "$1" aarch64-unknown-linux-musl qemu-system-aarch64 -cpu "$2"; }
armv7() { boot "$1" armv7-unknown-linux-musleabihf qemu-system-arm -cpu cortex-a7; }
# The processors of the Raspberry Pi 4 and 5; the latter's usual kernel has pages of 16 KiB.
arm64 arm64-bullseye cortex-a72
arm64 arm64-bookworm cortex-a72
arm64 arm64-sid cortex-a72
arm64 arm64-16k-sid cortex-a76
# That of the Raspberry Pi 2; once after the last second of a time_t of 32 bits.
armv7 armv7-bullseye
armv7 armv7-sid
armv7 armv7-sid@2040-01-01

[ -z "$failed" ] || exit 1
