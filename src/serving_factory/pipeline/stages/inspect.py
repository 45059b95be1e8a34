"""inspect: compare what the binary says of itself with what the variant asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.catalogue.levels import Level, cpuinfo_names, instruction_flags, level_facts
from serving_factory.catalogue.libraries import opened_libraries
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.inspection.rules import Expectation, Finding, VersionAnswer, added_features, check, verdict_error
from serving_factory.matrix.variant import Platform
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.libraries import LIBRARIES, libraries_folder

_MACHINES: Mapping[Platform, str] = {Platform.LINUX_AMD64: "x86-64", Platform.LINUX_ARM64: "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected(Outputs):
    """What the rules say of a binary."""

    findings: tuple[Finding, ...]  # all of them passed, or could not be asked
    binary_sha256: str  # of which binary
    cpu_flags: tuple[str, ...]  # what /proc/cpuinfo must list for it to run
    opened: tuple[str, ...]  # the sonames that it and its libraries open while it runs, without those of a driver


def _inputs(job: Job) -> Mapping[str, object]:
    libraries = job.record(LIBRARIES).outputs
    return {
        "extract": job.record(EXTRACT).key,
        "rootfs": libraries.rootfs,
        "cpu": _native_flags(job),
        "base": [libraries.glibc, libraries.base_libraries],
        "level": job.recipe.variant.level,
        "platform": job.recipe.variant.platform,
        "release": job.recipe.release.tag,
        "device_code": [job.recipe.variant.device_code, job.recipe.variant.names_capabilities],
        "reported": job.recipe.release.reported,
    }


def _run(job: Job, progress: Progress) -> Inspected:
    # Its library is slow to import: only a run that inspects waits for it.
    from serving_factory.inspection.elf import BINARY, libraries_glibc, library_closure_gaps

    libraries, binary = job.record(LIBRARIES).outputs, job.record(EXTRACT).outputs
    rootfs = libraries_folder(job) / "rootfs"
    progress("comparing what was found with what was asked for")
    expectation = _expectation(job, libraries.glibc)
    gpu = job.recipe.release.flavours[job.recipe.variant.flavour].gpu
    opened = opened_libraries(binary.opened, gpu) if gpu else {}
    required = {**opened, **dict.fromkeys(binary.elf.needed, BINARY)}
    findings = check(
        expectation,
        elf=binary.elf,
        code=binary.instructions,
        device_code=binary.device_code,
        version=VersionAnswer(binary.version_exit, binary.version),
        missing=library_closure_gaps(required, rootfs, frozenset(libraries.base_libraries)),
        libraries_glibc=libraries_glibc(rootfs),
    )
    if error := verdict_error(findings, job.recipe.variant.id):
        raise error
    added = added_features(expectation, binary.instructions)
    return Inspected(
        findings=tuple(findings),
        binary_sha256=binary.sha256,
        opened=tuple(sorted(opened)),
        cpu_flags=_native_flags(job) or (*level_facts(job.recipe.variant.level).cpuinfo, *cpuinfo_names(added)),
    )


def _native_flags(job: Job) -> tuple[str, ...]:
    """What a binary for the CPU of the machine that compiled it needs; nothing for other levels."""
    file = job.artifact / "facts" / "cpu-flags"
    return instruction_flags(file.read_text(encoding="utf-8").split()) if file.is_file() else ()


def _expectation(job: Job, glibc: str) -> Expectation:
    variant = job.recipe.variant
    version = re.search(r"\d+\.\d+", glibc.rpartition(" ")[2])
    return Expectation(
        level=Level(variant.level).value,
        machine=_MACHINES[variant.platform],
        reported_version=job.recipe.release.reported,
        version_flag=job.recipe.release.server.version_flag,
        max_glibc=version.group() if version else None,
        upstream=upstream_flags(job.recipe.release.version),
        device_code=variant.device_code,
        device_code_named=variant.names_capabilities,
    )


INSPECT = Stage(
    name="inspect",
    version=7,
    outputs=Inspected,
    inputs=_inputs,
    run=_run,
    needs=(EXTRACT, LIBRARIES),
    data=("instruction_sets.yaml", "levels.yaml", "upstream_flags.yaml", "opened_libraries.yaml"),
)
