"""Where mkl builds leave their libraries."""

from __future__ import annotations

from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["mkl_libraries"]


def mkl_libraries(release: Version) -> tuple[str, ...]:
    """Tell which libraries an mkl server needs beyond what its loader finds by itself.

    Returns:
        `external/REPOSITORY/PATH`, of an external repository, or `bin/PATH`, of what was built.
    """
    return tuple(library for releases, libraries in _libraries() if release in releases for library in libraries)


@cache
def _libraries() -> tuple[tuple[SpecifierSet, tuple[str, ...]], ...]:
    return tuple((SpecifierSet(releases), tuple(libraries)) for releases, libraries in read_yaml("mkl.yaml").items())
