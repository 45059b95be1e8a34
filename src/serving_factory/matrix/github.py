"""Variants as matrices of GitHub Actions: what `strategy.matrix` takes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from serving_factory.errors import UsageError
from serving_factory.matrix.variant import Variant

__all__ = ["MAX_JOBS", "MAX_SIZE", "github_matrices"]

MAX_JOBS = 256
"""The most jobs that one matrix may make (GitHub's documentation, "Usage limits")."""

MAX_SIZE = 1_000_000
"""Bytes of UTF-16: a job's outputs are 1 MB at most, all together (GitHub's documentation, `jobs.<job_id>.outputs`)."""


def github_matrices(variants: Iterable[Variant], *, jobs: int = MAX_JOBS, size: int = MAX_SIZE) -> str:
    """Write variants as matrices, each of which GitHub takes.

    Args:
        variants: one job each, in order.
        jobs: the most jobs of a matrix.
        size: the most bytes of all matrices, in UTF-16.

    Returns:
        A line of JSON for each matrix, `{"include": [...]}` with an object of texts for each job: one line wherever all
        jobs fit into one matrix.

    Raises:
        UsageError: a job of GitHub's could not hand so much to another one.
    """
    entries = [_job(variant) for variant in variants]
    chunks = [entries[start : start + jobs] for start in range(0, len(entries), jobs)]
    lines = "".join(json.dumps({"include": chunk}) + "\n" for chunk in chunks)
    bytes_ = len(lines.encode("utf-16-le"))
    if bytes_ > size:
        raise UsageError(
            f"{len(entries):,} variants are {bytes_:,} bytes of JSON in UTF-16, and GitHub takes {size:,} from one job",
            remedy="ask for fewer, with --target or --release, and list the others in another job",
        )
    return lines


def _job(variant: Variant) -> dict[str, str]:
    return {
        "variant": variant.id,
        "release": variant.release,
        "flavour": variant.flavour.value,
        "level": variant.level.value,
        "platform": variant.platform.value,
        "cuda": variant.cuda or "",
    }
