#!/bin/sh
# Installs the missing tools of `make test-clients`, with Debian's package manager as root. Starts no service: the tests
# start these programs themselves, in namespaces of their own.
set -eu

packages=
need() { # PACKAGE FILE
    [ -e "$2" ] || packages="$packages $1"
}

need radvd /usr/sbin/radvd
need dnsmasq-base /usr/sbin/dnsmasq
need dhcpcd-base /usr/sbin/dhcpcd
need iproute2 /usr/sbin/ip
need util-linux /usr/bin/nsenter
need systemd /lib/systemd/systemd-networkd
need network-manager /usr/sbin/NetworkManager
need dbus-daemon /usr/bin/dbus-daemon
need kea-dhcp6-server /usr/sbin/kea-dhcp6
need ppp /usr/sbin/pppd
need pppoe /usr/sbin/pppoe-server

[ -n "$packages" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "to be installed first:$packages" >&2
    exit 0
fi
# A temporary policy that forbids packages to start their services (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update -qq || true
for package in $packages; do
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" >/dev/null ||
        echo "cannot install $package" >&2
done
