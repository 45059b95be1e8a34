"""Problems of a file: what is wrong, where, what to do; and which parts of the file can still be relied on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import takewhile
from pathlib import Path

from serving_factory.errors import MatrixError

_MAX_SHOWN = 100
_MAX_LENGTH = 200
_MAX_COMPARED = 50
"""How many words are compared closely to find the nearest: each takes some 50 µs."""

KeyPath = tuple[str | int, ...]
"""Where something stands in the file: keys, and indexes of lists."""


@dataclass(frozen=True, slots=True)
class DidYouMean:
    """A remedy that names the valid word nearest to a wrong one. It is searched when it is printed: that is slow."""

    word: str
    valid: Iterable[str] = field(hash=False)
    otherwise: str = ""

    def __str__(self) -> str:
        """`Did you mean 'cpu'?`, or the other remedy where no word is near."""
        found = nearest(self.word, self.valid)
        return f"Did you mean {found!r}?" if found else self.otherwise


Remedy = str | DidYouMean
"""One thing to do."""


class BrokenRuleError(ValueError):
    """A value that breaks a rule: the rule, as a part of a sentence, and one thing to do."""

    def __init__(self, rule: str, remedy: Remedy) -> None:
        super().__init__(rule)
        self.rule = rule
        self.remedy = remedy


class NoSuchThingError(BrokenRuleError):
    """A value that can be read, and means nothing that there is."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Args:
        path: empty when it is about the file's text.
        rule: what must stand there, without a full stop.
        key: the key is wrong, not its value.
        place: None until it is looked up, and when it is about the file as a whole.
        value: as the user wrote it.
        variable: the environment variable that gives the value; empty where the file does.
    """

    path: KeyPath
    rule: str
    remedy: Remedy = ""
    key: bool = False
    place: Place | None = None
    value: str = ""
    variable: str = ""


def dotted(path: KeyPath) -> str:
    """Write a path as `targets.cpu-optimized.levels[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key with a newline would break the line of the message.
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
    # A word with one typo shares all but one letter with the right one at its two ends.
    likely = nlargest(_MAX_COMPARED, names, key=lambda name: _common(name, folded)) if names else ()
    matches = get_close_matches(folded, likely, n=1, cutoff=0.6) or (holding if len(holding) == 1 else [])
    return names[matches[0]] if matches else None


def _common(one: str, other: str) -> int:
    """How many characters two words share at their beginning and their end."""
    ends = ((one, other), (one[::-1], other[::-1]))
    return sum(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*pair, strict=False))) for pair in ends)


def matrix_error(path: Path | str, problems: Sequence[Problem]) -> MatrixError:
    """Make one error of all problems, in the order of the file; of very many, it lists the first hundred."""
    file = shown(path)
    ordered = sorted(problems, key=lambda problem: problem.place or Place(0, 0))
    lines = [_line(file, problem) for problem in ordered[:_MAX_SHOWN]]
    if more := len(ordered) - len(lines):
        lines.append(f"{file}: and {more} more")
    count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
    return MatrixError(f"{file}: {count}", why="\n".join(lines))


def _line(file: str, problem: Problem) -> str:
    place = f":{problem.place.line}:{problem.place.column}" if problem.place else ""
    where = f" {dotted(problem.path)}:" if problem.path else ""
    value = f" {short(without_password(problem.value))}:" if problem.value else ""
    source = f"environment: {problem.variable}:" if problem.variable else f"{file}{place}:{where}"
    return f"{source}{value} {problem.rule}. {problem.remedy}".rstrip()


def short(value: str) -> str:
    """Cut a very long value."""
    return value if len(value) <= _MAX_LENGTH else f"{value[:_MAX_LENGTH]}…"


def shown(path: Path | str) -> str:
    """A path as a text that every stream can print: bytes that are not UTF-8 are escaped."""
    return str(path).encode(errors="backslashreplace").decode()


def without_password(text: str) -> str:
    """Replace what stands before the @ of a URL: what is printed may end in a log."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


class Broken:
    """The paths at which something is wrong. What only follows from their values is not reported."""

    def __init__(self, paths: Iterable[KeyPath] = ()) -> None:
        # What a merge key brings is unknown: the mapping that it stands in is not whole.
        self._paths = frozenset(path[:-1] if path[-1] == "<<" else path for path in paths if path)
        self._inside: dict[KeyPath, set[str | int]] = {}
        for path in self._paths:
            for length, part in enumerate(path):
                self._inside.setdefault(path[:length], set()).add(part)

    def and_at(self, paths: Iterable[KeyPath]) -> Broken:
        """Add paths."""
        return Broken((*self._paths, *paths))

    def at(self, *path: str | int) -> bool:
        """Whether something is wrong with a value, in it, or with what it stands in."""
        return path in self._inside or self.around(*path)

    def around(self, *path: str | int) -> bool:
        """Whether something is wrong with a value itself, or with what it stands in."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def inside(self, *path: str | int) -> frozenset[str | int]:
        """The keys of a value, or its indexes, at or below which something is wrong."""
        return frozenset(self._inside.get(path, ()))


WHOLE = Broken()
"""Nothing is wrong."""
