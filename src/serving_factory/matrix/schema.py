"""Shapes of the matrix file's values: each reads a value, tells what is wrong with it, and describes itself to editors.

In place of a general validation library, because every `invoke` reads the matrix first: importing one took longer than
all else that `invoke list` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from serving_factory.matrix.problems import BrokenRuleError, Finding, KeyPath, Remedy, did_you_mean, dotted, nearest

# ruff: noqa: D102 - what `read` and `schema` do is told once, at Shape


JsonSchema = dict[str, Any]
_NAME_ONE, _KEYS, _ADD = "Name at least one.", "Write keys below it, each with a value.", "Add it."
_FEWER = "Say it with fewer, or in several files."
_MOST_PLACES = 2
_S = TypeVar("_S")
_SHAPE, _ABOUT = "shape", "about"


class Notes:
    """What is found while a file is read.

    Args:
        written: gives a value as it stands in the file.
        whole: the section that the whole file is, in which the places of misplaced keys are looked for.
    """

    def __init__(self, written: Callable[[KeyPath], str], whole: type | None = None) -> None:
        self.written = written
        self.whole = whole
        self.found: list[Finding] = []
        self.meant: set[KeyPath] = set()
        """Keys that are not there, but that an unknown one is probably a slip of the pen for."""

    def add(self, path: KeyPath, rule: str, remedy: Remedy = "", *, at_key: bool = False) -> None:
        """Note something that is wrong."""
        self.found.append(Finding(path=path, rule=rule, remedy=remedy, key=at_key))


class Shape(Protocol):
    """How a value looks."""

    def read(self, value: Any, path: KeyPath, notes: Notes) -> Any:  # noqa: ANN401
        """Give the value as the program uses it. Where something is noted, what is given means nothing."""

    def schema(self) -> JsonSchema:
        """Describe it for editors."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text, which a check may pass, change, or refuse with a BrokenRuleError.

    Args:
        check: gives the text as the program uses it.
        pattern: for editors, what all texts look like that are none of the words.
        words: for editors, texts that can be listed.
    """

    check: Callable[[str], str] = str
    pattern: str = ""
    words: Callable[[], Iterable[str]] = tuple

    def read(self, value: Any, path: KeyPath, notes: Notes, *, at_key: bool = False) -> str:  # noqa: ANN401
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
    """Make the shape of a text that a regular expression matches as a whole.

    Args:
        pattern: the regular expression; JavaScript's are spelled the same.
        rule: what it says, in words.
        remedy: one thing to do about a text that it does not match.
    """

    def check(value: str) -> str:
        # Not compiled before it is needed: most files use few of the patterns.
        if not re.fullmatch(pattern, value):
            raise BrokenRuleError(rule, remedy)
        return value

    return Text(check, f"^(?:{pattern})$")


def _quotes(value: object, written: str) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return f'Write it without brackets: "{value[0]}".'
    if not isinstance(value, bool | int | float):
        return "Write one text."
    kind = "boolean" if isinstance(value, bool) else "number"
    what = f"a {kind}" if str(value) == written else f"the {kind} {value}"
    return f'Put it in quotes, "{written}": without them YAML reads {what}.'


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words."""

    words: type[StrEnum]

    def read(self, value: Any, path: KeyPath, notes: Notes, *, at_key: bool = False) -> StrEnum | None:  # noqa: ANN401
        names = [word.value for word in self.words]
        if isinstance(value, str) and value in names:
            return self.words(value)
        *most, last = map(repr, names)
        rule = f"expected one of {', '.join(most)} or {last}"
        notes.add(path, rule, did_you_mean(str(value), names, otherwise="Take one of them."), at_key=at_key)
        return None

    def schema(self) -> JsonSchema:
        return {"enum": [word.value for word in self.words]}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int

    def read(self, value: Any, path: KeyPath, notes: Notes) -> int:  # noqa: ANN401
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return value
        quoted = isinstance(value, str) and value.isdecimal() and self.least <= int(value) <= self.most
        remedy = f"Write it without quotes: {value}." if quoted else "Write one of these."
        notes.add(path, f"expected a whole number from {self.least} to {self.most}", remedy)
        return 0

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Truth:
    """Yes or no."""

    def read(self, value: Any, path: KeyPath, notes: Notes) -> bool:  # noqa: ANN401
        if isinstance(value, bool):
            return value
        notes.add(path, "expected true or false", "Write one of the two, without quotes.")
        return False

    def schema(self) -> JsonSchema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class TruthOr:
    """Yes, no, or one word for neither, which reads as None."""

    word: str

    def read(self, value: Any, path: KeyPath, notes: Notes) -> bool | None:  # noqa: ANN401
        if isinstance(value, bool):
            return value
        if value != self.word:
            notes.add(path, f"expected true, false or {self.word}", "Write one of the three, without quotes.")
        return None

    def schema(self) -> JsonSchema:
        return {"enum": [True, False, self.word]}


