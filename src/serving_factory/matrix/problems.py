"""Which parts of a matrix file can be relied on, and which cannot because something in them is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest

from serving_factory.errors import MatrixError

_MAX_TOLD = 100
_MAX_VALUE = 200
_MAX_COMPARED = 50
"""How many words are looked at closely to find the nearest: that takes some 50 µs each."""

KeyPath = tuple[str | int, ...]
"""Where something stands in the file: keys, and indexes of lists."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A remedy that names the valid word nearest to a wrong one. It is looked for when somebody is told of it."""

    word: str
    valid: tuple[str, ...]
    otherwise: str = ""

    def __str__(self) -> str:
        """Give the remedy: `Did you mean 'cpu'?`, or another where no word is near."""
        found = nearest(self.word, self.valid)
        return f"Did you mean {found!r}?" if found else self.otherwise


Remedy = str | Suggestion
"""One thing to do."""


class BrokenRuleError(ValueError):
    """A value that breaks a rule.

    Args:
        rule: which rule it breaks; part of a sentence.
        remedy: one thing to do.
    """

    def __init__(self, rule: str, remedy: Remedy) -> None:
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
    """

    path: KeyPath
    rule: str
    remedy: Remedy = ""
    key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        place: where; None when it is about the file as a whole.
        path: of what is wrong; empty when it is about the file's text.
        value: what stands there, as the user wrote it.
        rule: what ought to stand there.
        remedy: one thing to do.
        variable: the environment variable that gives the value; empty where it is the file's.
    """

    place: Place | None
    path: KeyPath
    value: str
    rule: str
    remedy: Remedy = ""
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
    from difflib import get_close_matches

    names = {str(name).casefold(): str(name) for name in valid}
    folded = word.casefold()
    # `v3` is short for one level only; `cpu` is part of many variants' ids, and means none of them.
    holding = [name for name in names if len(folded) > 1 and folded in name]
    # The name with one slip of the pen has all but one letter of the right one at its two ends.
    likely = nlargest(_MAX_COMPARED, names, key=lambda name: _common(name, folded)) if names else ()
    matches = get_close_matches(folded, likely, n=1, cutoff=0.6) or (holding if len(holding) == 1 else [])
    return names[matches[0]] if matches else None


def _common(one: str, other: str) -> int:
    """How many characters two words share at their beginning and their end."""
    return _same(one, other) + _same(one[::-1], other[::-1])


def _same(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def did_you_mean(word: str, valid: Iterable[str], *, otherwise: str = "") -> Suggestion:
    """Make a remedy of the nearest valid word, or of another where none is near."""
    return Suggestion(word, tuple(valid), otherwise)


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
    where = f" {dotted(problem.path)}:" if problem.path else ""
    value = f" {_cut(without_password(problem.value))}:" if problem.value else ""
    told = f"environment: {problem.variable}:" if problem.variable else f"{file}{place}:{where}"
    return f"{told}{value} {problem.rule}. {problem.remedy}".rstrip()


def _cut(value: str) -> str:
    """Show of a very long value how it begins."""
    return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"


def without_password(text: str) -> str:
    """Blot out what stands before the @ of a URL: what is shown on a screen is soon in a log."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


class Broken:
    """The places at which something is wrong: what follows from their values is not worth telling.

    Args:
        paths: those places.
    """

    def __init__(self, paths: Iterable[KeyPath] = ()) -> None:
        # What stands in a mapping with a merge key nobody has read: the mapping itself is not whole.
        self._paths = frozenset(path[:-1] if path[-1] == "<<" else path for path in paths if path)
        self._inside: dict[KeyPath, set[str | int]] = {}
        for path in self._paths:
            for length, part in enumerate(path):
                self._inside.setdefault(path[:length], set()).add(part)

    def and_at(self, paths: Iterable[KeyPath]) -> Broken:
        """Add places."""
        return Broken((*self._paths, *paths))

    def at(self, *path: str | int) -> bool:
        """Whether a value is not whole: something is wrong with it, in it, or with what it stands in."""
        return path in self._inside or self.around(*path)

    def around(self, *path: str | int) -> bool:
        """Whether something is wrong with a value itself, or with what it stands in."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def inside(self, *path: str | int) -> frozenset[str | int]:
        """The keys of a value, or its indexes, at or below which something is wrong."""
        return frozenset(self._inside.get(path, ()))


WHOLE = Broken()
"""Nothing is wrong."""
