"""Digests of folders, remembered from run to run: a folder in which no file was touched is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from serving_factory.line.digests import tree_digest
from serving_factory.line.records import write_atomically

__all__ = ["TreeMemory"]

_SETTLED = 2.0
"""Seconds since the last change after which a folder's digest is remembered: a file that changes twice within a tick of
the clock looks as after its first change (git calls such an entry "racily clean")."""


class TreeMemory:
    """Digests by the files' metadata: name, inode, mode, size, and both times of the last change.

    The time of the last change of an inode (ctime) cannot be set by a program, so a file whose content was changed and
    whose other times were put back is seen as well.

    Args:
        file: where they are remembered; nothing is written there before `save`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, str]] | None = None
        self._new = False

    def digest(self, folder: Path) -> str:
        """The digest of a folder, as `tree_digest` gives it."""
        with self._lock:
            known = self._read()
            signature, newest = _signature(folder)
            remembered = known.get(str(folder))
            if remembered and remembered[0] == signature:
                return remembered[1]
            digest = tree_digest(folder)
            settled = newest < (time.time() - _SETTLED) * 1e9 and _signature(folder)[0] == signature
            if settled:
                known[str(folder)] = (signature, digest)
                self._new = True
            return digest

    def save(self) -> None:
        """Remember, for the next run. What cannot be written is read again then."""
        with self._lock, suppress(OSError):
            if self._new and self._known:
                kept = {folder: entry for folder, entry in self._known.items() if Path(folder).is_dir()}
                write_atomically(self._file, json.dumps(kept))
                self._new = False

    def _read(self) -> dict[str, tuple[str, str]]:
        if self._known is None:
            self._known = {}
            with suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
                found = json.loads(self._file.read_text(encoding="utf-8"))
                self._known = {str(folder): (str(entry[0]), str(entry[1])) for folder, entry in found.items()}
        return self._known


def _signature(folder: Path) -> tuple[str, int]:
    """Sum up a folder's metadata, and tell the newest change in it, in nanoseconds since 1970."""
    found = _everything_in(str(folder))
    lines = [
        f"{path[len(str(folder)) :]!a} {status.st_ino} {status.st_mode} {status.st_size}"
        f" {status.st_mtime_ns} {status.st_ctime_ns}\n"
        for path, status in sorted(found.items())
    ]
    newest = max((max(status.st_mtime_ns, status.st_ctime_ns) for status in found.values()), default=0)
    return hashlib.sha256("".join(lines).encode()).hexdigest(), newest


def _everything_in(folder: str) -> dict[str, os.stat_result]:
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
