"""Aligned text: tables and pages of names and values. Pure, no colour, never cut.

A table is fitted to a width only when it is given one; where it does not fit, each row becomes a small block
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.ui.text import clean, clean_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Column", "Section", "page", "table"]

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading; numbers are set to the right."""

    title: str
    right: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: a heading, and pairs of name and value (a value may span lines)."""

    title: str
    entries: tuple[tuple[str, str], ...]


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int | None = None) -> str:
    """Lay out rows under headings.

    Args:
        columns: one per cell of a row; a column in which no row has anything is left out.
        rows: the cells, as text; foreign text is made harmless here.
        width: columns of the terminal; None for no limit.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    used = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    columns = [columns[index] for index in used]
    cells = [[row[index] for index in used] for row in cells]
    heads = [column.title for column in columns]
    widths = [max(_cells(line[index]) for line in [heads, *cells]) for index in range(len(columns))]
    if width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        return _blocks(heads, cells)
    lines = [heads, ["-" * cells_wide for cells_wide in widths], *cells]
    return "".join(f"{_line(line, columns, widths)}\n" for line in lines)


def page(title: str, sections: Sequence[Section]) -> str:
    """Lay out names and values under headings; sections without entries are left out."""
    sections = [section for section in sections if section.entries]
    margin = max((_cells(clean(name)) for section in sections for name, _ in section.entries), default=0)
    lines = [clean(title)]
    for section in sections:
        lines += ["", clean(section.title)]
        for name, value in section.entries:
            first, *others = clean_lines(value) or ("-",)
            lines.append(f"  {_pad(clean(name), margin)}{_GAP}{first}".rstrip())
            lines += [f"  {' ' * margin}{_GAP}{line}".rstrip() for line in others]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = (_pad(cell, width, right=column.right) for cell, column, width in zip(cells, columns, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _blocks(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    margin = max(_cells(head) for head in heads)
    blocks = (
        "".join(f"{_pad(head, margin)}{_GAP}{cell}\n" for head, cell in zip(heads, row, strict=True) if cell)
        for row in rows
    )
    return "\n".join(blocks)


def _pad(text: str, width: int, *, right: bool = False) -> str:
    fill = " " * (width - _cells(text))
    return fill + text if right else text + fill


def _cells(text: str) -> int:
    """How many columns a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - few tables hold anything but ASCII, and it takes a while to import

    return cell_len(text)
