# shellcheck shell=sh
# The emulator of CPUs for smoke: qemu-x86_64-static. Sourced by setup.sh. Smoke does without, so that this ends no set-up.
# Only that one file of the distribution's package is kept: installed, the package takes 380 MB for thirty other kinds of CPUs, and
# registers them with the kernel.
# shellcheck disable=SC2154 # setup.sh and ready.sh set here, state, log, scratch, emulator

# keep_emulator PACKAGE: fetches a package of the distribution, and keeps the emulator where it is a program without libraries.
keep_emulator() {
    (cd "$scratch" && apt-get -q download "$1") >>"$log" 2>&1 </dev/null 9>&- || return 1
    dpkg-deb --fsys-tarfile "$scratch/$1"_*.deb 2>>"$log" |
        tar -C "$scratch" -xf - --wildcards './usr/bin/qemu-x86_64*' >>"$log" 2>&1 || return 1
    for found in "$scratch"/usr/bin/qemu-x86_64-static "$scratch"/usr/bin/qemu-x86_64; do
        if [ -f "$found" ] && [ ! -L "$found" ] && "$found" --version >>"$log" 2>&1; then
            mv "$found" "$state/$emulator"
            return 0
        fi
    done
    return 1
}

fetch_emulator() {
    is_debian_or_ubuntu && [ "${FACTORY_INSTALL:-}" != never ] || return 1
    say "fetching $emulator, with which smoke tries images on emulated CPUs"
    ! is_root || [ -n "$apt_updated" ] || apt-get -q update >>"$log" 2>&1 </dev/null 9>&- || return 1
    # From Debian 13 on the program is in the second, and the first has links to it.
    keep_emulator qemu-user-static || keep_emulator qemu-user
}

ensure_emulator() {
    emulator_is_ready || fetch_emulator ||
        say "there is no $emulator: smoke tries images on this machine's own CPU alone. Install qemu-user-static by hand."
    found_emulator=none
    # shellcheck disable=SC2034  # setup.sh prints it
    ! emulator_is_ready ||
        found_emulator=$("$(emulator_path)" --version | sed -n 's/^qemu-x86_64 version \([^ ]*\).*/qemu \1/p')
}
