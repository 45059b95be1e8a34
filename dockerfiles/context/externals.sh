#!/bin/bash
# Asks Bazel which external repositories the target is made of, and writes down where they come from. bazel.sh calls it in the place of
# preflight.sh, with the same arguments, after the fetch: nothing is downloaded.
#
# usage: externals.sh FOLDER BAZEL [STARTUP_OPTION...] -- [REPOSITORY_OPTION...] -- [BUILD_OPTION...] TARGET...
#
# FOLDER then holds
#   query.build  every external repository that WORKSPACE declares, as Bazel writes rules
#   packages     the packages of all that TARGETs depend on, without what only tools of the build need: @NAME//PATH
#   query.log    what else was printed. A query knows no configuration, so it also asks for what other platforms need and was not fetched
#   licences     SHA256  NAME/FILE for each licence file at the top of a repository
#   overrides    the names of the repositories that are overridden
set -euo pipefail
export LC_ALL=C

folder=$1 bazel=() repository=() targets=()
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
for word; do
    [[ $word == -* ]] || targets+=("$word")
done

# query OUTPUT OPTION... EXPRESSION: exit status 3 is that some of it could not be read.
query() {
    local status=0
    "${bazel[@]}" query "${repository[@]}" --nofetch --keep_going "${@:2}" >"$1" 2>>"$folder/query.log" || status=$?
    ((status == 0 || status == 3)) || {
        cat "$folder/query.log" >&2
        exit "$status"
    }
}

mkdir -p "$folder"
query "$folder/query.build" --output=build '//external:*'
query "$folder/packages" --output=package --noimplicit_deps --nohost_deps "deps(set(${targets[*]}))"
(
    shopt -s nullglob nocaseglob
    cd /factory/bazel/*/external
    for file in */{license,licence,copying,notice,copyright}*; do
        [[ ! -f $file ]] || sha256sum "$file"
    done
) >"$folder/licences"
find /inputs/overrides -mindepth 1 -maxdepth 1 -type d -printf '%f\n' 2>/dev/null | sort >"$folder/overrides" || :
