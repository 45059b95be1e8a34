"""pipeline/bazel.py: how much of the machine Bazel may use, and which secrets its steps mount."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.pipeline.bazel import without_absent_secrets
from serving_factory.pipeline.budget import Share
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.stages.compile import COMPILE, devel_image_command, ready_request
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
def test_the_share_of_the_machine_is_a_build_argument(tmp_path: Path, version: str, options: str) -> None:
    made = job(tmp_path, version)
    with ready_request(made, target="artifact", output=tmp_path / "out") as request:
        assert dict(request.build_args)["BAZEL_RESOURCES"] == options
        assert request.dockerfile.read_text() == without_absent_secrets(made.recipe.devel, ())
    again = shlex.split(devel_image_command(made.recipe, made.folder))
    assert f"BAZEL_RESOURCES={options}" in again, "so that BuildKit has all steps of the image"


def test_the_share_of_the_machine_is_not_in_the_key(tmp_path: Path) -> None:
    made = job(tmp_path)
    assert "BAZEL_RESOURCES" not in dict(made.recipe.build_args)
    assert COMPILE.key(made) == COMPILE.key(replace(made, share=Share(jobs=1, memory=2**30)))


def bazel_steps(text: str) -> list[str]:
    steps = (step.partition("\n\n")[0] for step in text.split("\nRUN ")[1:])
    return [step for step in steps if "/factory/bazel.sh " in step]


@pytest.mark.parametrize("given", [set(), {"ca"}, {"network", "bazelrc"}, {"network", "ca", "truststore", "bazelrc"}])
def test_steps_that_run_bazel_mount_the_secrets_that_are_given_and_all_else(tmp_path: Path, given: set[str]) -> None:
    made = job(tmp_path)
    before, after = bazel_steps(made.recipe.devel), bazel_steps(without_absent_secrets(made.recipe.devel, given))
    assert len(before) == len(after) == 4
    for whole, here in zip(before, after, strict=True):
        mounts = [word for word in whole.split() if word.startswith("--mount=")]
        kept = [word for word in mounts if "type=secret" not in word or word.rpartition("=")[2] in given]
        assert [word for word in here.split() if word.startswith("--mount=")] == kept
        assert whole.splitlines()[-1] == here.splitlines()[-1]


def test_a_step_that_installs_packages_is_left_as_it_is_so_that_a_proxy_installs_none_again(tmp_path: Path) -> None:
    made = job(tmp_path)
    toolchain = made.recipe.devel.partition(" AS sources")[0]
    assert "--mount=type=secret,id=network" in toolchain
    assert without_absent_secrets(made.recipe.devel, ()).startswith(toolchain)
