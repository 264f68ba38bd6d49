#!/bin/sh
# Builds dist twice, in two folders, and compares the bytes: check-dist.sh FOLDER CYCLONEDX
set -eu
folder=$1 cyclonedx=$2

rm -rf "$folder"
mkdir -p "$folder"
for clone in one another-folder; do
    git clone -q . "$folder/$clone"
    # Each builds in a folder of its own.
    env -u CARGO_TARGET_DIR BUILD="/build/$clone" "${MAKE:-make}" -C "$folder/$clone" dist CYCLONEDX="$cyclonedx" >/dev/null
done
sha256sum "$folder"/*/dist/SHA256SUMS
diff -r "$folder/one/dist" "$folder/another-folder/dist"
echo "both are the same to the byte"
