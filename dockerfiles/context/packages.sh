# shellcheck shell=bash
# Downloads packages into a folder. Sourced, behind inputs.sh. A function that is called in a list of commands ends
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
