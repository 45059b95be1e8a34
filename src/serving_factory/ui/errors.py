"""How an error looks to a person: what happened, why, the end of the right log, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_factory.ui.logs import TAIL_LINES, already_told
from serving_factory.ui.text import clean, clean_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from serving_factory.errors import FactoryError

__all__ = ["log_excerpt", "render_error"]


def render_error(error: FactoryError, *, log_tail: Sequence[str] = (), log_path: str | Path | None = None) -> str:
    """Lay an error out on several lines, the last one ending in a newline.

    Args:
        error: what happened.
        log_tail: lines of the log that tells most; the last 30 are shown, none when the error's own
            evidence has them.
        log_path: where the whole log is.
    """
    first, *others = clean_lines(error.what) or (type(error).__name__,)
    lines = [f"Error: {first}", *_indented(others), *_indented(clean_lines(error.why))]
    if not already_told(tuple(clean(line) for line in log_tail), error.why):
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
