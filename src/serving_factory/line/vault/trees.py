"""Reads the files that rules name by label: of the source tree, of overrides, of archives in the distdir."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from serving_factory.errors import OverrideError
from serving_factory.line.digests import file_digest
from serving_factory.line.preflight_report import Declared
from serving_factory.line.vault.override import Labels
from serving_factory.line.vault.unpacking import readable
from serving_factory.recipes.recipe import Recipe

__all__ = ["labels_of"]

_Reader = Callable[[PurePosixPath], bytes | None]


def labels_of(recipe: Recipe, declared: Mapping[str, Declared]) -> Labels:
    """Read labels as the sources of a variant mean them.

    Args:
        recipe: of the variant.
        declared: what its sources declare, by name.
    """
    overrides = dict(recipe.doors.overrides)

    def tree(repository: str) -> _Reader | None:
        if not repository:
            if isinstance(recipe.source, Path):
                return _folder(recipe.source)
            raise OverrideError(
                f"{recipe.variant.id}: the sources are at {recipe.source}, where a label's file cannot be read",
                remedy="name a checkout at `source:` in the matrix file",
            )
        if folder := overrides.get(repository):
            return _folder(folder)
        rule, distdir = declared.get(repository), recipe.doors.distdir
        archive = _archive_of(rule, distdir) if rule and distdir else None
        return _archive(archive, str(rule.attributes.get("strip_prefix") or "")) if rule and archive else None

    return Labels(tree)


def _archive_of(rule: Declared, distdir: Path) -> Path | None:
    """Find a repository's archive by name and checksum, as Bazel does."""
    for name in {url.rpartition("/")[2] for url in rule.urls}:
        place = distdir / name
        if place.is_file() and rule.sha256 in {None, file_digest(place)}:
            return place
    return None


def _folder(folder: Path) -> _Reader:
    def read(path: PurePosixPath) -> bytes | None:
        place = folder / path
        return place.read_bytes() if place.is_file() else None

    return read


def _archive(file: Path, prefix: str) -> _Reader:
    def read(path: PurePosixPath) -> bytes | None:
        name = str(PurePosixPath(prefix) / path)
        with readable(file), suppress(KeyError):
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as zipped:
                    return zipped.read(name)
            with tarfile.open(file) as tar:
                member = tar.extractfile(name)
                return member.read() if member else None
        return None

    return read
