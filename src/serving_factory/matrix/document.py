"""The matrix file as data that remembers where each value stands. No file takes long, or much memory, to read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from serving_factory.errors import MatrixError
from serving_factory.matrix.environment import Given
from serving_factory.matrix.problems import Finding, KeyPath, Place, Problem, matrix_error

MAX_BYTES = 1 << 20
MAX_VALUES = 10_000
"""How many values a file may have when each alias is written out."""
MAX_DEPTH = 20

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Only for the events of its parser: in C where PyYAML was built with libyaml."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML 1.2, section 5.1, does not let a stream hold."""

# YAML 1.2's core schema. YAML 1.1 would take `on` and `12:30` for something else than texts.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class _Node:
    """A value of the file: a scalar has a text, a list has items, a mapping has entries."""

    place: Place
    text: str | None = None
    plain: bool = False
    items: list[_Node] | None = None
    entries: dict[str, tuple[Place, _Node]] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A matrix file that is YAML, and a mapping.

    Args:
        file: which.
        data: mappings, lists, texts, numbers, booleans and nulls; all keys are texts.
        problems: what can be told of it without knowing what it is for, such as keys that stand there twice.
        given: path → what the environment gives in the place of what the file has there.
    """

    file: Path
    data: dict[str, Any]
    problems: tuple[Problem, ...]
    _root: _Node = field(repr=False)
    given: Mapping[KeyPath, Given] = field(default_factory=dict)

    def place(self, path: KeyPath, *, key: bool = False) -> Place | None:
        """Find where a value stands, or its key; where the file has not got it, what is nearest above."""
        return self._walk(path, key=key)[0]

    def has(self, path: KeyPath) -> bool:
        """Whether there is such a value in the file."""
        return self._walk(path)[1] is not None

    def variable(self, path: KeyPath) -> str:
        """Name the environment variable that a value comes from; empty where it is the file's."""
        return self.given[path].variable if path in self.given else ""

    def with_given(self, values: Iterable[Given]) -> Document:
        """Put what the environment gives in its place, and in that of what the file says for some releases."""
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
        """Give a scalar as it stands in the file, texts in quotes; empty for lists, mappings and what is absent."""
        if path in self.given:
            return repr(self.given[path].value)
        node = self._walk(path)[1]
        if node is None or not node.text:
            return ""
        return node.text if node.plain and not isinstance(_scalar(node), str) else repr(node.text)

    def problem(self, finding: Finding) -> Problem:
        """Look up where in the file a finding is."""
        return Problem(
            place=self.place(finding.path, key=finding.key),
            path=finding.path,
            value="" if finding.key else self.written(finding.path),
            rule=finding.rule,
            remedy=finding.remedy,
            variable=self.variable(finding.path),
        )

    def _walk(self, path: KeyPath, *, key: bool = False) -> tuple[Place | None, _Node | None]:
        node, place = self._root, None
        for part in path:
            if node.entries is not None and part in node.entries:
                above, node = node.entries[str(part)]
                # A list or a mapping may begin on a line below: its key is where one looks.
                place = node.place if node.text and not key else above
            elif node.items is not None and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                place = node.place
            else:
                return place or self._root.place, None
        return place, node


def read_document(file: Path) -> Document:
    """Read a matrix file.

    Raises:
        MatrixError: it cannot be read, is too large, or is no YAML mapping; the message tells the place.
    """
    text = _text(file)
    if found := _FORBIDDEN.search(text):
        rule = f"character {ord(found[0]):#x} cannot stand in a YAML file"
        raise _broken(file, rule, _place_of(text, found.start()), "Take it away.")
    composer = _Composer(file, yaml.parse(text, Loader=_Loader))
    try:
        root = composer.document()
        if root is None:
            raise _no_mapping(file, "the file is empty")
        if root.entries is None:
            raise _no_mapping(file, f"the file is a {'list' if root.items is not None else 'text'}, not a mapping")
        data = _Builder(file).value(root)
    except yaml.MarkedYAMLError as error:
        raise _syntax(file, text, error) from None
    document = Document(file, data, tuple(composer.problems), root)
    nulls = tuple(document.problem(finding) for finding in _nulls(data, ()))
    return replace(document, problems=document.problems + nulls)


