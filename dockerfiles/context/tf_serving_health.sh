#!/bin/sh
# Is the server ready? Exit 0 when it is, 1 when not, with one line that says why (see: docker inspect CONTAINER).
#
# What to ask, and where, is read from the command line of the running server, so that it fits however the model and the
# ports were given. One model: ready when a version of it is AVAILABLE. A configuration file: ready when the REST port answers,
# for the server opens its ports only once every model of its first configuration is loaded. No REST: ready when the gRPC
# port is open, for the same reason.
#
# Needs bash (for its /dev/tcp) and no curl, no writable folder, no particular user; ends by itself within 3 seconds.
# shellcheck shell=bash

if [ "${1:-}" != probe ]; then
    if ! command -v bash >/dev/null; then
        echo 'the health check needs bash, and this image has none'
        exit 1
    fi
    status=0
    timeout 3 bash "$0" probe || status=$?
    [ "$status" -le 1 ] || echo 'the server does not answer within 3 seconds'
    [ "$status" = 0 ]
    exit
fi

image_facts=/usr/share/serving-factory/image.env
proc=/proc

say() { printf '%s\n' "$*"; }
not_ready() {
    say "$*"
    exit 1
}

# find_server: puts the arguments of the running server into `arguments`. Its name comes first, or second where an
# interpreter runs it.
find_server() {
    local file argument
    for file in "$proc"/[0-9]*/cmdline; do
        arguments=()
        while IFS= read -r -d '' argument; do
            arguments+=("$argument")
        done <"$file"
        case ${arguments[0]:-}:${arguments[1]:-} in
        */tensorflow_model_server:* | *:*/tensorflow_model_server) return 0 ;;
        esac
    done 2>/dev/null
    return 1
}

# flag NAME DEFAULT: the value of the server's flag; the last one counts, as for the server.
flag() {
    local argument value=$2
    for argument in "${arguments[@]}"; do
        case $argument in
        "--$1="*) value=${argument#*=} ;;
        esac
    done
    say "$value"
}

# ask PORT PATH: the answer to a GET, head and body. HTTP/1.0: the server ends it by closing the connection.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET %s HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
    cat <&3
} 2>/dev/null

# encode TEXT: as it goes into a URL, byte by byte. A byte above 127 may come as a negative number.
encode() {
    local LC_ALL=C text=$1 url='' byte i
    for ((i = 0; i < ${#text}; i++)); do
        byte=${text:i:1}
        case $byte in
        [a-zA-Z0-9._~-]) ;;
        *)
            printf -v byte %d "'$byte"
            printf -v byte %%%02X $((byte & 255))
            ;;
        esac
        url+=$byte
    done
    say "$url"
}

# found ANSWER: the states of the model's versions and the first error, or the answer's first line where it has none.
found() {
    local rest=$1 states='' error=''
    local state='"state":[[:space:]]*"([A-Z_]+)"' message='"error_message":[[:space:]]*"(([^"\\]|\\.)+)"'
    [[ $rest =~ $message ]] && error=": ${BASH_REMATCH[1]}"
    while [[ $rest =~ $state ]]; do
        states+=${states:+, }${BASH_REMATCH[1]}
        rest=${rest#*"${BASH_REMATCH[0]}"}
    done
    say "${states:-${1%%$'\r'*}}$error"
}

find_server || not_ready 'the server is not running'

port=$(flag port 8500)
rest_port=$(flag rest_api_port 0)
if [ "$rest_port" = 0 ]; then
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || not_ready "nothing answers on the gRPC port, $port"
    say "the gRPC port, $port, is open"
    exit 0
fi

name=$(flag model_name default)
answer=$(ask "$rest_port" "/v1/models/$(encode "$name")") || not_ready "nothing answers on the REST port, $rest_port"
case $answer in
HTTP/1.*) ;;
*) not_ready "what answers on port $rest_port is no HTTP server" ;;
esac

# Before 1.10 the server knows no such question, and any answer says as much as an open port.
if [ -n "$(flag model_config_file '')" ] || grep -q '^MODEL_STATUS="\{0,1\}no' "$image_facts" 2>/dev/null; then
    say "the REST port, $rest_port, answers"
    exit 0
fi
available='"state":[[:space:]]*"AVAILABLE"'
[[ $answer =~ $available ]] || not_ready "no version of $name is AVAILABLE: $(found "$answer")"
say "$name is AVAILABLE"
