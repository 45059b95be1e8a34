# TensorFlow Serving 2.20.0, cpu: compiles the server and collects what the runtime image needs.
# Made by `./factory generate` from dockerfiles/templates and src/serving_factory/catalogue/data; do not edit.
#
# Build it, in the root of the repository:
#   docker buildx build --file dockerfiles/2.20.0/cpu.devel.Dockerfile --target export --build-context 'source=https://github.com/tensorflow/serving.git#bc7e9d2b9a419294c4526e293c2df8727b0d3116' --output type=local,dest=build/by-hand/2.20.0-cpu dockerfiles/context
#
# Named contexts (--build-context NAME=...); each is empty unless it is given:
#   source     the source tree; upstream's is https://github.com/tensorflow/serving.git#bc7e9d2b9a419294c4526e293c2df8727b0d3116
#   bazel      a folder with the file `bazel`, instead of the release asset
#   distdir    a folder of archives that Bazel would download
#   overrides  a folder with one folder for each external repository to be replaced
#   patches    *.patch for the source tree, external/NAME/*.patch for an external repository
#   apt        a folder with a flat apt repository, instead of all others
# Build arguments:
#   COPTS                  --copt options of the CPU level, for the target configuration only
#   BAZEL_OPTIONS          more options of `bazel build`
#   BAZEL_STARTUP_OPTIONS  more options before `build`
#   BAZEL_RESOURCES        how much of the machine the build may use: --jobs, --local_ram_resources
#   BAZEL_MIRROR           what has VERSION/bazel-VERSION-linux-x86_64
#   APT_SNAPSHOT           the time whose packages are required, where the apt mirror knows times
# Secrets: network, ca (inputs.sh); truststore, bazelrc (bazel.sh)

# --- Inputs that are empty unless a named context is given -------------------------------------------------------------
# WORKDIR, where files are copied from: BuildKit's cache cannot distinguish a COPY from nothing from one of a context that was given before.
FROM scratch AS source
WORKDIR /.none
FROM scratch AS overrides
WORKDIR /.none
FROM scratch AS distdir
FROM scratch AS patches
FROM scratch AS apt

# --- bazel: the release asset, by checksum (catalogue: bazel.yaml) -----------------------------------------------------
FROM scratch AS bazel
ARG BAZEL_MIRROR=https://github.com/bazelbuild/bazel/releases/download
# hadolint takes the variable for a file.
# hadolint ignore=DL3020
ADD --checksum=sha256:c97f02133adce63f0c28678ac1f21d65fa8255c80429b588aeeba8a1fac6202b \
    ${BAZEL_MIRROR}/7.4.1/bazel-7.4.1-linux-x86_64 /bazel

# --- base_build: the toolchain -----------------------------------------------------------------------------------------
FROM ubuntu:22.04 AS base_build
# Arguments stand before SHELL: after an ARG, hadolint forgets it.
ARG APT_SNAPSHOT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What the base has is in every runtime image too; the libraries of packages installed below are copied there.
RUN mkdir /factory && dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort > /factory/base-packages
COPY --chmod=0755 inputs.sh /factory/

# The distribution's own versions are required: the base image pins the distribution, the record says what came.
# Catalogue: upstream's build packages at the tag (releases.yaml) but those of build_packages.yaml; distributions.yaml, ubuntu:22.04.
# man1: slim bases drop it, and some packages then fail to install.
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    mkdir -p /usr/share/man/man1 \
 && source /factory/inputs.sh \
 && apt_install \
      automake \
      binutils \
      build-essential \
      ca-certificates \
      curl \
      g++ \
      gcc \
      git \
      libc6-dev \
      libcurl4-openssl-dev \
      libfreetype6-dev \
      libpng-dev \
      libtool \
      libzmq3-dev \
      openjdk-11-jdk \
      openjdk-11-jre-headless \
      patch \
      pkg-config \
      python3 \
      swig \
      unzip \
      wget \
      zip \
      zlib1g-dev

# Bazel's old rules, TensorFlow's repository rules and the sources' own scripts call `python`.
RUN ln -sf python3 /usr/bin/python

# Bazel 7.4.1: the plain binary. The named context `bazel` replaces the download.
COPY --from=bazel --chmod=0755 /bazel /usr/local/bin/bazel
# CC is not set: Bazel downloads a clang and compiles with it. gcc is for the runtime image's init.

# One folder of Bazel's disk cache for each set of packages: what one compiler made is never used by another.
RUN { dpkg-query -W -f '${Package}=${Version}\n' | sort; readlink -f /usr/bin/cc; } | sha256sum | cut -c -16 > /factory/toolchain-id

# --- init: the runtime image's PID 1, the same for every release -------------------------------------------------------
FROM base_build AS init
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY init.c /factory/
RUN gcc -std=c99 -static -O2 -Wall -Wextra -Werror -o /factory/tf_serving_init /factory/init.c \
 && strip /factory/tf_serving_init

# --- sources: the tree to be built, with its patches, and how it is built ----------------------------------------------
FROM base_build AS sources
ARG BAZEL_STARTUP_OPTIONS=""
ARG BAZEL_OPTIONS=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /source
COPY --from=source / /source/
COPY --chmod=0755 apply_patches.sh bazel.sh /factory/
RUN --mount=type=bind,from=patches,target=/inputs/patches \
    /factory/apply_patches.sh source /source
