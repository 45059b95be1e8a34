"""Reads the CPU level of a binary that was pulled, whose symbols are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from serving_factory.catalogue.upstream_flags import upstream_flags
from serving_factory.inspection.elf import read_elf
from serving_factory.inspection.facts import DeviceCode
from serving_factory.inspection.instruction_set import scan
from serving_factory.inspection.rules import Expectation, Rule, VersionAnswer, check

_RULES = {Rule.MACHINE, Rule.LEVEL_KEPT, Rule.LEVEL_USED}


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRead:
    """What the code of a binary says of its level."""

    wrong: str = ""
    found: str = ""
    proven: bool = True  # whether nothing is in doubt


def level_of(binary: Path, level: str, release: str) -> LevelRead:
    """Compare a binary with a level."""
    try:
        upstream = upstream_flags(Version(release))
    except InvalidVersion:  # a release with a name of its own
        upstream = ()
    read = read_elf(binary)
    expectation = Expectation(
        level=level, machine="x86-64", reported_version="", max_glibc=None, upstream=upstream, version_flag=False
    )
    findings = check(
        expectation,
        elf=read.facts,
        code=scan(read, None),
        device_code=DeviceCode(fat_binaries={}, sizes={}),
        version=VersionAnswer(0, ()),
        missing=(),
    )
    found = [one for one in findings if one.rule in _RULES]
    return LevelRead(
        wrong="; ".join(one.text for one in found if one.ok is False),
        found="; ".join(one.text for one in found),
        proven=all(one.ok for one in found),
    )
