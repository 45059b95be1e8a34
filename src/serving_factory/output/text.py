"""Writing to stdout and stderr from several threads, where the reader may be gone and the encoding poor."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

_KIB = 1024
_MIB = 1024 * 1024
_GIB = 1024 * 1024 * 1024
_SECONDS_WITH_TENTHS = 10
_FIRST_BEYOND_LATIN_1 = 0x100

# ECMA-48: CSI sequences, then strings (OSC, DCS, SOS, PM, APC) up to their terminator, then the short
# escapes.
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])")

# Control characters of both kinds, then invisible ones: those that turn the writing direction, break lines,
# or are passed over by .NET's culture-sensitive comparison, with which GitHub's runner looks for commands;
# then what no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    r"""Give foreign text as one harmless line.

    Escape sequences are dropped, of a line that was rewritten with `\r` the last state is kept, newlines
    become spaces, other control and invisible characters are shown as `\x07`. What GitHub's runner would
    take for a command (`::` at the start, whatever white space stands before it, or `##[` anywhere:
    actions/runner, ActionCommand.cs) is broken by a space.
    """
    text = _ESCAPE_SEQUENCES.sub("", text).rstrip("\r\n")
    text = " ".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).replace("\t", "    ")
    text = _UNSAFE.sub(_visible, text)
    if text.lstrip().startswith("::"):
        text = text.replace("::", ": :", 1)
    return text.replace("##[", "## [")


def clean_lines(text: str) -> tuple[str, ...]:
    """Give foreign text as harmless lines, without the empty ones at its end."""
    return tuple(clean(line) for line in text.rstrip().split("\n")) if text.strip() else ()


def size(number: int) -> str:
    """Say a number of bytes: `12.3 MiB`; below one MiB in KiB, from one GiB on in GiB."""
    if number < _KIB:
        return f"{number} B"
    if number < _MIB:
        return f"{number / _KIB:.0f} KiB"
    return f"{number / _MIB:,.1f} MiB" if number < _GIB else f"{number / _GIB:,.1f} GiB"


def count(number: int, noun: str) -> str:
    """Say how many: `1 place`, `2 places`."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


_PROPER = {
    "bazel": "Bazel",
    "cpu": "CPU",
    "cuda": "CUDA",
    "linux": "Linux",
    "psabi": "psABI",
    "tensorflow": "TensorFlow",
}


def label(name: str) -> str:
    """A name of the JSON documents as people read it: `bazel_target` is `Bazel target`."""
    return " ".join(_PROPER.get(word, word) for word in name.split("_"))


def duration(seconds: float) -> str:
    """Say a time span: `2.1 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    seconds = max(0.0, seconds)
    tenths = round(seconds, 1)
    if tenths < _SECONDS_WITH_TENTHS:
        return f"{tenths:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < _FIRST_BEYOND_LATIN_1 else f"\\u{code:04x}"


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
    from rich.cells import cell_len

    return cell_len(text)


class Stream:
    """A text stream whose writes are whole and flushed, from whichever thread.

    Standard streams do not raise when a reader is gone or a disk is full (commands/boundary.py).
    """

    def __init__(self, raw: TextIO) -> None:
        self._raw = raw
        self._lock = threading.RLock()

    @property
    def width(self) -> int | None:
        """The terminal's width in columns; None where there is no terminal to fit to."""
        try:
            return os.get_terminal_size(self._raw.fileno()).columns or None
        except OSError:  # io.UnsupportedOperation is one
            return None

    def write(self, text: str) -> None:
        """Write the text as one piece."""
        with self._lock:
            self._raw.write(text)
            self._raw.flush()
