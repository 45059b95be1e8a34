# shellcheck shell=sh
# What ./factory does at every start, and setup.sh too: quick checks of what is ready, then Invoke. Needs $here.
# shellcheck disable=SC2154 # its caller sets here

emulator=qemu-x86_64-static
base_image=serving-factory/base:bookworm
oldest_engine=23
engine_answers=${FACTORY_TEST_ENGINE_ANSWERS:-20} # seconds in which an engine answers

# A message that cannot be written ends nothing.
say() {
    printf 'factory: %s\n' "$*" >&2 || true
}

# show: copies standard input to standard output. A reader that has read enough (SIGPIPE) is no error.
show() {
    status=0
    { lost=$(cat 2>&1 >&3) || status=$?; } 3>&1
    [ "$status" -ne 0 ] && [ "$status" -ne 141 ] || return 0
    say "Not all of standard output could be written: ${lost##*: }." \
        "Free some space where it is written, or write it elsewhere."
    exit 1
}

# What .venv was made from: another place, another pyproject.toml or another lock asks for a new one.
environment_origin() {
    echo "$here" && cat "$here/pyproject.toml" "$here/uv.lock"
}

environment_is_ready() {
    [ -x "$here/.venv/bin/python" ] &&
        environment_origin 2>/dev/null | cmp -s - "$here/.venv/.factory-stamp"
}

# new_enough VERSION: 26.1.5+dfsg1, 5:28.2.2 are; 20.10.24 and '' are not.
new_enough() {
    major=${1#*:}
    major=${major%%[!0-9]*}
    [ -n "$major" ] && [ "$major" -ge "$oldest_engine" ]
}

# A daemon answers, is new enough, and the docker command has buildx.
engine_is_ready() {
    answer=$(timeout "$engine_answers" docker info 2>/dev/null \
        --format '{{.ServerVersion}} {{range .ClientInfo.Plugins}}{{.Name}} {{end}}') &&
        new_enough "${answer%% *}" || return 1
    case "$answer" in *' buildx '*) return 0 ;; *) return 1 ;; esac
}

base_is_ready() {
    docker image inspect --format ok "$base_image" >/dev/null 2>&1
}

# emulator_path: where the emulator of CPUs is: the machine's, or that which the set-up has fetched.
emulator_path() {
    command -v "$emulator" || { [ -x "$here/build/.setup/$emulator" ] && echo "$here/build/.setup/$emulator"; }
}

emulator_is_ready() {
    emulator_path >/dev/null
}

# run_invoke ARGUMENT...: in the environment, and in the caller's folder. Signals go to Python itself.
run_invoke() {
    export VIRTUAL_ENV="$here/.venv" PATH="$here/.venv/bin:$PATH"
    # Without -S, Ctrl-C in Python's first milliseconds would show a traceback; -P keeps scripts/ off sys.path.
    exec "$here/.venv/bin/python" -S -P "$here/scripts/start.py" "$@"
}
