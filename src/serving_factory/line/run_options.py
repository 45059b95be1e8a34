"""How Bazel runs in a build. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping

from packaging.version import Version

from serving_factory.line.job import Job
from serving_factory.line.remote import remote_lines
from serving_factory.matrix.settings import Remote
from serving_factory.recipes.bazel_version import bazel_numbers
from serving_factory.recipes.doors import DOWNLOADER_CONFIG
from serving_factory.recipes.recipe import Recipe

__all__ = ["bazelrc", "dockerfile_here", "local_bazelrc", "uploads"]

# Bazel's release notes: 0.23 brought --local_ram_resources (MB), and 3.0 took --local_resources (MB, CPUs, I/O) away.
_RAM_OPTION = (0, 23)
_MIB = 2**20

_MOUNTS_OF_BAZEL = re.compile(r"^RUN (?:--mount=\S+ (?:\\\n +)?)*--mount=type=secret,id=bazelrc ", re.MULTILINE)
_SECRET = re.compile(r"--mount=type=secret,id=(\w+) ")


def bazelrc(recipe: Recipe, environ: Mapping[str, str] = os.environ) -> str:
    """Write the bazelrc of a variant's build, a line for each option; empty where there is nothing to say.

    Args:
        recipe: the variant.
        environ: tells whether this is a CI run, whose results are worth uploading.
    """
    remote = recipe.remote
    lines = remote_lines(remote, Version(recipe.toolchain.bazel.version), upload=uploads(remote, environ))
    return "".join(f"{line}\n" for line in lines) + local_bazelrc(recipe)


def uploads(remote: Remote, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether results are uploaded: as the matrix says, else in a CI run only. Every CI service sets CI."""
    if remote.upload is not None:
        return remote.upload
    return environ.get("CI", "").lower() not in {"", "0", "false"}


def local_bazelrc(recipe: Recipe) -> str:
    """Write the same without a remote cache or executor, for who runs the build without this factory."""
    if recipe.doors.downloader_config:
        return f"build --experimental_downloader_config={DOWNLOADER_CONFIG}\n"
    return ""


def dockerfile_here(job: Job, secrets: Container[str]) -> str:
    """Give the devel Dockerfile as this machine builds it; what it builds is the same.

    It tells Bazel how much of the machine it may use. And the steps that run Bazel mount no secret that is not given:
    BuildKit 0.13 to 0.15.1 (Docker 26.0 to 27.1) reads all of the toolchain before a step that mounts one, given or
    not (https://github.com/moby/buildkit/pull/5251).

    Args:
        job: the variant.
        secrets: ids of the secrets that the build gets.
    """

    def given_alone(mount: re.Match[str]) -> str:
        return mount[0] if mount[1] in secrets else ""

    text = _MOUNTS_OF_BAZEL.sub(lambda mounts: _SECRET.sub(given_alone, mounts[0]), job.recipe.devel)
    return text.replace('ARG BAZEL_RESOURCES=""', f'ARG BAZEL_RESOURCES="{_resource_options(job)}"')


def _resource_options(job: Job) -> str:
    jobs, memory = max(1, job.share.jobs), job.share.memory // _MIB
    if bazel_numbers(job.recipe.toolchain.bazel.version) < _RAM_OPTION:
        return f"--jobs={jobs} --local_resources={memory},{jobs},1"
    return f"--jobs={jobs} --local_ram_resources={memory}"
