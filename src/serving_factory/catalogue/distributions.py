"""Distributions: which packages make a toolchain on each base image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from serving_factory.catalogue.data import read_yaml

__all__ = ["Distribution", "distributions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One base distribution.

    Args:
        packages: apt packages that every toolchain on it needs, the compiler and Python apart.
        python: the apt package of the Python that Bazel's host tools run with.
    """

    packages: tuple[str, ...]
    python: str


@cache
def distributions() -> Mapping[str, Distribution]:
    """Read all distributions, by base image reference without digest, such as `ubuntu:20.04`."""
    return {
        name: Distribution(packages=tuple(entry["packages"]), python=entry["python"])
        for name, entry in read_yaml("distributions.yaml").items()
    }
