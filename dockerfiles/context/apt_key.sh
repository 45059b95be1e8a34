#!/bin/sh
# Makes a keyring for apt of a key file, if it holds the one key that it should.
#
# usage: apt_key.sh FILE FINGERPRINT KEYRING
#
#   FILE          the public key, as its owner publishes it
#   FINGERPRINT   40 hex digits, in capitals
#   KEYRING       the file to write, for apt's signed-by
#
# Needs gpg; old ones (1.4, of Ubuntu 16.04) will do.
set -eu

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT

gpg --homedir "$home" --batch --quiet --import "$1"
# The fingerprint that follows each `pub` line; those of subkeys are not looked at.
found=$(gpg --homedir "$home" --batch --quiet --with-colons --fingerprint --list-keys |
    awk -F: '$1 == "pub" { required = 1 } $1 == "fpr" && required { print $10; required = 0 }')
if [ "$found" != "$2" ]; then
    printf 'apt_key: %s holds the key %s, and not %s\n' "$1" "$(printf %s "${found:-none}" | tr '\n' ' ')" "$2" >&2
    exit 1
fi
mkdir -p "$(dirname "$3")"
gpg --homedir "$home" --batch --quiet --export "$2" >"$3"
chmod 644 "$3"
