#!/bin/sh
# Writes the resources of manifests/kustomization.yaml as one file, as they are: install-yaml.sh FILE
set -eu
file=$1
mkdir -p "$(dirname "$file")"
sed -n 's/^- //p' manifests/kustomization.yaml | {
    separator=
    while read -r resource; do
        printf %s "$separator"
        cat "manifests/$resource"
        separator='---
'
    done
} > "$file"
