"""An image as a registry has it, read without Docker: digests of its layers, and the few files that are looked at."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from serving_factory.docker.registry import Registry

CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_AT_ONCE = 2  # layers; each takes a CPU to decompress
_LIMIT = 2**20  # bytes of a small file


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a layer."""

    size: int
    sha256: str
    content: bytes  # of a small file; else empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer as it came."""

    digest: str  # of what the registry sent; empty where it sent nothing
    size: int
    diff_id: str  # of what that holds, unpacked; empty where it is no archive that is known here
    trouble: str = ""  # why it could not be read
    files: Mapping[str, File] = field(default_factory=dict)  # those that are looked at: path without a leading slash


class _Hashing:
    """A stream that is read through, and hashed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256, self.size = stream, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.size += len(data)
        return data

    def drain(self) -> str:
        """Read what is left; give the digest of all."""
        while self.read(CHUNK):
            pass
        return f"sha256:{self.sha256.hexdigest()}"


def read_layers(
    registry: Registry, repository: str, layers: Sequence[Mapping[str, Any]], paths: Mapping[str, Path | None]
) -> tuple[Layer, ...]:
    """Fetch the layers of a manifest, and look at files in them: path → where a copy is kept, if at all."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(lambda one: _read_layer(registry, repository, str(one.get("digest")), paths), layers))


def _read_layer(registry: Registry, repository: str, digest: str, paths: Mapping[str, Path | None]) -> Layer:
    with tempfile.TemporaryFile() as packed:
        sent, size = hashlib.sha256(), 0

        def sink(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            sent.update(piece)
            packed.write(piece)

        if not registry.blob(repository, digest, sink):
            return Layer(digest="", size=0, diff_id="", trouble="the registry has no such blob")
        found = f"sha256:{sent.hexdigest()}"
        packed.seek(0)
        files: dict[str, File] = {}
        try:
            with _unpacked(packed) as stream:
                files |= dict(_files(stream, paths))
                return Layer(digest=found, size=size, diff_id=stream.drain(), files=files)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            return Layer(digest=found, size=size, diff_id="", trouble=f"it cannot be unpacked: {error}", files=files)


@contextmanager
def _unpacked(packed: IO[bytes]) -> Iterator[_Hashing]:
    zipped = packed.read(len(_GZIP)) == _GZIP
    packed.seek(0)
    if zipped:
        with gzip.GzipFile(fileobj=packed) as stream:
            yield _Hashing(stream)  # type: ignore[arg-type] # it has what is used of a stream
    else:
        yield _Hashing(packed)


def _files(stream: _Hashing, paths: Mapping[str, Path | None]) -> Iterator[tuple[str, File]]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:  # type: ignore[call-overload] # it reads
        for member in archive:
            path = member.name.removeprefix("./").lstrip("/")
            if path in paths and member.isfile():
                yield path, _file(archive, member, paths[path])


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, keep: Path | None) -> File:
    content, sha256, opened = b"", hashlib.sha256(), archive.extractfile(member)
    with keep.open("wb") if keep else nullcontext() as kept:
        while opened and (piece := opened.read(CHUNK)):
            sha256.update(piece)
            if kept:
                kept.write(piece)
            elif member.size <= _LIMIT:
                content += piece
    return File(size=member.size, sha256=sha256.hexdigest(), content=content)
