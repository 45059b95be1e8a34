# TensorFlow Serving 2.19.1, gpu: compiles the server and collects what the runtime image needs.
# Made by `./factory generate` from dockerfiles/templates and src/serving_factory/catalogue/data; do not edit.
#
# Build it, in the root of the repository:
#   docker buildx build --file samples/dockerfiles/2.19.1/gpu.devel.Dockerfile --target export --build-arg BAZEL_STARTUP_OPTIONS=--host_jvm_args=-XX:TieredStopAtLevel=1 --build-context source=samples/model_server --build-context debian:bookworm=docker-image://serving-factory/base:bookworm --output type=local,dest=build/by-hand/2.19.1-gpu dockerfiles/context
#
# Named contexts (--build-context NAME=...); each is empty unless it is given:
#   source     the source tree; upstream's is https://github.com/tensorflow/serving.git#eab9c3529b785dc685ab8c687f298e67016c8f81
#   distdir    a folder of archives that Bazel would download
#   overrides  a folder with one folder for each external repository to be replaced
#   patches    *.patch for the source tree, external/NAME/*.patch for an external repository
#   apt        a folder with a flat apt repository, instead of all others
#   cuda       a folder with CUDA 12.2, as /usr/local/cuda, instead of NVIDIA's Python wheels
# Build arguments:
#   COPTS                  --copt options of the CPU level, for the target configuration only
#   CUDA_CAPABILITIES      compute capabilities, as TensorFlow spells them
#   BAZEL_OPTIONS          more options of `bazel build`
#   BAZEL_STARTUP_OPTIONS  more options before `build`
#   BAZEL_RESOURCES        how much of the machine the build may use: --jobs, --local_ram_resources
#   APT_SNAPSHOT           the time whose packages are required, where the apt mirror knows times
# Secrets: network, ca (inputs.sh); truststore, bazelrc (bazel.sh); pip_ca (wheels.sh)

# --- Inputs that are empty unless a named context is given -------------------------------------------------------------
# WORKDIR, where files are copied from: BuildKit's cache cannot distinguish a COPY from nothing from one of a context that was given before.
FROM scratch AS source
WORKDIR /.none
FROM scratch AS overrides
WORKDIR /.none
FROM scratch AS distdir
FROM scratch AS patches
FROM scratch AS apt

# --- cuda_wheels: CUDA 12.2 as Python wheels of NVIDIA's, under NVIDIA's licence (cuda_wheels.yaml) --------------------
FROM debian:bookworm AS cuda_wheels
ARG APT_SNAPSHOT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --chmod=0755 inputs.sh wheels.sh /factory/
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs --mount=type=secret,id=pip_ca \
    --mount=type=bind,from=apt,target=/inputs/apt --mount=type=bind,from=distdir,target=/inputs/distdir \
    source /factory/inputs.sh \
 && source /factory/wheels.sh \
 && apt_install ca-certificates python3-pip unzip \
 && get_wheel /wheels nvidia_cuda_nvcc_cu12-12.2.140-py3-none-manylinux1_x86_64.whl c6ff4ae7a636eb6cab7621191e19ac3779690686bbcf52c04d8b1ca2944e1e27 \
      nvidia-cuda-nvcc-cu12==12.2.140 --implementation=py --python-version=3 --abi=none --platform=manylinux1_x86_64 \
 && get_wheel /wheels nvidia_cuda_runtime_cu12-12.2.140-py3-none-manylinux1_x86_64.whl acb9cb7e44594a3512533497ea790d9f0b0e399abcc888584c157d1ffa080e41 \
      nvidia-cuda-runtime-cu12==12.2.140 --implementation=py --python-version=3 --abi=none --platform=manylinux1_x86_64 \
 && get_wheel /wheels nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl 56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 \
      nvidia-cuda-nvcc==13.0.88 --implementation=py --python-version=3 --abi=none --platform=manylinux2014_x86_64 --platform=manylinux_2_17_x86_64 \
 && unzip -qo '/wheels/*.whl' -d /unpacked \
 && rm -r /wheels
