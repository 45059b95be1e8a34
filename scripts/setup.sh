#!/bin/sh
# Makes the machine ready: setup.sh [--summary] PART...
# Parts: environment (.venv from uv.lock), engine (Docker with buildx), base (the sample's base image).
# Run by ./factory, one at a time on a machine. What is there already is left as it is. Steps go to standard error,
# with --summary what was found to standard output. Exit codes: 69, a person has to do something; 130, Ctrl-C.
set -eu

here=$(CDPATH='' cd -- "$(dirname "$0")/.." && pwd -P)
state=$here/build/.setup
log=$state/setup.log
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # a root shell from 'su' has none of them
mkdir -p "$state"
: >"$log"

# shellcheck source=scripts/ready.sh
. "$here/scripts/ready.sh"
# shellcheck source=scripts/common.sh
. "$here/scripts/common.sh"
# shellcheck source=scripts/setup-environment.sh
. "$here/scripts/setup-environment.sh"
# shellcheck source=scripts/setup-engine.sh
. "$here/scripts/setup-engine.sh"
# shellcheck source=scripts/setup-base.sh
. "$here/scripts/setup-base.sh"

# A killed debootstrap leaves /proc mounted in its folder: removed only once nothing is mounted there.
remove_scratch() {
    if [ -r /proc/mounts ]; then
        awk -v folder="$1/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mounted; do
            umount "$mounted" || exit 1
        done || return 0
    fi
    rm -rf "$1"
}

clean_up() {
    remove_scratch "$scratch"
    rm -f "$state/scratch"
}

[ ! -s "$state/scratch" ] || remove_scratch "$(cat "$state/scratch")" # of a set-up that was killed
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/serving-factory.XXXXXX")
trap clean_up EXIT
trap 'say "interrupted; what was done so far is kept, the same command continues"; exit 130' INT
trap 'exit 143' TERM HUP
echo "$scratch" >"$state/scratch"

summary=
found_environment='' found_engine='' found_base=''
for word; do
    case $word in
        --summary) summary=yes ;;
        *) "ensure_$word" ;;
    esac
done
if [ -n "$summary" ]; then
    printf 'environment  %s\nengine       %s\nbase image   %s\n' "$found_environment" "$found_engine" "$found_base"
fi
