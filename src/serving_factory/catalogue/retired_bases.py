"""Images that upstream's Dockerfiles start from, that are gone, and what takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from serving_factory.catalogue.data import read_yaml

__all__ = ["RetiredBase", "retired_bases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredBase:
    """An image that its registry has deleted.

    Args:
        image: its name and tag.
        replacement: a plain image of the same distribution, to which the vendor's packages are added.
        last_patch: the image that was reported to serve in its place; None where none is known.
        references: URLs of reports.
    """

    image: str
    replacement: str
    last_patch: str | None
    references: tuple[str, ...]


@cache
def retired_bases() -> Mapping[str, RetiredBase]:
    """Read all retired images, by name and tag."""
    return {
        image: RetiredBase(
            image=image,
            replacement=entry["replacement"],
            last_patch=entry["last_patch"],
            references=tuple(entry["references"]),
        )
        for image, entry in read_yaml("retired_bases.yaml").items()
    }
