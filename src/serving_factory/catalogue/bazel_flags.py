"""What each Bazel understands: flags by version, and the workspace's file of flags."""

from __future__ import annotations

from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["bazel_flag", "bazel_reads"]


def bazel_flag(name: str, version: str) -> str | None:
    """Tell how a Bazel spells a flag.

    Args:
        name: the flag's name in today's Bazel, without dashes.
        version: Bazel's version.

    Returns:
        The flag with its dashes; None where that Bazel lacks it.
    """
    return _spelled(version).get(name)


def bazel_reads(file: str, version: str) -> bool:
    """Whether a Bazel reads the workspace's `tools/bazel.rc` or `.bazelrc`."""
    return _spelled(version).get(file) is not None


@cache
def _spelled(version: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, spellings in read_yaml("bazel_flags.yaml").items():
        for since, spelling in spellings.items():
            if Version(since) <= Version(version):
                found[name] = spelling
    return found
