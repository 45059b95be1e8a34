# shellcheck shell=bash
# How a build step reaches the network. Sourced by each RUN that does, under `set -euo pipefail`, and by bazel.sh.
#
# mounts, each of them optional but the tmpfs:
#   /run/secrets/network  shell lines `export NAME='value'`: proxies, PIP_INDEX_URL, APT_MIRROR (see apt_get), and
#                         GIT_MIRRORS: a line `ADDRESS MIRROR` for each address that git shall look for elsewhere;
#                         BAZEL_DOWNLOADER_CONFIG: a text, for bazelrc to name as /run/inputs/downloader.cfg
#   /run/secrets/ca       certificates (PEM) to trust beside the system's
#   /run/inputs           a tmpfs: what is made of these is there, and so in no layer
#   /inputs/apt           a folder with a flat apt repository, in place of all others
# environment:
#   APT_SNAPSHOT          a moment such as 20260301T000000Z: what APT_MIRROR has in place of {snapshot}
#
# It gives the functions apt_get and apt_install.

# Tests put another folder in the place of the root.
inputs_root=${FACTORY_TEST_ROOT:-}
inputs_secrets=$inputs_root/run/secrets
inputs_scratch=$inputs_root/run/inputs

# Tools that write into the home write into no layer. An older git reads settings from there only.
export HOME=$inputs_scratch

# --- proxies, pip, git ------------------------------------------------------------------------------------------------

if [[ -s $inputs_secrets/network ]]; then
    # shellcheck source=/dev/null
    . "$inputs_secrets/network"
fi

# Without it, rules_python's pip takes no notice of PIP_INDEX_URL.
if [[ -n ${PIP_INDEX_URL:-} ]]; then
    export RULES_PYTHON_PIP_ISOLATED=0
fi

while read -r inputs_address inputs_mirror; do
    if [[ -n $inputs_address ]]; then
        printf '[url "%s"]\n\tinsteadOf = "%s"\n' "$inputs_mirror" "$inputs_address"
    fi
done <<<"${GIT_MIRRORS:-}" >"$inputs_scratch/.gitconfig"

# --- certificates -----------------------------------------------------------------------------------------------------

inputs_ca=
if [[ -s $inputs_secrets/ca ]]; then
    inputs_ca=$inputs_scratch/ca.pem
    for inputs_file in "$inputs_root/etc/ssl/certs/ca-certificates.crt" "$inputs_secrets/ca"; do
        if [[ -s $inputs_file ]]; then
            cat "$inputs_file"
            echo
        fi
    done >"$inputs_ca"
    chmod 644 "$inputs_ca" # apt reads it as a user of its own
    export SSL_CERT_FILE=$inputs_ca CURL_CA_BUNDLE=$inputs_ca GIT_SSL_CAINFO=$inputs_ca \
        PIP_CERT=$inputs_ca REQUESTS_CA_BUNDLE=$inputs_ca
fi

# --- apt --------------------------------------------------------------------------------------------------------------

# apt_sources FOLDER: writes there what apt shall read in place of /etc/apt/sources.list*, where an input says so. A folder is
# the only source then. A mirror takes the place of every host: APT_MIRROR has {archive} for the path of an address, such as
# debian-security, or the path follows it.
apt_sources() {
    local target file
    if [[ -n $(ls -A "$inputs_root/inputs/apt" 2>/dev/null) ]]; then
        echo "deb [trusted=yes] file:$inputs_root/inputs/apt ./" >"$1/folder.list"
    elif [[ -n ${APT_MIRROR:-} ]]; then
        target=${APT_MIRROR%/}
        [[ $target == *'{archive}'* ]] || target+='/{archive}'
        target=$(sed "s/[\\\\&#]/\\\\&/g; s/{archive}/\\\\1/g; s/{snapshot}/${APT_SNAPSHOT:-}/g" <<<"$target")
        for file in "$inputs_root"/etc/apt/{sources.list,sources.list.d/*.list,sources.list.d/*.sources}; do
            [[ ! -s $file ]] ||
                sed -E "/^[[:space:]]*(#|\$)/!s#https?://[^/[:space:]]+/([^[:space:]]*[^/[:space:]])/*#$target#g" "$file" \
                    >"$1/$(basename "$file" | sed 's/^sources\.list$/base.list/')"
        done
    fi
}

# apt_get ARGUMENT...: apt-get by way of the inputs. Its lists are in the tmpfs: there is nothing to clean up.
apt_get() {
    local host sources=$inputs_scratch/apt/sources lists=$inputs_scratch/apt/lists
    local options=(-o "Dir::State::Lists=$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
    options+=(-o APT::Keep-Downloaded-Packages=false -o Acquire::Languages=none -o Acquire::Retries=3)
    rm -rf "$sources"
    mkdir -p "$sources" "$lists/partial"
    apt_sources "$sources"
    if [[ -n $(ls -A "$sources") ]]; then
        options+=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$sources")
    fi
    if [[ -e $sources/folder.list ]]; then
        options+=(-o APT::Sandbox::User=root) # apt's own user may not be let into the folder
    fi
    if [[ -n ${APT_SNAPSHOT:-} ]]; then
        options+=(-o Acquire::Check-Valid-Until=false) # it was valid then
    fi
    if [[ -n $inputs_ca ]]; then
        options+=(-o "Acquire::https::CaInfo=$inputs_ca")
    fi
    for host in $(apt_direct_hosts); do
        options+=(-o "Acquire::http::Proxy::$host=DIRECT" -o "Acquire::https::Proxy::$host=DIRECT")
    done
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@"
}

# apt_direct_hosts: of the hosts in apt's lists those that no proxy is for. apt 2.2 needs these options: it reads no_proxy, connects
# to the host, and then asks it for a tunnel as if it were the proxy.
apt_direct_hosts() {
    local host name names=()
    IFS=', ' read -r -a names <<<"${no_proxy:-}"
    grep -rhoE 'https?://[^/[:space:]]+' "$inputs_root/etc/apt" "$inputs_scratch/apt/sources" 2>/dev/null |
        sed -E 's#.*[/@]##; s#:[0-9]+$##' | sort -u | while read -r host; do
        for name in ${names[@]+"${names[@]}"}; do
            name=${name%%:*}
            if [[ $name == '*' || ".${host,,}" == *".${name#"${name%%[!*.]*}"}" ]]; then echo "$host"; fi
        done
    done
}

# is_installed PACKAGE[=VERSION]
is_installed() {
    local found
    found=$(dpkg-query -W -f '${db:Status-Status} ${Version}\n' "${1%%=*}" 2>/dev/null) || return 1
    case $1 in
    *=*) [[ $found == "installed ${1#*=}" ]] ;;
    *) [[ $found == 'installed '* ]] ;;
    esac
}

# apt_install PACKAGE[=VERSION]...: does nothing where all of them are installed, so that a base which was prepared needs no
# network. unsafe-io: a crash costs the layer anyway, so dpkg need not wait for the disk after every file.
apt_install() {
    local package
    for package; do
        if ! is_installed "$package"; then
            apt_get update &&
                apt_get install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io "$@"
            return
        fi
    done
}

# --- Bazel ------------------------------------------------------------------------------------------------------------

if [[ -n ${BAZEL_DOWNLOADER_CONFIG:-} ]]; then
    printf '%s\n' "$BAZEL_DOWNLOADER_CONFIG" >"$inputs_scratch/downloader.cfg"
    unset BAZEL_DOWNLOADER_CONFIG
fi
