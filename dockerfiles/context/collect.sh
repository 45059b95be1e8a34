#!/bin/sh
# Fills the artifact folder, in the devel image, after the Bazel build.
#
# usage: collect.sh BINARY ARTIFACT BASE_PACKAGES [LIBRARY...]
#
#   BINARY         tensorflow_model_server as Bazel left it; it is not changed
#   ARTIFACT       the folder to fill; it must be empty or absent
#   BASE_PACKAGES  the packages of the base image, written before anything was installed on it:
#                      dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort
#                  Lines without a version are understood too: then a package of that name counts as the base's own.
#   LIBRARY        what the binary opens while it runs (dlopen): a soname, or the path of a file
#
# environment: CC (the compiler, default gcc), BAZEL (the Bazel binary, default none), DRIVER_STUB (CUDA's stub of libcuda.so, default
# none: what a binary that is linked to the driver's library is started with, to ask for its version)
#
# ARTIFACT then holds
#   tensorflow_model_server         stripped
#   tensorflow_model_server.debug   its debug information, found by the debuglink in the first
#   rootfs/                         what the runtime image needs beyond the base and the binary: each library that the
#                                   binary needs and the base lacks, certificates, and of each package that these came
#                                   from the licence and the dpkg paragraph (where vulnerability scanners look)
#   facts/version, version.exit     what BINARY --version prints, and its exit status (132: the CPU here is too small)
#   facts/compiler, bazel           first line of what each says of its version; bazel is empty when not given
#   facts/os-release, glibc         the distribution's PRETTY_NAME; the C library, as ldd names it
#   facts/ldd                       what ldd prints for BINARY, sorted, without addresses
#   facts/base-libraries            the libraries that a binary finds in the base image
#   facts/cpu-flags                 only where COPTS (environment) has -march=native: what /proc/cpuinfo lists of this machine's CPU
#   facts/packages                  NAME=VERSION of each package that something in rootfs/ came from
#
# The same inputs give the same bytes. A library that ldd does not find is written down, not refused: whether it matters
# is for the inspection to say.
set -eu
export LC_ALL=C
umask 022

say() { printf 'collect: %s\n' "$*" >&2; }
stop() {
    say "$*"
    exit 1
}

# begin BINARY ARTIFACT BASE_PACKAGES: sets what the functions below work with.
begin() {
    binary=$(readlink -f "$1") artifact=$2 base_packages=$3
    [ -f "$binary" ] || stop "there is no binary at $binary"
    [ -s "$base_packages" ] || stop "$base_packages, the list of the base's packages, is absent or empty"
    [ -z "$(ls -A "$artifact" 2>/dev/null)" ] || stop "$artifact is not empty"
    rootfs=$artifact/rootfs
    facts=$artifact/facts
    mkdir -p "$rootfs" "$facts"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    : >"$scratch/packages"
}

# --- the binary -------------------------------------------------------------------------------------------------------

split_binary() {
    name=tensorflow_model_server
    objcopy --only-keep-debug "$binary" "$artifact/$name.debug"
    strip --strip-unneeded -o "$artifact/$name" "$binary"
    chmod 755 "$artifact/$name"
    chmod 644 "$artifact/$name.debug"
    # From inside the folder: the link holds the name as it is given.
    (cd "$artifact" && objcopy --add-gnu-debuglink="$name.debug" "$name")
}

# --- libraries --------------------------------------------------------------------------------------------------------

# libraries_of FILE: a line "SONAME PATH" for each library that ldd finds, the loader included.
libraries_of() { ldd "$1" 2>/dev/null | found_libraries; }

found_libraries() {
    sed -n \
        -e 's|^[[:space:]]*\([^[:space:]]*\) => \(/[^[:space:]]*\) (0x[0-9a-f]*)$|\1 \2|p' \
        -e 's|^[[:space:]]*\(/[^[:space:]]*/\)\([^/[:space:]]*\) (0x[0-9a-f]*)$|\2 \1\2|p'
}

# find_library LIBRARY: its path.
find_library() {
    case $1 in
    /*) [ ! -f "$1" ] || printf '%s\n' "$1" ;;
    *)
        # Given to the loader as something to preload, a library is looked for as at run time. Nothing is run by this.
        LD_TRACE_LOADED_OBJECTS=1 LD_PRELOAD=$1 "$(command -v sh)" 2>/dev/null |
            sed -n "s|^[[:space:]]*[^[:space:]]* => \(/[^[:space:]]*/$1\) (0x[0-9a-f]*)\$|\1|p" | sed -n 1p
        ;;
    esac
}

