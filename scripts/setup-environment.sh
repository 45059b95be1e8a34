# shellcheck shell=sh
# The environment: .venv, from uv.lock, with the project itself in it. Sourced by setup.sh.
# uv is the one on PATH, or else a pinned one from PyPI at build/.uv/bin/uv; nothing is written outside the checkout
# but uv's cache.
# shellcheck disable=SC2154 # setup.sh sets here, log, scratch

environment=$here/.venv
own_uv=$here/build/.uv/bin/uv

# find_python MODULES: sets python to an interpreter of 3.11 or later that has the modules, or fails.
find_python() {
    for python in python3.13 python3.12 python3.11 python3; do
        if has "$python" &&
            "$python" -c "import sys, $1; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then
            python=$("$python" -c 'import sys; print(sys.executable)')
            return 0
        fi
    done
    return 1
}

# python_packages: the packages with which apt can give a Python that is new enough, or nothing.
python_packages() {
    case $(candidate python3) in
        3.[0-9].* | 3.[0-9]-* | 3.10.* | 3.10-* | '') ;;
        *) echo python3 python3-venv && return 0 ;;
    esac
    for version in 3.13 3.12 3.11; do
        [ -z "$(candidate "python$version-venv")" ] || { echo "python$version python$version-venv" && return 0; }
    done
}

# ensure_python MODULES
ensure_python() {
    ! find_python "$1" || return 0
    missing='Python 3.11 or later with its venv module'
    may_install || stop "$missing is missing. On Debian and Ubuntu install python3 and python3-venv." \
        "$(why_not_installed)"
    apt_update
    packages=$(python_packages)
    [ -n "$packages" ] || stop "$missing is missing, and $(distribution PRETTY_NAME) has none. Install one by hand."
    say "installing $packages"
    # shellcheck disable=SC2086  # a list of words
    apt_install $packages
    find_python "$1" || stop "$missing is still missing after the installation of $packages."
}

# A .pth file is text of one line a path.
check_path() {
    "$python" -c 'import os, sys; path = os.fsencode(sys.argv[1]); path.decode(); sys.exit(b"\n" in path)' "$here" \
        2>/dev/null || stop "Python's packaging tools cannot work in a folder whose path has a line break or is not" \
        "UTF-8. Move the checkout: $here"
}

# Sets uv. uv's wheel holds one program that needs nothing else, so it is kept and the environment it came with is not.
ensure_uv() {
    if has uv; then
        uv=uv
        ensure_python sys
        check_path
        return 0
    fi
    ensure_python venv,ensurepip
    check_path
    uv=$own_uv
    pinned=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$here/scripts/uv.txt")
    if [ -x "$own_uv" ] && [ "$("$own_uv" --version 2>/dev/null | cut -d ' ' -f 2)" = "$pinned" ]; then
        return 0
    fi
    say "fetching uv $pinned from PyPI into build/.uv"
    logged "$python" -m venv "$scratch/venv" || stop "$python could not make a virtual environment."
    logged "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary uv --no-deps \
        --require-hashes -r "$here/scripts/uv.txt" ||
        stop 'uv could not be fetched from PyPI. Check the network and the index that pip uses, or put uv on PATH.'
    mkdir -p "$(dirname "$own_uv")"
    cp "$scratch/venv/bin/uv" "$own_uv.$$"
    mv "$own_uv.$$" "$own_uv"
    rm -rf "$scratch/venv"
}

# configured_index: the address of a package index that someone has configured for uv or pip, or nothing.
configured_index() {
    index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
    [ -z "$index" ] || { echo "$index" && return 0; }
    "$python" - "${XDG_CONFIG_HOME:-${HOME:-}/.config}" "${HOME:-}" "${PIP_CONFIG_FILE:-}" "$root" <<'END'
import configparser
import sys

config, home, named, root = sys.argv[1:]
files = configparser.RawConfigParser()
files.read([f"{root}/etc/xdg/pip/pip.conf", f"{root}/etc/pip.conf", f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf", named])
print(files.get("global", "index-url", fallback=""))
END
}

# uv.lock names files by their address on PyPI. Where another index is configured, the same files, by the lock's
# checksums, are taken from there.
sync_from_index() {
    "$uv" export --quiet --frozen --no-emit-project --project "$here" -o "$scratch/requirements.txt" >>"$log" 2>&1 &&
        logged "$uv" venv --quiet --allow-existing --python "$python" "$environment" &&
        logged "$uv" pip sync --python "$environment/bin/python" --require-hashes "$scratch/requirements.txt" &&
        logged "$uv" pip install --python "$environment/bin/python" --no-deps -e "$here"
}

ensure_environment() {
    if ! environment_is_ready || ! "$environment/bin/python" -c 'import invoke' >/dev/null 2>&1; then
        [ -r "$here/uv.lock" ] || stop "$here/uv.lock is missing. Restore it: git checkout uv.lock"
        # uv trusts the certificates that the machine trusts, and never fetches a Python.
        export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 UV_PROJECT_ENVIRONMENT="$environment"
        unset VIRTUAL_ENV
        ensure_uv
        say "making the environment .venv from uv.lock ($python)"
        if [ -r "$environment/.factory-stamp" ] && [ "$(head -n 1 "$environment/.factory-stamp")" != "$here" ]; then
            rm -rf "$environment" # the checkout was moved, and an environment cannot be
        fi
        index=$(configured_index)
        if [ -n "$index" ]; then
            UV_DEFAULT_INDEX=$index sync_from_index
        else
            logged "$uv" sync --frozen --project "$here" --python "$python"
        fi || stop 'The environment could not be made. The lines above say why; the same command continues.'
        environment_origin >"$environment/.factory-stamp"
        # Made by root for someone else, it belongs to them.
        [ -z "${SUDO_UID:-}" ] || ! is_root || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$environment" "$here/build"
    fi
    # shellcheck disable=SC2034  # setup.sh prints it
    found_environment=".venv, $("$environment/bin/python" --version)"
}
