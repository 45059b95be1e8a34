# shellcheck shell=sh
# A Docker Engine of version 23 or later, running, with buildx. Sourced by setup.sh.
# shellcheck disable=SC2154 # setup.sh and ready.sh set here, root, state, scratch, oldest_engine

engine_wait=${FACTORY_TEST_ENGINE_WAIT:-60} # seconds that a daemon may take to answer

# Sets engine_version, or engine_error where no daemon answers.
ask_engine() {
    engine_version=
    engine_error='there is no docker command'
    has docker || return 1
    engine_version=$(timeout "$engine_answers" docker version --format '{{.Server.Version}}' 2>"$scratch/engine-error")
    code=$?
    [ "$code" -ne 0 ] || return 0
    engine_version=
    engine_error=$(tail -n 1 "$scratch/engine-error")
    if [ "$code" -eq 124 ]; then
        engine_error="no answer within $engine_answers s"
    elif [ "$code" -gt 128 ] || [ -z "$engine_error" ]; then
        engine_error="the docker command crashed: it ended with exit code $code"
    fi
    return 1
}

# A daemon of this machine is neither installed nor started for what the user's settings lead to.
blame_settings() {
    for name in DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_API_VERSION; do
        eval "value=\${$name:-}"
        case $value in '' | default) continue ;; esac
        stop "No Docker daemon answers with $name=$value ($engine_error). Unset it, or correct it."
    done
    context=$(docker context show 2>/dev/null)
    [ -n "${DOCKER_HOST:-}" ] || [ "${context:-default}" = default ] ||
        stop "No Docker daemon answers in the context $context ($engine_error). 'docker context use default' leaves it."
    case ${DOCKER_HOST:-unix:///var/run/docker.sock} in
        unix:///var/run/docker.sock | unix:///run/docker.sock) ;;
        *) stop "The Docker daemon at DOCKER_HOST=$DOCKER_HOST does not answer ($engine_error). Start it there." ;;
    esac
    case $engine_error in
        *crashed*) stop "$engine_error. Try 'docker version'; install Docker's command line client again." ;;
        'no answer'*) stop "The Docker daemon accepts connections and does not answer ($engine_error). Restart it." ;;
    esac
}

has_buildx() {
    docker buildx version >/dev/null 2>&1
}

# daemon_version: what 'dockerd' on this machine is, or nothing.
daemon_version() {
    has dockerd || return 0
    dockerd --version 2>/dev/null | sed -n 's/^Docker version \([^,]*\).*/\1/p'
}

how_to_install_engine() {
    if is_debian_or_ubuntu; then
        echo "Install it by running './factory setup' as root, or by hand: docker.io and docker-buildx of" \
            "$oldest_engine or later, with iptables."
    else
        echo "Install Docker Engine $oldest_engine or later with the buildx plugin" \
            "(https://docs.docker.com/engine/install/) and start it."
    fi
}

# install_from_next_release RELEASE PACKAGE...
# Debian's release after bookworm has the Docker that bookworm does not have, and it needs no newer libc. apt sees that
# release through sources, pins and lists of its own in $scratch, for these packages only and never to replace
# anything else: the machine's own apt files and libraries stay as they are, whenever this is interrupted.
install_from_next_release() {
    next=$1
    shift
    packages="$*"
    mkdir -p "$scratch/apt/sources" "$scratch/apt/lists/partial" "$scratch/apt/cache/archives/partial"
    chmod 755 "$scratch" "$scratch/apt"
    entries | while IFS='|' read -r codename suite _ _ entry; do
        [ "$codename" = "$(distribution VERSION_CODENAME)" ] || continue
        file=${entry%:*} number=${entry##*:} kind=${entry%:*} kind=${kind##*.}
        # apt counts the stanzas of a .sources file and the lines of a .list file.
        case $kind in
            sources) sed '/^#/d' "$file" | awk -v RS= -v number="$number" 'NR == number' ;;
            *) sed -n "${number}p" "$file" ;;
        esac >"$scratch/entry"
        cp "$scratch/entry" "$scratch/apt/sources/this-$number.$kind"
        sed "/^deb /s/ $suite\([ -]\)/ $next\1/; /^Suites:/s/\([ \t]\)$suite/\1$next/g" "$scratch/entry" \
            >"$scratch/apt/sources/next-$number.$kind"
    done
    [ -n "$(ls "$scratch/apt/sources")" ] ||
        stop "apt has no source for Debian's $(distribution VERSION_CODENAME), so none could be derived for $next."
    cat >"$scratch/apt/pin" <<END
Package: *
Pin: release n=$next*
Pin-Priority: 50

Package: docker.io docker-cli docker-buildx containerd
Pin: release n=$next*
Pin-Priority: 990
END
    set -- -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$scratch/apt/sources" \
        -o "Dir::Etc::Preferences=$scratch/apt/pin" -o "Dir::State::Lists=$scratch/apt/lists" \
        -o "Dir::Cache=$scratch/apt/cache" -o Acquire::Languages=none
    apt "$@" update || stop "Debian's $next could not be reached by way of this machine's apt sources."
    # shellcheck disable=SC2086  # a list of words
    apt "$@" install --no-install-recommends --no-remove $packages ||
        stop "apt could not install from Debian's $next: $packages. The lines above say why."
}

