"""Small checkouts of tensorflow/serving, written by hand in upstream's ways: of each file what the catalogue reads.

Everything is text, so that a test plants a difference by replacing a piece of it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

DOCKER = "tensorflow_serving/tools/docker"
SERVERS = "tensorflow_serving/model_servers"
TESTDATA = "tensorflow_serving/servables/tensorflow/testdata"

Tree = dict[str, str]
"""Path -> text; a path that ends with a slash is an empty folder."""

DEVEL = f"{DOCKER}/Dockerfile.devel"
DEVEL_MKL = f"{DOCKER}/Dockerfile.devel-mkl"
DEVEL_GPU = f"{DOCKER}/Dockerfile.devel-gpu"

_RUNTIME = """\
ARG TF_SERVING_VERSION=latest
ARG TF_SERVING_BUILD_IMAGE=tensorflow/serving:${{TF_SERVING_VERSION}}-devel
FROM ${{TF_SERVING_BUILD_IMAGE}} as build_image
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates
"""

_INSTALL = """\
RUN apt-get update && apt-get install -y --no-install-recommends \\
        automake build-essential ca-certificates curl gcc-10 g++-10 git libcurl3-dev libfreetype6-dev libpng-dev \\
        # of the Python API's wheel, too
        libtool libzmq3-dev mlocate openjdk-8-jdk\\
        openjdk-8-jre-headless pkg-config software-properties-common swig unzip wget zip zlib1g-dev \\
        && \\
    apt-get clean && rm -rf /var/lib/apt/lists/*
"""

_INSTALL_1_8 = """\
RUN apt-get update && apt-get install -y automake build-essential curl git libcurl3-dev libfreetype6-dev libpng12-dev \\
        libtool libzmq3-dev mlocate openjdk-8-jdk\\
        openjdk-8-jre-headless pkg-config python-dev python-numpy python-pip software-properties-common swig wget zip \\
        zlib1g-dev
"""

_DEVEL_2_19 = (
    """\
# A comment, \\
FROM ubuntu:20.04 as base_build
ARG TF_SERVING_VERSION_GIT_BRANCH=master
"""
    + _INSTALL
    + """\
RUN add-apt-repository ppa:deadsnakes/ppa && \\
    apt-get update && apt-get install -y \\
    # in the middle of an instruction
    python3.9 python3.9-dev python3-pip

    # Set up Bazel
ENV BAZEL_VERSION 6.5.0
FROM base_build as binary_build
ARG TF_SERVING_BUILD_OPTIONS="--config=release"
RUN echo "Building with build options: ${TF_SERVING_BUILD_OPTIONS}"
ARG TF_SERVING_BAZEL_OPTIONS=""
RUN bazel build --color=yes --curses=yes \\
    ${TF_SERVING_BAZEL_OPTIONS} \\
    --verbose_failures \\
    --output_filter=DONT_MATCH_ANYTHING \\
    --config=kokoro \\
    ${TF_SERVING_BUILD_OPTIONS} \\
    tensorflow_serving/model_servers:tensorflow_model_server && \\
    cp bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /usr/local/bin/
RUN bazel build --config=another tensorflow_serving/tools/pip_package:build_pip_package
"""
)

_DEVEL_MKL_2_19 = (
    """\
FROM ubuntu:20.04 as base_build
"""
    + _INSTALL
    + """\
ARG BAZEL_VERSION=6.5.0
FROM base_build as binary_build
ARG TF_SERVING_BUILD_OPTIONS="--config=mkl --config=release"
RUN bazel build --color=yes --curses=yes ${TF_SERVING_BAZEL_OPTIONS} --verbose_failures \\
    --output_filter=DONT_MATCH_ANYTHING ${TF_SERVING_BUILD_OPTIONS} \\
    tensorflow_serving/model_servers:tensorflow_model_server
"""
)

_DEVEL_GPU_2_19 = """\
FROM nvidia/cuda:12.2.0-base-ubuntu20.04 as base_build
ENV CUDNN_VERSION=8.9.4.25
ENV TF_TENSORRT_VERSION=8.6.1
ENV CUDA=12.2
RUN apt-get install -y --no-install-recommends \\
        libnccl2=2.18.5-1+cuda12.2 \\
        libnvinfer-plugin8=8.6.1.6-1+cuda12.0 \\
        libnvinfer8=8.6.1.6-1+cuda12.0 \\
        automake build-essential ca-certificates curl git libcurl3-dev libfreetype6-dev libtool libzmq3-dev mlocate \\
        openjdk-8-jdk\\
        openjdk-8-jre-headless pkg-config software-properties-common swig unzip wget zip zlib1g-dev \\
        python3.9-dev
ENV BAZEL_VERSION 6.5.0
ENV TF_NCCL_VERSION=
ENV TMP="/tmp"
FROM base_build as binary_build
ARG TF_SERVING_BUILD_OPTIONS="--config=release"
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1 && \\
    LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs:${LD_LIBRARY_PATH} \\
    bazel build --color=yes --curses=yes --config=cuda_clang --copt="-fPIC"\\
    ${TF_SERVING_BAZEL_OPTIONS} \\
    --verbose_failures \\
    ${TF_SERVING_BUILD_OPTIONS} \\
    tensorflow_serving/model_servers:tensorflow_model_server
"""

_BAZELRC_2_19 = """\
# Optimizations used for releases.
build:release --copt=-mavx
build:release --copt=-msse4.2

build:cuda --repo_env TF_NEED_CUDA=1
build:cuda --crosstool_top=@local_config_cuda//crosstool:toolchain
build:cuda --@local_config_cuda//:enable_cuda
build:cuda_clang --config=cuda
build:cuda_clang --copt=-Wno-gnu-offsetof-extensions
build:cuda_clang --copt=-Wno-error=unused-command-line-argument
build:cuda_clang --host_copt=-Wno-error=unused-command-line-argument
build:cuda_clang --repo_env TF_NEED_TENSORRT=0
build:cuda_clang --action_env=TF_CUDA_CLANG="1"
build:cuda_clang --@local_config_cuda//:cuda_compiler=clang
build:cuda_clang --repo_env=TF_CUDA_COMPUTE_CAPABILITIES="sm_50,sm_60,sm_70,sm_80,compute_90"
build:cuda_clang --repo_env=HERMETIC_CUDA_VERSION="12.2.0"
build:cuda_clang --repo_env=HERMETIC_CUDNN_VERSION="8.9.4.25"
build:cuda_clang --action_env=GCC_HOST_COMPILER_PATH="/usr/bin/gcc-10"
build:cuda_clang --action_env=CLANG_CUDA_COMPILER_PATH="/usr/lib/llvm-17/bin/clang"
build:tpu --define=with_tpu_support=true --define=framework_shared_object=false
build:tpu --copt=-DLIBTPU_ON_GCE
build:mkl --define=build_with_mkl=true --define=enable_mkl=true --define=build_with_openmp=false
build:mkl --define=tensorflow_mkldnn_contraction_kernel=0
build:mkl_open_source_only --define=build_with_mkl_dnn_only=true
build:mkl_open_source_only --define=build_with_mkl=true --define=enable_mkl=true
build:mkl_open_source_only --define=tensorflow_mkldnn_contraction_kernel=0
build:mkl_aarch64 --define=build_with_mkl_aarch64=true --define=enable_mkl=true
build:mkl_aarch64 --define=tensorflow_mkldnn_contraction_kernel=0
build:mkl_aarch64 --define=build_with_mkl_opensource=true
build:mkl_aarch64 --define=build_with_openmp=true
build:mkl_aarch64 --copt=-march=armv8.2-a
build:mkl_aarch64 --copt=-O3
build --define=build_with_onednn_v2=true
build:nativeopt --copt=-march=native
build:nativeopt --host_copt=-march=native
build:nativeopt --copt=-O3
build:kokoro --repo_env=CC="/usr/bin/gcc-10"
build:kokoro --action_env=CC="/usr/bin/gcc-10"
build -c opt
build:macos --define std_synchronization_primitives=1  # a comment
"""

_WORKSPACE = """\
workspace(name = "tf_serving")
load("//tensorflow_serving:repo.bzl", "tensorflow_http_archive")

tensorflow_http_archive(
    name = "org_tensorflow",
    sha256 = "{sha256}",
    git_commit = "{commit}",
)

http_archive(
    name = "another",
    sha256 = "ddce3b3a3909f99b28b25071c40b7fec7e2e1d1d1a4b2e933f3082aa99517105",
)

{minimum}
"""

_VERSION = """\
#define TF_MODELSERVER_MAJOR_VERSION {}
#define TF_MODELSERVER_MINOR_VERSION {}
#define TF_MODELSERVER_PATCH_VERSION {}

#define TF_MODELSERVER_VERSION_SUFFIX "{}"
"""


def tree_2_19_1() -> Tree:
    """2.19.1, all but main.cc and the models."""
    return {
        DEVEL: _DEVEL_2_19,
        DEVEL_MKL: _DEVEL_MKL_2_19,
        DEVEL_GPU: _DEVEL_GPU_2_19,
        f"{DOCKER}/Dockerfile": _RUNTIME.format(base="ubuntu:20.04"),
        f"{DOCKER}/Dockerfile.mkl": _RUNTIME.format(base="ubuntu:20.04"),
        f"{DOCKER}/Dockerfile.gpu": _RUNTIME.format(base="nvidia/cuda:12.2.0-base-ubuntu20.04"),
        f"{DOCKER}/Dockerfile.devel-mkl-aarch64": "FROM ubuntu:20.04\n",
        f"{DOCKER}/README.md": "Dockerfiles.\n",
        ".bazelrc": _BAZELRC_2_19,
        "WORKSPACE": _WORKSPACE.format(
            sha256="b4cbd03710db2f05a0f4f5f238c496f39e6be34bab1a168e5c0ade1b23d74dfe",
            commit="f4247ebb6f9e7421f38c3f01a9a5d5cd54bd24fd",
            minimum='load("@bazel_skylib//lib:versions.bzl", "versions")\nversions.check("6.5.0")',
        ),
        f"{SERVERS}/version.h": _VERSION.format(2, 19, 1, "-rc0"),
    }


def tree_1_8_0() -> Tree:
    """1.8.0: tools/bazel.rc, capabilities in the environment, `-c opt` on the command line, no mkl, no version.h."""
    options = 'ARG TF_SERVING_BUILD_OPTIONS="--copt=-mavx --cxxopt=-D_GLIBCXX_USE_CXX11_ABI=0 --verbose_failures"\n'
    command = """\
RUN bazel build -c opt --color=yes --curses=yes {config}\\
    ${{TF_SERVING_BUILD_OPTIONS}} \\
    --output_filter=DONT_MATCH_ANYTHING \\
    tensorflow_serving/model_servers:tensorflow_model_server && \\
    cp bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server /usr/local/bin/
"""
    return {
        DEVEL: "FROM ubuntu:16.04\n"
        + _INSTALL_1_8
        + "ENV BAZEL_VERSION 0.11.1\n"
        + options
        + command.format(config=""),
        DEVEL_GPU: "FROM nvidia/cuda:9.0-cudnn7-devel-ubuntu16.04\n" + _INSTALL_1_8 + ""
        "ENV NCCL_VERSION=2.2.12-1+cuda9.0\n"
        "RUN apt-get install -y --allow-downgrades libnccl2=${NCCL_VERSION} libnccl-dev=${NCCL_VERSION}\n"
        "ENV BAZEL_VERSION 0.11.1\n"
        "ENV TF_NEED_CUDA 1\n"
        "ENV TF_CUDA_COMPUTE_CAPABILITIES=3.0,3.5,5.2,6.0,6.1,7.0\n"
        "ENV TF_CUDA_VERSION=9.0 TF_CUDNN_VERSION=7\n" + options + command.format(config="--config=cuda "),
        f"{DOCKER}/Dockerfile": "FROM ubuntu:16.04\n",
        "tools/bazel.rc": "build:cuda --crosstool_top=@local_config_cuda//crosstool:toolchain\n"
        "build:cuda --define=using_cuda=true --define=using_cuda_nvcc=true\n"
        "build --spawn_strategy=standalone --genrule_strategy=standalone\n",
        "WORKSPACE": _WORKSPACE.format(
            sha256="21445b2a7e0c4f0ba24e80425a26e1f59c98f818bdebe89b9274e73eff52b12d",
            commit="93bc2e2072e0daccbcff7a90d397b704a9e8f778",
            minimum='check_bazel_version_at_least("0.10.0")',
        ),
    }


def main_cc(flags: tuple[str, ...]) -> str:
    """The flags of main.cc, on two lines each."""
    listed = "".join(f'      tensorflow::Flag(\n          "{flag}", &options.{flag}, "..."),\n' for flag in flags)
    return f"int main(int argc, char** argv) {{\n  std::vector<tensorflow::Flag> flag_list = {{\n{listed}  }};\n}}\n"


def write_tree(folder: Path, tree: Mapping[str, str]) -> Path:
    for name, text in tree.items():
        file = folder / name
        if name.endswith("/"):
            file.mkdir(parents=True, exist_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return folder


def write_tag(repository: Path, tag: str, tree: Mapping[str, str]) -> Path:
    """Commit a tree to a git repository, which is made if there is none, as a tag."""
    run = partial(subprocess.run, cwd=write_tree(repository, tree), check=True, capture_output=True)
    settings = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgSign=false")
    run(["git", "init", "--quiet"])
    run(["git", "add", "--all"])
    run(["git", *settings, "commit", "--quiet", "--allow-empty", "--message", tag])
    run(["git", "tag", tag])
    return repository
