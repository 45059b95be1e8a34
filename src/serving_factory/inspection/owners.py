"""Finds from a symbol whose code a function is: the project's own, a dispatching library's, or another's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.upstream_flags import upstream_namespaces

# The beginning of an Itanium-mangled name, up to the length of its first identifier
_HEAD = re.compile(
    r"_Z(?:G[VR]|Th(?:n?\d+)_|Tv(?:n?\d+)_(?:n?\d+)_)?"  # guard variables' helpers, thunks
    r"Z*"  # local entities: lambdas, classes within functions
    r"(?P<nested>N?)[rVK]*[RO]?L?"  # nested name, its qualifiers, internal linkage
    r"(?P<length>\d+)?"
)
_IDENTIFIER = re.compile(r"L?(\d+)")
_SCOPE_END = re.compile(r"E|[CD]\d")


class Owner(StrEnum):
    """Whose code a function is."""

    OWN = "own"
    DISPATCH = "dispatch"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeOwners:
    """The rules of catalogue/data/dispatch_owned.yaml."""

    own_namespaces: frozenset[str]  # outermost namespaces of the project
    own_prefixes: tuple[str, ...]  # beginnings of the project's C symbols
    entry_path: re.Pattern[str]  # matches symbols that run on every CPU at start; own, whichever library they are from
    dispatch_namespaces: frozenset[str]  # outermost namespaces of libraries that dispatch by CPU
    dispatch_prefixes: tuple[str, ...]  # beginnings of their C symbols
    functions: re.Pattern[str]  # matches functions within any namespace that are called where the CPU was asked
    # namespaces that upstream compiles with flags of their own -> matches what is in them
    zones: Mapping[str, re.Pattern[str]]
    multiversion: re.Pattern[str]  # matches the compiler's own versions of a function
    mention: re.Pattern[str]  # matches an own namespace anywhere in a mangled name

    def owner(self, symbol: str) -> Owner:
        """Return whose code a function is."""
        # A template of `std::` or of another library that names one of the project's types is the project's own: the
        # project's files instantiate it, with the project's flags.
        if self.entry_path.match(symbol):
            return Owner.OWN
        if self.multiversion.search(symbol) or self.functions.match(symbol):
            return Owner.DISPATCH
        root, nested = _root(symbol)
        if (root in self.own_namespaces) if nested else root.startswith(self.own_prefixes):
            return Owner.OWN
        if symbol.startswith("_Z") and self.mention.search(symbol):
            return Owner.OWN
        if (root in self.dispatch_namespaces) if nested else root.startswith(self.dispatch_prefixes):
            return Owner.DISPATCH
        return Owner.OTHER

    def zone(self, symbol: str) -> str:
        """Return which namespace with flags of its own a function is in; empty for none."""
        return next((name for name, inside in self.zones.items() if inside.match(symbol)), "")


@cache
def code_owners() -> CodeOwners:
    """Read the rules that are shipped with the package."""
    data = read_yaml("dispatch_owned.yaml")
    own, dispatch = data["own"], data["dispatch_owned"]
    return CodeOwners(
        own_namespaces=frozenset(own["namespaces"]),
        own_prefixes=tuple(own["prefixes"]),
        entry_path=_entry_path(own["entry_path"]),
        dispatch_namespaces=frozenset(name for entry in dispatch for name in entry.get("namespaces", ())),
        dispatch_prefixes=tuple(name for entry in dispatch for name in entry.get("prefixes", ())),
        functions=re.compile(
            "|".join(_within(name) + "E" for entry in dispatch for name in entry.get("functions", ()))
        ),
        zones={name: re.compile(_within(name)) for name in upstream_namespaces()},
        multiversion=re.compile(rf"\.(?:{_any_of(data['multiversion_suffixes'])})"),
        # Not preceded by a digit: 15Eigen… is another identifier's length.
        mention=re.compile(rf"(?<!\d)(?:{_any_of(f'{len(name)}{name}' for name in own['namespaces'])})"),
    )


def plain_name(symbol: str) -> str:
    """Spell a mangled name for people: `_ZN10tensorflow6OpBase7ComputeEPv` is `tensorflow::OpBase::Compute`."""
    # Only the leading plain identifiers are spelled, with `…` for the template arguments or operators after them; a
    # name that has none, and a C symbol, is returned as it is.
    head = _HEAD.match(symbol)
    if head is None or not head["length"]:
        return symbol
    parts: list[str] = []
    at = head.start("length")
    while (part := _IDENTIFIER.match(symbol, at)) is not None:
        at = part.end() + int(part[1])
        name = symbol[part.end() : at]
        parts.append("(anonymous)" if name.startswith("_GLOBAL__N_") else name)
        if not head["nested"]:
            break
    rest = symbol[at : at + 2]
    tail = "<…>" if rest.startswith("I") else "::…" if head["nested"] and not _SCOPE_END.match(rest) else ""
    return "::".join(parts) + tail


def _root(symbol: str) -> tuple[str, bool]:
    """Return a symbol's outermost identifier, and whether that is a scope rather than the function itself."""
    head = _HEAD.match(symbol)
    if head is None:
        return symbol, False
    if not head["length"]:
        return "", True
    return symbol[head.end() : head.end() + int(head["length"])], bool(head["nested"])


def _entry_path(names: Iterable[str]) -> re.Pattern[str]:
    """Match names in full, or as a beginning where they end in an underscore or are the compiler's own."""
    # Clones such as `main.cold` belong to their function.
    whole = [name for name in names if not name.startswith(("_GLOBAL_", "__cxx", "_Z"))]
    beginnings = [name for name in names if name not in whole]
    return re.compile(rf"(?:{_any_of(whole)})(?:\.|$)|(?:{_any_of(beginnings)})")


def _within(name: str) -> str:
    """A pattern for the mangled names of what is in a namespace, or of a function where an E follows."""
    *outer, last = name.split("::")
    scopes = "".join(f"{len(part)}{part}" for part in outer)
    return rf"_Z[A-Z]{{0,4}}?N[rVK]*{scopes}L?{len(last)}{last}"


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in words)
