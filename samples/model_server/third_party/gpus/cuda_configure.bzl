# SPDX-License-Identifier: Apache-2.0
"""CUDA of a folder, as an external repository, empty unless TF_NEED_CUDA is 1. Names of repository and variables are upstream's."""

# clang until 19 says what goes into a fat binary as CUDA 12 reads it; from 13 on, fatbinary reads only this. A driver of CUDA 12.2 need
# not know how a later fatbinary compresses.
_FATBINARY = """#!/bin/sh
for word; do
    shift
    set -- "$@" "$(echo "$word" | sed 's/^--image=profile=sm_/--image3=kind=elf,sm=/; s/^--image=profile=compute_/--image3=kind=ptx,sm=/')"
done
exec "${0%/*}/fatbinary-13" --compress=false "$@"
"""

_BUILD = 'filegroup(name = "cuda", srcs = glob(["cuda/**"]), visibility = ["//visibility:public"])'

_DEFINITIONS = """
CUDA_CLANG = %r
CUDA_CLANG_VERSION = %r
CUDA_COPTS = %r

def if_cuda(yes, no = []):
    return yes if CUDA_CLANG else no
"""

def _architectures(words):
    """clang's options for TF_CUDA_COMPUTE_CAPABILITIES: sm_80 is machine code, compute_80 that and PTX."""
    if all(["." in word for word in words]):
        # Upstream's reading of a list of 8.0 alone: PTX for the highest of them.
        numbers = sorted([int(word.replace(".", "")) for word in words])
        words = ["sm_%d" % number for number in numbers[:-1]] + ["compute_%d" % numbers[-1]]
    options = ["--no-cuda-include-ptx=all"]
    for word in words:
        number = word.replace(".", "").replace("sm_", "").replace("compute_", "")
        options.append("--cuda-gpu-arch=sm_" + number)
        if not word.startswith("sm_"):
            options.append("--cuda-include-ptx=sm_" + number)
    return options

def _cuda_configure(ctx):
    ctx.file("BUILD", _BUILD)
    if ctx.os.environ.get("TF_NEED_CUDA") != "1":
        ctx.file("build_defs.bzl", _DEFINITIONS % ("", "", []))
        return
    folder, clang = [ctx.os.environ.get(name) for name in _PATHS]
    if not (folder and clang):
        fail("TF_NEED_CUDA=1 needs " + " and ".join(_PATHS))
    for part in ["bin/ptxas", "include", "nvvm/libdevice"]:
        ctx.symlink(folder + "/" + part, "cuda/" + part)
    fatbinary = folder + "/bin/fatbinary"
    if "--image " in ctx.execute([fatbinary, "--help"]).stdout:
        ctx.symlink(fatbinary, "cuda/bin/fatbinary")
    else:
        ctx.symlink(fatbinary, "cuda/bin/fatbinary-13")
        ctx.file("cuda/bin/fatbinary", _FATBINARY)
    version = ctx.execute([clang, "--version"]).stdout.split("\n")[0]
    copts = _architectures(ctx.os.environ["TF_CUDA_COMPUTE_CAPABILITIES"].split(","))
    ctx.file("build_defs.bzl", _DEFINITIONS % (clang, version, copts))

_PATHS = ["LOCAL_CUDA_PATH", "CLANG_CUDA_COMPILER_PATH"]

cuda_configure = repository_rule(
    implementation = _cuda_configure,
    environ = ["TF_NEED_CUDA", "TF_CUDA_COMPUTE_CAPABILITIES"] + _PATHS,
)
