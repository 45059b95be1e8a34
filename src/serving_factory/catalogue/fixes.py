"""Known bad pairs: releases by flavour by level by compiler that do not compile or do not start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One change, as a script.

    Args:
        script: its file in dockerfiles/patches.
        releases: which releases need it.
        glibc: the oldest glibc that makes it needed.
        repository: the external repository that it changes.
        why: a sentence without its full stop.
        reference: where the same was done or reported.
    """

    script: str
    releases: SpecifierSet
    glibc: Version
    repository: str
    why: str
    reference: str


def fixes_for(release: Version, glibc: Version) -> tuple[Fix, ...]:
    """Give the changes that a release needs on a base with this glibc."""
    return tuple(fix for fix in _fixes() if release in fix.releases and glibc >= fix.glibc)


@cache
def _fixes() -> tuple[Fix, ...]:
    return tuple(
        Fix(
            script=script,
            releases=SpecifierSet(entry["releases"]),
            glibc=Version(entry["glibc"]),
            repository=entry["repository"],
            why=entry["why"],
            reference=entry["reference"],
        )
        for script, entry in read_yaml("fixes.yaml").items()
    )


_COMPILER = re.compile(r"([a-z]+)[ -](\d+(?:\.\d+)*)")


class Fails(StrEnum):
    """What goes wrong."""

    COMPILE = "compile"
    START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPair:
    """Something that is known to go wrong.

    Args:
        releases: which releases.
        flavours: which flavours.
        levels: which levels.
        compilers: compiler's name -> its versions; empty where the compiler does not matter.
        fails: what goes wrong.
        certain: whether the release itself was reported; else its branch was, before the release.
        reason: why, as the end of a sentence.
        references: URLs of reports.
    """

    releases: SpecifierSet
    flavours: frozenset[Flavour]
    levels: frozenset[Level]
    compilers: Mapping[str, SpecifierSet]
    fails: Fails
    certain: bool
    reason: str
    references: tuple[str, ...]

    def holds(self, release: str, flavour: Flavour, level: Level, compiler: str) -> bool:
        """Whether this is about such a build; a compiler of no known version is taken to be fine."""
        if release not in self.releases or flavour not in self.flavours or level not in self.levels:
            return False
        if not self.compilers:
            return True
        found = _COMPILER.match(compiler)
        return found is not None and found[1] in self.compilers and found[2] in self.compilers[found[1]]


@cache
def bad_pairs() -> tuple[BadPair, ...]:
    """Read all known bad pairs, in the file's order."""
    return tuple(
        BadPair(
            releases=SpecifierSet(entry["releases"]),
            flavours=frozenset(map(Flavour, entry.get("flavours", Flavour))),
            levels=frozenset(map(Level, entry.get("levels", Level))),
            compilers={name: SpecifierSet(versions) for name, versions in entry.get("compilers", {}).items()},
            fails=Fails(entry["fails"]),
            certain=entry["certain"],
            reason=entry["reason"],
            references=tuple(entry["references"]),
        )
        for entry in read_yaml("bad_pairs.yaml")
    )


def known_bad(release: str, flavour: Flavour, level: Level, compiler: str) -> tuple[BadPair, ...]:
    """Find what is known to go wrong with a build.

    Args:
        release: the full tag.
        flavour: what the server computes with.
        level: the CPU level.
        compiler: name and version, `gcc 9.4` or `clang-17`.
    """
    return tuple(pair for pair in _of_release(release) if pair.holds(release, flavour, level, compiler))


@cache
def _of_release(release: str) -> tuple[BadPair, ...]:
    return tuple(pair for pair in bad_pairs() if release in pair.releases)
