"""Changes to sources that a base needs, and known bad pairs of release and flavour, level or compiler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_list, read_table
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One change, as a script."""

    script: str  # its file in dockerfiles/context
    releases: SpecifierSet  # which releases need it
    glibc: Version  # the oldest glibc that makes it needed
    repository: str  # the external repository that it changes
    why: str  # a sentence without its full stop
    reference: str  # where the same was done or reported


def fixes_for(release: Version, glibc: Version) -> tuple[Fix, ...]:
    """Return the changes that a release needs on a base with this glibc."""
    return tuple(fix for fix in _fixes() if release in fix.releases and glibc >= fix.glibc)


@cache
def _fixes() -> tuple[Fix, ...]:
    return tuple(read_table(Fix, "fixes.yaml", "script").values())


_COMPILER = re.compile(r"([a-z]+)[ -](\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPair:
    """A kind of build that is known not to compile."""

    releases: SpecifierSet  # which releases
    flavours: frozenset[Flavour] = frozenset(Flavour)
    levels: frozenset[Level] = frozenset(Level)
    # compiler's name -> its versions; empty where the compiler does not matter
    compilers: Mapping[str, SpecifierSet] = field(default_factory=dict)
    certain: bool  # whether the release itself was reported; else its branch was, before the release
    reason: str  # why, as the end of a sentence
    references: tuple[str, ...]  # URLs of reports

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
    return read_list(BadPair, "bad_pairs.yaml")


def known_bad(release: str, flavour: Flavour, level: Level, compiler: str) -> tuple[BadPair, ...]:
    """Find why a build is known not to compile; the compiler has its version, `gcc 9.4` or `clang-17`."""
    return tuple(pair for pair in _of_release(release) if pair.holds(release, flavour, level, compiler))


@cache
def _of_release(release: str) -> tuple[BadPair, ...]:
    return tuple(pair for pair in bad_pairs() if release in pair.releases)
