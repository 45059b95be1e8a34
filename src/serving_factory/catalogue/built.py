"""Which releases were really built with this factory: what the other data promises of them is proven."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from serving_factory.catalogue.data import read_yaml

__all__ = ["Built", "Inputs", "built"]


class Inputs(StrEnum):
    """Where a build's inputs came from."""

    FOLDERS = "folders"
    """No step had a network."""
    NETWORK = "network"
    """Stand-ins for the internet, and no other network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One build, of upstream's sources at the release's commit, by `build` through all stages to smoke.

    Args:
        release: the tag.
        flavour: such as `cpu`.
        level: such as `x86-64-v3`.
        base: the base image.
        compiler: its package.
        bazel: the version.
        inputs: where they came from.
        date: of the build, ISO 8601.
        actions: all that Bazel had to do.
        cached: those of them that it took from the disk cache.
        minutes: that the compile stage took.
        processors: of the machine.
    """

    release: str
    flavour: str
    level: str
    base: str
    compiler: str
    bazel: str
    inputs: Inputs
    date: str
    actions: int
    cached: int
    minutes: int
    processors: int


@cache
def built() -> tuple[Built, ...]:
    """Read the builds, in the order of the file."""
    return tuple(Built(**{**entry, "inputs": Inputs(entry["inputs"])}) for entry in read_yaml("built.yaml"))
