#!/bin/bash
# Collects on the runtime image's base what the server needs beyond it: libraries and certificates from the packages of the base's own
# distribution, so that their fixes arrive. What that distribution lacks comes from the devel image, as collect.sh took it there.
#
# usage: libraries.sh upgrade PACKAGE=VERSION...      upgrades those that are installed in a lower version
#        libraries.sh install PACKAGES [PACKAGE...]   installs those of a list of packages (facts/packages) that the distribution has,
#                                                     and more packages; for its mounts see inputs.sh
#        libraries.sh require PACKAGE=VERSION...      fails where one of them is installed in a lower version
#        libraries.sh slim FOLDER LEFT_OUT PACKAGE... makes a base of the files of packages, but for paths that match LEFT_OUT as
#                                                     a whole, an extended regular expression
#        libraries.sh collect ARTIFACT LIBRARIES
#
#   ARTIFACT   what the devel Dockerfile exports
#   LIBRARIES  the folder to fill; it must be empty or absent
#
# LIBRARIES then holds rootfs/ and facts/os-release, glibc, base-libraries and packages, as collect.sh describes them, of this base or of
# the slim one; and facts/base-packages, the packages of it.
# A base without apt-get gets from the devel image all that it has not itself.
set -eu
here=$(dirname "$0")
# shellcheck source=dockerfiles/context/collect.sh
. "$here/collect.sh"

say() { printf 'libraries: %s\n' "$*" >&2; }

bundle=/etc/ssl/certs/ca-certificates.crt
state=$here/state # what was known before anything was installed

# --- upgrade ----------------------------------------------------------------------------------------------------------

apt_options=(--yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io)

# is_lower PACKAGE=VERSION: is the package installed, and in a lower version?
is_lower() {
    local found
    found=$(dpkg-query -W -f '${db:Status-Status} ${Version}\n' "${1%%=*}" 2>/dev/null) || return 1
    [[ $found == 'installed '* ]] && dpkg --compare-versions "${found#* }" lt "${1#*=}"
}

require_versions() {
    local package
    for package; do
        ! is_lower "$package" ||
            stop "$(version_of "${package%%=*}") is the newest ${package%%=*} here, and the lock file requires ${package#*=}"
    done
}

