"""Which releases were really built with this factory: what the other data promises of them is proven."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from serving_factory.catalogue.data import read_yaml

__all__ = ["Built", "built"]


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
        inputs: `folders` where no step had a network, `network` where everything came over one.
        date: of the build, ISO 8601.
        actions: that Bazel ran, without those taken from a cache.
        cached: that it took from the disk cache.
        minutes: that the compile stage took.
        processors: of the machine.
    """

    release: str
    flavour: str
    level: str
    base: str
    compiler: str
    bazel: str
    inputs: str
    date: str
    actions: int
    cached: int
    minutes: int
    processors: int


@cache
def built() -> tuple[Built, ...]:
    """Read the builds, in the order of the file."""
    return tuple(Built(**entry) for entry in read_yaml("built.yaml"))
