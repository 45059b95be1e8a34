# TensorFlow Serving 2.5.1, gpu: compiles the server and collects what the runtime image needs.
# Made by `./factory generate` from dockerfiles/templates and src/serving_factory/catalogue/data; do not edit.
#
# Build it, in the root of the repository:
#   docker buildx build --file dockerfiles/2.5.1/gpu.devel.Dockerfile --target export --build-context 'source=https://github.com/tensorflow/serving.git#da76fc74b48f6afe190125f9ed572e690cef8570' --output type=local,dest=build/by-hand/2.5.1-gpu dockerfiles/context
#
# Named contexts (--build-context NAME=...); each is empty unless it is given:
#   source     the source tree; upstream's is https://github.com/tensorflow/serving.git#da76fc74b48f6afe190125f9ed572e690cef8570
#   bazel      a folder with the file `bazel`, instead of the release asset
#   distdir    a folder of archives that Bazel would download
#   overrides  a folder with one folder for each external repository to be replaced
#   patches    *.patch for the source tree, external/NAME/*.patch for an external repository
#   apt        a folder with a flat apt repository, instead of all others
#   nvidia     a folder with the keys of NVIDIA's apt repositories
# Build arguments:
#   COPTS                  --copt options of the CPU level, for the target configuration only
#   CUDA_CAPABILITIES      compute capabilities, as TensorFlow spells them
#   TENSORRT               0 to leave TensorRT out
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
ADD --checksum=sha256:70dc0bee198a4c3d332925a32d464d9036a831977501f66d4996854ad4e4fc0d \
    ${BAZEL_MIRROR}/3.7.2/bazel-3.7.2-linux-x86_64 /bazel

# --- nvidia: the keys of its apt repositories, as it publishes them; checked in the next stage -------------------------
FROM scratch AS nvidia
ADD https://developer.download.nvidia.com/compute/cuda/repos/ubuntu1804/x86_64/3bf863cc.pub /
ADD https://developer.download.nvidia.com/compute/machine-learning/repos/ubuntu1804/x86_64/7fa2af80.pub /

# --- keys: keyrings for apt, made of keys with the expected fingerprints -----------------------------------------------
FROM ubuntu:18.04 AS keys
ARG APT_SNAPSHOT=""
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY --chmod=0755 inputs.sh apt_key.sh /factory/
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    --mount=type=bind,from=nvidia,target=/nvidia \
    source /factory/inputs.sh \
 && apt_install \
      gnupg \
 && /factory/apt_key.sh /nvidia/3bf863cc.pub EB693B3035CD5710E231E123A4B469963BF863CC /keyrings/nvidia-cuda.gpg \
 && /factory/apt_key.sh /nvidia/7fa2af80.pub AE09FE4BBD223A84B2CCFCE3F60F4B3D7FA2AF80 /keyrings/nvidia-machine-learning.gpg

# --- base_build: the toolchain -----------------------------------------------------------------------------------------
FROM ubuntu:18.04 AS base_build
# Arguments stand before SHELL: after an ARG, hadolint forgets it.
ARG APT_SNAPSHOT=""
ARG TENSORRT=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What the base has is in every runtime image too; the libraries of packages installed below are copied there.
RUN mkdir /factory && dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort > /factory/base-packages
COPY --chmod=0755 inputs.sh /factory/

# The distribution's own versions are required: the base image pins the distribution, the record says what came.
# Catalogue: upstream's build packages at the tag (releases.yaml) but those of build_packages.yaml; distributions.yaml, ubuntu:18.04; Python 3.6 with numpy, which TensorFlow's python_configure wants.
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
      libtool \
      libzmq3-dev \
      openjdk-8-jdk \
      openjdk-8-jre-headless \
      patch \
      pkg-config \
      python3 \
      python3-dev \
      python3-distutils \
      python3-numpy \
      swig \
      unzip \
      wget \
      zip \
      zlib1g-dev

# Bazel's old rules, TensorFlow's repository rules and the sources' own scripts call `python`.
RUN ln -sf python3 /usr/bin/python

# CUDA 11.2 from NVIDIA's own repositories, in upstream's versions (catalogue: cuda_packages.yaml).
COPY --from=keys /keyrings/nvidia-cuda.gpg /usr/share/keyrings/
COPY --from=keys /keyrings/nvidia-machine-learning.gpg /usr/share/keyrings/
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    echo "deb [signed-by=/usr/share/keyrings/nvidia-cuda.gpg] https://developer.download.nvidia.com/compute/cuda/repos/ubuntu1804/x86_64 /" \
      > /etc/apt/sources.list.d/nvidia.list \
 && echo "deb [signed-by=/usr/share/keyrings/nvidia-machine-learning.gpg] https://developer.download.nvidia.com/compute/machine-learning/repos/ubuntu1804/x86_64 /" \
      >> /etc/apt/sources.list.d/nvidia.list \
 && source /factory/inputs.sh \
 && apt_install \
      cuda-command-line-tools-11-2 \
      cuda-cudart-11-2 \
      cuda-cudart-dev-11-2 \
      cuda-nvcc-11-2 \
      cuda-nvprune-11-2 \
      cuda-nvrtc-11-2 \
      cuda-nvrtc-dev-11-2 \
      libcublas-11-2 \
      libcublas-dev-11-2 \
      libcudnn8=8.1.0.77-1+cuda11.2 \
      libcudnn8-dev=8.1.0.77-1+cuda11.2 \
      libcufft-11-2 \
      libcufft-dev-11-2 \
      libcurand-11-2 \
      libcurand-dev-11-2 \
      libcusolver-11-2 \
      libcusolver-dev-11-2 \
      libcusparse-11-2 \
      libcusparse-dev-11-2 \
 && ln -sfn cuda-11.2 /usr/local/cuda

