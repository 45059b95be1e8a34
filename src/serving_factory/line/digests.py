"""Digests of files and folders."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["file_digest", "tree_digest"]


def file_digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """The sha256 over a folder: each file's path, content and whether it can be run; links by their target."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = _quoted(path.relative_to(folder))
        if path.is_symlink():
            total.update(f"link {name} {_quoted(path.readlink())}\n".encode())
        elif path.is_file():
            mode = "program" if os.access(path, os.X_OK) else "file"
            total.update(f"{mode} {name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def _quoted(path: Path) -> str:
    """A name of any bytes on one line, so that no name can pass for another file's line."""
    return ascii(path.as_posix())
