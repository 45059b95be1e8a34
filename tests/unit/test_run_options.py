"""line/run_options.py: how much of the machine Bazel is told to use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.line.job import Job, Site
from serving_factory.line.run_options import bazelrc
from serving_factory.line.schedule import Share
from serving_factory.recipes.recipe import recipe_for

from .matrices import load


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("7.4.1", ["build --output_filter=DONT_MATCH_ANYTHING", "build --jobs=3", "build --local_ram_resources=5120"]),
        ("0.23.0", ["build --output_filter=DONT_MATCH_ANYTHING", "build --jobs=3", "build --local_ram_resources=5120"]),
        ("0.20.0", ["build --output_filter=DONT_MATCH_ANYTHING", "build --jobs=3", "build --local_resources=5120,3,1"]),
    ],
)
def test_each_bazel_is_told_in_words_that_it_knows(tmp_path: Path, version: str, lines: list[str]) -> None:
    matrix = load(tmp_path)
    recipe = recipe_for(matrix.variants[0], matrix)
    toolchain = replace(recipe.toolchain, bazel=replace(recipe.toolchain.bazel, version=version))
    job = Job(
        recipe=replace(recipe, toolchain=toolchain),
        site=Site(build=tmp_path, models=tmp_path),
        share=Share(jobs=3, memory=5 * 2**30),
    )
    assert bazelrc(job).splitlines() == lines


def test_what_a_build_may_use_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    recipe = recipe_for(matrix.variants[0], matrix)
    assert "jobs" not in recipe.devel
    assert "jobs" not in str(recipe.build_args)
