"""Writing to stdout and stderr from several threads, where the reader may be gone and the encoding poor."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

# ECMA-48: CSI sequences, then strings (OSC, DCS, SOS, PM, APC) up to their terminator, then the short escapes.
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])")

# Control characters, then invisible ones: those that turn the writing direction, break lines, or are ignored by .NET's
# culture-sensitive comparison, with which GitHub's runner looks for commands; then what no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    r"""Give foreign text as one harmless line.

    Escape sequences are dropped, of a line that was rewritten with `\r` the last state is kept, newlines become spaces,
    other control and invisible characters are shown as `\x07`. A space breaks what GitHub's runner would take for a
    command: `::` at the start, after any white space, or `##[` anywhere (actions/runner, ActionCommand.cs).
    """
    text = _ESCAPE_SEQUENCES.sub("", text).rstrip("\r\n")
    text = " ".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).replace("\t", "    ")
    text = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    if text.lstrip().startswith("::"):
        text = text.replace("::", ": :", 1)
    return text.replace("##[", "## [")


def clean_lines(text: str) -> tuple[str, ...]:
    """Give foreign text as harmless lines, without the empty ones at its end."""
    return tuple(clean(line) for line in text.rstrip().split("\n")) if text.strip() else ()


def size(number: int) -> str:
    """A number of bytes: `12.3 MiB`; below one MiB in KiB, from one GiB on in GiB."""
    for power, form, unit in ((3, ",.1f", "GiB"), (2, ",.1f", "MiB"), (1, ".0f", "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:{form}} {unit}"
    return f"{number} B"


def count(number: int, noun: str) -> str:
    """How many: `1 place`, `2 places`."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def cell(value: float | None, form: Callable[[Any], str] = str) -> str:
    """A number as a table shows it: what is unknown is blank."""
    return "" if value is None else form(value)


def words(counts: Mapping[str, int]) -> str:
    """Counts that are not zero: `2 built, 1 failed`."""
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number)


_PROPER = {word.lower(): word for word in ("Bazel", "CPU", "CUDA", "Linux", "psABI", "TensorFlow")}


def label(name: str) -> str:
    """A name of the JSON documents as people read it: `bazel_target` is `Bazel target`."""
    return " ".join(_PROPER.get(word, word) for word in name.split("_"))


def duration(seconds: float) -> str:
    """A time span: `2.1 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    seconds = max(0.0, seconds)
    if (tenths := round(seconds, 1)) < 10:  # noqa: PLR2004
        return f"{tenths:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


_GAP = "  "


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None) -> str:
    """Lay out rows of cells under headings; where the terminal is too narrow, as a block for each row.

    A heading that begins with `>` sets its column to the right. A column without any cell is left out.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    used = [index for index in range(len(heads)) if any(row[index] for row in cells)]
    right = [heads[index].startswith(">") for index in used]
    titles = [heads[index].removeprefix(">") for index in used]
    cells = [[row[index] for index in used] for row in cells]
    widths = [max(map(_cells, column)) for column in zip(titles, *cells, strict=True)]
    if width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        return _blocks(titles, cells)
    lines = [titles, ["-" * wide for wide in widths], *cells]
    return "".join(
        _GAP.join(_pad(*cell) for cell in zip(line, widths, right, strict=True)).rstrip() + "\n" for line in lines
    )


def page(title: str, sections: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Lay out sections of names and values, which may span lines; sections without entries are left out."""
    sections = [section for section in sections if section[1]]
    margin = max((_cells(clean(name)) for _, entries in sections for name, _ in entries), default=0)
    lines = [clean(title)]
    for heading, entries in sections:
        lines += ["", clean(heading)]
        for name, value in entries:
            first, *others = clean_lines(value) or ("-",)
            lines.append(f"  {_pad(clean(name), margin)}{_GAP}{first}".rstrip())
            lines += [f"  {' ' * margin}{_GAP}{line}".rstrip() for line in others]
    return "\n".join(lines) + "\n"


def _blocks(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    margin = max(_cells(head) for head in heads)
    blocks = (
        "".join(f"{_pad(head, margin)}{_GAP}{cell}\n" for head, cell in zip(heads, row, strict=True) if cell)
        for row in rows
    )
    return "\n".join(blocks)


def _pad(text: str, width: int, right: bool = False) -> str:  # noqa: FBT001, FBT002 - a column's three values
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
