"""Addresses that recipes name, and how each is known to be right."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["archive_mirror", "proven_addresses"]


@cache
def proven_addresses() -> Mapping[str, str]:
    """Give the beginnings of all addresses -> the proof of each."""
    return {address: " ".join(entry["proof"].split()) for address, entry in read_yaml("addresses.yaml").items()}


def archive_mirror(release: Version) -> str:
    """Give the mirror that TensorFlow's rules ask first for the archives that they declare."""
    entries = read_yaml("addresses.yaml").items()
    found = (url for url, entry in entries if "releases" in entry and release in SpecifierSet(entry["releases"]))
    return str(next(found))
