#!/bin/sh
# Proves that a binary is static and within its budget: check-static.sh FILE BYTES
set -eu
file=$1 budget=$2

if [ ! -f "$file" ]; then
    echo "$file does not exist: the build wrote its output elsewhere" >&2
    exit 1
fi
if readelf --program-headers --dynamic "$file" | grep -E 'INTERP|NEEDED'; then
    echo "$file is not static" >&2
    exit 1
fi
size=$(stat -c %s "$file")
echo "$file is static, $size of at most $budget bytes"
if [ "$size" -gt "$budget" ]; then
    echo "$file is $((size - budget)) bytes over its budget" >&2
    exit 1
fi
