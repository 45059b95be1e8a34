"""How an error looks to a person: what happened, why, the end of the right log, what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.errors import FactoryError
from serving_factory.output.text import clean, clean_lines

TAIL_LINES = 30
_MAX_BYTES = 8 * 1024 * 1024
_EXCERPT = re.compile(r"^(?:------\n > (?:.*\n)*?------\n)?\S*Dockerfile:\d+\n-{20}\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines of a log, made harmless."""

    lines: tuple[str, ...] = ()
    complete: bool = True  # whether these are all lines of the log


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


def holds_last_line(tail: tuple[str, ...], message: str) -> bool:
    """Whether a message has the log's last line already, so that the tail need not be shown."""
    last = next((line.strip() for line in reversed(tail) if line.strip()), "")
    return not last or any(last in line for line in clean_lines(message))


def render_error(error: FactoryError, *, log_tail: Sequence[str] = (), log_path: str | Path | None = None) -> str:
    """Lay an error out on lines; of the log the last 30 lines, none where the error's own evidence has them."""
    first, *others = clean_lines(error.what) or (type(error).__name__,)
    lines = [f"Error: {first}", *_indented(others), *_indented(clean_lines(error.why))]
    if not holds_last_line(tuple(clean(line) for line in log_tail), error.why):
        lines += _indented(["", *log_excerpt(log_tail, log_path)])
    elif log_path is not None:
        lines += ["", f"  The whole log: {clean(str(log_path))}"]
    if error.remedy:
        remedy, *others = clean_lines(error.remedy)
        lines += ["", f"What to do: {remedy}", *_indented(others)]
    return "\n".join(lines) + "\n"


def log_excerpt(log_tail: Sequence[str], log_path: str | Path | None) -> list[str]:
    """The last 30 lines of a log under a heading, with a bar before each."""
    tail = tuple(clean(line) for line in log_tail)[-TAIL_LINES:]
    count = "The last line" if len(tail) == 1 else f"The last {len(tail)} lines"
    where = f" of {clean(str(log_path))}" if log_path is not None else " of the log"
    return [f"{count}{where}:", *(f"  | {line}".rstrip() for line in tail)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]
