"""How each Bazel spells its flags, and what it can do with a remote cache."""

from __future__ import annotations

from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_yaml


def bazel_flag(name: str, version: str) -> str | None:
    """Return how a Bazel spells a flag, with its dashes; None where it lacks it. `name` is today's, without dashes."""
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


class RemoteAbility(StrEnum):
    """What a Bazel may be able to do; the data file says what each one is."""

    HTTP = "http"
    GRPC = "grpc"
    HEADERS = "headers"
    READ_ONLY = "read_only"
    READ_ONLY_BY_DEFAULT = "read_only_by_default"
    CLIENT_CERTIFICATE = "client_certificate"
    EXECUTOR = "executor"
    EXECUTOR_BESIDE_DISK = "executor_beside_disk"
    TOPLEVEL_BY_DEFAULT = "toplevel_by_default"


@cache
def has_ability(bazel: Version, ability: RemoteAbility) -> bool:
    """Whether a Bazel can do something."""
    return bazel >= Version(read_yaml("bazel_remote.yaml")[ability.value])
