"""The catalogue's data files, and the one place that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.resources import files
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from serving_factory.errors import CatalogueError

_T = TypeVar("_T")


def data_digest(name: str) -> str:
    """Return the sha256 of a data file, for the key of what reads it; 64 hex digits."""
    return hashlib.sha256(files(__name__).joinpath(name).read_bytes()).hexdigest()


def read_yaml(name: str) -> Any:  # noqa: ANN401 - `read_entry` gives the data its types
    """Read a data file that is shipped with the package."""
    return yaml.load(files(__name__).joinpath(name).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - safe


def read_entry(
    kind: type[_T], where: str, entry: Mapping[str, Any], *, notes: Collection[str] = (), **given: object
) -> _T:
    """Make a dataclass of an entry of a data file, by the types of its fields; raises CatalogueError."""
    made: Any = kind  # mypy takes no type variable for hashable
    readers, required = _fields(made)
    if missing := required.difference(entry, given):
        raise CatalogueError(f"{where}: {', '.join(sorted(missing))} is missing", remedy=_REMEDY)
    if unknown := entry.keys() - readers.keys() - set(notes):
        raise CatalogueError(f"{where}: unknown: {', '.join(sorted(unknown))}", remedy=_REMEDY)
    values = given
    for name, value in entry.items():
        try:
            if name not in notes:
                values[name] = readers[name](value)
        except (TypeError, ValueError) as error:
            raise CatalogueError(f"{where}: {name} is {value!r}: {error}", remedy=_REMEDY) from error
    return kind(**values)


def read_table(kind: type[_T], file: str, key: str) -> dict[str, _T]:
    """Read a file of named entries: name -> dataclass, whose field `key` has the name."""
    entries = read_yaml(file).items()
    return {name: read_entry(kind, f"{file}: {name}", entry, **{key: name}) for name, entry in entries}


def read_list(kind: type[_T], file: str) -> tuple[_T, ...]:
    """Read a file that is a list of entries."""
    return tuple(read_entry(kind, file, entry) for entry in read_yaml(file))


_REMEDY = "the head of the data file says which facts there are; put a version into quotes"
_Reader = Callable[[Any], Any]


@cache
def _fields(kind: type) -> tuple[Mapping[str, _Reader], frozenset[str]]:
    hints = get_type_hints(kind)
    all_fields = fields(kind)
    required = {one.name for one in all_fields if one.default is MISSING and one.default_factory is MISSING}
    return {one.name: _reader(hints[one.name]) for one in all_fields}, frozenset(required)


@cache
def _reader(kind: Any) -> _Reader:  # noqa: ANN401 - a type, or a union of types
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return _union(arguments)
    if origin in {tuple, frozenset}:
        return _sequence(origin, _reader(arguments[0]))
    if origin is Mapping:
        return _mapping(_reader(arguments[0]), _reader(arguments[1]))
    if is_dataclass(kind):
        record: Any = kind
        return lambda value: read_entry(record, record.__name__, value)
    if kind in {str, int, bool}:
        return _plain(kind)
    return lambda value: kind(_plain(str)(value))


def _union(kinds: tuple[Any, ...]) -> _Reader:
    text, others = str in kinds, [_reader(kind) for kind in kinds if kind not in {str, NoneType}]

    def read(value: Any) -> Any:  # noqa: ANN401 - as the file has it
        if value is None and NoneType in kinds:
            return None
        return _plain(str)(value) if text and (isinstance(value, str) or not others) else others[0](value)

    return read


def _sequence(kind: type, element: _Reader) -> _Reader:
    def read(value: Any) -> Any:  # noqa: ANN401 - as above
        if isinstance(value, dict):
            value = sorted(name for name, there in value.items() if there)
        elif not isinstance(value, list):
            raise TypeError("expected a list")
        return kind(value) if element is _plain(str) and set(map(type, value)) <= {str} else kind(map(element, value))

    return read


def _mapping(key: _Reader, element: _Reader) -> _Reader:
    def read(value: Any) -> Any:  # noqa: ANN401 - as above
        if not isinstance(value, dict):
            raise TypeError("expected a mapping")
        return {key(name): element(each) for name, each in value.items()}

    return read


@cache
def _plain(kind: type) -> _Reader:
    def read(value: Any) -> Any:  # noqa: ANN401 - as above
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}")
        return value

    return read


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C where PyYAML was built with libyaml."""
