#!/bin/sh
# Starts tensorflow_model_server as upstream's image does, after a look at what would make it fail without saying why.
#
#   MODEL_NAME, MODEL_BASE_PATH   the model is in MODEL_BASE_PATH/MODEL_NAME; defaults: model, /models
#   MODEL_CONFIG_FILE             the server's own configuration file, in place of the two above
#   PORT, REST_API_PORT           gRPC and REST; defaults: 8500, 8501
#   OMP_NUM_THREADS               mkl images: default is what the container's CPU quota allows
#
# Arguments are passed on to the server, after its own.
#
# Exit codes before the server has started: 64 a port that is none, or is both, 66 no MODEL_CONFIG_FILE, 77 a file or folder that
# this user may not read, 78 a CPU that lacks what the image needs.
set -eu

server=/usr/bin/tensorflow_model_server
image_facts=/usr/share/serving-factory/image.env
cpuinfo=/proc/cpuinfo
cgroup=/sys/fs/cgroup
driver_file=/proc/driver/nvidia/version
driver_library=/usr/lib/x86_64-linux-gnu/libcuda.so

say() { printf 'tf_serving_entrypoint: %s\n' "$*" >&2; }

# stop CODE SENTENCE...
stop() {
    code=$1
    shift
    say "$@"
    exit "$code"
}

# --- the image and the CPU --------------------------------------------------------------------------------------------

# The file is read, not sourced: the names in it are common, and may be in the environment with another meaning.
read_image_facts() {
    level='' cpu_flags='' lower_image='' flavour='' rest=yes cuda='' driver='' capabilities=''
    [ -r "$image_facts" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        value=${line#*=}
        value=${value#\"}
        value=${value%\"}
        case $line in
        LEVEL=*) level=$value ;;
        CPU_FLAGS=*) cpu_flags=$value ;;
        LOWER_IMAGE=*) lower_image=$value ;;
        FLAVOUR=*) flavour=$value ;;
        CUDA=*) cuda=$value ;;
        DRIVER=*) driver=$value ;;
        CAPABILITIES=*) capabilities=$value ;;
        REST=*) rest=$value ;; # before 1.8.0 the server has none
        esac
    done <"$image_facts"
}

# Without the flags of an x86 CPU there is nothing to compare, and the server is started.
check_cpu() {
    cpu_name='' cpu_has=''
    [ -n "$cpu_flags" ] && [ -r "$cpuinfo" ] || return 0
    while IFS= read -r line; do
        case $line in
        'model name'*:*) cpu_name=${line#*: } ;;
        flags*:*)
            cpu_has=" ${line#*:} "
            break # the CPUs of one machine are alike
            ;;
        esac
    done <"$cpuinfo"
    [ -n "$cpu_has" ] || return 0

    missing=''
    for flag in $cpu_flags; do
        case $cpu_has in
        *" $flag "*) ;;
        *) missing="$missing $flag" ;;
        esac
    done
    [ -z "$missing" ] || stop 78 "this image is made for CPUs of level $level, and the CPU of this machine" \
        "(${cpu_name:-its name is not given}) lacks:$missing." \
        "Use ${lower_image:-an image of a lower level} instead." \
        "In a virtual machine the CPU may have more than it shows: then let the machine pass on the host's CPU type."
}

# The driver is the machine's, and the container runtime hands its libraries in. Without one the server starts all the same, and
# computes on the CPU what its model does not pin to a card.
report_driver() {
    [ "$flavour" = gpu ] || return 0
    found=''
    if [ -r "$driver_file" ]; then
        read -r line <"$driver_file" || :
        for word in $line; do # NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun ...
            case $word in
            [0-9]*.[0-9]*)
                found=$word
                break
                ;;
            esac
        done
    fi
    for file in "$driver_library".[0-9]*.[0-9]*; do
        [ -n "$found" ] || [ ! -e "$file" ] || found=${file#"$driver_library".}
    done
    needs="CUDA $cuda needs driver $driver or later; this image is compiled for ${capabilities:-the default capabilities}"
    if [ -z "$found" ]; then
        say "no NVIDIA driver is here ($needs). Was the container started with docker run --gpus all?"
    elif [ "${found%%.*}" -lt "${driver%%.*}" ] 2>/dev/null; then
        say "the NVIDIA driver here, $found, is too old: $needs."
    else
        say "NVIDIA driver $found; $needs."
    fi
}

# OpenMP counts the CPUs that the container may run on, but knows nothing of a quota (docker run --cpus), and more threads
# than that wait for each other. Rounded down: a thread that is paused holds up all others.
set_threads() {
    [ "$flavour" = mkl ] && [ -z "${OMP_NUM_THREADS:-}" ] || return 0
    quota=max period=0
    if [ -r "$cgroup/cpu.max" ]; then # version 2
        read -r quota period <"$cgroup/cpu.max" || :
    elif [ -r "$cgroup/cpu/cpu.cfs_quota_us" ] && [ -r "$cgroup/cpu/cpu.cfs_period_us" ]; then # version 1
        read -r quota <"$cgroup/cpu/cpu.cfs_quota_us" || :
        read -r period <"$cgroup/cpu/cpu.cfs_period_us" || :
    fi
    case $quota in
    max | -1 | '' | *[!0-9]*) return 0 ;;
    esac
    [ "$period" -gt 0 ] || return 0
    OMP_NUM_THREADS=$((quota / period))
    [ "$OMP_NUM_THREADS" -ge 1 ] || OMP_NUM_THREADS=1
    export OMP_NUM_THREADS
    say "the container's CPU quota allows $OMP_NUM_THREADS thread(s): OMP_NUM_THREADS=$OMP_NUM_THREADS"
}

