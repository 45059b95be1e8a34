# Sourced by bash in each RUN that reaches out: the network's settings, apt, and Bazel's options. What decides what is built is not here.
# shellcheck shell=bash
#
# Looks at
#   /run/secrets/network   shell lines `export NAME='value'`: proxies, the apt mirror
#   /run/secrets/ca        PEM: more certificates to trust
#   /run/secrets/bazelrc   how Bazel runs: jobs, memory, remote cache
#   /doors/apt             a folder with a flat apt repository, instead of all others
#   /doors/distdir         archives for Bazel
#   /doors/overrides       a folder for each external repository to be replaced
#   /run/doors             a folder to write to, which nothing of stays
# Gives
#   apt_get                apt-get, with these settings
#   doors_startup          Bazel's options before `build`
#   doors_options          those after it
# No array is ever empty: that is an error under `set -u` in bash 4.3, which Ubuntu 16.04 has.

if [ -s /run/secrets/network ]; then
    # shellcheck source=/dev/null
    . /run/secrets/network
fi

doors_apt=(-o Dpkg::Options::=--force-unsafe-io)
doors_startup=(--batch)
doors_options=(--repository_cache=/cache/repository)

if [ -s /run/secrets/ca ]; then
    cat /etc/ssl/certs/ca-certificates.crt /run/secrets/ca >/run/doors/ca.pem 2>/dev/null || cp /run/secrets/ca /run/doors/ca.pem
    export SSL_CERT_FILE=/run/doors/ca.pem CURL_CA_BUNDLE=/run/doors/ca.pem GIT_SSL_CAINFO=/run/doors/ca.pem
    doors_apt+=(-o Acquire::https::CaInfo=/run/doors/ca.pem)
fi
if [ -e /doors/apt/Packages ] || [ -e /doors/apt/Packages.gz ]; then
    echo 'deb [trusted=yes] file:/doors/apt ./' >/run/doors/apt.list
    doors_apt+=(-o Dir::Etc::sourcelist=/run/doors/apt.list -o Dir::Etc::sourceparts=/dev/null)
fi
if [ -s /run/secrets/bazelrc ]; then
    doors_startup+=(--bazelrc=/run/secrets/bazelrc)
fi
if [ -n "$(ls -A /doors/distdir 2>/dev/null)" ]; then
    doors_options+=(--distdir=/doors/distdir)
fi
for doors_folder in /doors/overrides/*/; do
    [ ! -d "$doors_folder" ] || doors_options+=("--override_repository=$(basename "$doors_folder")=${doors_folder%/}")
done

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get "${doors_apt[@]}" "$@"; }
