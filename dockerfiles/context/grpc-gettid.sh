#!/bin/sh
# Why: gRPC before 1.22 defines a function gettid of its own, static and of another type. glibc has declared one since 2.30, so
# that on newer bases the two clash: "ambiguating new declaration of 'long int gettid()'". It is renamed, as gRPC did.
# Reference: https://github.com/grpc/grpc/pull/18950
#
# A script and not a diff: between the gRPC of TensorFlow 1.5 and that of 2.1 the files moved and changed around these lines. Where
# gettid was renamed already, nothing is left to do.
#
# usage: grpc-gettid.sh FOLDER    the sources of gRPC
set -eu
grep -rlE --include='*.c' --include='*.cc' '^static (long|intptr_t) gettid\(void\)' "$1/src/core" | while read -r file; do
    sed -i 's/\([^_[:alnum:]]\)gettid(/\1sys_gettid(/g' "$file"
    echo "grpc-gettid: ${file#"$1/"}"
done
