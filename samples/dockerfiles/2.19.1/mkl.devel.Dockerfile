# TensorFlow Serving 2.19.1, mkl: compiles the server and collects what the runtime image needs.
# Made by `./factory generate` from dockerfiles/templates/devel; do not edit.
#
# Named contexts (docker buildx build --build-context NAME=...):
#   source  the source tree; upstream's is https://github.com/tensorflow/serving.git#eab9c3529b785dc685ab8c687f298e67016c8f81
#   distdir, overrides, patches, apt   see doors.sh
# Build arguments:
#   COPTS   --copt options of the CPU level, for the target configuration only
# Secrets, each optional (--secret id=...):
#   network, ca  see doors.sh
#   bazelrc      how Bazel runs here: jobs, memory, remote cache; never what is built

# --- doors that are empty unless a named context takes their place -------------------------------------------------
FROM scratch AS apt
FROM scratch AS distdir
FROM scratch AS overrides
FROM scratch AS patches

# --- base_build: the toolchain ------------------------------------------------------------------------------------
FROM debian:bookworm AS base_build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What the base has is in every runtime image too; the libraries of packages installed below are copied there.
RUN mkdir /factory && dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort > /factory/base-packages

# What stands between a step and the network: see the file.
COPY doors.sh /factory/

# The distribution's own versions are wanted: the base image pins the distribution, the record tells what came.
# man1: slim bases drop it, and Java's packages then fail to install.
ARG APT_SNAPSHOT=""
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/doors \
    --mount=type=bind,from=apt,target=/doors/apt \
    . /factory/doors.sh \
 && mkdir -p /usr/share/man/man1 \
 && apt_install \
      bazel-bootstrap \
      binutils \
      ca-certificates \
      g++ \
      gcc \
      git \
      libc6-dev \
      libcpp-httplib-dev \
      libdnnl-dev \
      libgrpc++-dev \
      libprotobuf-dev \
      nlohmann-json3-dev \
      patch \
      protobuf-compiler \
      protobuf-compiler-grpc \
      python3 \
      unzip \
      zip

# Bazel 4.2.3 is the distribution's: the package bazel-bootstrap above.
ENV CC=/usr/bin/gcc

# One folder of Bazel's disk cache for each set of packages: what one compiler made is never used by another.
RUN dpkg-query -W -f '${Package}=${Version}\n' | sort | sha256sum | cut -c -16 > /factory/toolchain-id

# --- init: the runtime image's PID 1, the same for every release --------------------------------------------------
FROM base_build AS init
COPY init.c /factory/
RUN "$CC" -std=c99 -static -O2 -Wall -Wextra -Werror -o /factory/tf_serving_init /factory/init.c \
 && strip /factory/tf_serving_init

# --- fetch: Bazel's downloads, apart from the flags of a level, so that a change of flags downloads nothing --------
FROM base_build AS fetch
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /source
# `source` is a named context, not a stage of this file.
# hadolint ignore=DL3022
COPY --from=source / /source/
RUN --mount=type=bind,from=patches,target=/doors/patches \
    find /doors/patches -maxdepth 1 -name '*.patch' | sort | while read -r file; do patch -p1 < "$file"; done
COPY --from=overrides / /doors/overrides/
COPY bazel.sh /factory/
ARG BAZEL_OPTIONS=""
ARG BAZEL_STARTUP_OPTIONS=""
# hadolint ignore=SC2086
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=secret,id=bazelrc \
    --mount=type=tmpfs,target=/run/doors --mount=type=bind,from=distdir,target=/doors/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    . /factory/doors.sh \
 && /factory/bazel.sh fetch bazel "${doors_startup[@]}" ${BAZEL_STARTUP_OPTIONS} --output_user_root=/factory/bazel build --nobuild \
      "${doors_options[@]}" --symlink_prefix=/factory/bazel- --color=no --curses=no \
      --config=mkl \
      ${BAZEL_OPTIONS} \
      //tensorflow_serving/model_servers:tensorflow_model_server

# --- binary_build: the Bazel build --------------------------------------------------------------------------------
FROM fetch AS binary_build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG COPTS=""
ARG BAZEL_OPTIONS=""
ARG BAZEL_STARTUP_OPTIONS=""
# COPTS is one option per word: it is split on purpose.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=secret,id=bazelrc \
    --mount=type=tmpfs,target=/run/doors --mount=type=bind,from=distdir,target=/doors/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    --mount=type=cache,id=serving-factory-bazel-disk,target=/cache/disk \
    . /factory/doors.sh \
 && /factory/bazel.sh build bazel "${doors_startup[@]}" ${BAZEL_STARTUP_OPTIONS} --output_user_root=/factory/bazel build \
      "${doors_options[@]}" --disk_cache="/cache/disk/$(cat /factory/toolchain-id)" \
      --symlink_prefix=/factory/bazel- --color=no --curses=no --show_progress_rate_limit=1 --verbose_failures \
      --build_event_json_file=/factory/bazel-events.json \
      --config=mkl \
      ${COPTS} ${BAZEL_OPTIONS} \
      //tensorflow_serving/model_servers:tensorflow_model_server
COPY collect.sh /factory/
RUN BAZEL=bazel /factory/collect.sh /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /artifact /factory/base-packages \
 && cp -r /factory/bazel-events.json /factory/measures /artifact/facts/ \
 && dpkg-query -W -f 'bazel ${Version}\n' bazel-bootstrap > /artifact/facts/bazel \
 && install -D -m 0644 -t /artifact/licences /source/LICENSE*
CMD ["/bin/bash"]

# --- artifact: what the factory takes home ------------------------------------------------------------------------
FROM scratch AS artifact
COPY --from=binary_build /artifact/ /
COPY --from=init /factory/tf_serving_init /rootfs/usr/bin/tf_serving_init
