"""What fills the doors of a closed network, as tables. Made of JSON documents, from values to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving_factory.ui.layout import Column, table
from serving_factory.ui.text import clean, size

__all__ = ["archives_table", "preflight_page"]

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


def preflight_page(document: Mapping[str, Any], *, width: int | None = None) -> str:
    """What a preflight of a variant found: what is missing, a line each; what was found, in numbers."""
    missing, unseen = document["missing"], document["unseen"]
    lines = [f"{clean(document['variant'])}: {_there(document['found'])}"]
    if missing:
        columns = [Column(name) for name in ("missing", "file", "sha256", "from", "why")]
        rows = [
            (one["name"], one["file"], one["sha256"] or "", [*one["urls"], ""][0], one["problem"]) for one in missing
        ]
        lines += ["", table(columns, rows, width=width)]
    if document["stopped"]:
        lines.append("These keep Bazel from looking any further: what lies behind them cannot be seen yet.")
    elif missing:
        lines.append("What these need themselves cannot be seen yet.")
    if missing and unseen:
        lines.append(f"WORKSPACE declares {len(unseen)} more that may or may not be needed; --json lists them.")
    lines += [clean(error) for error in document["errors"]]
    if not document["failed"]:
        lines.append("Nothing is missing.")
    return "\n".join(lines) + "\n"


def _there(found: Sequence[Mapping[str, Any]]) -> str:
    """How many repositories are there, and from where."""
    words = {
        "distdir": "from the distdir",
        "override": "from overrides",
        "cache": "from Bazel's cache",
        "download": "downloaded",
        "local": "without an archive",
    }
    origins = [one["origin"] for one in found]
    told = [f"{origins.count(name)} {word}" for name, word in words.items() if name in origins]
    return f"repositories that are there: {', '.join(told) or 'none'}"
