#!/bin/bash
# Changes the sources, in the devel image.
#
# usage: apply_patches.sh source FOLDER
#        apply_patches.sh external BAZEL_ROOT
#
#   source     applies /inputs/patches/*.patch to the source tree in FOLDER
#   external   applies /inputs/patches/external/NAME/*.patch to the external repository NAME, as Bazel fetched it below BAZEL_ROOT
#              (its --output_user_root) or as it was overridden, and then runs the scripts /factory/fixes/NAME/*.sh on it
#
# Patches are applied with -p1, in the order of their names. One that does not fit ends it, and so does one for a repository that is
# not there: a build must not go on without it. A fix is the catalogue's: where there is nothing to be fixed, it is passed over.
set -euo pipefail
shopt -s nullglob
export LC_ALL=C

stop() {
    printf 'apply_patches: %s\n' "$*" >&2
    exit 1
}

# apply PATCH FOLDER
apply() {
    echo "apply_patches: ${1#/inputs/patches/}"
    patch --directory="$2" --strip=1 --forward --batch --no-backup-if-mismatch <"$1" || stop "${1#/inputs/patches/} does not fit"
}

# folder_of NAME BAZEL_ROOT: where the external repository is, or nothing.
folder_of() {
    local found=("$2"/*/external/"$1"/)
    [ "${#found[@]}" = 0 ] || readlink -f "${found[0]}"
}

case ${1:-} in
source)
    [ -n "$(ls "$2")" ] || stop 'there are no sources: give them with --build-context source=FOLDER'
    for file in /inputs/patches/*.patch; do
        apply "$file" "$2"
    done
    ;;
external)
    for repository in /inputs/patches/external/*/; do
        name=$(basename "$repository")
        folder=$(folder_of "$name" "$2")
        [ -n "$folder" ] || stop "there is no external repository $name: nothing that is built needs it"
        for file in "$repository"*.patch; do
            apply "$file" "$folder"
        done
    done
    for repository in /factory/fixes/*/; do
        name=$(basename "$repository")
        folder=$(folder_of "$name" "$2")
        if [ -z "$folder" ]; then
            echo "apply_patches: there is no external repository $name, so nothing of it is fixed"
            continue
        fi
        for script in "$repository"*.sh; do
            sh "$script" "$folder"
        done
    done
    ;;
*) stop 'usage: apply_patches.sh source FOLDER | external BAZEL_ROOT' ;;
esac
