"""How an error looks to a person: what happened, why, the end of the right log, what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving_factory.errors import FactoryError
from serving_factory.output.text import clean, clean_lines

_TAIL_LINES = 30
_MAX_BYTES = 8 * 1024 * 1024
_EXCERPT = re.compile(r"^(?:------\n > (?:.*\n)*?------\n)?\S*Dockerfile:\d+\n-{20}\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tail:
    """The last lines of a log, made harmless."""

    lines: tuple[str, ...] = ()
    complete: bool = True  # whether these are all lines of the log


def read_tail(path: str | Path | None, limit: int = _TAIL_LINES) -> Tail:
    """Read the last `limit` lines, of at most the last 8 MiB. A log that cannot be read is an empty one.

    What buildx ends with, the step in the Dockerfile and in its own words, is left out where anything is before it.
    """
    try:
        if path is None or not Path(path).is_file():  # to open a pipe would be to wait for its writer
            return Tail()
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


def log_end(path: str | Path | None, message: str) -> list[str]:
    """The log's last lines, with a bar before each; its place alone where the message has the last one of them."""
    if path is None:
        return []
    tail = read_tail(path).lines
    last = next((line.strip() for line in reversed(tail) if line.strip()), "")
    if not last or any(last in line for line in clean_lines(message)):
        return ["", f"The whole log: {clean(str(path))}"]
    count = "The last line" if len(tail) == 1 else f"The last {len(tail)} lines"
    return ["", f"{count} of {clean(str(path))}:", *(f"  | {line}".rstrip() for line in tail)]


def render_error(error: FactoryError, log: str | Path | None = None) -> str:
    """Lay an error out on lines, with the end of the log."""
    first, *others = clean_lines(error.what) or (type(error).__name__,)
    remedy, *more = clean_lines(error.remedy) or ("",)
    lines = [f"Error: {first}", *_indented((*others, *clean_lines(error.why), *log_end(log, error.why)))]
    if remedy:
        lines += ["", f"What to do: {remedy}", *_indented(more)]
    return "\n".join(lines) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]
