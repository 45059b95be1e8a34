"""Problems in a matrix file: each with its place, value, rule, nearest valid word and one remedy; all told at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from serving_factory.errors import MatrixError

__all__ = ["Place", "Problem", "matrix_error", "nearest"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        place: where; None when it is about the file as a whole.
        where: the path of keys, such as `targets.cpu-optimized.levels[0]`.
        value: what stands there, as the user wrote it.
        rule: what ought to stand there.
        remedy: one thing to do.
    """

    place: Place | None
    where: str
    value: str
    rule: str
    remedy: str = ""


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """Find the valid word most like this one, if any is much like it."""
    names = {str(name).casefold(): str(name) for name in valid}
    folded = word.casefold()
    # `v3` is short for one level only; `cpu` is part of many variants' ids, and means none of them.
    holding = [name for name in names if len(folded) > 1 and folded in name]
    matches = get_close_matches(folded, names, n=1, cutoff=0.6) or (holding if len(holding) == 1 else [])
    return names[matches[0]] if matches else None


def matrix_error(file: str, problems: Sequence[Problem]) -> MatrixError:
    """Make one error of all problems, in the order of the file."""
    ordered = sorted(problems, key=lambda p: (p.place.line, p.place.column) if p.place else (0, 0))
    lines = [_line(file, problem) for problem in ordered]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return MatrixError(f"{file}: {count}", why="\n".join(lines))


def _line(file: str, problem: Problem) -> str:
    place = f":{problem.place.line}:{problem.place.column}" if problem.place else ""
    where = f" {problem.where}:" if problem.where else ""
    value = f" {problem.value}:" if problem.value else ""
    remedy = f" {problem.remedy}" if problem.remedy else ""
    return f"{file}{place}:{where}{value} {problem.rule}.{remedy}"
