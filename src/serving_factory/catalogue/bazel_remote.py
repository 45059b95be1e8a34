"""Which Bazel can do what with a remote cache."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["RemoteAbility", "has_ability"]


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


@cache
def _since() -> Mapping[RemoteAbility, Version]:
    return {RemoteAbility(name): Version(version) for name, version in read_yaml("bazel_remote.yaml").items()}


def has_ability(bazel: Version, ability: RemoteAbility) -> bool:
    """Whether a Bazel can do something."""
    return bazel >= _since()[ability]
