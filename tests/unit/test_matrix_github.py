"""`list --github`: matrices that GitHub accepts."""

from __future__ import annotations

import json

import pytest

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import releases
from serving_factory.commands.list import MAX_JOBS, github_matrices
from serving_factory.errors import UsageError
from serving_factory.matrix.variant import Variant

VARIANTS = [Variant(release=tag, flavour=Flavour.CPU, level=level) for tag in releases() for level in Level]


def test_a_job_names_its_variant_and_its_axes() -> None:
    variant = Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V3, cuda="12.2")
    assert json.loads(github_matrices([variant])) == {
        "include": [
            {
                "variant": "2.19.1-gpu-cuda12.2-v3",
                "release": "2.19.1",
                "flavour": "gpu",
                "level": "x86-64-v3",
                "platform": "linux/amd64",
                "cuda": "12.2",
            }
        ]
    }


@pytest.mark.parametrize("number", [0, 1, MAX_JOBS - 1, MAX_JOBS, MAX_JOBS + 1, len(VARIANTS)])
def test_no_matrix_has_too_many_jobs_and_none_is_lost(number: int) -> None:
    """A line is a matrix: as long as all jobs fit into one, the whole output is what fromJSON takes."""
    matrices = [json.loads(line) for line in github_matrices(VARIANTS[:number]).splitlines()]
    assert [job["variant"] for matrix in matrices for job in matrix["include"]] == [v.id for v in VARIANTS[:number]]
    assert all(0 < len(matrix["include"]) <= MAX_JOBS for matrix in matrices)
    assert len(matrices) == -(-number // MAX_JOBS)


def test_all_matrices_together_have_a_size() -> None:
    whole = github_matrices(VARIANTS[:40], jobs=10)
    assert github_matrices(VARIANTS[:40], jobs=10, size=2 * len(whole)) == whole
    with pytest.raises(UsageError, match=rf"40 variants are {2 * len(whole):,} bytes of JSON") as caught:
        github_matrices(VARIANTS[:40], jobs=10, size=2 * len(whole) - 1)
    assert "--target" in caught.value.remedy
