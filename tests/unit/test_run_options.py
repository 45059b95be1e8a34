"""pipeline/bazel.py: how much of the machine Bazel may use, and which secrets its steps mount."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.pipeline.bazel import dockerfile_here
from serving_factory.pipeline.budget import Share
from serving_factory.pipeline.job import Job, Site
from serving_factory.recipes.recipe import recipe_for

from .matrices import load


def job(folder: Path, bazel: str = "7.4.1") -> Job:
    matrix = load(folder)
    recipe = recipe_for(matrix.variants[0], matrix)
    toolchain = replace(recipe.toolchain, bazel=replace(recipe.toolchain.bazel, version=bazel))
    return Job(
        recipe=replace(recipe, toolchain=toolchain),
        site=Site(build=folder, models=folder),
        share=Share(jobs=3, memory=5 * 2**30),
    )


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("7.4.1", "--jobs=3 --local_ram_resources=5120"),
        ("0.23.0", "--jobs=3 --local_ram_resources=5120"),
        ("0.20.0", "--jobs=3 --local_resources=5120,3,1"),
    ],
)
def test_each_bazel_is_told_in_words_that_it_knows(tmp_path: Path, version: str, options: str) -> None:
    text = dockerfile_here(job(tmp_path, version), {})
    (line,) = (line for line in text.splitlines() if line.startswith("ARG BAZEL_RESOURCES="))
    assert line == f'ARG BAZEL_RESOURCES="{options}"'
    assert "${BAZEL_RESOURCES}" in text


def test_what_a_build_may_use_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    recipe = job(tmp_path).recipe
    assert "--jobs=" not in recipe.devel
    assert "--jobs" not in str(recipe.build_args)


def bazel_steps(text: str) -> list[str]:
    steps = (step.partition("\n\n")[0] for step in text.split("\nRUN ")[1:])
    return [step for step in steps if "/factory/bazel.sh " in step or "/factory/preflight.sh " in step]


@pytest.mark.parametrize("given", [set(), {"ca"}, {"network", "bazelrc"}, {"network", "ca", "bazelrc"}])
def test_steps_that_run_bazel_mount_the_secrets_that_are_given_and_all_else(tmp_path: Path, given: set[str]) -> None:
    made = job(tmp_path)
    before, after = bazel_steps(made.recipe.devel), bazel_steps(dockerfile_here(made, given))
    assert len(before) == len(after) == 3
    for whole, here in zip(before, after, strict=True):
        mounts = [word for word in whole.split() if word.startswith("--mount=")]
        kept = [word for word in mounts if "type=secret" not in word or word.rpartition("=")[2] in given]
        assert [word for word in here.split() if word.startswith("--mount=")] == kept
        assert whole.partition("source /factory/inputs.sh")[2] == here.partition("source /factory/inputs.sh")[2]


def test_a_step_that_installs_packages_is_left_as_it_is_so_that_a_proxy_installs_none_anew(tmp_path: Path) -> None:
    made = job(tmp_path)
    toolchain = made.recipe.devel.partition(" AS sources")[0]
    assert "--mount=type=secret,id=network" in toolchain
    assert dockerfile_here(made, {}).startswith(toolchain)
