#!/bin/bash
# Runs Bazel, and records what that took. It ends as Bazel ends.
#
# usage: bazel.sh fetch|build|preflight
#
#   fetch      downloads what the build needs, and compiles nothing
#   build      compiles, with a remote cache or executor where there is one
#   preflight  asks Bazel which inputs are missing (preflight.sh)
#
# environment:
#   COPTS            options of the CPU level, for `build`
#   BAZEL_RESOURCES  how much of the machine `build` may use: --jobs, --local_ram_resources
# files:
#   /factory/bazelrc              the options of all three, one or more in a line. They are given on the command line: a Bazel before
#                                 0.18 reads one bazelrc, and lets a config override what else stands there
#   /factory/bazel.conf           shell variables: `target`, `runtime_targets` (repositories whose libraries the server opens), and how
#                                 this Bazel spells `event_file`, `disk_cache` (empty: it has none), `repository_cache` and `distdir`
#   /run/secrets/truststore       a Java keystore with the certificates to trust, password `changeit`
#   /run/secrets/bazelrc          a remote cache or executor and rules for downloads, where given. `{toolchain}` stands for the
#                                 toolchain's id. What begins with `build:factory-remote ` counts in the step build only, and
#                                 only while something answers at the address in each line `# factory-remote HOST PORT`;
#                                 `# factory-remote-alone` takes the disk cache away with it, for Bazels that cannot have both.
#                                 `# factory-file NAME BASE64` is a file that its options name, /dev/shm/factory-NAME
#   /factory/toolchain-id         names the toolchain's folder in /cache/disk; beside it goes ID.toolchain, which says in words
#                                 what that is, and by its time when it was used last
#   /factory/measures/STEP        a line `NAME NUMBER` for each number that is known:
#     bytes_fetched       that came into the step's container over its network; 0 where it opened no connection
#     remote              1 when a remote cache or executor was used, else 0
#     cpu_microseconds    of the step's container
#     peak_memory_bytes   of the step's container, looked at each second; without the page cache, which gives way
#   /factory/bazel                Bazel's output; its log there, which begins with all options, does not stay
#   /factory/bazel-events.json    keeps the events that are read, and none that hold options: headers would be among them
#
# stderr: when Bazel failed, the line `factory: exit_code N peak_memory_bytes N memory_limit_bytes N oom_kills N`, and
# `factory: no remote: HOST:PORT does not answer` when it is so before the build, or after one that used it;
# `factory: no remote: Bazel ended with exit code N, and begins again without it` when it is so.
set -uo pipefail

# Tests put other folders in the place of these.
root=${FACTORY_TEST_ROOT:-}
cgroup=$root/sys/fs/cgroup
bazelrc=$root/dev/shm/factory-bazelrc # a tmpfs in every build container, so in no layer
events=$root/factory/bazel-events.json
secrets=$root/run/secrets

step=$1 target='' event_file='' disk_cache='' runtime_targets='' repository_cache=--repository_cache distdir=--distdir
mkdir -p "$root/factory/measures"
# shellcheck source=/dev/null
. "$root/factory/bazel.conf"
# shellcheck source=/dev/null
. "$(dirname "$0")/inputs.sh"
toolchain=$(cat "$root/factory/toolchain-id")

# --- numbers ----------------------------------------------------------------------------------------------------------

# Counted since the container has its network. The engine's own builder gives each step one of its own.
received_bytes() {
    awk 'NR > 2 { sub(/:/, " "); if ($1 != "lo") sum += $2 } END { if (NR > 2) printf "%.0f\n", sum }' \
        "$root/proc/net/dev" 2>/dev/null
}
opened_connections() { awk '$1 == "Tcp:" && $6 != "ActiveOpens" { print $6 }' "$root/proc/net/snmp" 2>/dev/null; }

# What came in since `received` and `opened` were taken. Without a connection of the container's own that is what others on the
# network say to all.
fetched_bytes() {
    [[ -n $received && -n $opened ]] || return 0
    if (($(opened_connections) == opened)); then echo 0; else echo $(($(received_bytes) - received)); fi
}

