"""extract: read all that is worth knowing from the binary itself, and put it where a user looks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from serving_factory.catalogue.data import data_digest
from serving_factory.errors import ArtifactError
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.records import Record, file_digest
from serving_factory.pipeline.stages.compile import BINARY
from serving_factory.recipes.recipe import key_of

_FORMAT = 3
"""Raised whenever this module reads something more, or otherwise, from the same binary."""

_VERSION_LINES = ("TensorFlow ModelServer: ", "TensorFlow Library: ")

_DATA = ("dispatch_owned.yaml", "upstream_flags.yaml")
"""What tells whose code a function is."""


def _key(job: Job) -> str:
    compiled = job.record(StageName.COMPILE)
    return key_of(
        compile=compiled.key,
        binary=compiled.outputs["binary_sha256"],
        format=_FORMAT,
        data={name: data_digest(name) for name in _DATA},
    )


def _run(job: Job, progress: Progress) -> Outputs:
    # Their libraries are slow to import: only a run that reads a binary waits for them.
    from serving_factory.inspection.elf import read_elf
    from serving_factory.inspection.instruction_set import scan

    binary, debug = _take(job, BINARY), _take(job, f"{BINARY}.debug")
    progress("reading the ELF headers")
    read = read_elf(binary)
    elf = read.facts
    progress(f"disassembling {elf.size / 2**20:.0f} MiB")
    instructions = scan(read, debug)
    compiled = job.record(StageName.COMPILE)
    return {
        "sha256": file_digest(binary),
        "size": elf.size,
        "build_id": elf.build_id,
        "version": version_lines(read_fact(job, "version")),
        "version_exit": int(read_fact(job, "version.exit")),
        "bazel": read_fact(job, "bazel"),
        "compiler": read_fact(job, "compiler"),
        "glibc": read_fact(job, "glibc"),
        "distribution": read_fact(job, "os-release"),
        "copts": list(job.recipe.variant.all_copts),
        "configs": list(job.recipe.toolchain.configs),
        "source": compiled.outputs["source"],
        "base": compiled.outputs["base"],
        "base_digest": compiled.outputs["base_digest"],
        "compile_key": compiled.key,
        "libraries": read_fact(job, "ldd").splitlines(),
        "packages": read_fact(job, "packages").splitlines(),
        "elf": asdict(elf),
        "instructions": asdict(instructions),
    }


def version_lines(printed: str) -> list[str]:
    """Pick what `--version` says out of what the server printed; where it says nothing of the kind, the last line.

    Libraries may print lines of their own when they are loaded. Servers that know no `--version` print their usage, and
    have said nothing.
    """
    lines = printed.splitlines()
    if found := [line for line in lines if line.startswith(_VERSION_LINES)]:
        return found
    return [] if any(line.lower().startswith("usage: ") for line in lines) else lines[-1:]


def server_version(lines: Sequence[str]) -> str:
    """Give the version that the server reports of itself; empty where it knows no `--version`.

    Args:
        lines: as `version_lines` gives them.
    """
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(_VERSION_LINES[0])), "")


def _take(job: Job, name: str) -> Path:
    """Link a file of the artifact to the variant's folder: one file, two names."""
    source = job.artifact / name
    if not source.is_file():
        raise ArtifactError(
            f"{job.recipe.variant.id}: the build left no file {name}",
            remedy=f"read {job.log(StageName.COMPILE)}, fix the cause, delete {job.folder} and build again",
        )
    place = job.folder / name
    place.unlink(missing_ok=True)
    place.hardlink_to(source)
    return place


def read_fact(job: Job, name: str) -> str:
    """Read one of the facts that the devel image wrote down, without the line end.

    Raises:
        ArtifactError: the devel image left no such fact.
    """
    try:
        return (job.artifact / "facts" / name).read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except FileNotFoundError:
        raise ArtifactError(
            f"{job.recipe.variant.id}: the build left no fact {name!r}",
            remedy=f"read {job.log(StageName.COMPILE)}, fix the cause, delete {job.folder} and build again",
        ) from None


def _intact(job: Job, record: Record) -> bool:
    place = job.folder / BINARY
    return place.is_file() and place.stat().st_size == record.outputs["size"]


EXTRACT = Stage(name=StageName.EXTRACT, key=_key, run=_run, intact=_intact)
