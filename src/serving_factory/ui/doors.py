"""What fills the doors of a closed network, as tables. Made of JSON documents, from values to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving_factory.ui.layout import Column, table
from serving_factory.ui.text import size

__all__ = ["archives_table"]

_MATCHES = {None: "nothing pins it", True: "as pinned", False: "NOT AS PINNED"}


def archives_table(documents: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """Archives that the vault made, a line each."""
    columns = [Column(name) for name in ("file", "ref", "commit", "folder in it")]
    columns += [Column("size", right=True), Column("sha256"), Column("is it?")]
    rows = [
        (
            str(one["file"]),
            str(one["ref"]),
            str(one["commit"])[:12],
            str(one["folder"]),
            size(one["size"]),
            str(one["sha256"]),
            _MATCHES[one["matches"]],
        )
        for one in documents
    ]
    return table(columns, rows, width=width)
