"""CPU features that upstream's own BUILD files add to every level."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_entry, read_yaml
from serving_factory.catalogue.starlark import build_files

_FEATURES = """
abm adx aes amx avx bmi crc32 cx16 f16c fma gfni lzcnt movbe pclmul popcnt rdrnd rdseed sha sse ssse tbm vaes vpclmul
xop xsave
"""
_FEATURE_FLAG = re.compile(rf"(?<![\w/.-])-m(?:(?:{'|'.join(_FEATURES.split())})|arch=(?!arm(?:v|64)))[\w.+=-]*")
_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|#.*""")
_RC = ("*.bazelrc", "bazel.rc")
_FOR_ALL_BUILDS = re.compile(r"\s*(?:build|common)\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFlag:
    """A flag of upstream's build rules."""

    flag: str  # as it stands there, `-msse3`
    features: frozenset[str]  # what the compiler may use with it
    releases: SpecifierSet  # which releases have it
    files: tuple[str, ...]  # where it stands in TensorFlow's tree, as patterns of paths
    # C++ namespaces of the files that are compiled with it; empty for the project's own code of any
    namespaces: tuple[str, ...]


def upstream_flags(release: Version) -> tuple[UpstreamFlag, ...]:
    """Return the flags that a release has."""
    return tuple(flag for flag in _flags() if release in flag.releases)


def upstream_namespaces() -> tuple[str, ...]:
    """Return every namespace that a flag is for, of any release; sorted."""
    return tuple(sorted({name for flag in _flags() for name in flag.namespaces}))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlistedFlag:
    """A flag for CPU features that a source tree has and the catalogue does not."""

    flag: str  # as it stands there
    file: str  # path within the tree
    line: int  # counted from 1


def unlisted_flags(folder: Path, release: Version) -> Iterator[UnlistedFlag]:
    """Find the flags of a source tree that the catalogue has neither as added nor as harmless."""
    # BUILD and .bzl files are read, and what `.bazelrc` says of every build. What a config there adds is chosen or not.
    listed = [(pattern, "", flag.flag) for flag in upstream_flags(release) for pattern in flag.files]
    for where, flags in read_yaml("upstream_flags.yaml")["elsewhere"].items():
        pattern, _, word = where.partition(" ")
        listed += [(pattern, word, flag) for flag in flags]
    before = ""
    for name, number, line in _lines(folder):
        near = f"{before}\n{line}"
        for flag in _FEATURE_FLAG.findall(line):
            if not any(flag == one and word in near and fnmatch(name, pattern) for pattern, word, one in listed):
                yield UnlistedFlag(flag=flag, file=name, line=number)
        before = line


def _lines(folder: Path) -> Iterator[tuple[str, int, str]]:
    """The lines that say how a tree is built, without comments: file, number, text."""
    settings = sorted(path for pattern in _RC for path in folder.rglob(pattern))
    for path in (*build_files(folder), *settings):
        name = path.relative_to(folder).as_posix()
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if path not in settings or _FOR_ALL_BUILDS.match(text):
                yield name, number, _COMMENT.sub(lambda found: found[1] or "", text)


@cache
def _flags() -> tuple[UpstreamFlag, ...]:
    return tuple(
        read_entry(UpstreamFlag, "upstream_flags.yaml", entry, notes=("source", "unread"))
        for entry in read_yaml("upstream_flags.yaml")["flags"]
    )
