"""Variants as matrices of GitHub Actions: what `strategy.matrix` takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from serving_factory.matrix.variant import Variant

__all__ = ["MAX_JOBS", "MAX_SIZE", "GithubMatrix", "github_matrices"]

GithubMatrix = Mapping[str, list[dict[str, str]]]
"""`{"include": [...]}`: an object of texts for each job."""

MAX_JOBS = 256
"""The most jobs that one matrix may make (GitHub's documentation, "Usage limits")."""

MAX_SIZE = 1_000_000
"""Bytes: a job's outputs are 1 MB at most."""


def github_matrices(variants: Iterable[Variant], *, jobs: int = MAX_JOBS, size: int = MAX_SIZE) -> list[GithubMatrix]:
    """Cut variants into matrices, each of which GitHub takes.

    Args:
        variants: one job each, in order.
        jobs: the most jobs of a matrix.
        size: the most bytes of a matrix as JSON.

    Returns:
        Matrices; none where there are no variants.
    """
    matrices: list[list[dict[str, str]]] = []
    room = 0
    for variant in variants:
        job = {
            "variant": variant.id,
            "release": variant.release,
            "flavour": variant.flavour.value,
            "level": variant.level.value,
            "platform": variant.platform.value,
            "cuda": variant.cuda or "",
        }
        # A comma and a blank stand between two jobs.
        needs = len(json.dumps(job)) + 2
        if not matrices or len(matrices[-1]) == jobs or needs > room:
            matrices.append([])
            room = size - len(json.dumps({"include": []}))
        matrices[-1].append(job)
        room -= needs
    return [{"include": jobs_of_one} for jobs_of_one in matrices]