COPY --from=overrides / /inputs/overrides/
# How Bazel builds, for the fetch, the preflight and the build alike: bazel.sh reads it.
RUN printf '%s\n' \
      target=//tensorflow_serving/model_servers:tensorflow_model_server \
      event_file=--build_event_json_file \
      disk_cache=--disk_cache \
      > /factory/bazel.conf \
 && printf '%s\n' \
      "startup ${BAZEL_STARTUP_OPTIONS}" \
      'build --remote_download_outputs=all' \
      "build ${BAZEL_OPTIONS}" \
      > /factory/bazelrc

# --- fetch: Bazel's downloads, apart from the flags of a level, so that a change of flags downloads nothing ------------
FROM sources AS fetch
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=secret,id=truststore --mount=type=secret,id=bazelrc --mount=type=bind,from=distdir,target=/inputs/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    /factory/bazel.sh fetch
RUN --mount=type=bind,from=patches,target=/inputs/patches \
    /factory/apply_patches.sh external /factory/bazel

# --- preflight: which inputs are missing; `./factory preflight` builds it ----------------------------------------------
FROM sources AS preflight_run
# Another value each time: what is missing today may be there tomorrow.
ARG PREFLIGHT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --chmod=0755 preflight.sh /factory/
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=secret,id=truststore --mount=type=secret,id=bazelrc --mount=type=bind,from=distdir,target=/inputs/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    echo "preflight ${PREFLIGHT}" \
 && /factory/bazel.sh preflight

FROM scratch AS preflight
COPY --from=preflight_run /preflight/ /

# --- externals: which external repositories the server is made of; no part of what is compiled below -------------------
FROM fetch AS externals_run
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Called as the preflight is, with the options of this build.
COPY --chmod=0755 externals.sh /factory/preflight.sh
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=secret,id=truststore --mount=type=secret,id=bazelrc --mount=type=bind,from=distdir,target=/inputs/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    /factory/bazel.sh preflight

FROM scratch AS externals
COPY --from=externals_run /preflight/ /

# --- binary_build: the Bazel build -------------------------------------------------------------------------------------
FROM fetch AS binary_build
ARG COPTS=""
ARG BAZEL_RESOURCES=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=secret,id=truststore --mount=type=secret,id=bazelrc --mount=type=bind,from=distdir,target=/inputs/distdir \
    --mount=type=cache,id=serving-factory-bazel-repository,target=/cache/repository \
    --mount=type=cache,id=serving-factory-bazel-disk,target=/cache/disk \
    /factory/bazel.sh build

COPY --chmod=0755 collect.sh /factory/
RUN BAZEL=bazel CC=gcc \
    /factory/collect.sh /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /artifact /factory/base-packages \
 && cp -r /factory/bazel-events.json /factory/measures /artifact/facts/ \
 && readelf --string-dump=.comment /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server | sed -n 's/.*\(clang version .*\)/\1/p' | head -n 1 > /artifact/facts/compiler \
 && install -D -m 0644 -t /artifact/licences /source/LICENSE*
CMD ["/bin/bash"]

# --- artifact: what the build exports ----------------------------------------------------------------------------------
FROM scratch AS artifact
COPY --from=binary_build /artifact/ /
COPY --from=init /factory/tf_serving_init /rootfs/usr/bin/tf_serving_init

# --- launcher: what starts the server in the runtime image; no part of what is compiled above --------------------------
FROM base_build AS launcher_build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY launcher.h launcher.c launcher_driver.c launcher_health.c /factory/launcher/
WORKDIR /launcher/usr/bin
# The file's time is made from its content, as collect.sh does it.
RUN gcc -std=c99 -static -O2 -Wall -Wextra -Werror -s -o tensorflow_model_server /factory/launcher/*.c \
 && ln -s tensorflow_model_server tf_serving_health \
 && digest="$(sha256sum < tensorflow_model_server)" \
 && touch -d "@$((16#${digest:0:7}))" tensorflow_model_server \
 && touch -h -d @0 tf_serving_health . .. ../..

FROM scratch AS launcher
COPY --from=launcher_build /launcher/ /

# --- export: both, for a build by hand ---------------------------------------------------------------------------------
FROM artifact AS export
COPY --from=launcher / /launcher/

# --- devel: the image to work in: the toolchain, pip, the sources, the server at upstream's path -----------------------
# The folder that an earlier build exported, at the named context `artifact`, takes the place of the stages that compile.
FROM base_build AS devel
ARG APT_SNAPSHOT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# pip installs beside apt's packages here, as in upstream's image: EXTERNALLY-MANAGED forbids that on newer bases.
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    source /factory/inputs.sh \
 && apt_install \
      curl \
      python3-pip \
 && { command -v pip > /dev/null || ln -s pip3 /usr/bin/pip; } \
 && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
COPY --from=sources /source/ /tensorflow-serving/
COPY --from=artifact --chmod=0755 /tensorflow_model_server /usr/local/bin/
# What the server needs and no package of the toolchain has; of what a package has, that stays.
RUN --mount=type=bind,from=artifact,source=/rootfs,target=/inputs/rootfs \
    tar -C /inputs/rootfs --exclude ./usr/bin --exclude ./var -c . | tar -C / -x --skip-old-files --keep-directory-symlink
WORKDIR /tensorflow-serving
CMD ["/bin/bash"]
