"""Shapes of a file's values: each reads a value, reports what is wrong with it, and describes itself to editors."""

# ruff: noqa: ANN401, D102 - values of a file have any type; `read` and `schema` are explained at Shape

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from serving_factory.matrix.problems import (
    BrokenRuleError,
    DidYouMean,
    KeyPath,
    Problem,
    Remedy,
    dotted,
    nearest,
    short,
    shown,
)

JsonSchema = dict[str, Any]
Conflict = tuple[KeyPath, str, Remedy]
"""Of keys that do not go together: the path of one, below its section; the rule; one thing to do."""

_NAME_ONE, _KEYS, _FEWER = (
    "Name at least one.",
    "Write keys below it, each with a value.",
    "Use fewer, or several files.",
)
_MOST_PLACES = 2
_S = TypeVar("_S")
_SHAPE, _ABOUT = "shape", "about"


class Notes:
    """What is found while a file is read.

    Args:
        written: gives a value as it stands in the file.
        folder: what its paths are relative to.
        whole: the section that the whole file is; an unknown key's right place is looked for in it.
    """

    def __init__(self, written: Callable[[KeyPath], str], *, folder: Path = Path(), whole: type | None = None) -> None:
        self.written = written
        self.folder = folder
        self.whole = whole
        self.found: list[Problem] = []
        self.meant: set[KeyPath] = set()
        """Missing keys that an unknown key is probably a typo for."""

    def add(self, path: KeyPath, rule: str, remedy: Remedy = "", *, at_key: bool = False) -> None:
        """Note a problem."""
        self.found.append(Problem(path=path, rule=rule, remedy=remedy, key=at_key))

    def silent(self) -> Notes:
        """Notes of the same file that no one looks at."""
        return Notes(self.written, folder=self.folder)


class Shape(Protocol):
    """What a value must look like."""

    def read(self, value: Any, path: KeyPath, notes: Notes) -> Any:
        """Give the value as the program uses it; of no meaning where a problem is noted."""

    def schema(self) -> JsonSchema:
        """Describe it for editors."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text. `check` gives it as the program uses it; `words`, and a pattern for all others, are for editors."""

    check: Callable[[str], Any] = str
    pattern: str = ""
    words: Callable[[], Iterable[str]] = tuple

    def read(self, value: Any, path: KeyPath, notes: Notes, *, at_key: bool = False) -> Any:
        if not isinstance(value, str):
            notes.add(path, "expected a text", _quotes(value, notes.written(path)))
            return ""
        try:
            return self.check(value)
        except BrokenRuleError as error:
            notes.add(path, error.rule, error.remedy, at_key=at_key)
            return ""

    def schema(self) -> JsonSchema:
        pattern = {"pattern": self.pattern} if self.pattern else {}
        words = {"enum": list(self.words())}
        if not words["enum"]:
            return {"type": "string", **pattern}
        return {"type": "string", "anyOf": [words, pattern]} if pattern else words


def matching(pattern: str, rule: str, remedy: str) -> Text:
    """Make the shape of a text that a regular expression, in a syntax that JavaScript shares, matches as a whole."""

    def check(value: str) -> str:
        # Compiled when needed: most files use few of the patterns.
        if not re.fullmatch(pattern, value):
            raise BrokenRuleError(rule, remedy)
        return value

    return Text(check, f"^(?:{pattern})$")


def one_of(words: type[StrEnum]) -> Text:
    """Make the shape of one of some words."""
    *most, last = names = [word.value for word in words]

    def check(value: str) -> StrEnum:
        if value in names:
            return words(value)
        rule = f"expected one of {', '.join(map(repr, most))} or {last!r}"
        raise BrokenRuleError(rule, DidYouMean(value, names, "Use one of them."))

    return Text(check, words=lambda: names)


def _quotes(value: object, written: str) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return f'Write it without brackets: "{value[0]}".'
    if not isinstance(value, bool | int | float):
        return "Write one text."
    kind = "boolean" if isinstance(value, bool) else "number"
    what = f"a {kind}" if str(value) == written else f"the {kind} {value}"
    return f'Put it in quotes, "{written}": without them YAML reads {what}.'


_PATH = matching(r"[^\x00-\x1f]+", "a path is not empty and holds no control characters", "Write a path.")


