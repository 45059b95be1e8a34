"""CPU levels, and named sets of compiler flags that a target can choose instead of its level's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from serving_factory.catalogue.data import read_entry, read_table, read_yaml


class Level(StrEnum):
    """The CPU instruction level, by its psABI name; plus upstream's `avx`, and `native` (this machine's CPU)."""

    V1 = "x86-64"
    V2 = "x86-64-v2"
    AVX = "avx"
    V3 = "x86-64-v3"
    V4 = "x86-64-v4"
    NATIVE = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFacts:
    """One level."""

    short: str  # the form in ids and tags, such as `v3`
    # every instruction-set feature that code of this level may use, by the psABI's names in lower case
    features: frozenset[str]
    adds: frozenset[str]  # those of them that the level below lacks
    cpuinfo: tuple[str, ...]  # what /proc/cpuinfo must list for the code to run
    # compiler flags that ask for exactly this level, understood by gcc from 5.4 and clang from 6
    copts: tuple[str, ...]
    # the psABI's own names of all it has, with those of the levels below; `avx` is none of its levels
    psabi: tuple[str, ...]
    march: str | None  # the one flag that gives the same with a later compiler; None where there is none
    march_since: Mapping[str, int]  # compiler -> the first major version that knows that flag; empty where all do


# The levels that can be published, lowest first
LEVELS: tuple[Level, ...] = (Level.V1, Level.V2, Level.AVX, Level.V3, Level.V4)


@cache
def _table() -> Mapping[Level, LevelFacts]:
    table: dict[Level, LevelFacts] = {}
    whole: dict[str, list[str]] = {"features": [], "cpuinfo": [], "psabi": []}
    for name, entry in read_yaml("levels.yaml").items():
        whole = {
            "features": whole["features"] + entry["adds"],
            "cpuinfo": whole["cpuinfo"] + entry["cpuinfo"],
            "psabi": whole["psabi"] + entry["psabi"],
        }
        table[Level(name)] = read_entry(LevelFacts, f"levels.yaml: {name}", {**entry, **whole})
    table[Level.NATIVE] = LevelFacts(
        short="native",
        features=table[LEVELS[-1]].features,
        adds=frozenset(),
        cpuinfo=(),
        copts=("-march=native",),
        psabi=(),
        march="-march=native",
        march_since={},
    )
    return table


def level_facts(level: Level) -> LevelFacts:
    """Return what is known of a level."""
    return _table()[level]


def cpuinfo_names(features: Iterable[str]) -> tuple[str, ...]:
    """Return the names by which Linux lists features in /proc/cpuinfo, in the levels' order."""
    required = set(features)
    return tuple(name for feature, name in _cpuinfo().items() if feature in required)


@cache
def _cpuinfo() -> Mapping[str, str]:
    data = read_yaml("levels.yaml")
    return {
        feature: name
        for level in LEVELS
        for feature, name in zip(data[level.value]["adds"], data[level.value]["cpuinfo"], strict=True)
    }


def allowed_features() -> Mapping[str, frozenset[str]]:
    """Map each publishable level's name to the features its code may use."""
    return {level.value: level_facts(level).features for level in LEVELS}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagSet:
    """A named set of compiler flags."""

    name: str  # how a target names it
    copts: tuple[str, ...]  # the flags, in order, instead of the level's
    level: Level  # the lowest level whose CPUs run what they give


@cache
def flag_sets() -> Mapping[str, FlagSet]:
    """Read all sets, by name."""
    return read_table(FlagSet, "flag_sets.yaml", "name")


@cache
def node_labels() -> Mapping[Level, tuple[tuple[str, ...], ...]]:
    """The CPU features that node-feature-discovery labels nodes with, by level: terms, of which one must hold."""
    return {Level(name): tuple(map(tuple, terms)) for name, terms in read_yaml("node_labels.yaml").items()}


@cache
def emulated_cpus() -> Mapping[Level, str]:
    """What qemu's option -cpu must be for a CPU of exactly a level."""
    return {Level(name): cpu for name, cpu in read_yaml("emulated_cpus.yaml").items()}


def level_below(level: Level) -> Level | None:
    """The next lower level; None of the lowest, and of `native`, which has no place among them."""
    return LEVELS[LEVELS.index(level) - 1] if level in LEVELS[1:] else None


def _sets() -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_yaml("instruction_sets.yaml")
    return found


def above_level(option: str, level: Level) -> str:
    """Say what an option lets the compiler use that a level does not have; empty where nothing is known of it."""
    if level is Level.NATIVE:
        return ""
    if option.startswith("-march="):
        name = option.removeprefix("-march=")
        needed = next((Level(one) for one, names in _sets()["march"].items() if name in names), level)
        return f"{needed} is the lowest level with all of {name}" if LEVELS.index(needed) > LEVELS.index(level) else ""
    feature = _feature_of(option)
    if feature is None or feature in level_facts(level).features:
        return ""
    needed = next((one for one in LEVELS if feature in level_facts(one).features), level)
    return f"{feature} is part of {needed}" if needed is not level else f"{feature} is part of no level"


def _feature_of(option: str) -> str | None:
    """The feature beyond x86-64 that a compiler option turns on; None for other options."""
    sets = _sets()
    known = {entry["option"]: feature for feature, entry in sets["beyond"].items()}
    known |= {f"-m{feature}": feature for feature in level_facts(LEVELS[-1]).features}
    return {**known, **sets["options"]}.get(option)


def instruction_flags(cpuinfo: Iterable[str]) -> tuple[str, ...]:
    """Pick the names of instruction sets out of the flags of /proc/cpuinfo, also of those that came later."""
    known = {*_cpuinfo().values(), *(entry["cpuinfo"] for entry in _sets()["beyond"].values())}
    return tuple(name for name in cpuinfo if name in known or name.startswith(("avx", "amx_")))
