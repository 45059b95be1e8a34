"""How Bazel runs in a build, as a bazelrc. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

from packaging.version import Version

from serving_factory.line.job import Job
from serving_factory.line.schedule import Share
from serving_factory.recipes.doors import DOWNLOADER_CONFIG

__all__ = ["bazelrc"]

# Bazel's release notes: 0.23 brought --local_ram_resources (MB), and 3.0 took --local_resources (MB, CPUs, I/O) away.
_RAM_OPTION = Version("0.23")
_MIB = 2**20


def bazelrc(job: Job) -> str:
    """Write the bazelrc of a variant's build: a line `build OPTION` for each option."""
    options = _resources(job.share, Version(job.recipe.toolchain.bazel.version))
    if job.recipe.doors.downloader_config:
        options.append(f"--experimental_downloader_config={DOWNLOADER_CONFIG}")
    return "".join(f"build {option}\n" for option in options)


def _resources(share: Share, bazel: Version) -> list[str]:
    memory = share.memory // _MIB
    if bazel < _RAM_OPTION:
        return [f"--jobs={share.jobs}", f"--local_resources={memory},{share.jobs},1"]
    return [f"--jobs={share.jobs}", f"--local_ram_resources={memory}"]