# number FILE [NAME]: the number in a file, or in its line NAME; nothing where there is none.
number() { awk -v name="${2:-}" 'name == "" { print $1; exit } $1 == name { print $2; exit }' "$1" 2>/dev/null; }

# The second of each pair is of version 1 of the control groups.
memory_now() { number "$cgroup/memory.stat" anon || number "$cgroup/memory/memory.stat" total_rss; }
# Version 1 knows the limits of the groups around, too; from inside a container, version 2 does not.
memory_limit() { number "$cgroup/memory.max" || number "$cgroup/memory/memory.stat" hierarchical_memory_limit; }
oom_kills() { number "$cgroup/memory.events" oom_kill || number "$cgroup/memory/memory.oom_control" oom_kill; }
cpu_microseconds() {
    number "$cgroup/cpu.stat" usage_usec ||
        awk '{ printf "%.0f\n", $1 / 1000 }' "$cgroup/cpuacct/cpuacct.usage" 2>/dev/null
}

watch_memory() {
    local now peak=0
    while :; do
        now=$(memory_now)
        if ((${now:-0} > peak)); then
            peak=$now
            echo "$peak" >"$root/factory/measures/.peak"
        fi
        sleep 1
    done
}

# measured NAME NUMBER: a line of the measures, where the number is known.
measured() { [[ -z $2 ]] || echo "$1 $2"; }

# --- how Bazel runs ---------------------------------------------------------------------------------------------------

# options COMMAND: what /factory/bazelrc has for it, in the array `found`. Options are split into words, as bazelrc's are.
options() { read -r -d '' -a found < <(sed -n "s/^$1 //p" "$root/factory/bazelrc") || true; }

startup=(--batch)
if [[ -n ${https_proxy:-} ]]; then
    # Java does not send a proxy for https its password without this.
    startup+=(--host_jvm_args=-Djdk.http.auth.tunneling.disabledSchemes=)
fi
if [[ -s $secrets/truststore ]]; then
    startup+=("--host_jvm_args=-Djavax.net.ssl.trustStore=$secrets/truststore")
    startup+=(--host_jvm_args=-Djavax.net.ssl.trustStoreType=jks --host_jvm_args=-Djavax.net.ssl.trustStorePassword=changeit)
fi
options startup
startup+=("--output_user_root=$root/factory/bazel" ${found[@]+"${found[@]}"})

repositories=("$repository_cache=$root/cache/repository")
if [[ -n $(ls -A "$root/inputs/distdir" 2>/dev/null) ]]; then
    repositories+=("$distdir=$root/inputs/distdir")
fi
for folder in "$root"/inputs/overrides/*/; do
    folder=${folder%/}
    [[ ! -d $folder ]] || repositories+=("--override_repository=${folder##*/}=$folder")
done

options build
build=("--symlink_prefix=$root/factory/bazel-" ${found[@]+"${found[@]}"})
read -r -a copts <<<"${COPTS:-}"
read -r -a resources <<<"${BAZEL_RESOURCES:-}"
read -r -a analysed <<<"$target $runtime_targets"

# Bazels differ in what they do about a cache that is not there, up to ending the build: so it is asked beforehand. Few report
# one that went away in the middle: so it is asked again.
remote_answers() {
    local host port answers=1
    while read -r host port; do
        answers=0
        # shellcheck disable=SC2016 # the inner shell's arguments
        timeout 5 bash -c ': <"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null && continue
        echo "factory: no remote: $host:$port does not answer" >&2
        return 1
    done < <(sed -n 's/^# factory-remote \([^ ]*\) \([0-9]*\)$/\1 \2/p' "$secrets/bazelrc")
    return "$answers"
}

