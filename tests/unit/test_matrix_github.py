"""matrix/github.py: matrices that GitHub takes."""

from __future__ import annotations

import json

import pytest

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour, releases
from serving_factory.matrix.github import MAX_JOBS, MAX_SIZE, github_matrices
from serving_factory.matrix.variant import Variant

VARIANTS = [Variant(release=tag, flavour=Flavour.CPU, level=level) for tag in releases() for level in Level]


def test_a_job_names_its_variant_and_its_axes() -> None:
    variant = Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V3, cuda="12.2")
    (matrix,) = github_matrices([variant])
    assert matrix == {
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
    matrices = github_matrices(VARIANTS[:number])
    assert [job["variant"] for matrix in matrices for job in matrix["include"]] == [v.id for v in VARIANTS[:number]]
    assert all(0 < len(matrix["include"]) <= MAX_JOBS for matrix in matrices)
    assert len(matrices) == -(-number // MAX_JOBS)
    assert len(json.dumps(matrices)) < MAX_SIZE


@pytest.mark.parametrize("size", [400, 1000, 4096])
def test_no_matrix_is_too_large(size: int) -> None:
    matrices = github_matrices(VARIANTS[:40], size=size)
    assert len(matrices) > 1
    assert all(len(json.dumps(matrix)) <= size for matrix in matrices)
    assert sum(len(matrix["include"]) for matrix in matrices) == 40
    fuller = [len(json.dumps(matrix)) for matrix in matrices[:-1]]
    assert min(fuller) > size - 300, "no matrix is cut too early"
