#!/bin/sh
# Runs the main job on kind with Cilium: e2e-kind.sh CILIUM_VERSION
# Needs docker, kind, helm and kubectl. 1.17 serves CiliumCIDRGroup v2alpha1 only, 1.18 v2 as well.
set -eu
cilium=$1
cluster=k6u-e2e

# shellcheck disable=SC2086 # It may be several words, such as microk8s kubectl.
k() { ${KUBECTL:-kubectl} --context "kind-$cluster" "$@"; }

printf '%s\n' 'kind: Cluster' 'apiVersion: kind.x-k8s.io/v1alpha4' \
    'networking: {ipFamily: dual, disableDefaultCNI: true}' | kind create cluster --name "$cluster" --config -
helm --kube-context "kind-$cluster" install cilium cilium --repo https://helm.cilium.io --version "$cilium" \
    --namespace kube-system --set ipv6.enabled=true --set operator.replicas=1 --wait
"${MAKE:-make}" image ENGINE=docker IMAGE_REPO=localhost/k6u IMAGE_TAG=e2e
kind load docker-image --name "$cluster" localhost/k6u:e2e

k apply --server-side -f manifests/crds.yaml
k wait --for=condition=Established --timeout=60s -f manifests/crds.yaml
k kustomize manifests | sed 's|image: .*|image: localhost/k6u:e2e|' | k apply -f -
sed '/nodeSelector:/,+1d' manifests/examples/nodeconfig.yaml | k apply -f - -f manifests/examples/config.yaml
docker exec "$cluster-control-plane" ip -6 address add 2001:db8:1234:5671::10/64 dev eth0
k -n kube-system rollout status daemonset/k6u --timeout=120s
k wait --for=condition=Ready ip6uc/ip6-update-config --timeout=60s
held=$(k get ciliumcidrgroup ip6-local-lan -o jsonpath='{.spec.externalCIDRs}' | tr -d '[]"')
expected=2001:db8:1234:5670::/64,2001:db8:1234:5671::/64,2001:db8:1234:5672::/64
if [ "$held" != "$expected" ]; then
    echo "ip6-local-lan holds $held, not $expected" >&2
    exit 1
fi
for policy in manifests/examples/networkpolicy*.yaml; do
    k apply --validate=strict -f "$policy"
done
kind delete cluster --name "$cluster"