@dataclass(frozen=True, slots=True)
class PathTo:
    """A `file` or a `folder` that exists, relative to the file that names it; `check` looks at what is in it."""

    kind: str
    check: Callable[[Path], object] = str
    remedy: str = ""

    def read(self, value: Any, path: KeyPath, notes: Notes) -> Path:
        name: str = _PATH.read(value, path, notes)
        place = notes.folder / name
        if not name:
            return place
        try:
            place = place.resolve()
            self._look(place)
        except BrokenRuleError as error:
            notes.add(path, error.rule, error.remedy)
        except (OSError, RuntimeError) as error:  # too long, closed to us, a loop of links
            why = getattr(error, "strerror", None) or str(error)
            notes.add(path, f"{short(shown(place))} cannot be read: {short(why)}", f"Name another {self.kind}.")
        return place

    def _look(self, place: Path) -> None:
        if not (place.is_file() if self.kind == "file" else place.is_dir()):
            other = "folder" if self.kind == "file" else "file"
            is_other = f"{short(shown(place))} is a {other}, not a {self.kind}"
            rule = is_other if place.exists() else f"there is no {self.kind} {short(shown(place))}"
            raise BrokenRuleError(rule, self.remedy or f"Name a {self.kind} that exists, relative to this file.")
        self.check(place)

    def schema(self) -> JsonSchema:
        return _PATH.schema()


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int

    def read(self, value: Any, path: KeyPath, notes: Notes) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return value
        quoted = isinstance(value, str) and value.isdecimal() and self.least <= int(value) <= self.most
        remedy = f"Write it without quotes: {value}." if quoted else "Write one of these."
        notes.add(path, f"expected a whole number from {self.least} to {self.most}", remedy)
        return 0

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Boolean:
    """True, false, or one word for neither, which reads as None."""

    word: str = ""

    def read(self, value: Any, path: KeyPath, notes: Notes) -> bool | None:
        if isinstance(value, bool):
            return value
        if not self.word or value != self.word:
            choices = f"true, false or {self.word}" if self.word else "true or false"
            notes.add(path, f"expected {choices}", "Write one of them, without quotes.")
        return None

    def schema(self) -> JsonSchema:
        return {"enum": [True, False, self.word]} if self.word else {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Many:
    """A list of bounded length."""

    item: Shape
    least: int = 1
    most: int = 200

    def read(self, value: Any, path: KeyPath, notes: Notes) -> tuple[Any, ...]:
        if not isinstance(value, list):
            notes.add(path, "expected a list", self._brackets(value, notes.written(path)))
            return ()
        if not _counted(value, self.least, self.most, path, notes):
            return ()
        return tuple(self.item.read(one, (*path, index), notes) for index, one in enumerate(value))

    def _brackets(self, value: object, written: str) -> str:
        if isinstance(value, str):
            # Without quotes YAML reads 8.0 as a number.
            quoted = (f'"{one}"' if one[0].isdigit() else one for one in value.split())
            return f"Put it in brackets: [{', '.join(quoted)}]."
        if not written:
            return "Write each entry in a line of its own, after `- `."
        item = self.item.text if isinstance(self.item, Either) else self.item
        quote = '"' if isinstance(item, Text) else ""
        return f"Put it in brackets: [{quote}{written}{quote}]."

    def schema(self) -> JsonSchema:
        bounds = {**({"minItems": self.least} if self.least else {}), "maxItems": self.most}
        return {"type": "array", "items": self.item.schema(), **bounds}


def _counted(value: list[Any] | dict[str, Any], least: int, most: int, path: KeyPath, notes: Notes) -> bool:
    if len(value) > most:
        notes.add(path, f"this may have {most} entries at most, and has {len(value):,}", _FEWER)
        return False
    if len(value) < least:
        notes.add(path, "this must not be empty", _NAME_ONE)
    return True


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping whose keys the user chooses."""

    names: Text
    values: Shape
    least: int = 0
    most: int = 200

    def read(self, value: Any, path: KeyPath, notes: Notes) -> dict[Any, Any]:
        if not isinstance(value, dict):
            notes.add(path, "expected a mapping", _KEYS)
            return {}
        if not _counted(value, self.least, self.most, path, notes):
            return {}
        return {
            self.names.read(name, (*path, name), notes, at_key=True): self.values.read(one, (*path, name), notes)
            for name, one in value.items()
        }

    def schema(self) -> JsonSchema:
        least = {"minProperties": self.least} if self.least else {}
        return {
            "type": "object",
            "propertyNames": self.names.schema(),
            "additionalProperties": self.values.schema(),
            **least,
            "maxProperties": self.most,
        }


@dataclass(frozen=True, slots=True)
class Either:
    """One of two shapes: the first for texts that hold a mark, or that are a word; the second for all else."""

    text: Shape
    other: Shape
    mark: str = ""
    word: str | None = None

    def read(self, value: Any, path: KeyPath, notes: Notes) -> Any:
        is_text = isinstance(value, str) and (self.mark in value if self.word is None else value == self.word)
        if not self.mark and self.word is None:  # a number is a text without its quotes
            is_text = not isinstance(value, dict | list)
        return (self.text if is_text else self.other).read(value, path, notes)

    def schema(self) -> JsonSchema:
        return {"anyOf": [self.text.schema(), self.other.schema()]}


class Keys:
    """Base of sections whose keys depend on each other."""

    __slots__ = ()

    def conflicts(self) -> Iterable[Conflict]:
        """Find keys that do not go together; only asked where each key on its own is right."""
        return ()


@dataclass(frozen=True, slots=True)
class Section(Generic[_S]):
    """A mapping with known keys: a dataclass whose fields are made with `key`."""

    of: type[_S]

    def read(self, value: Any, path: KeyPath, notes: Notes) -> _S:
        if not isinstance(value, dict):
            notes.add(path, "expected a mapping", _KEYS)
            return self._made({}, path, notes.silent())
        found = len(notes.found)
        section = self._made(value, path, notes)
        if isinstance(section, Keys) and len(notes.found) == found:
            for below, rule, remedy in section.conflicts():
                notes.add((*path, *below), rule, remedy)
        return section

    def _made(self, value: Mapping[str, Any], path: KeyPath, notes: Notes) -> _S:
        self._unknown_keys(value, path, notes)
        read: dict[str, Any] = {}
        for one in fields(self.of):  # type: ignore[arg-type]
            here = (*path, one.name)
            if one.name in value:
                read[one.name] = one.metadata[_SHAPE].read(value[one.name], here, notes)
            elif _required(one):
                if here not in notes.meant:
                    notes.add(here, "this key is required", "Add it.")
                read[one.name] = one.metadata[_SHAPE].read(None, here, notes.silent())
        return self.of(**read)

    def _unknown_keys(self, value: Mapping[str, Any], path: KeyPath, notes: Notes) -> None:
        names = key_names(self.of)
        unknown = [name for name in value if name not in names]
        for name in unknown:
            if places := _places(self.of, name, dotted(path)) or _places(notes.whole, name):
                remedy = f"Its place is {' or '.join(places[:_MOST_PLACES])}."
                notes.add((*path, name), "unknown key here", remedy, at_key=True)
                continue
            known = f"Known: {', '.join(names)}."
            notes.add((*path, name), "unknown key", DidYouMean(name, names, known), at_key=True)
            meant = nearest(name, names) if len(unknown) <= len(names) else None
            if meant and meant not in value:
                notes.meant.add((*path, meant))

    def schema(self) -> JsonSchema:
        keys = fields(self.of)  # type: ignore[arg-type]
        return {
            "type": "object",
            "description": (self.of.__doc__ or "").strip(),
            "properties": {
                one.name: {**one.metadata[_SHAPE].schema(), "description": one.metadata[_ABOUT]} for one in keys
            },
            "required": [one.name for one in keys if _required(one)],
            "additionalProperties": False,
        }


def key(shape: Shape | type, about: str = "", default: Any = MISSING, *, secret: bool = False) -> Any:
    """Make a field of a section.

    Args:
        shape: of its value; or a section that may be left out, and explains itself.
        about: what it means.
        default: its value where it is left out; a class is called.
        secret: no text of the section shows it.
    """
    if isinstance(shape, type):
        shape, about, default = Section(shape), (shape.__doc__ or "").partition("\n")[0], shape
    metadata = {_SHAPE: shape, _ABOUT: about}
    if isinstance(default, type):
        return field(metadata=metadata, default_factory=default, repr=not secret)
    return field(metadata=metadata, default=default, repr=not secret)


def key_names(section: type) -> Sequence[str]:
    """Name the keys of a section, in order."""
    return [one.name for one in fields(section)]


def _places(section: type | None, name: str, above: str = "") -> Sequence[str]:
    """Find the keys of this name in a section and below it; the shallowest first."""
    return sorted((place for place, key in _below(section, above) if key == name), key=lambda place: place.count("."))


def _below(section: type | None, above: str) -> Iterator[tuple[str, str]]:
    for one in fields(section) if section else ():
        place, shape = f"{above}.{one.name}" if above else one.name, one.metadata[_SHAPE]
        yield place, one.name
        if isinstance(shape, Many):
            place, shape = f"{place}[]", shape.item
        elif isinstance(shape, Table):
            place, shape = f"{place}.NAME", shape.values
        if isinstance(shape, Section):
            yield from _below(shape.of, place)


def _required(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING
