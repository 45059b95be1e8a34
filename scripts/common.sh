# shellcheck shell=sh
# What all steps of the set-up share: user and distribution, logged commands, apt.
# Sourced by setup.sh, after ready.sh; needs $here (the repository's root) and $state (a folder for its own files).
# shellcheck disable=SC2154 # setup.sh sets here, state, log

# The file system that is looked at. Only the tests set it.
root=${FACTORY_TEST_ROOT:-}

# Something that a person has to install or allow is missing (sysexits.h: EX_UNAVAILABLE).
stop() {
    say "$@"
    exit 69
}

is_root() {
    [ "$(id -u)" -eq 0 ]
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# distribution FIELD: a field of /etc/os-release, or nothing where there is no such file.
distribution() {
    [ -r "$root/etc/os-release" ] || return 0
    sed -n "s/^$1=//p" "$root/etc/os-release" | tr -d "\"'"
}

is_debian_or_ubuntu() {
    case $(distribution ID) in
        debian | ubuntu) has apt-get ;;
        *) return 1 ;;
    esac
}

may_install() {
    [ "${FACTORY_INSTALL:-}" != never ] && is_root && is_debian_or_ubuntu
}

# Ends the sentence that says what is missing.
why_not_installed() {
    if [ "${FACTORY_INSTALL:-}" = never ]; then
        echo 'FACTORY_INSTALL=never is set, so nothing was installed.'
    elif ! is_debian_or_ubuntu; then
        echo 'The factory installs packages on Debian and Ubuntu only.'
    else
        echo 'The factory installs packages only as root.'
    fi
}

# logged COMMAND...: run it, its output in a log; shows the log's end when it fails. What it leaves running does not
# keep the set-up's lock, which is descriptor 9.
logged() {
    status=0
    "$@" >>"$log" 2>&1 </dev/null 9>&- || status=$?
    [ "$status" -ne 0 ] || return 0
    tail -n 15 "$log" | sed 's/^/factory: | /' >&2
    say "'$1' failed with exit code $status; the whole log: $log"
    return 1
}

# apt ARGUMENTS...: apt-get, without questions; waits while another program uses it.
apt() {
    logged env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

apt_updated=
apt_update() {
    [ -z "$apt_updated" ] || return 0
    apt update || stop "apt's package lists could not be fetched. Check the machine's apt sources and network."
    apt_updated=yes
}

apt_install() {
    apt_update
    if [ -n "$(ls "$root/var/lib/dpkg/updates" 2>/dev/null)" ]; then
        logged dpkg --configure -a || stop "An interrupted installation could not be finished: dpkg --configure -a"
    fi
    apt install --no-install-recommends "$@" ||
        stop "apt could not install: $*. The lines above say why; nothing else was changed."
}

# candidate PACKAGE: the version that apt would install, or nothing.
candidate() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '^(none)$' || true
}

# entries: apt's sources of the distribution itself, one a line, whatever format they are kept in:
#   codename|suite as written|address|component|file:line
entries() {
    case $(distribution ID) in
        ubuntu) maker=Ubuntu ;;
        *) maker=Debian ;;
    esac
    # shellcheck disable=SC2016  # apt fills these in, not the shell
    apt-get indextargets --format \
        '$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(REPO_URI)|$(COMPONENT)|$(SOURCESENTRY)' 'Identifier: Packages' |
        sed -n "s/^$maker|//p"
}
