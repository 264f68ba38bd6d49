#!/bin/sh
# Checks that install.yaml runs the release in Cargo.toml, contains no CRDs, and equals kustomize's output for
# manifests/: check-install.sh FILE VERSION
set -eu
file=$1 version=$2
# shellcheck disable=SC2086 # It may be several words, such as microk8s kubectl.
k() { ${KUBECTL:-kubectl} "$@"; }

if ! grep -q "image: .*:$version\$" "$file"; then
    echo "$file does not run release $version, the version in Cargo.toml: correct manifests/daemonset.yaml" >&2
    exit 1
fi
if grep -q '^kind: CustomResourceDefinition' "$file"; then
    echo "$file contains CRDs: deleting it would delete every object that users wrote" >&2
    exit 1
fi
if ! k version --client >/dev/null 2>&1; then
    exec scripts/skip.sh "kubectl is needed to compare $file with kustomize's output"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$file" "$folder/install.yaml"
printf 'resources: [install.yaml]\n' > "$folder/kustomization.yaml"
k kustomize manifests > "$folder/expected"
k kustomize "$folder" > "$folder/actual"
diff "$folder/expected" "$folder/actual"
echo "$file runs release $version and equals kustomize's output for manifests/"
