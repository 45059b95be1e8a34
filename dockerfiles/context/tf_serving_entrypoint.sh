#!/bin/sh
# Starts tensorflow_model_server as upstream's image does, after a look at what would make it wait without saying why.
#
#   MODEL_NAME, MODEL_BASE_PATH   the model is in MODEL_BASE_PATH/MODEL_NAME; defaults: model, /models
#   MODEL_CONFIG_FILE             the server's own configuration file, in place of the two above
#   TF_SERVING_GRPC_PORT, TF_SERVING_REST_PORT   defaults: 8500, 8501; REST 0 for none
#   TF_SERVING_PORT_IS_HTTP       1 where the platform chooses the HTTP port and names it in PORT
#
# Arguments are passed on to the server, after its own. What does not depend on this contract (the CPU, the driver, threads,
# signals) is the launcher's, which is what lies at the server's path.
#
# Exit codes before the server has started: 64 an argument that is a program, or one port for both protocols,
# 66 no MODEL_CONFIG_FILE, 77 a file or folder that this user may not read.
set -eu

server=/usr/bin/tensorflow_model_server
image_facts=/usr/share/serving-factory/image.env

say() { printf 'tf_serving_entrypoint: %s\n' "$*" >&2; }

# stop CODE SENTENCE...
stop() {
    code=$1
    shift
    say "$@"
    exit "$code"
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

# --- ports ------------------------------------------------------------------------------------------------------------
#
# Platforms inject variables of these names with other meanings: PORT is the HTTP port of Knative, Cloud Run and Heroku, and
# Kubernetes sets REST_API_PORT=tcp://10.0.0.7:8501 for a Service named rest-api. Upstream's image reads none, and no value of
# any ends the container.

is_port() {
    case $1 in
    '' | *[!0-9]*) return 1 ;;
    esac
    [ "$1" -ge 1 ] 2>/dev/null && [ "$1" -le 65535 ]
}

# port_of NAME VALUE DEFAULT: the value, or the default where it is no port.
port_of() {
    if [ -z "$2" ] || is_port "$2"; then
        printf '%s\n' "${2:-$3}"
    else
        say "$1 is '$2', which is no port: it is ignored, and the port is $3."
        printf '%s\n' "$3"
    fi
}

choose_ports() {
    http=8501
    case ${TF_SERVING_PORT_IS_HTTP:-0} in
    0 | no | false) ;;
    1 | yes | true) http=$(port_of PORT "${PORT:-}" 8501) ;;
    *) say "TF_SERVING_PORT_IS_HTTP is '$TF_SERVING_PORT_IS_HTTP', neither 1 nor 0: it is ignored." ;;
    esac
    grpc=$(port_of TF_SERVING_GRPC_PORT "${TF_SERVING_GRPC_PORT:-}" 8500)
    case ${TF_SERVING_REST_PORT:-} in
    0) http=0 ;;
    *) http=$(port_of TF_SERVING_REST_PORT "${TF_SERVING_REST_PORT:-}" "$http") ;;
    esac
}

# A variable that is set and not read would be a surprise.
report_unread() {
    unread="is not read, as by upstream's image: gRPC is on port $grpc_port, REST on $rest_port."
    case ${PORT:-} in
    '' | "$rest_port" | "$grpc_port") ;;
    *) say "PORT is '$PORT' and $unread Where it is the HTTP port, set TF_SERVING_PORT_IS_HTTP=1." ;;
    esac
    case ${REST_API_PORT:-} in
    '' | "$rest_port") ;;
    *) say "REST_API_PORT is '$REST_API_PORT' and $unread To choose the REST port, set TF_SERVING_REST_PORT." ;;
    esac
}

# --- start ------------------------------------------------------------------------------------------------------------

# The server knows flags only, and would wait for a model whatever else it is given.
case ${1:-} in
'' | -*) ;;
tensorflow_model_server | */tensorflow_model_server) shift ;; # its name before its flags, as where there is no entrypoint
*)
    if command -v "$1" >/dev/null; then
        stop 64 "'$1' is a program, but arguments go to the server. To run it instead: docker run --entrypoint $1 IMAGE ..."
    fi
    say "'$1' is no flag of the server's, which does not heed it. To run another program: docker run --entrypoint"
    ;;
esac

MODEL_NAME=${MODEL_NAME:-model}
MODEL_BASE_PATH=${MODEL_BASE_PATH:-/models}
choose_ports
rest=yes
case $(cat "$image_facts" 2>/dev/null) in
*'REST="no"'*) rest=no http=0 ;; # before 1.8.0 the server has none
esac

# What the arguments say goes before the environment, for the checks as for the server.
grpc_port=$grpc rest_port=$http
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
    if [ "$grpc_port" = "$rest_port" ] && [ "$rest_port" != 0 ]; then
        stop 64 "gRPC and REST each need a port of their own, and both are to have $rest_port." \
            "Set TF_SERVING_GRPC_PORT or TF_SERVING_REST_PORT."
    fi
    report_unread
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
[ "$rest" = no ] || set -- --rest_api_port="$http" "$@"
exec "$server" --port="$grpc" "$@"
