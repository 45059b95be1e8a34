#!/bin/sh
# Makes the machine ready, then runs Invoke: setup.sh PART... -- ARGUMENT...
#             or reports what it found: setup.sh --summary PART...
# Parts: environment (.venv from uv.lock), engine (Docker with buildx), base (the sample's base image), emulator (qemu, of CPUs).
# Run by ./factory, one at a time on a machine. What is there already stays as it is; each step is a line on standard
# error. Exit codes: 69, a person has to do something; 130, Ctrl-C.
set -eu

here=$(CDPATH='' cd -- "$(dirname "$0")/.." && pwd -P)
state=$here/build/.setup
log=$state/setup.log

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
# shellcheck source=scripts/setup-emulator.sh
. "$here/scripts/setup-emulator.sh"

PATH=$PATH:$root/usr/local/sbin:$root/usr/sbin:$root/sbin # a root shell from 'su' has none of them

# A killed debootstrap leaves /proc mounted in its folder: removed only once nothing is mounted there.
remove_scratch() {
    if [ -r /proc/mounts ]; then
        awk -v folder="$1/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mounted; do
            umount "$mounted" || exit 1
        done || return 1
    fi
    rm -rf "$1"
}

clean_up() {
    ! remove_scratch "$scratch" || rm -f "$state/scratch"
}

mkdir -p "$state" 2>/dev/null || true
[ -w "$state" ] || stop "$state cannot be written. Run this as the owner of the checkout."

# One at a time: root changes the whole machine, anyone else this checkout. No child keeps descriptor 9 (see 'logged').
lock=$state/lock
! is_root || [ ! -d "$root/run/lock" ] || lock=$root/run/lock/serving-factory.lock
exec 9>"$lock"
if has flock && ! flock -n 9; then
    say 'waiting for another set-up to finish'
    flock 9
fi

[ ! -s "$state/scratch" ] || remove_scratch "$(cat "$state/scratch")" || true # of a set-up that was killed
: >"$log"
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/serving-factory.XXXXXX")
trap clean_up EXIT
trap 'say "interrupted; what was done so far is kept, the same command continues"; exit 130' INT
trap 'exit 143' TERM HUP
echo "$scratch" >"$state/scratch"

summary=''
found_environment='' found_engine='' found_base='' found_emulator=''
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --summary) summary=yes ;;
        *) "ensure_$1" ;;
    esac
    shift
done

if [ -n "$summary" ]; then
    printf 'environment  %s\nengine       %s\nbase image   %s\nemulator     %s\n' \
        "$found_environment" "$found_engine" "$found_base" "$found_emulator" | show
    exit 0
fi
shift # the --
clean_up
trap - EXIT INT TERM HUP
exec 9>&-
run_invoke "$@"
