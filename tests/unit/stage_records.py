"""Records of the stages, whole, for the tests of those who read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving_factory.inspection.facts import DeviceCode, ElfFacts, ElfKind, InstructionSetFacts, Relro
from serving_factory.inspection.rules import Finding, Rule
from serving_factory.pipeline.records import Outputs, Record, write_record
from serving_factory.pipeline.stages.compile import Compiled
from serving_factory.pipeline.stages.extract import Extracted
from serving_factory.pipeline.stages.inspect import Inspected
from serving_factory.pipeline.stages.libraries import Libraries
from serving_factory.pipeline.stages.package import Packaged
from serving_factory.pipeline.stages.push import Place, Pushed
from serving_factory.pipeline.stages.smoke import Smoked

FACTS = {
    "version": "TensorFlow ModelServer: 2.19.1-rc0\nTensorFlow Library: 2.19.1",
    "version.exit": "0",
    "bazel": "bazel 6.5.0",
    "compiler": "gcc-9 (Debian) 9.3.0",
    "glibc": "ldd (Debian GLIBC 2.31-13) 2.31",
    "os-release": "Debian GNU/Linux 11 (bullseye)",
    "ldd": "libc.so.6 => /lib/libc.so.6",
    "packages": "ca-certificates=1",
    "base-libraries": "/lib/libc.so.6\nlibc.so.6",
}
ELF = ElfFacts(
    machine="x86-64",
    kind=ElfKind.PIE,
    build_id="dd10",
    needed=("libc.so.6",),
    runpath=None,
    interpreter="/lib64/ld-linux-x86-64.so.2",
    highest_glibc="GLIBC_2.29",
    highest_glibcxx=None,
    highest_cxxabi=None,
    size=7,
    stripped=True,
    isa_needed=None,
    relro=Relro.FULL,
)
CODE = InstructionSetFacts(
    functions=9,
    own_functions=7,
    named=True,
    code_bytes=5,
    scanned_bytes=5,
    by_feature={"avx": 8, "avx2": 4, "fma": 3},
    own={"avx": 6, "avx2": 3, "fma": 2},
    own_zones={},
    dispatch_owned={},
    examples={"fma": ("f",)},
    own_examples={},
)
OUTPUTS: Mapping[str, Outputs] = {
    "compile": Compiled(
        binary_sha256="b" * 64,
        debug_sha256="d" * 64,
        artifact="a" * 64,
        rootfs="f" * 64,
        facts=FACTS,
        base="ubuntu:20.04",
        base_digest="sha256:base",
        source="s" * 64,
        configs=("opt",),
        arguments={"COPTS": "--copt=-mavx"},
        steps=3,
        cached_steps=1,
        bazel_ran=True,
    ),
    "extract": Extracted(
        sha256="b" * 64,
        size=7,
        build_id="dd10",
        version=("TensorFlow ModelServer: 2.19.1-rc0", "TensorFlow Library: 2.19.1"),
        version_exit=0,
        bazel="bazel 6.5.0",
        compiler="gcc-9 (Debian) 9.3.0",
        glibc="ldd (Debian GLIBC 2.31-13) 2.31",
        distribution="Debian GNU/Linux 11 (bullseye)",
        libraries=("libc.so.6 => /lib/libc.so.6",),
        packages=("ca-certificates=1",),
        elf=ELF,
        instructions=CODE,
        device_code=DeviceCode(fat_binaries={}, sizes={}),
        opened=(),
    ),
    "libraries": Libraries(
        collected=False,
        rootfs="f" * 64,
        packages=("ca-certificates=1",),
        base="ubuntu:20.04",
        base_digest="sha256:base",
        distribution="Debian GNU/Linux 11 (bullseye)",
        glibc="ldd (Debian GLIBC 2.31-13) 2.31",
        base_libraries=("/lib/libc.so.6", "libc.so.6"),
    ),
    "inspect": Inspected(
        findings=(
            Finding(Rule.MACHINE, ok=True, text="x86-64"),
            Finding(Rule.VERSION, ok=None, text="not proven"),
        ),
        binary_sha256="b" * 64,
        cpu_flags=("avx",),
        opened=(),
    ),
    "package": Packaged(
        image="sha256:image", size=9, repository="r", tags=("full",), aliases=("alias",), binary_sha256="b" * 64
    ),
    "devel": Packaged(
        image="sha256:work", size=90, repository="r", tags=("full-devel",), aliases=(), binary_sha256="b" * 64
    ),
    "smoke": Smoked(checks={"ready": 0.5}, rest=(2.5, 3.0, 4.5), grpc=(2.5, 3.0, 4.5)),
    "push": Pushed(
        places=(
            Place(registry="h:5000", repository="r", digests={"full": "sha256:pushed"}, not_moved={}, pushed_layers=2),
        )
    ),
    "push_devel": Pushed(
        places=(
            Place(
                registry="h:5000", repository="r", digests={"full-devel": "sha256:work"}, not_moved={}, pushed_layers=3
            ),
        )
    ),
}


def outputs(stage: str, **changes: Any) -> Outputs:  # noqa: ANN401 - any field of any stage
    """What a stage records, but for these fields."""
    return replace(OUTPUTS[stage], **changes)


def record(stage: str, *, variant: str = "v", key: str = "k", seconds: float = 71.4, **changes: Any) -> Record[Any]:  # noqa: ANN401
    """A stage's record."""
    made = outputs(stage, **changes)
    return Record(
        variant=variant, stage=stage, key=key, started="2026-01-31T23:39:55+00:00", seconds=seconds, outputs=made
    )


def write_records(folder: Path, *stages: str) -> None:
    """Write records of stages to a variant's folder."""
    for stage in stages:
        write_record(folder, record(stage, variant=folder.name))


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


# What may lie where a file belongs.
OBSTACLES: Mapping[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": _link_to_itself,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}