# TensorRT 7.2.2, as upstream has it; --build-arg TENSORRT=0 leaves it out.
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \
    --mount=type=bind,from=apt,target=/inputs/apt \
    if [ "$TENSORRT" = 1 ]; then \
    source /factory/inputs.sh \
 && apt_install \
      libnvinfer-dev=7.2.2-1+cuda11.1 \
      libnvinfer-plugin-dev=7.2.2-1+cuda11.1 \
      libnvinfer-plugin7=7.2.2-1+cuda11.1 \
      libnvinfer7=7.2.2-1+cuda11.1; \
    fi

# Where cuda_configure looks for what the packages put elsewhere.
RUN ln -sf /usr/include/cudnn.h /usr/local/cuda/include/cudnn.h \
 && ln -sf /usr/lib/x86_64-linux-gnu/libcudnn.so /usr/local/cuda/lib64/libcudnn.so \
 && ln -sf /usr/lib/x86_64-linux-gnu/libcudnn.so.8 /usr/local/cuda/lib64/libcudnn.so.8

# What TensorFlow's rules copy by name, hours from here, and what goes into the image (catalogue: cuda_files.yaml).
RUN ls \
      /usr/local/cuda-11.2/bin/bin2c \
      /usr/local/cuda-11.2/bin/crt/link.stub \
      /usr/local/cuda-11.2/bin/fatbinary \
      /usr/local/cuda-11.2/bin/nvlink \
      /usr/local/cuda-11.2/bin/nvprune \
      /usr/local/cuda-11.2/bin/ptxas \
      /usr/local/cuda-11.2/nvvm/libdevice/libdevice.10.bc

# What the server is linked to or opens while it runs: the libraries of these packages, in the versions it is compiled with, and
# CUPTI; without libcufftw, libcusolverMg, libnvblas, which no server opens. The runtime image gets them.
RUN packages=(cuda-cudart-11-2 cuda-nvrtc-11-2 libcublas-11-2 libcudnn8 libcufft-11-2 libcurand-11-2 libcusolver-11-2 libcusparse-11-2) \
 && if [ "$TENSORRT" = 1 ]; then packages+=(libnvinfer-plugin7 libnvinfer7); fi \
 && { dpkg-query -L "${packages[@]}" | grep -E '/lib[^/]*\.so\.[0-9][^/]*$' \
   && ls /usr/local/cuda/extras/CUPTI/lib64/libcupti.so.*; } \
  | grep -vE '/(libcufftw|libcusolverMg|libnvblas)\.so' > /factory/libraries

# Bazel 3.7.2: the plain binary. The named context `bazel` replaces the download.
COPY --from=bazel --chmod=0755 /bazel /usr/local/bin/bazel
ENV CC=/usr/bin/gcc
# What CUDA's compiler and TensorFlow's cuda_configure look at (catalogue: cuda_packages.yaml).
ENV TF_NEED_TENSORRT=${TENSORRT}
ENV TF_NEED_CUDA=1
ENV TF_CUDA_VERSION=11.2
ENV TF_CUDNN_VERSION=8
ENV TF_NCCL_VERSION=""
ENV TMP=/tmp
ENV TENSORRT_INSTALL_PATH=/usr/lib/x86_64-linux-gnu
ENV TF_TENSORRT_VERSION=7.2.2

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
ARG CUDA_CAPABILITIES="sm_35,sm_50,sm_60,sm_70,sm_75,compute_80"
ARG TENSORRT=1
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
      'build --config=cuda' \
      "build --copt=-fPIC" \
      "build --action_env=TF_CUDA_COMPUTE_CAPABILITIES=${CUDA_CAPABILITIES}" \
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
    ln -s libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1 \
 && export LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:/usr/local/cuda/extras/CUPTI/lib64:/usr/local/cuda/lib64 \
 && /factory/bazel.sh build \
 && rm /usr/local/cuda/lib64/stubs/libcuda.so.1

COPY --chmod=0755 collect.sh collect_cuda.sh /factory/
# libcuda is the driver's: it is never taken along.
RUN mapfile -t libraries < /factory/libraries \
 && LD_LIBRARY_PATH="$(xargs -n 1 dirname < /factory/libraries | sort -u | paste -s -d :)" \
    BAZEL=bazel DRIVER_STUB=/usr/local/cuda/lib64/stubs/libcuda.so \
    /factory/collect.sh /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /artifact /factory/base-packages \
      "${libraries[@]}" \
 && /factory/collect_cuda.sh /artifact /factory/libraries /usr/local/cuda-11.2 11.2 bin/ptxas nvvm/libdevice/libdevice.10.bc \
 && cp -r /factory/bazel-events.json /factory/measures /artifact/facts/ \
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
ENV LD_LIBRARY_PATH=/usr/local/cuda/extras/CUPTI/lib64:/usr/local/cuda/lib64
WORKDIR /tensorflow-serving
CMD ["/bin/bash"]