# --- the model --------------------------------------------------------------------------------------------------------
#
# A model that is not there (yet) is reported, and the server started all the same: upstream's waits and looks again every
# second, and there are set-ups that fetch the model while it waits. A model that is there but may not be read is another
# matter. No one waits for that on purpose, and the server would wait for ever, with both ports closed: the container ends.

# must_read PATH: stops when this user may not read a file, or list and enter a folder.
must_read() {
    [ -r "$1" ] && { [ ! -d "$1" ] || [ -x "$1" ]; } && return 0
    owner=$(stat -c 'it belongs to %u:%g and has mode %a' "$1" 2>/dev/null) || owner='its owner is unknown'
    stop 77 "$1 is there, but this container's user, $(id -u):$(id -g), may not read it; $owner." \
        "On the host: chmod -R a+rX on the model, or docker run --user with its owner." \
        "(On a host with SELinux a mount also needs the option :z.)"
}

# newest_version FOLDER: the highest of its numeric version folders, or nothing.
newest_version() {
    newest=''
    for folder in "$1"/*/; do
        folder=${folder%/}
        number=${folder##*/}
        case $number in
        *[!0-9]*) continue ;;
        esac
        [ -d "$folder" ] || continue
        [ -n "$newest" ] && [ "$number" -le "${newest##*/}" ] 2>/dev/null || newest=$folder
    done
    printf '%s\n' "$newest"
}

check_config_file() {
    case $1 in
    *://*) return 0 ;;
    esac
    [ -e "$1" ] || stop 66 "MODEL_CONFIG_FILE is $1, and there is no such file in this container. Is it mounted?"
    [ ! -d "$1" ] || stop 66 "MODEL_CONFIG_FILE is $1, and that is a folder. Name the file in it."
    must_read "$1"
}

check_model() {
    case $1 in
    *://*) return 0 ;; # an object store: only the server can look
    esac
    # What lies in a closed folder looks the same as what is not there.
    folder=$(dirname "$1")
    [ ! -d "$folder" ] || [ -x "$folder" ] || must_read "$folder"

    if [ ! -e "$1" ]; then
        say "there is no model at $1 yet: nothing is mounted there. The server waits for it, with its ports closed." \
            "To serve the model in the host's folder DIR: docker run -v DIR:$1 ..." \
            "Its place here is MODEL_BASE_PATH/MODEL_NAME, now $MODEL_BASE_PATH and $MODEL_NAME."
        return 0
    fi
    [ -d "$1" ] || stop 66 "$1 is a file. It must be the model's folder, which holds a folder for each version."
    must_read "$1"

    version=$(newest_version "$1")
    if [ -n "$version" ]; then
        must_read "$version"
        [ ! -e "$version/saved_model.pb" ] || must_read "$version/saved_model.pb"
    elif [ -e "$1/saved_model.pb" ]; then
        say "$1 holds a saved_model.pb, but no folder with a number for a name, and the server waits for one, with its" \
            "ports closed. Mount that model one deeper: docker run -v DIR:$1/1 ..."
    else
        say "$1 holds no folder with a number for a name, and each version of a model lies in such a folder ($1/1)." \
            "The server waits for one, with its ports closed."
    fi
}

# --- start ------------------------------------------------------------------------------------------------------------

# Kubernetes sets PORT-like variables of its own for services: REST_API_PORT=tcp://10.0.0.1:8501 for one named rest-api.
must_be_port() {
    case $2 in
    '' | *[!0-9]*) stop 64 "$1 is '$2', which is no port number." ;;
    esac
    [ "$2" -ge 1 ] 2>/dev/null && [ "$2" -le 65535 ] && return 0
    stop 64 "$1 is '$2', and a port is a number from 1 to 65535." \
        "(To have no REST port, give the server the argument --rest_api_port=0.)"
}

read_image_facts
check_cpu

MODEL_NAME=${MODEL_NAME:-model}
MODEL_BASE_PATH=${MODEL_BASE_PATH:-/models}
PORT=${PORT:-8500}
REST_API_PORT=${REST_API_PORT:-8501}
must_be_port PORT "$PORT"
must_be_port REST_API_PORT "$REST_API_PORT"

# What the arguments say goes before the environment, for the checks as for the server.
grpc_port=$PORT rest_port=$REST_API_PORT
model=$MODEL_BASE_PATH/$MODEL_NAME config_file=${MODEL_CONFIG_FILE:-} serves=yes
for argument; do
    case $argument in
    --port=*) grpc_port=${argument#*=} ;;
    --rest_api_port=*) rest_port=${argument#*=} ;;
    --model_base_path=*) model=${argument#*=} ;;
    --model_config_file=*) config_file=${argument#*=} ;;
    --version | --help) serves=no ;;
    esac
done
if [ "$serves" = yes ]; then
    if [ "$rest" != no ] && [ "$grpc_port" = "$rest_port" ] && [ "$rest_port" != 0 ]; then
        stop 64 "PORT and REST_API_PORT are both $rest_port: gRPC and REST each need a port of their own."
    fi
    report_driver
    set_threads
    if [ -n "$config_file" ]; then
        check_config_file "$config_file"
    else
        check_model "$model"
    fi
fi

if [ -n "${MODEL_CONFIG_FILE:-}" ]; then
    set -- --model_config_file="$MODEL_CONFIG_FILE" "$@"
else
    set -- --model_name="$MODEL_NAME" --model_base_path="$MODEL_BASE_PATH/$MODEL_NAME" "$@"
fi
[ "$rest" = no ] || set -- --rest_api_port="$REST_API_PORT" "$@"
exec "$server" --port="$PORT" "$@"
