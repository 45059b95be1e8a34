"""Changes to sources without which a release cannot be compiled on some base."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["Mend", "mends_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """One change, as a script.

    Args:
        script: its file in dockerfiles/patches.
        releases: which releases need it.
        glibc: the oldest glibc that makes it needed.
        repository: the external repository that it changes.
        why: a sentence without its full stop.
        reference: where the same was done or reported.
    """

    script: str
    releases: SpecifierSet
    glibc: Version
    repository: str
    why: str
    reference: str


def mends_for(release: Version, glibc: Version) -> tuple[Mend, ...]:
    """Give the changes that a release needs on a base with this glibc."""
    return tuple(mend for mend in _mends() if release in mend.releases and glibc >= mend.glibc)


@cache
def _mends() -> tuple[Mend, ...]:
    return tuple(
        Mend(
            script=script,
            releases=SpecifierSet(entry["releases"]),
            glibc=Version(entry["glibc"]),
            repository=entry["repository"],
            why=entry["why"],
            reference=entry["reference"],
        )
        for script, entry in read_yaml("mends.yaml").items()
    )
