"""How pins of the lock file look: a table, and the line that tells of what nothing pins. Pure, from values to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving_factory.ui.layout import Column, table

__all__ = ["PinRow", "pins_table", "unpinned_note"]

_SHOWN = 12
"""Digits of a digest: enough to tell apart; the file and --json have all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """A pin as `./factory lock` shows it.

    Args:
        pin: the base image, or Bazel and its version.
        change: what became of it, in a word.
        locked: what the lock file had.
        found: what there is upstream.
    """

    pin: str
    change: str
    locked: str = ""
    found: str = ""


def pins_table(rows: Sequence[PinRow], *, width: int | None = None) -> str:
    """The pins, a line each, and how many have which change."""
    if not rows:
        return "Nothing is to be locked: no base comes from a registry, and the catalogue knows every checksum.\n"
    columns = (Column("pin"), Column("result"), Column("was locked"), Column("is now"))
    cells = [(row.pin, row.change, _short(row.locked), _short(row.found)) for row in rows]
    changes = [row.change for row in rows]
    told = ", ".join(f"{changes.count(change)} {change}" for change in dict.fromkeys(changes))
    count = "1 pin" if len(rows) == 1 else f"{len(rows)} pins"
    return f"{table(columns, cells, width=width)}\n{count}: {told}.\n"


def unpinned_note(bases: Sequence[str]) -> str:
    """Tell which bases nothing pins, and how to pin them."""
    named = ", ".join(bases)
    return f"Not pinned: {named}. `./factory lock` pins base images by digest; `build --locked` insists on it.\n"


def _short(content: str) -> str:
    kind, colon, digits = content.rpartition(":")
    return f"{kind}{colon}{digits[:_SHOWN]}"
