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
#   rootfs/usr/local/cuda-VERSION/FILE  and rootfs/usr/local/cuda, a link to its folder: TensorFlow looks in both
#   rootfs/usr/share/doc/NAME/LICENSE   of what no package brought. It is looked for in the file's folder and in those above: NAME is the
#                                       folder of an archive that Bazel downloaded, or a wheel's NAME.dist-info
# and of the packages of FILEs what collect.sh takes of packages.
set -eu
# shellcheck source=dockerfiles/context/collect.sh
. "$(dirname "$0")/collect.sh"

artifact=$1 libraries=$2 toolkit=$3 version=$4
shift 4
rootfs=$artifact/rootfs
facts=$artifact/facts
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# take_licence FOLDER: those that are nearest.
take_licence() {
    folder=$1 taken=''
    while [ -z "$taken" ] && [ "$folder" != / ]; do
        for file in "$folder"/LICENSE* "$folder"/License* "$folder"/EULA* "$folder"/*.dist-info/[Ll]icense* "$folder"/*.dist-info/licenses/*; do
            [ -f "$file" ] || continue
            name=${file#"$folder/"}
            case $name in */*) name=${name%%/*} ;; *) name=$(basename "$folder") ;; esac
            install -D -m 644 "$file" "$rootfs/usr/share/doc/$name/$(basename "$file")"
            taken=yes
        done
        folder=$(dirname "$folder")
    done
    [ -n "$taken" ] || say "no licence file is in $1 or above it: none goes along"
}

cut -d = -f 1 "$facts/packages" >"$scratch/packages"
xargs dpkg-query -S <"$libraries" 2>/dev/null | sed 's|^[^/]*: /|/|' >"$scratch/owned" || :
grep -vxF -f "$scratch/owned" "$libraries" >"$scratch/others" || :
for file; do
    mode=644
    [ ! -x "$toolkit/$file" ] || mode=755
    install -D -m "$mode" "$toolkit/$file" "$rootfs/usr/local/cuda-$version/$file"
    ln -sfn "cuda-$version" "$rootfs/usr/local/cuda"
    package=$(dpkg-query -S "$(readlink -f "$toolkit/$file")" 2>/dev/null | sed -n '1s/[:,].*//p')
    if [ -n "$package" ]; then echo "$package" >>"$scratch/packages"; else echo "$toolkit/$file" >>"$scratch/others"; fi
done
xargs -r -n 1 readlink -f <"$scratch/others" | xargs -r -n 1 dirname | sort -u | while read -r folder; do
    take_licence "$folder"
done
collect_packages
set_times
