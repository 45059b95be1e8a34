"""A YAML file as data that remembers the position of each value. No file takes long, or much memory, to read."""

# ruff: noqa: ANN401 - a file holds any value, and PyYAML's events have no types

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from serving_factory.errors import MatrixError, os_remedy
from serving_factory.matrix.environment import Given
from serving_factory.matrix.problems import KeyPath, Place, Problem, matrix_error, short, shown

MAX_BYTES = 1 << 20
MAX_VALUES = 10_000
"""How many values a file may have when each alias is written out."""
MAX_DEPTH = 20

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Only for the events of its parser, which is in C where PyYAML was built with libyaml."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that YAML 1.2, section 5.1, excludes."""

# YAML 1.2's core schema: in YAML 1.1 `on` and `12:30` are not texts.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a value and its key stand, and a scalar as it is written, texts in quotes."""

    key: Place
    place: Place
    written: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A matrix file that is YAML, and a mapping.

    Args:
        file: its path.
        data: mappings with texts as keys, lists, texts, numbers, booleans and nulls.
        problems: what is wrong whatever the file is for, such as a key that stands there twice.
        given: path → the value of an environment variable, which replaces the file's.
    """

    file: Path
    data: dict[str, Any]
    problems: tuple[Problem, ...]
    _marks: Mapping[KeyPath, _Mark] = field(repr=False)
    given: Mapping[KeyPath, Given] = field(default_factory=dict)

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Find where a value stands, or its key; where it is absent, the nearest value above."""
        mark = next(mark for length in range(len(path), -1, -1) if (mark := self._marks.get(path[:length])))
        # A list or a mapping may begin on a line below: its key is where one looks.
        return mark.place if mark.written and not key else mark.key

    def has(self, path: KeyPath) -> bool:
        """Whether there is such a value in the file."""
        return path in self._marks

    def variable(self, path: KeyPath) -> str:
        """Name the environment variable that gives a value; empty where the file does."""
        return self.given[path].variable if path in self.given else ""

    def with_given(self, values: Iterable[Given]) -> Document:
        """Put the environment's values in place of the file's, also of those for some releases alone."""
        data, given = deepcopy(self.data), dict(self.given)
        listed = data.get("per_release")
        for one in values:
            particular = [
                ("per_release", index, *one.path)
                for index, _ in enumerate(listed if isinstance(listed, list) else ())
                if self.has(("per_release", index, *one.path))
            ]
            for path in (one.path, *particular):
                _put(data, path, one.value)
                given[path] = one
        return replace(self, data=data, given=given)

    def written(self, path: KeyPath) -> str:
        """Give a scalar as it stands in the file, texts in quotes; empty for lists, mappings and absent values."""
        if path in self.given:
            return repr(self.given[path].value)
        return self._marks[path].written if path in self._marks else ""

    def located(self, problem: Problem) -> Problem:
        """Add the place of a problem, and the value there."""
        path = problem.path
        value = "" if problem.key else self.written(path)
        return replace(problem, place=self.place(path, key=problem.key), value=value, variable=self.variable(path))


def read_document(file: Path) -> Document:
    """Read a matrix file.

    Raises:
        MatrixError: it cannot be read, is too large, or is not a YAML mapping; the message has the position.
    """
    text = _text(file)
    if found := _FORBIDDEN.search(text):
        rule = f"character {ord(found[0]):#x} cannot stand in a YAML file"
        raise _broken(file, rule, _place_of(text, found.start()), "Remove it.")
    composer = _Composer(file, yaml.parse(text, Loader=_Loader))
    try:
        data = composer.document()
    except yaml.MarkedYAMLError as error:
        raise _syntax(file, text, error) from None
    if data is None:
        raise _no_mapping(file, "the file is empty")
    if not isinstance(data, dict):
        raise _no_mapping(file, f"the file is a {'list' if isinstance(data, list) else 'text'}, not a mapping")
    document = Document(file, data, tuple(composer.problems), dict(composer.marks))
    return replace(document, problems=(*document.problems, *map(document.located, _nulls(data, ()))))


