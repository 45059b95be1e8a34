#!/bin/bash
# Shows, prunes and carries Bazel's caches, in a build step that has them mounted.
#
# usage: cache.sh show
#        cache.sh prune BYTES [TOOLCHAIN]  removes what was used least recently until no more than BYTES are left, of the
#                                          whole or of that toolchain's folder
#        cache.sh empty disk|repository    removes all entries, and no folder into which a Bazel may be writing just now
#        cache.sh pack                     leaves /out/contents.tar.zst, or .gz where there is no zstd, and its checksum
#        cache.sh unpack                   adds what /parcel/contents.tar.* has and the caches have not
#
# stdout: `cache NAME BYTES FILES LAST-USED WORDS` for the repository cache (NAME `repository`) and for each toolchain's
# folder of the disk cache (NAME its id), before what is done and after it; LAST-USED in seconds since 1970. `pruned BYTES FILES`,
# `added BYTES FILES`.
#
# exit code: 3 for a tarball that cannot be used, 4 where the base image has not what unpacks it.
#
# Bazel reads a disk cache while this works: a file is added whole, by linking, and one that goes is a miss. It writes, too:
# what it is just writing is named by a UUID, and may be gone between the listing of its folder and the look at it.
set -euo pipefail
export LC_ALL=C
umask 022

repository=${FACTORY_TEST_ROOT:-}/cache/repository
disk=${FACTORY_TEST_ROOT:-}/cache/disk
out=${FACTORY_TEST_ROOT:-}/out
parcel=${FACTORY_TEST_ROOT:-}/parcel
staging=.serving-factory-import
unfinished='*-[0-9a-f]*-[0-9a-f]*-[0-9a-f]*-[0-9a-f]*'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# `USED BYTES PATH` of each file; used is when it was read or written last, whichever is later.
files() { find "$@" -ignore_readdir_race -name "$staging" -prune -o -type f -printf '%A@ %T@ %s %p\n' | awk '{
    used = $1 > $2 ? $1 : $2
    sub(/^[^ ]* [^ ]* /, "")
    printf "%.3f %s\n", used, $0
}'; }

toolchains() { find "$disk" -ignore_readdir_race -mindepth 1 -maxdepth 1 -type d ! -name "$staging" -printf '%f\n' | sort; }

# line NAME FOLDER [DESCRIPTION]: the time of the description, made again by each build, shows use where no file does.
line() {
    words='' used=0
    if [ -n "${3:-}" ] && [ -f "$3" ]; then
        words=$(paste -s -d ';' "$3")
        used=$(stat -c %Y "$3")
    fi
    files "$2" | awk -v name="$1" -v used="$used" -v words="$words" '
        { bytes += $2; if ($1 > used) used = $1 }
        END { printf "cache %s %.0f %d %.0f %s\n", name, bytes, NR, used, words }'
}

show() {
    line repository "$repository"
    toolchains | while read -r id; do line "$id" "$disk/$id" "$disk/$id.toolchain"; done
}

prune() {
    most=$1 id=${2:-}
    if [ -n "$id" ]; then set -- "$disk/$id"; else set -- "$repository" "$disk"; fi
    files "$@" | grep -v ' [^ ]*/[0-9a-f]*\.toolchain$' | sort -n >"$scratch/files" || :
    awk -v most="$most" -v gone="$scratch/gone" '
        { bytes[NR] = $2; left += $2; sub(/^[^ ]* [^ ]* /, ""); path[NR] = $0 }
        END {
            for (n = 1; n <= NR && left > most; n++) {
                left -= bytes[n]; sum += bytes[n]
                print path[n] >gone
            }
            printf "pruned %.0f %d\n", sum, n - 1
        }' "$scratch/files"
    [ ! -f "$scratch/gone" ] || xargs -d "\n" rm -f <"$scratch/gone"
    find "$@" -ignore_readdir_race -mindepth 1 -depth -type d -empty -delete
    # A toolchain whose folder is empty is none any more.
    for description in "$disk"/*.toolchain; do
        [ -d "${description%.toolchain}" ] && [ -n "$(ls -A "${description%.toolchain}")" ] || rm -f "$description"
    done
    find "$disk" -mindepth 1 -maxdepth 1 -type d -empty -delete
}

# Entries are named by digests; what a Bazel is just writing is named by a UUID. A folder of the repository cache is an
# entry as a whole: an old Bazel that finds it without its file fails.
empty() {
    case $1 in
    disk) find "$disk" -regextype posix-extended -regex '.*/(ac_)?[0-9a-f]{32,}' -prune -print0 ;;
    repository) find "$repository" -mindepth 3 -maxdepth 3 -print0 ;;
    esac | xargs -0 -r rm -rf
}

pack() {
    if command -v zstd >/dev/null; then set -- zst 'zstd -q -T0 -3'; else set -- gz 'gzip -1'; fi
    # tar ends with 1 where a folder changed while it was read.
    { tar -C "$repository/.." -c --atime-preserve=system --exclude="$staging" --exclude="$unfinished" repository disk ||
        [ $? = 1 ]; } | $2 >"$out/contents.tar.$1"
    (cd "$out" && sha256sum "contents.tar.$1" >contents.sha256)
}

# add FROM TO: links what TO has not, and prints the sizes; each file is there whole or not at all, whenever this ends.
add() (
    [ -d "$1" ] || exit 0
    find "$2" -ignore_readdir_race -name "$staging" -prune -o -type f -printf '%P\n' | sort >"$scratch/there"
    find "$1" -type f -printf '%P\n' | sort | comm -23 - "$scratch/there" >"$scratch/new"
    cd "$1"
    xargs -r -d '\n' cp --link --force --parents -t "$2" -- <"$scratch/new"
    xargs -r -d '\n' stat -c %s -- <"$scratch/new"
)

# refuse TEXT: the caches are as they were.
refuse() {
    rm -rf "${disk:?}/$staging" "${repository:?}/$staging"
    echo "cache: the tarball $1" >&2
    exit 3
}

unpack() {
    rm -rf "${disk:?}/$staging" "${repository:?}/$staging" # an import that was ended left it
    contents=$(echo "$parcel"/contents.tar.*)
    unpacker=gzip
    [ "${contents##*.}" != zst ] || unpacker=zstd
    if ! command -v "$unpacker" >/dev/null; then
        echo "cache: the tarball is packed with $unpacker, which the base image has not" >&2
        exit 4
    fi
    for part in disk repository; do
        place=${!part}
        mkdir "$place/$staging"
        "$unpacker" -q -d -c "$contents" | tar -C "$place/$staging" -x "$part" || refuse 'cannot be unpacked'
        if [ -n "$(find "$place/$staging" ! -type f ! -type d | head -n 1)" ]; then
            refuse 'holds something that is neither a file nor a folder'
        fi
    done
    for part in disk repository; do
        place=${!part}
        add "$place/$staging/$part" "$place"
        rm -rf "${place:?}/$staging"
    done | awk '{ bytes += $1 } END { printf "added %.0f %d\n", bytes, NR }'
}

work=$1
shift
case $work in
show) show ;;
prune)
    rm -rf "${disk:?}/$staging" "${repository:?}/$staging"
    prune "$@"
    show
    ;;
empty) empty "$1" ;;
pack)
    show
    pack
    ;;
unpack)
    unpack
    show
    ;;
*) exit 2 ;;
esac