# "PACKAGE PATH" for every library of every package; asked once, because each question reads the whole database.
write_owners() {
    dpkg-query -S '*.so*' | sed -n '/^diversion by /!s|^\([^,: ]*\)[^/]*: /|\1 /|p' >"$scratch/owners"
}

# owner_of PATH: the package that a library belongs to, or nothing. The database may know a file below /lib or below
# /usr/lib while both are the same folder.
owner_of() {
    real=$(readlink -f "$1")
    for path in "$1" "$real" "/usr$1" "/usr$real" "${1#/usr}" "${real#/usr}"; do
        owner=$(awk -v path="$path" '$2 == path { print $1; exit }' "$scratch/owners")
        [ -z "$owner" ] || break
    done
    printf '%s\n' "$owner"
}

version_of() { dpkg-query -W -f '${Version}\n' "$1" | sed -n 1p; }

# in_base PACKAGE: does the base image have it, in this version?
in_base() {
    listed=$(awk -v name="$1" '$1 == name { print ($2 == "" ? "any" : $2); exit }' "$base_packages")
    case $listed in
    '') return 1 ;;
    any) return 0 ;;
    "$(version_of "$1")") return 0 ;;
    esac
    # An installation may have raised a package of the base. Then the binary was linked to the newer one, and that goes
    # along; but never the C library: its parts work only together with the loader of the same build.
    case $1 in
    libc6) return 0 ;;
    esac
    say "$1 is $(version_of "$1") here and $listed in the base: the newer one goes along"
    return 1
}

# copy_library SONAME PATH FOLDER: puts a library into rootfs/FOLDER, as the file and the link to it that are at PATH.
copy_library() {
    real=$(readlink -f "$2")
    mkdir -p "$rootfs$3"
    if [ "$(dirname "$real")" = "$(readlink -f "$(dirname "$2")")" ]; then
        file=$(basename "$real")
    else
        file=$1 # a link from elsewhere, such as of Debian's alternatives: only its target is worth having
    fi
    install -m 644 "$real" "$rootfs$3/$file"
    [ "$file" = "$1" ] || ln -sf "$file" "$rootfs$3/$1"
}

