"""CPU features that upstream's own BUILD files add to every level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["UpstreamFlag", "upstream_flags", "upstream_namespaces"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFlag:
    """A flag of upstream's build rules.

    Args:
        flag: as it stands there, `-msse3`.
        features: what the compiler may use with it.
        releases: which releases have it.
        namespaces: C++ namespaces of the files that are compiled with it; empty for the project's own code of any.
        source: where it stands.
    """

    flag: str
    features: frozenset[str]
    releases: SpecifierSet
    namespaces: tuple[str, ...]
    source: str


def upstream_flags(release: Version) -> tuple[UpstreamFlag, ...]:
    """Give the flags that a release has."""
    return tuple(flag for flag in _flags() if release in flag.releases)


def upstream_namespaces() -> tuple[str, ...]:
    """Give every namespace that a flag is for, of any release; sorted."""
    return tuple(sorted({name for flag in _flags() for name in flag.namespaces}))


@cache
def _flags() -> tuple[UpstreamFlag, ...]:
    return tuple(_flag(entry) for entry in read_yaml("upstream_flags.yaml"))


def _flag(entry: Mapping[str, str]) -> UpstreamFlag:
    return UpstreamFlag(
        flag=entry["flag"],
        features=frozenset(entry["features"]),
        releases=SpecifierSet(entry["releases"]),
        namespaces=tuple(entry["namespaces"]),
        source=" ".join(entry["source"].split()),
    )
