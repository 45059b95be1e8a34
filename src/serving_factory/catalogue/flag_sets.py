"""Named sets of compiler flags that a target can ask for instead of its level's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.levels import Level

__all__ = ["FlagSet", "flag_set_of", "flag_sets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagSet:
    """A named set of compiler flags.

    Args:
        name: how a target names it.
        copts: the flags, in order, instead of the level's.
        level: the lowest level whose CPUs run what they give.
        targets: names of targets that mean this set unless they say otherwise.
    """

    name: str
    copts: tuple[str, ...]
    level: Level
    targets: tuple[str, ...]


@cache
def flag_sets() -> Mapping[str, FlagSet]:
    """Read all sets, by name."""
    return {
        name: FlagSet(
            name=name, copts=tuple(entry["copts"]), level=Level(entry["level"]), targets=tuple(entry["targets"])
        )
        for name, entry in read_yaml("flag_sets.yaml").items()
    }


def flag_set_of(target: str) -> FlagSet | None:
    """Find the set that a target of this name means when it says nothing; None where it means its level's own flags."""
    return next((found for found in flag_sets().values() if target in found.targets), None)
