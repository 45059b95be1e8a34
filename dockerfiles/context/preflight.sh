#!/bin/bash
# Asks Bazel what of the build's inputs is missing, and writes down all that it says. It never fails: what is missing is
# its result.
#
# usage: preflight.sh FOLDER BAZEL [STARTUP_OPTION...] -- [REPOSITORY_OPTION...] -- [BUILD_OPTION...] TARGET
#
#   FOLDER             the folder to fill
#   REPOSITORY_OPTION  options that say where repositories come from, which every Bazel command understands
#
# In the source tree; the inputs are at /inputs, Bazel's repository cache at /cache/repository, its output at /factory/bazel.
#
# FOLDER then holds
#   bazel.log     what the analysis printed
#   bazel.exit    its exit status
#   query.build   every external repository that WORKSPACE declares, as Bazel writes rules; empty where it cannot be read
#   query.log     what else was printed on the way to that
#   external      NAME or NAME -> TARGET, for each external repository that is there now
#   distdir       sha256sum's line for each archive in the distdir
#   cache         the sha256 of each archive that was in the repository cache before
#   overrides     the names of the repositories that are overridden
#   sources/      WORKSPACE and *.bzl of the source tree
#   programs      the names of all programs on PATH
#   genrules      every genrule that TARGET may need, as Bazel writes rules; only where the analysis found nothing missing
#   genrules.log  what else was printed on the way to that
#   genrules.exit its exit status: 3 where some of it could not be read
set -euo pipefail
export LC_ALL=C

folder=$1 bazel=() repository=() build=(--nobuild --keep_going)
shift
while [[ $1 != -- ]]; do
    bazel+=("$1")
    shift
done
shift
while [[ $1 != -- ]]; do
    repository+=("$1")
    shift
done
shift
build+=("$@")

# names FOLDER: of what is in it, hidden files aside; nothing where there is no such folder.
names() {
    [[ ! -d $1 ]] || find "$1" -mindepth 1 -maxdepth 1 ! -name '.*' -printf '%f\n' | sort
}

# externals: the repositories that were fetched; what could not be left an empty folder.
externals() {
    local place
    for place in /factory/bazel/*/external/*; do
        if [[ -L $place ]]; then
            printf '%s -> %s\n' "${place##*/}" "$(readlink "$place")"
        elif [[ -n $(names "$place") ]]; then
            printf '%s\n' "${place##*/}"
        fi
    done
}

# query OPTION...: the declared repositories.
query() {
    "${bazel[@]}" query --keep_going --output=build "$@" '//external:*'
}

# programs: what a command of a rule can call by its name.
programs() {
    local place
    tr ':' '\n' <<<"$PATH" | while read -r place; do
        find -L "$place" -maxdepth 1 -type f -executable -printf '%f\n' 2>/dev/null || :
    done | sort -u
}

mkdir -p "$folder/sources"
names /cache/repository/content_addressable/sha256 >"$folder/cache"
(cd /inputs/distdir 2>/dev/null && find . -maxdepth 1 -type f -printf '%P\0' | sort -z | xargs -0 -r sha256sum) >"$folder/distdir" || :
names /inputs/overrides >"$folder/overrides"
find . -name .git -prune -o \( -name WORKSPACE -o -name '*.bzl' \) -type f -exec cp --parents {} "$folder/sources" \;

status=0
"${bazel[@]}" build "${repository[@]}" --color=no --curses=no "${build[@]}" >"$folder/bazel.log" 2>&1 || status=$?
echo "$status" >"$folder/bazel.exit"
externals >"$folder/external"

if ! query "${repository[@]}" >"$folder/query.build" 2>"$folder/query.log"; then
    # Bazel before 0.18 asks no one else for what is not in the distdir, and does not say from where it would come: without
    # one it does.
    others=()
    for option in "${repository[@]}"; do
        [[ $option == --distdir=* ]] || others+=("$option")
    done
    [[ -s $folder/query.build ]] || query "${others[@]}" >"$folder/query.build" 2>>"$folder/query.log" || :
fi
programs >"$folder/programs"
if ((status == 0)); then
    # A query knows no configuration, so it asks for what no build of this one needs, too: nothing is fetched for that.
    status=0
    "${bazel[@]}" query "${repository[@]}" --nofetch --keep_going --output=build "kind('genrule rule', deps(${build[-1]}))" \
        >"$folder/genrules" 2>"$folder/genrules.log" || status=$?
    echo "$status" >"$folder/genrules.exit"
fi
cat "$folder/bazel.log"
