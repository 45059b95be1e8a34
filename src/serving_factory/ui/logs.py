"""Reading the end of a stage's log."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from serving_factory.ui.text import clean, clean_lines

__all__ = ["TAIL_LINES", "Tail", "already_told", "read_tail"]

TAIL_LINES = 30
_MAX_BYTES = 8 * 1024 * 1024
_EXCERPT = re.compile(r"^(?:------\n > (?:.*\n)*?------\n)?\S*Dockerfile:\d+\n-{20}\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines of a log, made harmless.

    Args:
        lines: oldest first.
        complete: whether these are all lines of the log.
    """

    lines: tuple[str, ...] = ()
    complete: bool = True


def read_tail(path: str | Path | None, limit: int = TAIL_LINES) -> Tail:
    """Read the last `limit` lines, of at most the last 8 MiB. A log that cannot be read is an empty one.

    What buildx ends with, the step in the Dockerfile and in its own words, is left out where anything is before it.
    """
    if path is None:
        return Tail()
    try:
        with Path(path).open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - _MAX_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return Tail()
    if (excerpt := _EXCERPT.search(text)) and text[: excerpt.start()].strip():
        text = text[: excerpt.start()]
    lines = text.rstrip().split("\n") if text.strip() else []
    complete = length <= _MAX_BYTES and len(lines) <= limit
    return Tail(lines=tuple(clean(line) for line in lines[-limit:]), complete=complete)


def already_told(tail: tuple[str, ...], message: str) -> bool:
    """Whether a message holds the tail's last line, so that the tail need not be shown twice."""
    last = next((line.strip() for line in reversed(tail) if line.strip()), "")
    return not last or any(last in line for line in clean_lines(message))
