# shellcheck shell=bash
# Compares packages with the distribution's lists. Sourced, behind inputs.sh.

say() { printf 'newer: %s\n' "$*" >&2; }

# apt_cache ARGUMENT...: apt-cache by way of the inputs. What apt gets to know of them is in apt_get, and the key of each compile
# covers that file.
apt_cache() (
    # shellcheck disable=SC2317,SC2329 # apt_get calls it
    apt-get() { apt-cache "$@"; }
    apt_get "$@"
)

# write_newer PACKAGES FOLDER: of each package, a line "NAME VERSION SOURCE_VERSION", that the distribution has in a higher version a line
# "NAME VERSION HIGHER CVE..." in FOLDER/newer, "-" instead of CVEs where no changelog is to be had; FOLDER/unknown names those that no
# source of packages has.
write_newer() {
    local name version source candidate names newer=()
    scratch=$(mktemp -d)
    mkdir -p "$2" "$scratch/debs"
    : >"$2/unknown"
    for name in apt-get dpkg; do
        command -v "$name" >/dev/null || { say "this base has no $name" && return 1; }
    done
    # A list that was not fetched is a warning of apt's: its packages would count as up to date.
    apt_get update 2>&1 | tee "$scratch/update" || return
    ! grep -qE '^[EW]: (Failed to fetch|Some index files|GPG error)' "$scratch/update" ||
        { say 'not all lists of packages were fetched' && return 1; }
    mapfile -t names < <(cut -d ' ' -f 1 "$1" | sort -u)
    apt_cache policy "${names[@]}" | candidates >"$scratch/candidates" || return
    while read -r name version source; do
        candidate=$(awk -v name="$name" '$1 == name { print $2 }' "$scratch/candidates")
        if [[ -z $candidate ]]; then
            printf '%s\n' "$name" >>"$2/unknown"
        elif dpkg --compare-versions "$candidate" gt "$version"; then
            newer+=("$name $version $source $candidate")
        fi
    done <"$1"
    [[ ${#newer[@]} -eq 0 ]] || get_changelogs "${newer[@]}"
    for name in ${newer[@]+"${newer[@]}"}; do
        read -r name version source candidate <<<"$name"
        printf '%s %s %s %s\n' "$name" "$version" "$candidate" "$(cves_since "$name" "$source" | sort -u | paste -s -d ' ')"
    done >"$2/newer"
}

# candidates: "NAME VERSION" of what apt would install, of packages that a source has. Reads what `apt-cache policy` prints.
candidates() {
    awk '
        function put() { if (name != "" && found) print name, candidate }
        /^[^ ].*:$/ { put(); name = substr($1, 1, length($1) - 1); found = 0 }
        $1 == "Candidate:" { candidate = $2 }
        /^ +-?[0-9]+ / && $2 != "/var/lib/dpkg/status" { found = 1 }
        END { put() }
    '
}

# get_changelogs "NAME VERSION SOURCE CANDIDATE"...: what each candidate has in /usr/share/doc. Some have a link to the folder of another.
get_changelogs() {
    local deb debs=()
    for deb; do debs+=("${deb%% *}=${deb##* }"); done
    (cd "$scratch/debs" && apt_get download "${debs[@]}") || say 'not all packages could be downloaded, to read their changelogs'
    for deb in "$scratch"/debs/*.deb; do
        [[ ! -s $deb ]] || dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$scratch" --wildcards './usr/share/doc/*' || :
    done
}

# cves_since NAME VERSION: those that the changelog's entries about higher versions of the source package name.
cves_since() {
    local line file entry='^[a-z0-9][a-z0-9.+-]* \(([^)]+)\)'
    file=$(find -L "$scratch/usr/share/doc/$1/" -maxdepth 1 \( -name 'changelog.Debian.gz' -o -name 'changelog.gz' \) 2>/dev/null | sort | sed -n 1p) || :
    if [[ -z $file ]]; then
        echo -
        return
    fi
    zcat "$file" | while IFS= read -r line; do
        if [[ $line =~ $entry ]] && ! dpkg --compare-versions "${BASH_REMATCH[1]}" gt "$2"; then break; fi
        printf '%s\n' "$line"
    done | { grep -oE 'CVE-[0-9]{4}-[0-9]{4,}' || :; }
}
