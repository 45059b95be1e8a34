"""An image as a registry has it, read without Docker: digests of its layers, and the few files that are looked at."""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from serving_factory.docker.process import Cancel
from serving_factory.docker.registry import INDEX, ImageName, Manifest, Registry, listed, members
from serving_factory.errors import RegistryError, os_errors_typed
from serving_factory.proofs.described import IMAGE_JSON

IMAGE_FILE = IMAGE_JSON.removeprefix("/")  # as a layer names it
_LISTS = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_AT_ONCE = 2  # layers; each takes a CPU to decompress
_LIMIT = 2**23  # bytes of a small file
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # image specification, "Whiteouts"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a layer."""

    size: int
    sha256: str
    content: bytes  # of a small file; else empty
    kept: Path | None = None  # a copy


REMOVED = File(size=0, sha256="", content=b"")
"""Stands for a file of a lower layer that is not there any more, or is a link or a folder now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer as it came."""

    digest: str  # of what the registry sent; empty where it sent nothing
    size: int
    diff_id: str  # of what that holds, unpacked; empty where it is no archive that is known here
    trouble: str = ""  # why it could not be read
    files: Mapping[str, File] = field(default_factory=dict)  # those that are looked at: path without a leading slash


class WrongError(Exception):
    """What a registry has of an image is not what it must be."""