def _put(data: dict[str, Any], path: KeyPath, value: object) -> None:
    """Set a value below mappings, which are made where there are none. Where there is something else, that is told."""
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
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise MatrixError(f"{file}: there is no such file", remedy="name the matrix file with --matrix FILE") from None
    except IsADirectoryError:
        raise MatrixError(
            f"{file}: this is a folder, not a file", remedy=f"name a file in it, such as {file / 'matrix.yaml'}"
        ) from None
    except (OSError, ValueError) as error:
        raise MatrixError(f"{file}: cannot be read: {error}", remedy="name a file that you may read") from None
    if len(content) > MAX_BYTES:
        raise MatrixError(
            f"{file}: a matrix file has at most {MAX_BYTES >> 20} MiB",
            why="A matrix of every release, flavour and level is some 2 KB: this is another file.",
            remedy="name the matrix file with --matrix FILE",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        rule = f"byte {content[error.start]:#x} is no UTF-8"
        raise _broken(file, rule, _place_of(before, len(before)), "Save the file as UTF-8.") from None


def _place_of(text: str, index: int) -> Place:
    before = text[:index]
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _broken(file: Path, rule: str, place: Place | None, remedy: str) -> MatrixError:
    return matrix_error(str(file), [Problem(place=place, path=(), value="", rule=rule, remedy=remedy)])


def _no_mapping(file: Path, what: str) -> MatrixError:
    return MatrixError(
        f"{file}:1:1: {what}",
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
        return _broken(file, "YAML is not indented with tabs", tab, "Put blanks in its place.")
    reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    return _broken(file, f"not YAML: {reason}", place, "Look at the indentation, brackets and quotes above this place.")


def _nulls(value: object, path: KeyPath) -> Iterator[Finding]:
    """Nothing in a matrix file may be null: a key without a value is one that somebody has forgotten to fill in."""
    if value is None:
        yield Finding(path=path, rule="there is no value here", remedy="Write one, or take the line away.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nulls(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _nulls(inner, (*path, index))


class _Composer:
    """Makes nodes of a parser's events. An alias gives the very node that its anchor names: nothing grows here."""

    def __init__(self, file: Path, events: Iterator[Any]) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._events = events
        self._anchors: dict[str, _Node] = {}

    def document(self) -> _Node | None:
        """Compose the one document of the stream; None where there is none, or it is nothing."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self._events), ())
        next(self._events)  # the document's end
        end = next(self._events)
        if not isinstance(end, yaml.StreamEndEvent):
            raise _broken(self._file, "a second document begins here", _mark(end), "Keep one of them.")
        return None if root.text is not None and root.plain and _NULL.fullmatch(root.text) else root

    def _node(self, event: Any, path: KeyPath) -> _Node:  # noqa: ANN401 - PyYAML's events have no types
        place = _mark(event)
        if len(path) > MAX_DEPTH:
            raise _broken(self._file, f"this is nested more than {MAX_DEPTH} deep", place, "A matrix needs 5.")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                rule = f"no anchor &{event.anchor} stands above, outside of this value"
                raise _broken(self._file, rule, place, "Write the value itself.")
            return self._anchors[event.anchor]
        if event.tag is not None and event.tag != "!":
            self._problem(place, path, event.tag, "a tag has no meaning here", "Take it away.")
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(place, text=event.value, plain=event.implicit[0])
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _Node(place, items=list(self._items(path)))
        else:
            node = _Node(place, entries=self._entries(path))
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _items(self, path: KeyPath) -> Iterator[_Node]:
        index = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, (*path, index))
            index += 1

    def _entries(self, path: KeyPath) -> dict[str, tuple[Place, _Node]]:
        entries: dict[str, tuple[Place, _Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _broken(self._file, "a key is one word", _mark(event), "Put a text that begins so into quotes.")
            name, place = event.value, _mark(event)
            node = self._node(next(self._events), (*path, name))
            if name in entries:
                rule = f"this key stands in line {entries[name][0].line} already"
                self._problem(place, (*path, name), "", rule, "Keep one of the two.")
            elif name == "<<":
                rule = "merge keys have no meaning here"
                self._problem(place, (*path, name), "", rule, "A target can name another one at extends:.")
            else:
                entries[name] = (place, node)
        return entries

    def _problem(self, place: Place, path: KeyPath, value: str, rule: str, remedy: str) -> None:
        self.problems.append(Problem(place=place, path=path, value=value, rule=rule, remedy=remedy))


def _mark(event: Any) -> Place:  # noqa: ANN401 - PyYAML's events have no types
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


class _Builder:
    """Makes data of nodes, each alias written out; stops where that would be much more than the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._count = 0

    def value(self, node: _Node) -> Any:  # noqa: ANN401 - whatever the file holds
        self._count += 1
        if self._count > MAX_VALUES:
            rule = f"written out, the file's values and aliases are more than {MAX_VALUES:,}"
            raise _broken(self._file, rule, node.place, "Take the aliases (*) away, or some of the values.")
        if node.entries is not None:
            return {name: self.value(inner) for name, (_, inner) in node.entries.items()}
        if node.items is not None:
            return [self.value(inner) for inner in node.items]
        return _scalar(node)


def _scalar(node: _Node) -> str | int | float | bool | None:
    text = node.text or ""
    if not node.plain:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan").lower()) if _FLOAT.fullmatch(text) else text
