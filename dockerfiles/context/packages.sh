# shellcheck shell=bash
# Downloads packages and a wheel into folders. Sourced, behind inputs.sh. A function that is called in a list of commands ends
# with the first failure only if it says so itself: there `set -e` does nothing.

# download_packages FOLDER PACKAGE...: the packages, and all that they depend on and the base has not, with their index.
download_packages() {
    local folder=$1
    shift
    mkdir -p "$folder/partial" &&
        apt_get update &&
        apt_get install --yes --no-install-recommends --download-only -o "Dir::Cache::Archives=$folder" "$@" &&
        rm -rf "$folder/partial" "$folder/lock" &&
        index "$folder" >"$folder/Packages"
}

# index FOLDER: what an apt repository says of the packages in a folder.
index() {
    local deb
    for deb in "$1"/*.deb; do
        [[ -e $deb ]] || continue
        dpkg-deb --field "$deb" &&
            printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' \
                "${deb##*/}" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -c -64)" ||
            return
    done
}

# download_wheel FOLDER REQUIREMENT SHA256 PIP_OPTION...: a wheel, for another Python than the one that runs pip.
download_wheel() {
    local folder=$1 requirement=$2 sha256=$3
    shift 3
    mkdir -p "$folder" &&
        apt_install ca-certificates python3-pip &&
        python3 -m pip download --no-cache-dir --no-deps --only-binary=:all: --dest "$folder" "$@" "$requirement" &&
        printf '%s  %s\n' "$sha256" "$folder"/*.whl | sha256sum --check --strict
}
