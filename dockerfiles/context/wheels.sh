# shellcheck shell=bash
# Gets Python wheels. Sourced, behind inputs.sh.
# shellcheck disable=SC2154 # inputs.sh sets inputs_root and inputs_secrets
#
# mounts, each of them optional:
#   /inputs/distdir      a folder of files that are not downloaded
#   /run/secrets/pip_ca  the certificates (PEM) that pip trusts, instead of the system's

if [[ -s $inputs_secrets/pip_ca ]]; then
    export PIP_CERT=$inputs_secrets/pip_ca
fi

# get_wheel FOLDER FILE SHA256 REQUIREMENT PIP_OPTION...: a wheel of the distdir, else of the package index, for another Python than the
# one that runs pip. `set -e` does nothing in a function that is called in a list of commands: it ends with the first failure itself.
get_wheel() {
    local folder=$1 file=$2 sha256=$3 requirement=$4 found
    shift 4
    mkdir -p "$folder" || return
    if [[ -e $inputs_root/inputs/distdir/$file ]]; then
        cp "$inputs_root/inputs/distdir/$file" "$folder/" || return
    else
        apt_install ca-certificates python3-pip &&
            python3 -m pip download --no-cache-dir --no-deps --only-binary=:all: --dest "$folder" "$@" "$requirement" || return
    fi
    found=$(sha256sum "$folder/$file" | cut -c -64)
    if [[ $found != "$sha256" ]]; then
        echo "factory: $file has sha256 $found, expected $sha256" >&2
        return 1
    fi
}
