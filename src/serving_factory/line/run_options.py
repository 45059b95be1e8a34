"""How Bazel runs in a build, as a bazelrc. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

import os
from collections.abc import Mapping

from packaging.version import Version

from serving_factory.line.job import Job
from serving_factory.line.remote import remote_lines
from serving_factory.line.schedule import Share
from serving_factory.matrix.settings import Remote
from serving_factory.recipes.bazel_version import bazel_numbers
from serving_factory.recipes.doors import DOWNLOADER_CONFIG
from serving_factory.recipes.recipe import Recipe

__all__ = ["bazelrc", "unbounded_bazelrc", "uploads"]

# Bazel's release notes: 0.23 brought --local_ram_resources (MB), and 3.0 took --local_resources (MB, CPUs, I/O) away.
_RAM_OPTION = (0, 23)
_MIB = 2**20

# As in upstream's Dockerfiles. BuildKit passes on 2 MiB of a step's output: warnings of thousands of files would use
# that up, and nobody would see what Bazel is doing then. What a failed action printed is shown all the same.
_NO_WARNINGS = "--output_filter=DONT_MATCH_ANYTHING"


def bazelrc(job: Job, environ: Mapping[str, str] = os.environ) -> str:
    """Write the bazelrc of a variant's build: a line for each option.

    Args:
        job: the variant.
        environ: tells whether this is a CI run, whose results are worth uploading.
    """
    version = job.recipe.toolchain.bazel.version
    options = _resources(job.share, bazel_numbers(version))
    remote = job.recipe.remote
    lines = [
        f"build {_NO_WARNINGS}",
        *(f"build {option}" for option in options),
        *remote_lines(remote, Version(version), upload=uploads(remote, environ)),
    ]
    return "".join(f"{line}\n" for line in lines) + unbounded_bazelrc(job.recipe)


def uploads(remote: Remote, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether results are uploaded: as the matrix says, else in a CI run only. Every CI service sets CI."""
    if remote.upload is not None:
        return remote.upload
    return environ.get("CI", "").lower() not in {"", "0", "false"}


def unbounded_bazelrc(recipe: Recipe) -> str:
    """Write the same without bounds, for who runs the build without this factory."""
    if recipe.doors.downloader_config:
        return f"build --experimental_downloader_config={DOWNLOADER_CONFIG}\n"
    return ""


def _resources(share: Share, bazel: tuple[int, ...]) -> list[str]:
    memory = share.memory // _MIB
    if bazel < _RAM_OPTION:
        return [f"--jobs={share.jobs}", f"--local_resources={memory},{share.jobs},1"]
    return [f"--jobs={share.jobs}", f"--local_ram_resources={memory}"]
