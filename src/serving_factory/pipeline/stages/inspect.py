"""inspect: ask the binary, and compare its answers with what the variant asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from serving_factory.catalogue.data import data_digest
from serving_factory.catalogue.levels import Level, cpuinfo_names, level_facts
from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.inspection.rules import Expectation, VersionAnswer, added_features, check, verdict_error
from serving_factory.matrix.variant import Platform
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.stages.extract import read_fact
from serving_factory.recipes.recipe import key_of

_FORMAT = 3
"""Raised whenever the rules check otherwise, or the record holds something else."""

_DATA = ("levels.yaml", "upstream_flags.yaml")

_MACHINES: Mapping[Platform, str] = {Platform.LINUX_AMD64: "x86-64", Platform.LINUX_ARM64: "aarch64"}


def _key(job: Job) -> str:
    return key_of(
        extract=job.record(StageName.EXTRACT).key,
        level=job.recipe.variant.level,
        reported=job.recipe.release.reported,
        release=job.recipe.release.tag,
        rootfs=job.site.tree(job.artifact / "rootfs"),
        format=_FORMAT,
        data={name: data_digest(name) for name in _DATA},
    )


def _run(job: Job, progress: Progress) -> Outputs:
    # Their libraries are slow to import: only a run that inspects waits for them.
    from serving_factory.inspection.elf import library_closure_gaps
    from serving_factory.inspection.facts import ElfFacts, ElfKind, InstructionSetFacts, Relro

    found = job.record(StageName.EXTRACT).outputs
    data = found["elf"]
    elf = ElfFacts(
        **{**data, "kind": ElfKind(data["kind"]), "relro": Relro(data["relro"]), "needed": tuple(data["needed"])}
    )
    progress("comparing what was found with what was asked for")
    expectation, code = _expectation(job), InstructionSetFacts(**found["instructions"])
    findings = check(
        expectation,
        elf=elf,
        code=code,
        version=VersionAnswer(found["version_exit"], tuple(found["version"])),
        missing=library_closure_gaps(
            elf.needed, job.artifact / "rootfs", frozenset(read_fact(job, "base-libraries").splitlines())
        ),
    )
    if error := verdict_error(findings, job.recipe.variant.id):
        raise error
    return {
        "findings": [{"rule": finding.rule, "ok": finding.ok, "text": finding.text} for finding in findings],
        "binary_sha256": found["sha256"],
        "cpu_flags": [
            *level_facts(job.recipe.variant.level).cpuinfo,
            *cpuinfo_names(added_features(expectation, code)),
        ],
    }


def _expectation(job: Job) -> Expectation:
    variant = job.recipe.variant
    # The devel and the runtime image stand on the same base, so its C library is the binary's own.
    glibc = re.search(r"\d+\.\d+", read_fact(job, "glibc").rpartition(" ")[2])
    return Expectation(
        level=Level(variant.level).value,
        machine=_MACHINES[variant.platform],
        reported_version=job.recipe.release.reported,
        max_glibc=glibc.group() if glibc else None,
        upstream=upstream_flags(job.recipe.release.version),
    )


INSPECT = Stage(name=StageName.INSPECT, key=_key, run=_run)
