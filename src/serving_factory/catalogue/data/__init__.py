"""The catalogue's data files, and the one place that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
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
    types, required = _fields(made)
    if missing := required.difference(entry, given):
        raise CatalogueError(f"{where}: {', '.join(sorted(missing))} is missing", remedy=_REMEDY)
    if unknown := entry.keys() - types.keys() - set(notes):
        raise CatalogueError(f"{where}: unknown: {', '.join(sorted(unknown))}", remedy=_REMEDY)
    values = given
    for name, value in entry.items():
        try:
            if name not in notes:
                values[name] = _read(types[name], value)
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


@cache
def _fields(kind: type) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The types of a dataclass's fields, and the names of those that an entry must have."""
    required = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    return get_type_hints(kind), frozenset(required)


def _read(kind: Any, value: Any) -> Any:  # noqa: ANN401 - a type or a union of types; a value as the file has it
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        if value is None and NoneType in arguments:
            return None
        others = [other for other in arguments if other not in {str, NoneType}]
        return _read(str if not others or (str in arguments and isinstance(value, str)) else others[0], value)
    if origin is not None:
        return _read_collection(origin, arguments, value)
    if isinstance(kind, type) and is_dataclass(kind):
        return read_entry(kind, kind.__name__, value)
    plain = kind if kind in {str, int, bool} else str
    if type(value) is not plain:
        raise TypeError(f"expected {plain.__name__}")
    return value if plain is kind else kind(value)


def _read_collection(kind: Any, arguments: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401 - as above
    if kind is Mapping:
        if not isinstance(value, dict):
            raise TypeError("expected a mapping")
        return {_read(arguments[0], name): _read(arguments[1], each) for name, each in value.items()}
    if isinstance(value, dict):
        value = sorted(name for name, there in value.items() if there)
    elif not isinstance(value, list):
        raise TypeError("expected a list")
    plain = arguments[0] is str and set(map(type, value)) <= {str}  # most are: this is quicker
    return kind(value) if plain else kind(_read(arguments[0], each) for each in value)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, in C where PyYAML was built with libyaml."""
