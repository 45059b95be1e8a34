"""Digests of files and folders, and a memory of them by the files' metadata."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path, PurePath

from serving_factory.pipeline.records import read_json, write_atomically

# Seconds since the last change after which a folder's digest is remembered: a file that changes twice within a tick of
# the clock looks as after its first change (git calls such an entry "racily clean")
_SETTLED = 2.0


def file_digest(file: Path | BufferedReader) -> str:
    """The sha256 of a file, 64 hex digits."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return file_digest(stream)
    return hashlib.file_digest(file, "sha256").hexdigest()


# Quoted path → what is there: `file` or `program` with its sha256, or `link` with its quoted target
Entries = Mapping[str, tuple[str, str]]


def tree_entries(folder: Path) -> Entries:
    """Read all files below a folder, in the order of their paths."""
    return {quoted(path.relative_to(folder)): entry for path in sorted(folder.rglob("*")) if (entry := _entry(path))}


def _entry(path: Path) -> tuple[str, str] | None:
    if path.is_symlink():
        return "link", quoted(path.readlink())
    if not path.is_file():
        return None
    return ("program" if os.access(path, os.X_OK) else "file"), file_digest(path)


def entries_digest(entries: Entries) -> str:
    """The sha256 over the entries of a folder, or of a part of it."""
    lines = [f"{kind} {name} {content}\n" for name, (kind, content) in entries.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tree_digest(folder: Path) -> str:
    """The sha256 over a folder: each file's path, content and whether it can be run; links by their target."""
    return entries_digest(tree_entries(folder))


def quoted(path: PurePath) -> str:
    """A name of any bytes on one line, so that no name can pass for another file's line."""
    return ascii(path.as_posix())


class TreeMemory:
    """Digests of folders by their files' metadata: name, inode, mode, size, and both times of the last change."""

    # The time of the last change of an inode (ctime) cannot be set by a program, so a file whose content was changed
    # and whose other times were put back is seen as well. Nothing is written to `file` before `save`.

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, ...]] | None = None
        self._new = False

    def digest(self, folder: Path) -> str:
        """The digest of a folder, as `tree_digest` gives it."""
        with self._lock:
            if self._known is None:
                self._known = read_json(self._file, dict[str, tuple[str, ...]]) or {}
            signature, newest = _signature(folder)
            match self._known.get(str(folder)):
                case (known, digest) if known == signature:
                    return digest
            digest = tree_digest(folder)
            if newest < (time.time() - _SETTLED) * 1e9 and _signature(folder)[0] == signature:
                self._known[str(folder)] = (signature, digest)
                self._new = True
            return digest

    def save(self) -> None:
        """Remember, for the next run. What cannot be written is read again then."""
        with self._lock, suppress(OSError):
            if self._new and self._known:
                kept = {folder: entry for folder, entry in self._known.items() if Path(folder).is_dir()}
                write_atomically(self._file, json.dumps(kept))
                self._new = False


def _signature(folder: Path) -> tuple[str, int]:
    """A sum over a folder's metadata, and the time of the newest change in it, in nanoseconds since 1970."""
    found = _everything_in(str(folder))
    lines = [
        f"{path[len(str(folder)) :]!a} {status.st_ino} {status.st_mode} {status.st_size}"
        f" {status.st_mtime_ns} {status.st_ctime_ns}\n"
        for path, status in sorted(found.items())
    ]
    newest = max((max(status.st_mtime_ns, status.st_ctime_ns) for status in found.values()), default=0)
    return hashlib.sha256("".join(lines).encode()).hexdigest(), newest


def _everything_in(folder: str) -> Mapping[str, os.stat_result]:
    """Path → metadata of all that is below a folder."""
    found: dict[str, os.stat_result] = {}
    folders = [folder]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                found[entry.path] = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found[entry.path].st_mode):
                    folders.append(entry.path)
    return found