install_engine() {
    may_install || stop "No Docker Engine ($engine_error). $(how_to_install_engine) $(why_not_installed)"
    apt_update
    found=$(candidate docker.io)
    if new_enough "$found" && [ -n "$(candidate docker-buildx)" ]; then
        say "installing Docker Engine $found from $(distribution PRETTY_NAME)"
        set -- docker.io docker-buildx iptables
        [ -z "$(candidate docker-cli)" ] || set -- "$@" docker-cli # apart from docker.io since Debian 13
        apt_install "$@"
    elif [ "$(distribution VERSION_CODENAME)" = bookworm ]; then
        say "installing Docker Engine from Debian's next release (bookworm's own, ${found:-none}, is too old)"
        install_from_next_release trixie docker.io docker-cli docker-buildx iptables
    else
        stop "$(distribution PRETTY_NAME) has no Docker Engine $oldest_engine or later (docker.io: ${found:-none})." \
            "Install Docker Engine with the buildx plugin: https://docs.docker.com/engine/install/"
    fi
    hash -r
}

# The plugin alone, for an engine that is there without it. Docker's own packages name it differently.
install_buildx() {
    may_install ||
        stop "docker has no buildx plugin. Install docker-buildx (Debian, Ubuntu) or docker-buildx-plugin" \
            "(Docker's own packages). $(why_not_installed)"
    apt_update
    for package in docker-buildx-plugin docker-buildx; do
        if [ -n "$(candidate "$package")" ]; then
            say "installing $package"
            apt_install "$package"
            has_buildx && return 0
        fi
    done
    if [ "$(distribution VERSION_CODENAME)" = bookworm ]; then
        say "installing docker-buildx from Debian's next release"
        install_from_next_release trixie docker-buildx
        has_buildx && return 0
    fi
    stop "docker has no buildx plugin and apt has none that it finds. Install the buildx plugin by hand."
}

# A machine without a service manager: the daemon runs in a session of its own, so that it outlives this shell.
start_daemon_by_hand() {
    daemon_log=$root/var/log/dockerd.log
    [ -w "$root/var/log" ] || daemon_log=$state/dockerd.log
    if [ -r "$root/run/docker.pid" ] && kill -0 "$(cat "$root/run/docker.pid")" 2>/dev/null; then
        say 'a Docker daemon is starting already'
        return 0
    fi
    say "starting dockerd in the background (log: $daemon_log)"
    # BuildKit runs git in the daemon's folder, and a checkout may be removed. Without these settings it passes on 2 MiB
    # of a step's output, and a build of hours prints more.
    (cd / && BUILDKIT_STEP_LOG_MAX_SIZE=-1 BUILDKIT_STEP_LOG_MAX_SPEED=-1 \
        exec setsid nohup dockerd >>"$daemon_log" 2>&1 </dev/null 9>&-) &
    daemon_pid=$!
}

start_daemon() {
    is_root || stop "The Docker daemon is not running ($engine_error). Start it as root: './factory setup'" \
        "or 'systemctl start docker'."
    daemon_pid='' daemon_log=''
    if ! has iptables; then
        may_install || stop "dockerd needs iptables. Install the package iptables. $(why_not_installed)"
        say 'installing iptables, which dockerd needs'
        apt_install iptables
    fi
    if [ -d "$root/run/systemd/system" ]; then
        say 'starting Docker (systemctl start docker)'
        logged systemctl start docker || stop "Docker does not start. 'journalctl -u docker' says why."
    else
        start_daemon_by_hand
    fi
    waited=0
    until ask_engine; do
        if [ "$waited" -ge "$engine_wait" ] || { daemon_is_dead && ! ask_engine; }; then
            [ -z "$daemon_log" ] || tail -n 15 "$daemon_log" | sed 's/^/factory: | /' >&2
            stop "The Docker daemon does not answer ($engine_error)."
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

# The daemon that was started by hand here has ended.
daemon_is_dead() {
    [ -n "$daemon_pid" ] && ! kill -0 "$daemon_pid" 2>/dev/null
}

ensure_engine() {
    if ! ask_engine; then
        case $engine_error in
            *'permission denied'*)
                stop "$(id -un) may not use the Docker daemon. Allow it (as root: usermod -aG docker $(id -un))," \
                    "then log in again."
                ;;
        esac
        ! has docker || blame_settings
        if ! has docker || ! new_enough "$(daemon_version)"; then
            install_engine
        fi
        ask_engine || start_daemon
    fi
    new_enough "$engine_version" ||
        stop "The Docker daemon that answers is version $engine_version; $oldest_engine or later is needed." \
            "Upgrade it (it is running, so the factory leaves it alone). $(how_to_install_engine)"
    has_buildx || install_buildx
    # shellcheck disable=SC2034  # setup.sh prints it
    found_engine="Docker Engine $engine_version, buildx $(docker buildx version | cut -d ' ' -f 2)"
}
