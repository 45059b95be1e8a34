"""Upstream releases: what each was built from and with, as its own files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["UPSTREAM_TARGET", "UPSTREAM_URL", "Flavour", "FlavourFacts", "Release", "releases"]

UPSTREAM_URL = "https://github.com/tensorflow/serving.git"
UPSTREAM_TARGET = "//tensorflow_serving/model_servers:tensorflow_model_server"


class Flavour(StrEnum):
    """What the server computes with."""

    CPU = "cpu"
    MKL = "mkl"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavourFacts:
    """How upstream builds one flavour of a release.

    Args:
        compiler: the C++ compiler's package, such as `gcc-10`.
        configs: Bazel configs always given, in order.
    """

    compiler: str
    configs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One upstream release.

    Args:
        tag: the full tag, `2.19.1`.
        commit: of tensorflow/serving, 40 hex digits.
        tensorflow_commit: of tensorflow/tensorflow, 40 hex digits.
        reported: the version that the server's `--version` begins with.
        bazel: the Bazel version of upstream's Dockerfiles.
        bazel_sha256: of that Bazel's Linux x86_64 binary; None where it is unknown.
        base: the image that upstream's devel image starts from.
        flavours: the flavours that exist and that this factory has recipes for.
    """

    tag: str
    commit: str
    tensorflow_commit: str
    reported: str
    bazel: str
    bazel_sha256: str | None
    base: str
    flavours: Mapping[Flavour, FlavourFacts]

    @property
    def version(self) -> Version:
        """The tag as a comparable version."""
        return Version(self.tag)


@cache
def releases() -> Mapping[str, Release]:
    """Read all releases, oldest first, by full tag."""
    checksums = read_yaml("bazel.yaml")
    found = [
        Release(
            tag=tag,
            commit=entry["commit"],
            tensorflow_commit=entry["tensorflow_commit"],
            reported=entry["reported"],
            bazel=entry["bazel"],
            bazel_sha256=checksums.get(entry["bazel"]),
            base=entry["base"],
            flavours={
                Flavour(name): FlavourFacts(compiler=facts["compiler"], configs=tuple(facts["configs"]))
                for name, facts in entry["flavours"].items()
            },
        )
        for tag, entry in read_yaml("releases.yaml").items()
    ]
    return {release.tag: release for release in sorted(found, key=lambda release: release.version)}