# What of them is a toolkit, with the licence that is the same in all.
RUN mkdir /cuda \
 && cp -r /unpacked/nvidia/cuda_nvcc/. /cuda \
 && cp -r /unpacked/nvidia/cuda_runtime/. /cuda \
 && install -D /unpacked/nvidia/cu13/bin/fatbinary /cuda/bin/fatbinary \
 && cp /unpacked/nvidia_cuda_nvcc_cu12-12.2.140.dist-info/License.txt /cuda/EULA.txt \
 && ln -s lib /cuda/lib64 \
 && chmod 0755 /cuda/bin/*

# --- cuda: the toolkit, as /usr/local/cuda has it; the named context replaces the wheels -------------------------------
FROM scratch AS cuda
COPY --from=cuda_wheels /cuda/ /

# --- base_build: the toolchain -----------------------------------------------------------------------------------------
FROM debian:bookworm AS base_build
# Arguments stand before SHELL: after an ARG, hadolint forgets it.
ARG APT_SNAPSHOT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What the base has is in every runtime image too; the libraries of packages installed below are copied there.
RUN mkdir /factory && dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort > /factory/base-packages
COPY --chmod=0755 inputs.sh /factory/

# The distribution's own versions are required: the base image pins the distribution, the record says what came.
# Catalogue: upstream's build packages at the tag (releases.yaml) but those of build_packages.yaml; distributions.yaml, debian:bookworm.
# man1: slim bases drop it, and some packages then fail to install.
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    mkdir -p /usr/share/man/man1 \
 && source /factory/inputs.sh \
 && apt_install \
      automake \
      bazel-bootstrap \
      binutils \
      build-essential \
      ca-certificates \
      curl \
      g++ \
      gcc \
      git \
      libc6-dev \
      libcpp-httplib-dev \
      libcurl4-openssl-dev \
      libdnnl-dev \
      libfreetype6-dev \
      libgrpc++-dev \
      libpng-dev \
      libprotobuf-dev \
      libtool \
      libzmq3-dev \
      nlohmann-json3-dev \
      openjdk-17-jdk-headless \
      openjdk-17-jre-headless \
      patch \
      pkg-config \
      protobuf-compiler \
      protobuf-compiler-grpc \
      python3 \
      swig \
      unzip \
      wget \
      zip \
      zlib1g-dev

# Bazel's old rules, TensorFlow's repository rules and the sources' own scripts call `python`.
RUN ln -sf python3 /usr/bin/python

# Bazel 4.2.3 is the distribution's: the package bazel-bootstrap above.
ENV CC=/usr/bin/gcc
# What CUDA's compiler looks at (catalogue: cuda_packages.yaml).
ENV TMP=/tmp

# One folder of Bazel's disk cache for each set of packages: what one compiler made is never used by another.
RUN { dpkg-query -W -f '${Package}=${Version}\n' | sort; readlink -f /usr/bin/cc; } | sha256sum | cut -c -16 > /factory/toolchain-id

# clang-19 compiles device code, and that alone: the build itself says what that depends on. So neither it nor CUDA is part of the
# toolchain's id, and all other objects are shared with builds for the CPU; unless apt has changed a package that is.
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    dpkg-query -W -f '${Package}=${Version}\n' | sort > /tmp/packages \
 && . /factory/inputs.sh \
 && apt_install clang-19 \
 && if dpkg-query -W -f '${Package}=${Version}\n' | sort | comm -23 /tmp/packages - | grep .; then \
      dpkg-query -W -f '${Package}=${Version}\n' | sort | sha256sum | cut -c -16 > /factory/toolchain-id; \
    fi \
 && rm /tmp/packages

# CUDA 12.2 of the named context. The runtime image gets the libraries that a server opens (catalogue:
# opened_libraries.yaml, cuda_files.yaml), as far as they are there.
COPY --from=cuda / /usr/local/cuda-12.2/
RUN ln -sfn cuda-12.2 /usr/local/cuda \
 && if [ ! -e /usr/local/cuda/lib ]; then ln -s lib64 /usr/local/cuda/lib; fi \
 && { ls /usr/local/cuda/lib64/lib*.so.[0-9]*; ls /usr/local/cuda/extras/CUPTI/lib64/libcupti.so.* 2> /dev/null || :; } \
  | grep -E '/(libcublas|libcublasLt|libcudart|libcudnn|libcufft|libcupti|libcurand|libcusolver|libcusparse|libnccl|libnvinfer|libnvinfer_plugin|libnvrtc|libnvrtc-builtins)' \
  | grep -vE '/(libcufftw|libcusolverMg|libnvblas|libcurand)\.so' > /factory/libraries

# --- init: the runtime image's PID 1, the same for every release -------------------------------------------------------
FROM base_build AS init
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY init.c /factory/
RUN gcc -std=c99 -static -O2 -Wall -Wextra -Werror -o /factory/tf_serving_init /factory/init.c \
 && strip /factory/tf_serving_init

# --- sources: the tree to be built, with its patches, and how it is built ----------------------------------------------
FROM base_build AS sources
ARG CUDA_CAPABILITIES="sm_50,sm_60,sm_70,sm_80,compute_90"
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
      'build --config=cuda_clang' \
      "build --repo_env=TF_CUDA_COMPUTE_CAPABILITIES=${CUDA_CAPABILITIES}" \
      "build --repo_env=LOCAL_CUDA_PATH=/usr/local/cuda" \
      "build --repo_env=LOCAL_CUDNN_PATH=/usr/local/cuda" \
      "build --repo_env=LOCAL_NCCL_PATH=/usr/local/cuda" \
      "build --repo_env=CLANG_CUDA_COMPILER_PATH=/usr/bin/clang-19" \
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

COPY --chmod=0755 collect.sh collect_cuda.sh /factory/
# libcuda is the driver's: it is never taken along.
RUN mapfile -t libraries < /factory/libraries \
 && LD_LIBRARY_PATH="$(xargs -n 1 dirname < /factory/libraries | sort -u | paste -s -d :)" \
    BAZEL=bazel \
    /factory/collect.sh /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /artifact /factory/base-packages \
      "${libraries[@]}" \
 && /factory/collect_cuda.sh /artifact /factory/libraries /usr/local/cuda-12.2 12.2 \
 && cp -r /factory/bazel-events.json /factory/measures /artifact/facts/ \
 && dpkg-query -W -f 'bazel ${Version}\n' bazel-bootstrap > /artifact/facts/bazel \
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
