#!/bin/sh
# What `make install` says at its end.
cat <<'TEXT'

k6u runs. What is left to do, once:

  1. Say which prefix and which groups:         manifests/examples/config.yaml
  2. Say which interface, on which nodes:       manifests/examples/nodeconfig.yaml
     kubectl apply -f config.yaml -f nodeconfig.yaml
  3. See it work:                               kubectl get ip6uc
     kubectl describe ip6uc says what is missing, if READY is not True.
TEXT
