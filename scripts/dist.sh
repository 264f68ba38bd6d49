#!/bin/sh
# Writes archive, manifests, chart, SBOM and SHA256SUMS to dist/, with the same bytes on every machine:
# dist.sh BINARY TARGET INSTALL_YAML VERSION CYCLONEDX
set -eu
binary=$1 target=$2 install=$3 version=$4 cyclonedx=$5

name=k6u-$version-linux-${target%%-*}
# All files in the archive have the time of the last commit.
epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
rm -rf dist
mkdir -p dist "$folder/$name"

SOURCE_DATE_EPOCH=$epoch "$cyclonedx" cyclonedx --quiet --format json --no-build-deps --target "$target" \
    --override-filename k6u.cdx
sed "s|$PWD|/k6u|g; /\"serialNumber\"/d" k6u.cdx.json > "dist/k6u-$version.cdx.json"
rm -f k6u.cdx.json tests/support/k6u.cdx.json
cp manifests/crds.yaml dist/crds.yaml
cp "$install" dist/install.yaml
cp "$(dirname "$install")/k6u-$version.tgz" dist/
cp "$binary" LICENSE.md dist/crds.yaml dist/install.yaml "$folder/$name/"
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w \
    -C "$folder" -c "$name" | gzip -n9 > "dist/$name.tar.gz"
cd dist
sha256sum -- * > SHA256SUMS
cat SHA256SUMS