def _put(data: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set a value below mappings, which are made where they are missing. Anything else there is reported later."""
    *above, last = path
    place: Any = data
    for part in above:
        if isinstance(place, dict):
            place = place.setdefault(part, {})
        elif isinstance(place, list) and isinstance(part, int):
            place = place[part]
    if isinstance(place, dict):
        place[last] = value


def _text(file: Path) -> str:
    name, other = shown(file), "name the matrix file with --matrix FILE"
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise MatrixError(f"{name}: there is no such file", remedy=other) from None
    except IsADirectoryError:
        remedy = f"name a file in it, such as {name}/matrix.yaml"
        raise MatrixError(f"{name}: this is a folder, not a file", remedy=remedy) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why, number = getattr(error, "strerror", str(error)), getattr(error, "errno", errno.ENOENT)
        remedy = os_remedy(OSError(number, why, short(name)))
        raise MatrixError(f"{short(name)}: cannot be read: {why}", remedy=remedy) from None
    if len(content) > MAX_BYTES:
        why = "A matrix of every release, flavour and level has some 2 KB: this is another file."
        raise MatrixError(f"{name}: a matrix file has at most {MAX_BYTES >> 20} MiB", why=why, remedy=other)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        rule = f"byte {content[error.start]:#x} is not UTF-8"
        raise _broken(file, rule, _place_of(before, len(before)), "Save the file as UTF-8.") from None


def _place_of(text: str, index: int) -> Place:
    before = text[:index]
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _broken(file: Path, rule: str, place: Place | None, remedy: str) -> MatrixError:
    return matrix_error(file, [Problem(path=(), rule=rule, remedy=remedy, place=place)])


def _no_mapping(file: Path, what: str) -> MatrixError:
    return MatrixError(
        f"{shown(file)}:1:1: {what}",
        remedy="begin with the keys image:, releases: and targets:, as the shipped matrix.yaml does",
    )


def _syntax(file: Path, text: str, error: yaml.MarkedYAMLError) -> MatrixError:
    mark = error.problem_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else None
    lines = text.split("\n")
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    if place and "\t" in indentation:
        tab = Place(place.line, indentation.index("\t") + 1)
        return _broken(file, "YAML is not indented with tabs", tab, "Use blanks.")
    reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    return _broken(file, f"not YAML: {reason}", place, "Check the indentation, brackets and quotes above this place.")


def _nulls(value: object, path: KeyPath) -> Iterator[Problem]:
    """Find nulls: a key without a value is one that someone forgot to fill in."""
    if value is None:
        yield Problem(path=path, rule="there is no value here", remedy="Write one, or remove the line.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nulls(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _nulls(inner, (*path, index))


class _Composer:
    """Makes data of a parser's events, with each alias written out, and marks each value's position."""

    def __init__(self, file: Path, events: Iterator[Any]) -> None:
        self.problems: list[Problem] = []
        self.marks: list[tuple[KeyPath, _Mark]] = []
        self._file = file
        self._events = events
        self._anchors: dict[str, tuple[Any, list[tuple[KeyPath, _Mark]]]] = {}

    def document(self) -> Any:
        """Compose the one document of the stream; None where there is none."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        event = next(self._events)
        data = self._value(event, (), _mark(event))
        next(self._events)  # the document's end
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            raise _broken(self._file, "a second document begins here", _mark(end), "Keep one of them.")
        return data

    def _value(self, event: Any, path: KeyPath, key: Place) -> Any:
        place, start = _mark(event), len(self.marks)
        if len(path) > MAX_DEPTH:
            raise _broken(self._file, f"this is nested more than {MAX_DEPTH} deep", place, "A matrix needs 5.")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), path, _Mark(key, place))
        if event.tag is not None and event.tag != "!":
            self._add(place, path, "a tag has no meaning here", "Remove it.", value=event.tag)
        if isinstance(event, yaml.ScalarEvent):
            data: Any = _scalar(event.value, plain=event.implicit[0])
            text = event.value if event.implicit[0] and not isinstance(data, str) else repr(event.value)
            self._note(path, _Mark(key, place, text if event.value else ""))
        else:
            self._note(path, _Mark(key, place))
            data = self._items(path) if isinstance(event, yaml.SequenceStartEvent) else self._entries(path)
        if event.anchor is not None:
            below = [(at[len(path) :], mark) for at, mark in self.marks[start:]]
            self._anchors[event.anchor] = data, below
        return data

    def _note(self, path: KeyPath, mark: _Mark) -> None:
        if len(self.marks) >= MAX_VALUES:
            rule = f"the file has more than {MAX_VALUES:,} values with aliases written out"
            raise _broken(self._file, rule, mark.place, "Remove aliases (*) or values.")
        self.marks.append((path, mark))

    def _alias(self, anchor: str, path: KeyPath, here: _Mark) -> Any:
        if anchor not in self._anchors:
            rule = f"no anchor &{anchor} stands above, outside of this value"
            raise _broken(self._file, rule, here.place, "Write the value out.")
        data, below = self._anchors[anchor]
        for at, mark in below:
            self._note((*path, *at), mark if at else replace(mark, key=here.key))
        return deepcopy(data)

    def _items(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items)), _mark(event)))
        return items

    def _entries(self, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name, key, start = getattr(event, "value", None), _mark(event), len(self.marks)
            if name is None:
                raise _broken(self._file, "a key is one word", key, "Put a text that begins like this into quotes.")
            value = self._value(next(self._events), (*path, name), key)
            if name not in entries and name != "<<":
                entries[name], keys[name] = value, key
                continue
            del self.marks[start:]
            if name == "<<":
                self._add(key, (*path, name), "merge keys have no meaning here", "Use extends: in a target.")
            else:
                rule = f"this key stands in line {keys[name].line} already"
                self._add(key, (*path, name), rule, "Keep one of the two.")
        return entries

    def _add(self, place: Place, path: KeyPath, rule: str, remedy: str, value: str = "") -> None:
        self.problems.append(Problem(path=path, rule=rule, remedy=remedy, place=place, value=value))


def _mark(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _scalar(text: str, *, plain: bool) -> str | int | float | bool | None:
    if not plain:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan").lower()) if _FLOAT.fullmatch(text) else text
