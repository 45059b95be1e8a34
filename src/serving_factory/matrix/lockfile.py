"""The lock file beside the matrix file: the digests of base images, and the checksums that the catalogue lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from serving_factory.errors import LockFileError, MatrixError
from serving_factory.matrix.document import Document, read_document
from serving_factory.matrix.problems import BrokenRuleError, matrix_error, shown
from serving_factory.matrix.schema import Notes, Section, Table, Text, key, matching
from serving_factory.matrix.words import IMAGE, VERSION

_RESTORE = "Restore it from version control."
_DIGEST = matching(r"sha256:[0-9a-f]{64}", "a digest is sha256: and 64 hex digits", _RESTORE)
_PACKAGE = matching(r"[a-z0-9][a-z0-9.+-]+", "a Debian package's name is lower case", _RESTORE)
_PACKAGE_VERSION = matching(r"[0-9][A-Za-z0-9.+:~-]*", "a Debian package's version begins with a digit", _RESTORE)
_SHA256 = matching(r"[0-9a-f]{64}", "a sha256 is 64 hex digits", _RESTORE)

_HEAD = """\
# What the builds of {matrix} start from, by content: `./factory lock` writes this file and keeps what stands in it,
# `./factory lock --update` takes what there is now, `./factory lock --check` shows what has changed upstream.
# Commit it. See docs/lock.md.
"""
_BASES = "# Base image -> digest of what its tag stands for: of the index of all platforms, where it has one.\n"
_BAZEL = "# Bazel -> sha256 of the asset bazel-VERSION-linux-x86_64 of that release, where the catalogue knows none.\n"
_PACKAGES = "# Base of images -> package -> the lowest version that they have of it: `./factory refresh` keeps these.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The pins: base image with its tag → `sha256:...`, and Bazel's version → sha256 of its release asset."""

    file: Path | None = None
    bases: Mapping[str, str] = field(default_factory=dict)
    bazel: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of the base of images: lowest versions

    def pinned(self, base: str) -> str:
        """Give the reference by which a Dockerfile names a base: `ubuntu:20.04@sha256:...` where it is locked."""
        digest = self.bases.get(base)
        return f"{base}@{digest}" if digest else base

    def upgrades(self, base: str) -> tuple[str, ...]:
        """Give the packages that the images on a base have at least in a version, NAME=VERSION."""
        return tuple(f"{name}={version}" for name, version in sorted(self.packages.get(base_name(base), {}).items()))


EMPTY = Lock()
"""Nothing is pinned."""


def _tagged(name: str) -> str:
    if "@" in name or ":" not in name.rpartition("/")[2]:
        raise BrokenRuleError("a base image stands here with its tag, and without a digest", "Write it like debian:12.")
    return str(IMAGE.check(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LockFile:
    """The keys of a lock file."""

    bases: Mapping[str, str] = key(Table(Text(_tagged), _DIGEST), "Base image -> digest.", dict)
    bazel: Mapping[str, str] = key(Table(VERSION, _SHA256), "Bazel's version -> sha256.", dict)
    packages: Mapping[str, Mapping[str, str]] = key(
        Table(IMAGE, Table(_PACKAGE, _PACKAGE_VERSION)), "Base image of images -> package -> lowest version.", dict
    )


def base_name(base: str) -> str:
    """Name a base image as the lock file does: without its digest."""
    return base.partition("@")[0]


def lock_path(matrix_file: Path) -> Path:
    """Name a matrix's lock file: `matrix.lock` beside `matrix.yaml`."""
    # A matrix file that is named so must not be its own lock file.
    return matrix_file.with_suffix(".lock.lock" if matrix_file.suffix == ".lock" else ".lock")


def read_lock(matrix_file: Path) -> Lock:
    """Read the lock file of a matrix file; an empty lock where there is none.

    Raises:
        LockFileError: it cannot be used; the message lists every problem with its position.
    """
    file = lock_path(matrix_file)
    if not os.path.exists(file):  # noqa: PTH110 - Path.exists raises for a name that is too long
        return Lock(file=file)
    try:
        document = _document(file)
        notes = Notes(document.written)
        read = Section(_LockFile).read(document.data, (), notes)
        if problems := [*document.problems, *map(document.located, notes.found)]:
            raise matrix_error(file, problems)
    except MatrixError as error:
        raise LockFileError(
            f"the lock file cannot be used: {error.what}",
            why=error.why,
            remedy="restore the file from version control; or delete it, and write a new one with `./factory lock`",
        ) from None
    return Lock(file=file, bases=read.bases, bazel=read.bazel, packages=read.packages)


def _document(file: Path) -> Document:
    if not file.is_file():  # to open a pipe would be to wait for its writer
        raise MatrixError(f"{shown(file)}: this is not a file")
    return read_document(file)


def lock_text(lock: Lock, *, matrix: str) -> str:
    """Write a lock as the text of its file: sorted, a line for each pin; `matrix` is named in its head."""
    parts = [_HEAD.format(matrix=matrix)]
    if lock.bases:
        lines = (f'  "{base}": {lock.bases[base]}\n' for base in sorted(lock.bases))
        parts += [_BASES, "bases:\n", *lines]
    if lock.bazel:
        lines = (f'  "{version}": "{lock.bazel[version]}"\n' for version in sorted(sorted(lock.bazel), key=Version))
        parts += [_BAZEL, "bazel:\n", *lines]
    if lock.packages:
        parts += [_PACKAGES, "packages:\n"]
        for base, versions in sorted(lock.packages.items()):
            parts += [f'  "{base}":\n', *(f'    "{name}": "{versions[name]}"\n' for name in sorted(versions))]
    if not (lock.bases or lock.bazel or lock.packages):
        parts.append("bases: {}\n")
    return "".join(parts)
