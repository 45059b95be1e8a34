#!/bin/sh
# Adds to the artifact folder what a gpu image has beyond the libraries: tools, and licences. Runs in the devel image, after collect.sh.
#
# usage: collect_cuda.sh ARTIFACT LIBRARIES TOOLKIT VERSION [FILE...]
#
#   ARTIFACT   the folder that collect.sh has filled
#   LIBRARIES  a file with the paths of the libraries that the server opens, one a line
#   TOOLKIT    CUDA's own folder
#   VERSION    CUDA's version, `12.2`
#   FILE       what the server runs or reads while it serves, as a path below TOOLKIT
#
# ARTIFACT then holds besides
#   rootfs/usr/local/cuda-VERSION/FILE      and rootfs/usr/local/cuda, a link to its folder: TensorFlow looks in both
#   rootfs/usr/share/doc/PACKAGE/copyright  of the packages that the files are of; rootfs/var/lib/dpkg/status.d/PACKAGE and a line in
#                                           facts/packages, as collect.sh writes them
#   rootfs/usr/share/doc/NAME/LICENSE       of what no package brought. It is looked for in the file's folder and in those above: NAME is
#                                           the folder of an archive that Bazel downloaded, or a wheel's NAME.dist-info
set -eu
export LC_ALL=C
umask 022

artifact=$1 libraries=$2 toolkit=$3 version=$4
shift 4
rootfs=$artifact/rootfs
packages=$artifact/facts/packages

say() { printf 'collect: %s\n' "$*" >&2; }

# Times stay those of the originals (-p): like collect.sh's they come from what is copied, not from when.
take() { install -D -p -m "$1" "$2" "$3"; }

# take_package NAME: its licence and its entries, unless a library brought them.
take_package() {
    ! grep -q "^$1=" "$packages" || return 0
    mkdir -p "$rootfs/var/lib/dpkg/status.d"
    dpkg-query -s "$1" >"$rootfs/var/lib/dpkg/status.d/$1"
    dpkg-query -W -f '${Package}=${Version}\n' "$1" >>"$packages"
    sort -o "$packages" "$packages"
    copyright=$(readlink -f "/usr/share/doc/$1/copyright")
    if [ -r "$copyright" ]; then
        take 644 "$copyright" "$rootfs/usr/share/doc/$1/copyright"
        touch -r "$copyright" "$rootfs/var/lib/dpkg/status.d/$1"
    else
        say "the package $1 has no licence file: none goes along"
    fi
}

# take_licence FOLDER: those that are nearest.
take_licence() {
    folder=$1 taken=''
    while [ -z "$taken" ] && [ "$folder" != / ]; do
        for file in "$folder"/LICENSE* "$folder"/License* "$folder"/*.dist-info/[Ll]icense* "$folder"/*.dist-info/licenses/*; do
            [ -f "$file" ] || continue
            name=${file#"$folder/"}
            case $name in */*) name=${name%%/*} ;; *) name=$(basename "$folder") ;; esac
            take 644 "$file" "$rootfs/usr/share/doc/$name/$(basename "$file")"
            taken=yes
        done
        folder=$(dirname "$folder")
    done
    [ -n "$taken" ] || say "no licence file is in $1 or above it: none goes along"
}

for file; do
    mode=644
    [ ! -x "$toolkit/$file" ] || mode=755
    take "$mode" "$toolkit/$file" "$rootfs/usr/local/cuda-$version/$file"
    ln -sfn "cuda-$version" "$rootfs/usr/local/cuda"
    package=$(dpkg-query -S "$(readlink -f "$toolkit/$file")" 2>/dev/null | sed -n '1s/[:,].*//p')
    [ -z "$package" ] || take_package "$package"
    [ -n "$package" ] || take_licence "$(readlink -f "$toolkit")"
done

scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT
xargs dpkg-query -S <"$libraries" 2>/dev/null | sed 's|^[^/]*: /|/|' >"$scratch" || :
grep -vxF -f "$scratch" "$libraries" | xargs -r -n 1 readlink -f | xargs -r -n 1 dirname | sort -u | while read -r folder; do
    take_licence "$folder"
done

# As collect.sh leaves them: a folder's time says nothing.
find "$artifact" ! -type f -exec touch -h -d @0 {} +
