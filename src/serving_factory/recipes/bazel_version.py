"""Versions of Bazel, and the oldest that a release accepts."""

from __future__ import annotations

import re

from serving_factory.catalogue.releases import Release
from serving_factory.errors import BazelTooOldError
from serving_factory.matrix.variant import Variant

__all__ = ["bazel_numbers", "check_bazel"]


def bazel_numbers(version: str) -> tuple[int, ...]:
    """Read the numbers at a version's beginning: a distribution's `4.2.3+ds-1` counts as 4.2.3."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def check_bazel(variant: Variant, release: Release, version: str) -> None:
    """Pass a Bazel that upstream's WORKSPACE of a release passes.

    Raises:
        BazelTooOldError: it is older than the oldest that is accepted there.
    """
    if bazel_numbers(version) < bazel_numbers(release.bazel_minimum):
        oldest = f"{release.bazel_minimum}, the oldest that {release.tag} accepts"
        raise BazelTooOldError(
            f"{variant.id}: Bazel {version} is older than {oldest}",
            why=f"upstream built {release.tag} with Bazel {release.bazel}",
            remedy=f"leave `bazel: version` out of the matrix file to build with {release.bazel}, or name a later one",
        )
