"""How Bazel runs in a build, as a bazelrc. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

from serving_factory.line.job import Job
from serving_factory.line.schedule import Share
from serving_factory.recipes.bazel_version import bazel_numbers
from serving_factory.recipes.doors import DOWNLOADER_CONFIG
from serving_factory.recipes.recipe import Recipe

__all__ = ["bazelrc", "unbounded_bazelrc"]

# Bazel's release notes: 0.23 brought --local_ram_resources (MB), and 3.0 took --local_resources (MB, CPUs, I/O) away.
_RAM_OPTION = (0, 23)
_MIB = 2**20


def bazelrc(job: Job) -> str:
    """Write the bazelrc of a variant's build: a line `build OPTION` for each option."""
    options = _resources(job.share, bazel_numbers(job.recipe.toolchain.bazel.version))
    return "".join(f"build {option}\n" for option in options) + unbounded_bazelrc(job.recipe)


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
