"""Problems in a matrix file: each with its place, value, rule, nearest valid word and one remedy; all told at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from serving_factory.errors import MatrixError

__all__ = [
    "BrokenRuleError",
    "Finding",
    "KeyPath",
    "Place",
    "Problem",
    "did_you_mean",
    "dotted",
    "matrix_error",
    "nearest",
    "without_password",
]

_MAX_TOLD = 100
_MAX_VALUE = 200

KeyPath = tuple[str | int, ...]
"""Where something stands in the file: keys, and indexes of lists."""


class BrokenRuleError(ValueError):
    """A value that breaks a rule.

    Args:
        rule: which rule it breaks; part of a sentence.
        remedy: one thing to do.
    """

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(rule)
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, before anyone has looked up where in the file it stands.

    Args:
        path: of what is wrong.
        rule: what ought to stand there; without its full stop.
        remedy: one thing to do.
        key: whether it is the key that is wrong, not its value.
        value: what stands there, where the file need not say it because it is the default.
    """

    path: KeyPath
    rule: str
    remedy: str = ""
    key: bool = False
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        place: where; None when it is about the file as a whole.
        where: the path of keys, such as `targets.cpu-optimized.levels[0]`.
        value: what stands there, as the user wrote it.
        rule: what ought to stand there.
        remedy: one thing to do.
        variable: the environment variable that gives the value; empty where it is the file's.
    """

    place: Place | None
    where: str
    value: str
    rule: str
    remedy: str = ""
    variable: str = ""


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `targets.cpu-optimized.levels[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key with a newline would break the line that tells of it.
            name = part if part.isprintable() else repr(part)
            text += f".{name}" if text else name
    return text


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Find the valid word most like this one, if any is much like it."""
    names = {str(name).casefold(): str(name) for name in valid}
    folded = word.casefold()
    # `v3` is short for one level only; `cpu` is part of many variants' ids, and means none of them.
    holding = [name for name in names if len(folded) > 1 and folded in name]
    matches = get_close_matches(folded, names, n=1, cutoff=0.6) or (holding if len(holding) == 1 else [])
    return names[matches[0]] if matches else None


def did_you_mean(word: str, valid: Iterable[str], *, otherwise: str = "") -> str:
    """Make a remedy of the nearest valid word, or give another where none is near."""
    found = nearest(word, valid)
    return f"Did you mean {found!r}?" if found else otherwise


def matrix_error(file: str, problems: Sequence[Problem]) -> MatrixError:
    """Make one error of all problems, in the order of the file; of very many, the first hundred are told."""
    ordered = sorted(problems, key=lambda p: (p.place.line, p.place.column) if p.place else (0, 0))
    lines = [_line(file, problem) for problem in ordered[:_MAX_TOLD]]
    if more := len(ordered) - len(lines):
        lines.append(f"{file}: and {more} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return MatrixError(f"{file}: {count}", why="\n".join(lines))


def _line(file: str, problem: Problem) -> str:
    place = f":{problem.place.line}:{problem.place.column}" if problem.place else ""
    where = f" {problem.where}:" if problem.where else ""
    value = f" {_cut(without_password(problem.value))}:" if problem.value else ""
    remedy = f" {problem.remedy}" if problem.remedy else ""
    if problem.variable:
        return f"environment: {problem.variable}:{value} {problem.rule}.{remedy}"
    return f"{file}{place}:{where}{value} {problem.rule}.{remedy}"


def _cut(value: str) -> str:
    """Show of a very long value how it begins."""
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"


def without_password(text: str) -> str:
    """Blot out what stands before the @ of a URL: what is shown on a screen is soon in a log."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