# take_library SONAME PATH: puts a library into the rootfs unless the base has it, and its package into the list of packages.
take_library() {
    case $1 in
    # The driver's: they fit the kernel of the machine that serves, and are handed to the container there.
    libcuda.so* | libnvidia-*) return 0 ;;
    esac
    package=$(owner_of "$2")
    folder=$(readlink -f "$(dirname "$2")")
    case $package:$folder in
    # Of no package: it came with the sources. Or of one that has a folder of its own for them, as CUDA's do. Either way no
    # loader of the runtime image would look where they lie here.
    :* | *:/usr/local/* | *:/opt/*) folder=$loader_folder ;;
    esac
    if [ -z "$package" ]; then
        copy_library "$1" "$2" "$folder"
    elif ! in_base "$package"; then
        copy_library "$1" "$2" "$folder"
        printf '%s\n' "$package" >>"$scratch/packages"
    fi
}

find_loader_folder() {
    libc_folder=$(libraries_of "$(command -v sh)" | sed -n 's|^libc\.so[^ ]* \(.*\)/[^/]*$|\1|p')
    loader_folder=$(readlink -f "/usr${libc_folder#/usr}")
}

collect_libraries() {
    libraries_of "$binary" >"$scratch/needed"
    for library in "$@"; do
        path=$(find_library "$library")
        [ -n "$path" ] || stop "$library, which the binary opens while it runs, is not here"
        printf '%s %s\n' "$(basename "$path")" "$path" >>"$scratch/needed"
        libraries_of "$path" >>"$scratch/needed"
    done
    write_owners
    find_loader_folder
    sort -u "$scratch/needed" | while read -r soname path; do
        take_library "$soname" "$path"
    done
}

# --- what belongs to them ---------------------------------------------------------------------------------------------

collect_certificates() {
    bundle=/etc/ssl/certs/ca-certificates.crt
    [ -s "$bundle" ] || stop "$bundle is absent: the toolchain must install ca-certificates"
    mkdir -p "$rootfs$(dirname "$bundle")"
    install -m 644 "$bundle" "$rootfs$bundle"
    echo ca-certificates >>"$scratch/packages"
}

collect_packages() {
    mkdir -p "$rootfs/var/lib/dpkg/status.d"
    sort -u "$scratch/packages" | while read -r package; do
        # Some packages share the folder of another one, by a link.
        folder=$(readlink -f "/usr/share/doc/$package")
        # Debian's and Ubuntu's packages all have one; of other vendors' this is not certain, and hours of compiling came before.
        if [ -r "$folder/copyright" ]; then
            mkdir -p "$rootfs$folder"
            install -m 644 "$folder/copyright" "$rootfs$folder/copyright"
        else
            say "the package $package has no licence file ($folder/copyright): none goes along"
        fi
        dpkg-query -s "$package" >"$rootfs/var/lib/dpkg/status.d/$package"
        printf '%s=%s\n' "$package" "$(version_of "$package")"
    done >"$facts/packages"
}

# --- facts ------------------------------------------------------------------------------------------------------------

# Old servers do not know --version and go on to start; without a model they end, and if not, they are ended.
record_version() {
    status=0
    mkdir "$scratch/driver"
    [ -z "${DRIVER_STUB:-}" ] || ln -s "$DRIVER_STUB" "$scratch/driver/libcuda.so.1"
    LD_LIBRARY_PATH=$scratch/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        timeout 60 "$binary" --version >"$facts/version" 2>"$scratch/version.err" || status=$?
    echo "$status" >"$facts/version.exit"
}

record_bazel() {
    if [ -n "${BAZEL:-}" ]; then
        # Before 1.1 there is no `bazel --version`; --batch spares the start of a server.
        "$BAZEL" --version 2>/dev/null || "$BAZEL" --batch version 2>/dev/null
    fi | sed -n -e '/^bazel /p' -e 's/^Build label: /bazel /p' | sed -n 1p >"$facts/bazel"
}

# What lies in the loader's own folders, of the packages of the base.
record_base_libraries() {
    # A package of the base that was removed since is passed over.
    cut -d ' ' -f 1 "$base_packages" | { xargs dpkg-query -L 2>/dev/null || :; } |
        sed -n 's#^\(/usr\)\{0,1\}/lib\(64\)\{0,1\}/\([^/]*-linux-gnu[^/]*/\)\{0,1\}\([^/]*\.so\(\.[^/]*\)\{0,1\}\)$#\4#p' |
        sort -u >"$facts/base-libraries"
}

# What the libraries were found on.
record_system() {
    sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release >"$facts/os-release"
    ldd --version | sed -n 1p >"$facts/glibc"
    record_base_libraries
}

# What -march=native compiled for. Without that option the same inputs give the same bytes on every machine.
record_cpu() {
    case ${COPTS:-} in
    *-march=native*) sed -n 's/^flags[[:space:]]*: //p' /proc/cpuinfo | sed -n 1p >"$facts/cpu-flags" ;;
    esac
}

record_facts() {
    record_cpu
    record_version
    record_bazel
    "${CC:-gcc}" --version | sed -n 1p >"$facts/compiler"
    ldd "$binary" 2>&1 | sed -e 's/^[[:space:]]*//' -e 's/ (0x[0-9a-f]*)$//' | sort >"$facts/ldd"
    record_system
}

# --- file times -------------------------------------------------------------------------------------------------------

# True times would make two builds of the same thing differ. One time for all would be worse: when a folder is handed to
# BuildKit as a context, a file of the same size and time counts as unchanged and its old content is used. So a file's
# time is made from its content: a date between 1970 and 1978.
set_times() {
    find "$artifact" ! -type f -exec touch -h -d @0 {} +
    find "$artifact" -type f -exec sha256sum {} + | while read -r digest file; do
        touch -d "@$((0x${digest%"${digest#???????}"}))" "$file"
    done
}

# libraries.sh sources this file for its functions.
case ${0##*/} in
collect.sh)
    [ "$#" -ge 3 ] || stop 'usage: collect.sh BINARY ARTIFACT BASE_PACKAGES [LIBRARY...]'
    for tool in objcopy strip ldd dpkg-query "${CC:-gcc}"; do
        command -v "$tool" >/dev/null || stop "$tool is not installed here"
    done
    begin "$1" "$2" "$3"
    shift 3
    split_binary
    collect_libraries "$@"
    collect_certificates
    collect_packages
    record_facts
    set_times
    ;;
esac
