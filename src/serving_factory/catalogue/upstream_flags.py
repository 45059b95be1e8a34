"""CPU features that upstream's own BUILD files add to every level."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.starlark import build_files

__all__ = ["UnlistedFlag", "UpstreamFlag", "unlisted_flags", "upstream_flags", "upstream_namespaces"]

_FEATURE_FLAG = re.compile(
    r"[\"'= ](-m(?:sse|ssse|avx|fma|popcnt|bmi|f16c|aes|pclmul|sha|adx|amx|lzcnt|movbe|cx16|arch=(?!arm))[\w.=+-]*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFlag:
    """A flag of upstream's build rules.

    Args:
        flag: as it stands there, `-msse3`.
        features: what the compiler may use with it.
        releases: which releases have it.
        files: where it stands in TensorFlow's tree, as patterns of paths.
        namespaces: C++ namespaces of the files that are compiled with it; empty for the project's own code of any.
        source: where it stands.
    """

    flag: str
    features: frozenset[str]
    releases: SpecifierSet
    files: tuple[str, ...]
    namespaces: tuple[str, ...]
    source: str


def upstream_flags(release: Version) -> tuple[UpstreamFlag, ...]:
    """Give the flags that a release has."""
    return tuple(flag for flag in _flags() if release in flag.releases)


def upstream_namespaces() -> tuple[str, ...]:
    """Give every namespace that a flag is for, of any release; sorted."""
    return tuple(sorted({name for flag in _flags() for name in flag.namespaces}))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlistedFlag:
    """A flag for CPU features that a source tree has and the catalogue does not.

    Args:
        flag: as it stands there.
        file: path within the tree.
        line: counted from 1.
    """

    flag: str
    file: str
    line: int


def unlisted_flags(folder: Path, release: Version) -> Iterator[UnlistedFlag]:
    """Find the flags in TensorFlow's BUILD and .bzl files that the catalogue has neither as added nor as harmless.

    Args:
        folder: TensorFlow's sources.
        release: of TensorFlow Serving, which pins them.
    """
    listed = [(pattern, flag.flag) for flag in upstream_flags(release) for pattern in flag.files]
    elsewhere = read_yaml("upstream_flags.yaml")["elsewhere"]
    listed += [(pattern, flag) for pattern, flags in elsewhere.items() for flag in flags]
    for path in build_files(folder):
        name = path.relative_to(folder).as_posix()
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            for found in _FEATURE_FLAG.finditer(text.partition("#")[0]):
                if not any(found[1] == flag and fnmatch(name, pattern) for pattern, flag in listed):
                    yield UnlistedFlag(flag=found[1], file=name, line=number)


@cache
def _flags() -> tuple[UpstreamFlag, ...]:
    return tuple(_flag(entry) for entry in read_yaml("upstream_flags.yaml")["flags"])


def _flag(entry: Mapping[str, str]) -> UpstreamFlag:
    return UpstreamFlag(
        flag=entry["flag"],
        features=frozenset(entry["features"]),
        releases=SpecifierSet(entry["releases"]),
        files=tuple(entry["files"]),
        namespaces=tuple(entry["namespaces"]),
        source=" ".join(entry["source"].split()),
    )
