# shellcheck shell=sh
# The base image of the sample: Debian bookworm, slim. Sourced by setup.sh.
# From the registry where one answers, else made here with debootstrap from the mirror that this machine's apt uses.
# shellcheck disable=SC2154 # setup.sh and ready.sh set here, root, log, scratch, base_image

base_suite=bookworm
registry_wait=20 # seconds that the registry may take

pull_base() {
    say "fetching debian:$base_suite-slim from the registry"
    set -- docker pull --quiet "debian:$base_suite-slim"
    ! has timeout || set -- timeout "$registry_wait" "$@"
    if "$@" >>"$log" 2>&1 </dev/null; then
        docker tag "debian:$base_suite-slim" "$base_image"
    else
        say 'the registry does not answer; making the base image with debootstrap instead'
        return 1
    fi
}

ensure_debootstrap() {
    advice="Load an image of Debian $base_suite by hand and tag it: docker tag IMAGE $base_image"
    if ! is_root || ! is_debian_or_ubuntu; then
        stop "No registry answers, and the base image $base_image can be made without one only as root on Debian" \
            "or Ubuntu. $advice"
    fi
    set -- # what debootstrap needs: itself, and Debian's keys, which Ubuntu keeps in a package of their own
    has debootstrap || set -- debootstrap
    [ -r "$root/usr/share/keyrings/debian-archive-keyring.gpg" ] || set -- "$@" debian-archive-keyring
    [ "$#" -gt 0 ] || return 0
    may_install || stop "No registry answers, and to make the base image $base_image without one the machine needs" \
        "the packages: $*. $(why_not_installed) $advice"
    say "installing $*"
    apt_install "$@"
}

# mirror_of SUFFIX: the http(s) address from which this machine gets Debian's release ('') or its '-updates' or
# '-security', or nothing. A mirror that has this machine's release has the base image's too.
mirror_of() {
    [ "$(distribution ID)" = debian ] || return 0
    entries | awk -F'|' -v "pattern=^[a-z]+$1\$" \
        '$1 ~ pattern && $4 == "main" && $3 ~ /^https?:/ { sub("/$", "", $3); print $3; exit }'
}

# The image's own apt sources: the release, and its updates and security fixes where this machine has them.
write_sources() {
    for suffix in '' -updates -security; do
        address=$(mirror_of "$suffix")
        [ -z "$address" ] || echo "deb $address $base_suite$suffix main"
    done >"$scratch/sources.list"
    # Without an address (Ubuntu) the mirror that debootstrap knows and has written down itself stays.
    [ ! -s "$scratch/sources.list" ] || cp "$scratch/sources.list" "$1/etc/apt/sources.list"
}

# Takes out of a folder what no build needs, and keeps it out of what is installed later.
slim() {
    cat >"$1/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
END
    echo 'Acquire::Languages "none";' >"$1/etc/apt/apt.conf.d/slim"
    find "$1/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
    find "$1/usr/share/doc" -mindepth 1 -type d -empty -delete
    for part in usr/share/man usr/share/info usr/share/locale var/cache/apt var/lib/apt/lists var/log; do
        find "$1/$part" -mindepth 1 ! -type d -delete
    done
    find "$1/usr/share/man" "$1/usr/share/locale" -mindepth 1 -type d -empty -delete
}

make_base() {
    ensure_debootstrap
    apt_update # the mirror is read from apt's lists
    mirror=$(mirror_of '')
    say "making $base_image with debootstrap from ${mirror:-its own default mirror} (half a minute or more)"
    set -- --variant=minbase --force-check-gpg
    case $mirror in https:*) set -- "$@" --include=ca-certificates ;; esac
    folder=$scratch/base
    logged debootstrap "$@" "$base_suite" "$folder" ${mirror:+"$mirror"} ||
        stop "debootstrap could not make Debian $base_suite. The lines above say why."
    write_sources "$folder"
    slim "$folder"
    logged tar --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
        -C "$folder" -cf "$scratch/base.tar" . || stop 'The base image could not be packed. The lines above say why.'
    logged docker import --change 'CMD ["bash"]' --change 'LABEL org.serving-factory.base=debootstrap' \
        -m "debootstrap $base_suite" "$scratch/base.tar" "$base_image" ||
        stop 'The Docker daemon did not take the base image. The lines above say why.'
}

# base_origin: how the image that is there came to be.
base_origin() {
    docker image inspect --format '{{with .Config.Labels}}{{index . "org.serving-factory.base"}}{{end}}' "$base_image"
}

ensure_base() {
    base_is_ready || pull_base || make_base
    # shellcheck disable=SC2034  # setup.sh prints it
    found_base="$base_image, $(base_origin | sed 's/^$/from a registry/; s/^debootstrap$/made with debootstrap/')"
}
