#!/bin/sh
# Runs the last stage of Containerfile, with a local static binary, in a real container:
# test-image.sh BINARY VERSION REVISION. Needs root.
set -eu
binary=$1 version=$2 revision=$3

for tool in buildah podman runc; do
    if ! command -v "$tool" >/dev/null; then
        exec scripts/skip.sh "$tool is needed to test the image"
    fi
done
folder=${CARGO_TARGET_DIR:-target}/image
image=localhost/k6u-test:$version
rm -rf "$folder"
install -D "$binary" "$folder/image/k6u"
sed -n '/^FROM scratch/,$p' Containerfile | sed 's/--from=build //' > "$folder/Containerfile"
if ! buildah --storage-driver=vfs build --isolation=chroot --build-arg "VERSION=$version" \
    --build-arg "REVISION=$revision" -t "$image" "$folder" > "$folder/log" 2>&1; then
    cat "$folder/log" >&2
    exit 1
fi
buildah --storage-driver=vfs images "$image"
exec "${CARGO:-cargo}" run --quiet --locked -p k6u-testkit --bin image-test -- "$image" "$version"
