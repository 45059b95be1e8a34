"""Bazel's caches as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from serving_factory.ui.layout import Column, table
from serving_factory.ui.text import clean, size

__all__ = ["CacheRow", "caches_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    """The repository cache, or the disk cache of one toolchain.

    Args:
        name: `repository`, or the toolchain's id.
        bytes: what its files hold.
        files: how many.
        used: when it was used last, in seconds since 1970; 0 where nothing tells.
        toolchain: compiler and system, joined by `;`.
    """

    name: str
    bytes: int
    files: int
    used: int
    toolchain: str


def caches_table(caches: Sequence[CacheRow], *, width: int | None = None) -> str:
    """A line for each cache, and one for the whole."""
    rows = [(clean(one.name), size(one.bytes), str(one.files), _when(one.used), _about(one)) for one in caches]
    rows.append(("whole", size(sum(one.bytes for one in caches)), str(sum(one.files for one in caches)), "", ""))
    columns = (
        Column("cache"),
        Column("size", right=True),
        Column("files", right=True),
        Column("last used"),
        Column("what compiled it"),
    )
    return table(columns, rows, width=width)


def _about(cache: CacheRow) -> str:
    return "all builds' downloads" if cache.name == "repository" else clean(cache.toolchain.replace(";", "; "))


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ""
