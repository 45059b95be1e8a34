#!/bin/sh
# Runs one of the nightly's checks. What it finds goes into a file, and from there into the nightly's issue; it never fails.
#
# usage: nightly_check.sh FILE COMMAND...
#   FILE   written if the command fails: the command, its exit code and the end of its output, as Markdown
set -u

file=$1
shift
output=$(mktemp)
trap 'rm -f "$output"' EXIT
code=0
"$@" >"$output" 2>&1 || code=$?
cat "$output"
if [ "$code" -eq 0 ]; then
    rm -f "$file"
    exit
fi
mkdir -p "$(dirname "$file")"
{
    printf '\n    %s\n\nended with %s:\n\n~~~~\n' "$*" "$code"
    tail -n 30 "$output" | cut -c 1-200
    printf '~~~~\n'
} >"$file"