@dataclass(frozen=True, slots=True)
class Many:
    """A list of bounded length."""

    item: Shape
    least: int = 1
    most: int = 200

    def read(self, value: Any, path: KeyPath, notes: Notes) -> tuple[Any, ...]:  # noqa: ANN401
        if not isinstance(value, list):
            notes.add(path, "expected a list", self._brackets(value, notes.written(path)))
            return ()
        if len(value) > self.most:
            notes.add(path, _too_many(self.most, len(value)), _FEWER)
            return ()
        if len(value) < self.least:
            notes.add(path, "this must not be empty", _NAME_ONE)
        return tuple(self.item.read(one, (*path, index), notes) for index, one in enumerate(value))

    def _brackets(self, value: object, written: str) -> str:
        if isinstance(value, str):
            return f"Put it in brackets: [{', '.join(value.split())}]."
        if not written:
            return "Write each entry in a line of its own, after `- `."
        quote = '"' if isinstance(self.item, Text) else ""
        return f"Put it in brackets: [{quote}{written}{quote}]."

    def schema(self) -> JsonSchema:
        bounds = {**({"minItems": self.least} if self.least else {}), "maxItems": self.most}
        return {"type": "array", "items": self.item.schema(), **bounds}


def _too_many(most: int, found: int) -> str:
    return f"this may have {most} entries at most, and has {found:,}"


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping whose keys the user chooses."""

    names: Text | Word
    values: Shape
    least: int = 0
    most: int = 200

    def read(self, value: Any, path: KeyPath, notes: Notes) -> dict[Any, Any]:  # noqa: ANN401
        if not isinstance(value, dict):
            notes.add(path, "expected a mapping", _KEYS)
            return {}
        if len(value) > self.most:
            notes.add(path, _too_many(self.most, len(value)), _FEWER)
            return {}
        if len(value) < self.least:
            notes.add(path, "this must not be empty", _NAME_ONE)
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
class TextOr:
    """A text, or something else."""

    text: Text
    other: Shape

    def read(self, value: Any, path: KeyPath, notes: Notes) -> Any:  # noqa: ANN401
        return (self.text if isinstance(value, str) else self.other).read(value, path, notes)

    def schema(self) -> JsonSchema:
        return {"anyOf": [self.text.schema(), self.other.schema()]}


@dataclass(frozen=True, slots=True)
class Section(Generic[_S]):
    """A mapping with known keys: a dataclass whose fields are made with `key`."""

    of: type[_S]

    def read(self, value: Any, path: KeyPath, notes: Notes) -> _S:  # noqa: ANN401
        """Give the section; one that is not whole is made of what could be read, and something is noted."""
        if not isinstance(value, dict):
            notes.add(path, "expected a mapping", _KEYS)
            return self._made({}, path, Notes(notes.written))
        return self._made(value, path, notes)

    def _made(self, value: Mapping[str, Any], path: KeyPath, notes: Notes) -> _S:
        self._unknown_keys(value, path, notes)
        read: dict[str, Any] = {}
        for one in _fields(self.of):
            here = (*path, one.name)
            if one.name in value:
                read[one.name] = one.metadata[_SHAPE].read(value[one.name], here, notes)
            elif _required(one):
                if here not in notes.meant:
                    notes.add(here, "this key is required", _ADD)
                read[one.name] = one.metadata[_SHAPE].read(None, here, Notes(notes.written))
        return self.of(**read)

    def _unknown_keys(self, value: Mapping[str, Any], path: KeyPath, notes: Notes) -> None:
        names = key_names(self.of)
        unknown = [name for name in value if name not in names]
        for name in unknown:
            if places := _places(self.of, name, dotted(path)) or _places(notes.whole, name):
                remedy = f"Its place is {' or '.join(places[:_MOST_PLACES])}."
                notes.add((*path, name), "unknown key here", remedy, at_key=True)
                continue
            notes.add((*path, name), "unknown key", did_you_mean(name, names, otherwise=_known(names)), at_key=True)
            meant = nearest(name, names) if len(unknown) <= len(names) else None
            if meant and meant not in value:
                notes.meant.add((*path, meant))

    def schema(self) -> JsonSchema:
        described = {
            one.name: {**one.metadata[_SHAPE].schema(), "description": one.metadata[_ABOUT]} for one in _fields(self.of)
        }
        return {
            "type": "object",
            "description": (self.of.__doc__ or "").strip(),
            "properties": described,
            "required": [one.name for one in _fields(self.of) if _required(one)],
            "additionalProperties": False,
        }


def key(shape: Shape, about: str, **default: Any) -> Any:  # noqa: ANN401 - as dataclasses.field is typed
    """Make a field of a section.

    Args:
        shape: how its value looks.
        about: what it is, for editors.
        default: `default=...` or `default_factory=...`, where the key may be left out.
    """
    return field(metadata={_SHAPE: shape, _ABOUT: about}, **default)


def key_names(section: type) -> Sequence[str]:
    """Name the keys of a section, in order."""
    return [one.name for one in _fields(section)]


def _places(section: type | None, name: str, above: str = "") -> Sequence[str]:
    """Where in a section, or in those below it, there is a key of this name; the shallowest first."""
    return sorted((place for place, key in _below(section, above) if key == name), key=lambda place: place.count("."))


def _below(section: type | None, above: str) -> Iterator[tuple[str, str]]:
    for one in _fields(section) if section else ():
        place, shape = f"{above}.{one.name}" if above else one.name, one.metadata[_SHAPE]
        yield place, one.name
        if isinstance(shape, Many):
            place, shape = f"{place}[]", shape.item
        elif isinstance(shape, Table):
            place, shape = f"{place}.NAME", shape.values
        if isinstance(shape, Section):
            yield from _below(shape.of, place)


def _known(names: Sequence[str]) -> str:
    return f"Known: {', '.join(names)}."


def _fields(section: type) -> Iterator[Field[Any]]:
    return iter(fields(section))


def _required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING
