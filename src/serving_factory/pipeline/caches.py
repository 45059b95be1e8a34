"""Bazel's caches in the engine: what they hold, keeping them within bounds, and carrying them to another engine.

BuildKit keeps cache mounts to itself: its own exporters leave them out, and an eviction of its own takes a mount as a
whole. So what is done to them is done by a build step that mounts them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from serving_factory.docker.buildx import BuildFailed
from serving_factory.docker.caches import work_on_mounts
from serving_factory.docker.client import FREE_SOME_SPACE
from serving_factory.errors import CacheFileError, DiskFullError, EngineError, UnknownNameError
from serving_factory.pipeline.failures import Kind, classify
from serving_factory.recipes.recipe import CONTEXT

REPOSITORY = "repository"
_FORMAT = 1
_MANIFEST = "serving-factory-cache.json"
_CONTENTS = ("contents.tar.gz", "contents.tar.zst")
_CHUNK = 1 << 20
_IMPORTING = ".cache-import-"
_BAD_PARCEL = 3  # cache.sh's exit code for a tarball that it does not take


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The repository cache, which all builds share, or the disk cache of one toolchain."""

    name: str  # `repository`, or the toolchain's id
    bytes: int
    files: int
    used: int  # when a file was read or written last, in seconds since 1970; 0 where that is not known
    toolchain: str  # compiler and system; empty for the repository cache, and where no build has said so


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What came or went, and the caches after that."""

    bytes: int
    files: int
    caches: tuple[Cache, ...]


def show_caches(base: str) -> tuple[Cache, ...]:
    """Look at the caches from a base image; EngineError where that cannot be done."""
    return _caches(_work(["show"], base))


def prune_caches(base: str, *, most: int, toolchain: str = "") -> Changed:
    """Remove what was used least recently, down to `most` bytes; of one toolchain's cache only where one is named."""
    if toolchain and toolchain not in (names := [cache.name for cache in show_caches(base)[1:]]):
        raise UnknownNameError(
            f"no toolchain {toolchain} has a disk cache here",
            why=f"those that have: {', '.join(names) or 'none'}",
            remedy="take one of `./factory cache show`",
        )
    return _changed(_work(["prune", str(most), *([toolchain] if toolchain else [])], base), "pruned")


def empty_cache(base: str, name: str) -> None:
    """Remove all entries of a cache, `repository` or `disk`, even in use: to a Bazel that reads it, they are misses."""
    _work(["empty", name], base)


def export_caches(base: str, file: Path) -> tuple[Cache, ...]:
    """Write the caches to a tarball, whole or not at all: a manifest in JSON, then a packed tarball of the caches."""
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as scratch:
        packed = Path(scratch, "packed")
        caches = _caches(_work(["pack"], base, output=packed))
        contents = next((packed / "serving-factory-cache").glob("contents.tar.*"))
        digest = (contents.parent / "contents.sha256").read_text(encoding="utf-8").split()[0]
        manifest = Path(scratch, _MANIFEST)
        content = {"format": _FORMAT, "sha256": digest, "caches": [asdict(cache) for cache in caches]}
        manifest.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial = Path(scratch, "partial")
        with tarfile.open(partial, "w") as tar:
            tar.add(manifest, _MANIFEST)
            tar.add(contents, contents.name)
        partial.replace(file)
    return caches


def import_caches(base: str, file: Path, *, scratch: Path) -> Changed:
    """Add what an exported file has and the caches have not; nothing is taken away."""
    for stray in scratch.glob(f"{_IMPORTING}*"):
        shutil.rmtree(stray, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_IMPORTING, dir=scratch) as folder:
        parcel = Path(folder, "parcel")
        parcel.mkdir()
        try:
            with tarfile.open(file, "r:") as tar:
                _unpack(tar, parcel, file)
        except (tarfile.TarError, EOFError) as error:
            raise _unusable(file, f"it is not a tarball, or was cut off: {error}") from None
        try:
            return _changed(_work(["unpack"], base, parcel=parcel), "added")
        except EngineError as error:
            if isinstance(error.__cause__, BuildFailed) and error.__cause__.exit_code == _BAD_PARCEL:
                raise _unusable(file, error.why) from None
            raise


def _unpack(tar: tarfile.TarFile, parcel: Path, file: Path) -> None:
    first, second = tar.next(), tar.next()
    if first is None or second is None or first.name != _MANIFEST or second.name not in _CONTENTS:
        raise _unusable(file, "it was not written by `./factory cache export`")
    manifest = _manifest(_opened(tar, first), file)
    digest = hashlib.sha256()
    with _opened(tar, second) as source, (parcel / second.name).open("wb") as target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != manifest["sha256"]:
        raise _unusable(file, f"sha256 of {second.name}: {digest.hexdigest()}; expected: {manifest['sha256']}")


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    # A link is not followed: what it leads to may be missing, or itself.
    opened = tar.extractfile(member) if member.isreg() else None
    if opened is None:
        raise tarfile.ReadError(f"{member.name} is not a file")
    return opened


def _manifest(stream: IO[bytes], file: Path) -> dict[str, Any]:
    try:
        found = json.loads(stream.read(_CHUNK))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("sha256"), str):
        raise _unusable(file, f"{_MANIFEST} in it cannot be read")
    if found.get("format") != _FORMAT:
        raise _unusable(file, f"its format is {found.get('format')!r}, and this factory reads format {_FORMAT}")
    return found


def _unusable(file: Path, why: str) -> CacheFileError:
    return CacheFileError(
        f"{file} holds no caches that can be used", why=why, remedy="copy it again, or export the caches once more"
    )


def _work(words: Sequence[str], base: str, **places: Path) -> Sequence[str]:
    try:
        return work_on_mounts(CONTEXT, words, base=base, **places)
    except BuildFailed as failed:
        why = "\n".join(failed.tail) or failed.text
        if classify(f"{why}\n{failed.text}", exit_code=failed.exit_code).kind is Kind.DISK_FULL:
            raise DiskFullError(
                "the engine's disk is full: nothing more goes into Bazel's caches",
                why=why,
                remedy=f"{FREE_SOME_SPACE}; then run the same command again",
            ) from failed
        raise EngineError(
            f"Bazel's caches cannot be worked on from the image {base}",
            why=why,
            remedy="see that the engine can get this base image; with --matrix another matrix's is taken",
        ) from failed


def _caches(lines: Sequence[str]) -> tuple[Cache, ...]:
    found = [line.split(" ", 5) for line in lines if line.startswith("cache ")]
    return tuple(
        Cache(name=name, bytes=int(size), files=int(files), used=int(used), toolchain=words[0] if words else "")
        for _, name, size, files, used, *words in found
    )


def _changed(lines: Sequence[str], word: str) -> Changed:
    _, size, files = next(line.split() for line in lines if line.startswith(f"{word} "))
    return Changed(bytes=int(size), files=int(files), caches=_caches(lines))
