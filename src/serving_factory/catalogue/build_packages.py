"""Which of upstream's build packages a toolchain installs, and what they are called on its base."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from packaging.specifiers import SpecifierSet

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.distributions import Distribution
from serving_factory.catalogue.facts import Flavour, Release

__all__ = ["LeftOut", "build_packages", "left_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Packages that a toolchain does without.

    Args:
        packages: upstream's names.
        releases: of which releases.
        built_without: tags of the releases that were built without them.
        why: sentences.
    """

    packages: tuple[str, ...]
    releases: SpecifierSet
    built_without: tuple[str, ...]
    why: str


def build_packages(release: Release, flavour: Flavour, distribution: Distribution) -> tuple[str, ...]:
    """Give the packages of upstream's devel image that a build on this base installs, by their names there; sorted."""
    unneeded = {name for entry in left_out() if release.version in entry.releases for name in entry.packages}
    wanted = (name for name in release.flavours[flavour].packages if name not in unneeded)
    return tuple(sorted({distribution.names.get(name, name) for name in wanted}))


@cache
def left_out() -> tuple[LeftOut, ...]:
    """Read what toolchains do without."""
    return tuple(
        LeftOut(
            packages=tuple(entry["packages"]),
            releases=SpecifierSet(entry["releases"]),
            built_without=tuple(entry["built_without"]),
            why=entry["why"],
        )
        for entry in read_yaml("build_packages.yaml")
    )