class AbsentError(Exception):
    """What is looked for in an image is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a registry has of an image."""

    manifest: Manifest
    config: bytes | None = None
    layers: tuple[Layer, ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the configuration says; AbsentError where it cannot be read."""
        try:
            found = json.loads(self.config or b"")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise AbsentError("the configuration cannot be read")
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        labels = members(members(self.settings.get("config")).get("Labels"))
        return {name: str(value) for name, value in labels.items()}

    def label(self, name: str) -> str:
        """A label; AbsentError where it has none."""
        if found := self.labels.get(name):
            return found
        raise AbsentError(f"the image has no label {name}")

    def uppermost(self, path: str) -> File | None:
        """What the uppermost layer has of a path, `REMOVED` among others; None where none has anything."""
        return next((layer.files[path] for layer in reversed(self.layers) if path in layer.files), None)

    def file(self, path: str) -> File:
        """The uppermost file at a path; AbsentError where there is none."""
        found = self.uppermost(path)
        if found is None:
            raise AbsentError(f"the image has no file /{path}")
        if found is REMOVED:
            raise AbsentError(f"an upper layer removes /{path}, or has a link or a folder in its place")
        return found

    def files_in(self, folder: str) -> Mapping[str, File]:
        """The files in a folder, whose path ends in a slash."""
        found: dict[str, File] = {}
        for layer in self.layers:
            if folder in layer.files:
                found.clear()
            found |= {path: file for path, file in layer.files.items() if posixpath.dirname(path) == folder[:-1]}
        return {path: file for path, file in found.items() if file is not REMOVED and path != folder}

    @property
    def image_json(self) -> Mapping[str, Any]:
        """What the image says of itself; AbsentError where it says nothing, WrongError where it cannot be read."""
        try:
            found = json.loads(self.file(IMAGE_FILE).content)
            return {**found, "binary": dict(found["binary"] or {})}
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise WrongError(f"{IMAGE_JSON} cannot be read") from error


def find_manifest(registry: Registry, name: ImageName, tag: str, digest: str) -> tuple[str, Manifest]:
    """Fetch the manifest or index by a digest, else a tag; with what the tag (else the digest) stands for."""
    held = registry.manifest_digest(name.repository, tag or digest)
    manifest = registry.manifest(name.repository, digest or held or "") if held else None
    if held is None or manifest is None:
        raise RegistryError(
            f"The registry {registry.host} has no image {name}{':' * bool(tag)}{tag}{'@' * bool(digest)}{digest}.",
            remedy="Correct the image's name, tag or digest.",
        )
    return held, manifest


def is_index(manifest: Manifest) -> bool:
    """Whether it is an index of images, OCI's or Docker's."""
    return manifest.media_type in _LISTS


def images_of(index: Manifest) -> list[tuple[str, str]]:
    """The platform and the digest of each image in an index."""
    found = []
    for entry in listed(index.document.get("manifests")):
        about = members(entry.get("platform"))
        platform = "/".join(str(about[one]) for one in ("os", "architecture", "variant") if about.get(one))
        found.append((platform, str(entry.get("digest"))))
    return found


def fetch_image(
    registry: Registry,
    repository: str,
    manifest: Manifest,
    paths: Mapping[str, Path | None],
    known: Mapping[str, Layer] | None = None,
) -> Image:
    """Fetch configuration and layers of an image; arguments as of `read_layers`."""
    document = manifest.document
    config = registry.small_blob(repository, str(members(document.get("config")).get("digest")))
    layers = read_layers(registry, repository, listed(document.get("layers")), paths, known)
    return Image(manifest=manifest, config=config, layers=layers)


class _Hashing:
    """A stream that is read through, and hashed."""

    def __init__(self, stream: IO[bytes], cancel: Cancel) -> None:
        self._stream, self._cancel, self.sha256 = stream, cancel, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        self._cancel.check()
        data = self._stream.read(size)
        self.sha256.update(data)
        return data

    def drain(self) -> str:
        """Read what is left; give the digest of all."""
        while self.read(CHUNK):
            pass
        return f"sha256:{self.sha256.hexdigest()}"


def read_layers(
    registry: Registry,
    repository: str,
    layers: Sequence[Mapping[str, Any]],
    paths: Mapping[str, Path | None],
    known: Mapping[str, Layer] | None = None,
) -> tuple[Layer, ...]:
    """Fetch the layers of a manifest, and look at files in them: path → the folder for copies, if any is kept.

    A path that ends in a slash stands for the files in a folder. `known`: digest → a layer that was read already.
    """
    cancel = Cancel()

    def read(layer: Mapping[str, Any]) -> Layer:
        digest = str(layer.get("digest"))
        return (known or {}).get(digest) or _read_layer(registry, repository, digest, paths, cancel)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            return tuple(pool.map(read, layers))
        finally:
            cancel.ask()  # after an error or Ctrl-C the rest of a large layer is of no use


def _read_layer(
    registry: Registry, repository: str, digest: str, paths: Mapping[str, Path | None], cancel: Cancel
) -> Layer:
    with tempfile.TemporaryFile() as packed:
        sent, size = hashlib.sha256(), 0

        def sink(piece: bytes) -> None:
            nonlocal size
            cancel.check()
            size += len(piece)
            sent.update(piece)
            with os_errors_typed():  # a full disk is not the registry's fault
                packed.write(piece)

        if not registry.blob(repository, digest, sink):
            return Layer(digest="", size=0, diff_id="", trouble="the registry has no such blob")
        found = f"sha256:{sent.hexdigest()}"
        with os_errors_typed():
            packed.seek(0)
        try:
            with _unpacked(packed, cancel) as stream:
                files = _files(stream, paths)
                return Layer(digest=found, size=size, diff_id=stream.drain(), files=files)
        # tarfile raises the last two where a header says nonsense.
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, RecursionError) as error:
            return Layer(digest=found, size=size, diff_id="", trouble=f"it cannot be unpacked: {error}")


@contextmanager
def _unpacked(packed: IO[bytes], cancel: Cancel) -> Iterator[_Hashing]:
    zipped = packed.read(len(_GZIP)) == _GZIP
    packed.seek(0)
    if zipped:
        with gzip.GzipFile(fileobj=packed) as stream:
            yield _Hashing(stream, cancel)  # type: ignore[arg-type] # it has what is used of a stream
    else:
        yield _Hashing(packed, cancel)


def _files(stream: _Hashing, paths: Mapping[str, Path | None]) -> Mapping[str, File]:
    files: dict[str, File] = {}
    of_lower_layers: dict[str, File] = {}
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:  # type: ignore[call-overload] # it reads
        for member in archive:
            path = posixpath.normpath(f"/{member.name}").lstrip("/")
            folder, name = posixpath.split(path)
            looked_at = path in paths or f"{folder}/" in paths
            if name.startswith(_WHITEOUT):
                gone = folder if name == _OPAQUE else posixpath.join(folder, name.removeprefix(_WHITEOUT))
                of_lower_layers |= dict.fromkeys(_at_or_below(gone, paths), REMOVED)
            elif looked_at and member.isfile():
                files[path] = _file(archive, member, paths.get(path))
            elif looked_at or not member.isdir():
                files |= dict.fromkeys(_at_or_below(path, paths), REMOVED)
    return of_lower_layers | files


def _at_or_below(place: str, paths: Iterable[str]) -> list[str]:
    found = [one for one in paths if not place or f"{one}/".startswith(f"{place}/")]
    return [*found, place] if f"{posixpath.dirname(place)}/" in paths else found


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path | None) -> File:
    content, sha256, opened = b"", hashlib.sha256(), archive.extractfile(member)
    # A name of its own: other layers, which are read at the same time, may have the same file.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) if folder else nullcontext() as kept:
        while opened and (piece := opened.read(CHUNK)):
            sha256.update(piece)
            if kept:
                with os_errors_typed():
                    kept.write(piece)
            elif member.size <= _LIMIT:
                content += piece
    copy = Path(kept.name) if kept else None
    return File(size=member.size, sha256=sha256.hexdigest(), content=content, kept=copy)