# The packages become a layer of the image: what apt and dpkg write down about their own work is no part of it.
upgrade_packages() {
    local package lower=()
    for package; do
        ! is_lower "$package" || lower+=("${package%%=*}")
    done
    [ "${#lower[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || stop "this base has no apt-get, which upgrades ${lower[*]}: make the base again"
    set -o pipefail
    # shellcheck source=dockerfiles/context/inputs.sh
    . "$here/inputs.sh"
    apt_get update
    apt_get install "${apt_options[@]}" -o Dpkg::Options::=--force-confold --only-upgrade "${lower[@]}"
    require_versions "$@"
    rm -f /var/log/apt/* /var/log/{dpkg,alternatives}.log /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
}

# --- install ----------------------------------------------------------------------------------------------------------

# write_available PACKAGE...: those of them that apt can install, by name or as what another package provides (Debian's libssl3t64
# provides libssl3). apt names all others in its errors.
write_available() {
    local package found=()
    if apt_get install --simulate "${apt_options[@]}" "$@" >/dev/null 2>"$state/errors"; then
        printf '%s\n' "$@" >"$state/available"
        return
    fi
    for package; do
        if sed -n 's/^E[a-z]*: //p' "$state/errors" | tr -d "'," | tr ' ' '\n' | grep -qxF -- "$package"; then
            say "the distribution has no package $package: it comes from the devel image"
        else
            found+=("$package")
        fi
    done
    [ "${#found[@]}" -lt "$#" ] || stop "apt-get cannot install $*: $(cat "$state/errors")"
    : >"$state/available"
    [ "${#found[@]}" -eq 0 ] || write_available "${found[@]}"
}

install_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || stop 'this base has no dpkg: image.base takes images of Debian and Ubuntu'
    mkdir -p "$state"
    dpkg-query -W -f '${Package} ${Version}\n' | sort >"$state/base-packages"
    [ ! -s "$bundle" ] || touch "$state/certificates"
    if ! command -v apt-get >/dev/null; then
        say 'this base has no apt-get: what it has not comes from the devel image'
        return
    fi
    set -o pipefail
    # shellcheck source=dockerfiles/context/inputs.sh
    . "$here/inputs.sh"
    # Most devel bases have libstdc++6, which is then in no list.
    for package in libstdc++6 $(cut -d = -f 1 "$1") "${@:2}"; do
        is_installed "$package" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    apt_get update
    write_available "${missing[@]}"
    mapfile -t missing <"$state/available"
    [ "${#missing[@]}" -eq 0 ] || apt_get install "${apt_options[@]}" "${missing[@]}"
}

# --- slim -------------------------------------------------------------------------------------------------------------

# files_of LEFT_OUT PACKAGE...: the paths of their files and folders, and of what no package has: users and groups, sh, and /bin and the
# like where they are links. Each path is below the folder that it is really in.
files_of() {
    local top left_out=$1 tops=(bin sbin lib lib32 lib64 libx32) aliases=(-e '')
    for top in "${tops[@]}"; do
        [ ! -L "/$top" ] || aliases+=(-e "s#^/$top/#/usr/$top/#")
    done
    {
        dpkg-query -L "${@:2}" | sed -n '\#^/[^.]#p'
        printf '/%s\n' "${tops[@]}" bin/sh etc/passwd etc/group etc/nsswitch.conf
    } | sed "${aliases[@]}" | grep -vxE -- "$left_out" | sort -u | while read -r path; do
        if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\n' "${path#/}"; fi
    done
}

make_slim() {
    local left_out=$2
    artifact=$1 rootfs=$1
    shift 2
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    facts=$scratch/facts base_packages=$scratch/whole # of these packages all is there
    mkdir -p "$rootfs" "$facts"
    files_of "$left_out" "$@" | tar -C / --create --no-recursion --owner=0 --group=0 --files-from=- | tar -C "$rootfs" --extract
    printf '%s\n' "$@" | tee "$scratch/whole" >"$scratch/packages"
    write_owners
    find_loader_folder
    # shellcheck disable=SC2046 # programs have no blanks in their names
    ldd $(find "$rootfs/usr/bin" "$rootfs/bin/" -type f) 2>/dev/null | found_libraries | sort -u >"$scratch/needed"
    while read -r soname path; do
        take_library "$soname" "$path"
    done <"$scratch/needed"
    collect_packages
    set_times
    sed 's/=/ /' "$facts/packages" >"$state/base-packages"
    find "$rootfs" -name '*.so*' -printf '%f\n' | sort -u >"$state/base-libraries"
}

# --- collect ----------------------------------------------------------------------------------------------------------

# needed_libraries FOLDER: a line "SONAME PATH" for each library that the server needs or that lies in the folder, and for those
# that they need in turn: as this system has it, else as it lies in the folder. The loader is asked once, for each takes a while.
needed_libraries() {
    LD_LIBRARY_PATH=$libc_folder:$loader_folder:$(find "$1" -name '*.so*' -printf '%h\n' | sort -u | paste -s -d :)
    export LD_LIBRARY_PATH
    preloaded=$(find "$1" -name '*.so*' -printf '%f\n' | sort -u | paste -s -d :)
    LD_TRACE_LOADED_OBJECTS=1 LD_PRELOAD=$preloaded "$binary" 2>/dev/null | found_libraries
}

# replace_library SONAME PATH: takes this system's library in place of the devel image's.
replace_library() {
    find "$rootfs" -name "$1" | while read -r old; do
        rm -f "$(readlink -f "$old")" "$old"
    done
    take_library "$1" "$2"
}

# The devel image's packages that this system has, or has another package for, are none of the image's.
drop_replaced_packages() {
    dpkg-query -W -f '${db:Status-Status}, ${Package}, ${Provides}\n' |
        sed -n 's/^installed, //p' | tr ',' '\n' | sed 's/^ *//; s/ .*//' >"$scratch/provided"
    find "$rootfs/var/lib/dpkg/status.d" -type f -printf '%f\n' | while read -r package; do
        if grep -qxF -- "$package" "$scratch/provided"; then
            rm -rf "$rootfs/var/lib/dpkg/status.d/$package" "$rootfs/usr/share/doc/$package"
        fi
    done
}

collect() {
    devel=$(readlink -f "$1")
    begin "$devel/tensorflow_model_server" "$2" "$state/base-packages"
    cp -a "$devel/rootfs/." "$rootfs"
    write_owners
    find_loader_folder
    needed_libraries "$devel/rootfs" | sort -u >"$scratch/needed"
    while read -r soname path; do
        case $(readlink -f "$path") in
        "$devel"/*) ;;
        *) replace_library "$soname" "$path" ;;
        esac
    done <"$scratch/needed"
    drop_replaced_packages
    if [ -e "$state/certificates" ]; then
        rm -f "$rootfs$bundle" "$rootfs/var/lib/dpkg/status.d/ca-certificates"
    elif [ -s "$bundle" ]; then
        collect_certificates
    fi
    collect_packages
    # Those of the devel image that are left.
    find "$rootfs/var/lib/dpkg/status.d" -type f | while read -r record; do
        printf '%s=%s\n' "${record##*/}" "$(sed -n 's/^Version: //p' "$record")"
    done | sort >"$facts/packages"
    record_system
    [ ! -e "$state/base-libraries" ] || cp "$state/base-libraries" "$facts"
    cp "$state/base-packages" "$facts"
    set_times
}

case ${1:-}:$# in
upgrade:1 | require:1 | install:1 | slim:[123] | collect:[12]) stop "libraries.sh $1: an argument is missing" ;;
upgrade:*) upgrade_packages "${@:2}" ;;
require:*) require_versions "${@:2}" ;;
install:*) install_packages "${@:2}" ;;
slim:*) make_slim "${@:2}" ;;
collect:3) collect "$2" "$3" ;;
*) stop 'usage: libraries.sh upgrade, require, install, slim or collect, with its arguments' ;;
esac
