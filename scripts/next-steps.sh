#!/bin/sh
# The end of `make install`: lists what is left to do, if anything is.
set -eu
# shellcheck disable=SC2086 # It may be several words, such as microk8s kubectl.
k() { ${KUBECTL:-kubectl} "$@"; }

config='' interface=''
[ -n "$(k get ip6updateconfigs -o name)" ] || config=missing
[ -n "$(k get ip6updatenodeconfigs -o name)" ] || interface=missing

echo
if [ -z "$config$interface" ]; then
    echo "k6u runs, with the IP6UpdateConfigs and IP6UpdateNodeConfigs that are in the cluster."
else
    echo "k6u runs. What is left to do, once:"
    echo
    [ -z "$config" ] || echo "  - Say which prefix and which groups:          manifests/examples/config.yaml"
    [ -z "$interface" ] || echo "  - Say which interface, on which nodes:        manifests/examples/nodeconfig.yaml"
    echo "  - Apply it:                                   kubectl apply -f FILE"
fi
echo
echo "See it work:                                    kubectl get ip6uc"
echo "kubectl describe ip6uc says what is missing, if READY is not True."