# run: Bazel, with what is remote where $remote is 1. With curses, progress is printed each 10 s, with what runs and for how long;
# without, ever more seldom. Warnings are not printed, as in upstream's Dockerfiles: BuildKit passes on 2 MiB of a step's output.
run() {
    local command=(bazel) cache=$disk_cache
    if [[ -s $secrets/bazelrc ]]; then
        (
            umask 077
            while read -r _ _ name content; do
                base64 -d <<<"$content" >"$root/dev/shm/factory-$name"
            done < <(grep '^# factory-file ' "$secrets/bazelrc")
            sed "/^# factory-file /d; s/{toolchain}/$toolchain/g" "$secrets/bazelrc" >"$bazelrc"
        )
        if ((remote)); then
            echo 'build --config=factory-remote' >>"$bazelrc"
            ! grep -qx '# factory-remote-alone' "$bazelrc" || cache=
        else
            sed -i '/^build:factory-remote /d' "$bazelrc"
        fi
        command+=("--bazelrc=$bazelrc")
    fi
    command+=("${startup[@]}")
    case $step in
    fetch)
        "${command[@]}" build --nobuild "${repositories[@]}" --color=no --curses=no --show_progress_rate_limit=2 \
            "${build[@]}" "${analysed[@]}"
        ;;
    build)
        "${command[@]}" build "${repositories[@]}" ${cache:+"$cache=$root/cache/disk/$toolchain"} \
            --color=no --curses=yes --show_progress_rate_limit=10 --verbose_failures --output_filter=DONT_MATCH_ANYTHING \
            "$event_file=$events" ${resources[@]+"${resources[@]}"} "${build[@]}" ${copts[@]+"${copts[@]}"} "$target"
        ;;
    preflight)
        "$(dirname "$0")/preflight.sh" "$root/preflight" "${command[@]}" -- "${repositories[@]}" -- "${build[@]}" "${analysed[@]}"
        ;;
    esac
}

# --- the run ----------------------------------------------------------------------------------------------------------

if [[ -d $root/cache/disk ]]; then
    {
        "${CC:-gcc}" --version | sed -n 1p
        sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$root/etc/os-release"
    } >"$root/cache/disk/$toolchain.toolchain"
fi

watch_memory >/dev/null 2>&1 &
watcher=$!
remote=0
[[ $step != build || ! -s $secrets/bazelrc ]] || ! remote_answers || remote=1
received=$(received_bytes) opened=$(opened_connections) # the question above was a connection too
status=0
run || status=$?
# Nothing that is remote may cost a build. Codes: 2, options that cannot go together; 34, an error of the remote's; 37, a crash, as of
# Debian's Bazel, whose Java cannot have TLS with gRPC; 38, events that it could not upload.
if ((remote && (status == 2 || status == 34 || status == 37 || status == 38))); then
    echo "factory: no remote: Bazel ended with exit code $status, and begins again without it" >&2
    remote=0 status=0
    run || status=$?
fi
kill "$watcher" 2>/dev/null
fetched=$(fetched_bytes)
((!remote)) || remote_answers || true
rm -f "$root"/dev/shm/factory-*
# Bazel's own log and profile: the log begins with all options, and a layer would keep them.
find "$root/factory/bazel" -maxdepth 2 \( -name 'java.log*' -o -name 'command.profile.gz' \) -delete 2>/dev/null

if [[ -f $events ]]; then
    grep -E '^\{"id":\{"(progress|buildFinished|buildMetrics|buildToolLogs)"' "$events" >"$events.kept"
    mv "$events.kept" "$events"
fi
peak=$(number "$root/factory/measures/.peak")
rm -f "$root/factory/measures/.peak"
{
    measured bytes_fetched "$fetched"
    echo "remote $remote"
    measured cpu_microseconds "$(cpu_microseconds)"
    measured peak_memory_bytes "$peak"
} >"$root/factory/measures/$step"
if ((status)); then
    echo "factory: exit_code $status peak_memory_bytes ${peak:-?} memory_limit_bytes $(memory_limit) oom_kills $(oom_kills)" >&2
fi
exit "$status"
