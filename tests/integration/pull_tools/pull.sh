#!/bin/sh
# usage: pull.sh IMAGE; prints for each client and each wish which variant it gets. /auth has a config.json.
asks() {
    printf '%s ' "$1"
    shift
    "$@" --format '{{index .Labels "org.serving-factory.variant"}}' || echo nothing
}

for variant in '' v2 v3 v4; do
    asks "skopeo/$variant" skopeo ${variant:+--override-variant $variant} inspect --tls-verify=false \
        --authfile /auth/config.json "docker://$1"
done
podman --storage-driver vfs pull --quiet --tls-verify=false --authfile /auth/config.json "$1" > /dev/null
asks podman/ podman --storage-driver vfs image inspect "$1"
