"""Upstream releases: what each was built from and with, as its own files say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.facts import (
    CapabilitiesFrom,
    Flavour,
    FlavourFacts,
    GpuFacts,
    NcclFrom,
    Release,
    ServerFacts,
)
from serving_factory.catalogue.inheritance import Entry, Lines, inherited
from serving_factory.errors import CatalogueError

__all__ = [
    "UPSTREAM_TARGET",
    "UPSTREAM_URL",
    "Flavour",
    "FlavourFacts",
    "Release",
    "bazel_checksums",
    "read_releases",
    "releases",
]

UPSTREAM_URL = "https://github.com/tensorflow/serving.git"
UPSTREAM_TARGET = "//tensorflow_serving/model_servers:tensorflow_model_server"

_UNKNOWN = "unknown"
_REMEDY = "the head of releases.yaml tells which facts there are"


@cache
def releases() -> Mapping[str, Release]:
    """Read all releases, oldest first, by full tag."""
    return read_releases(read_yaml("releases.yaml"), read_yaml("bazel.yaml"))


@cache
def bazel_checksums() -> Mapping[str, str]:
    """Read the sha256 of Bazel's Linux x86_64 binaries, by version; those that are unknown are left out."""
    return {version: sha256 for version, sha256 in read_yaml("bazel.yaml").items() if sha256 != _UNKNOWN}


def read_releases(lines: Lines, checksums: Mapping[str, str]) -> Mapping[str, Release]:
    """Make releases of the two data files.

    Args:
        lines: what releases.yaml holds.
        checksums: what bazel.yaml holds: Bazel's version -> sha256, or `unknown`.

    Returns:
        Full tag -> release, oldest first.

    Raises:
        CatalogueError: a release lacks a fact, or has one that nobody knows of.
    """
    found = [_release(tag, entry, checksums) for tag, entry in inherited(lines).items()]
    return {release.tag: release for release in sorted(found, key=lambda release: release.version)}


def _release(tag: str, entry: Entry, checksums: Mapping[str, str]) -> Release:
    facts = _Facts(tag, entry)
    python = facts.take("python")
    flavours = {flavour: facts.take(flavour) for flavour in Flavour}
    gpu = flavours[Flavour.GPU]
    checksum = checksums.get(facts.peek("bazel"), _UNKNOWN)
    release = Release(
        tag=tag,
        date=facts.take("date"),
        commit=facts.take("commit"),
        tensorflow_commit=facts.take("tensorflow_commit"),
        tensorflow_sha256=facts.take("tensorflow_sha256", None),
        reported=facts.take("reported", ""),
        bazel=facts.take("bazel"),
        bazel_minimum=facts.take("bazel_minimum"),
        bazel_sha256=None if checksum == _UNKNOWN else checksum,
        python=python,
        bazel_python=facts.take("bazel_python"),
        bazelrc=facts.take("bazelrc"),
        configs=_configs(facts.take("configs"), gpu["capabilities"] if gpu else ()),
        flavours={
            flavour: _flavour(f"{tag}, {flavour}", own, python) for flavour, own in flavours.items() if own is not None
        },
        server=_server(f"{tag}, server", facts.take("server")),
    )
    facts.done()
    return release


def _configs(entry: Entry, capabilities: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    listed = ",".join(capabilities)
    return {
        name: tuple(flag.replace("{capabilities}", listed) for flag in flags)
        for name, flags in sorted(entry.items())
        if flags is not None
    }


def _flavour(where: str, entry: Entry, python: str) -> FlavourFacts:
    facts = _Facts(where, entry)
    found = FlavourFacts(
        base=facts.take("base"),
        runtime_base=facts.take("runtime_base"),
        compiler=facts.take("compiler"),
        python=facts.take("python", None) or python,
        default_options=tuple(facts.take("default_options")),
        command_flags=tuple(facts.take("command_flags")),
        kept_flags=tuple(facts.take("kept_flags")),
        packages=_names(facts.take("packages")),
        gpu=_gpu(facts) if "cuda" in entry else None,
    )
    facts.done()
    return found


def _gpu(facts: _Facts) -> GpuFacts:
    return GpuFacts(
        cuda=facts.take("cuda"),
        toolkit=facts.take("toolkit"),
        cudnn=facts.take("cudnn"),
        nccl=facts.take("nccl"),
        nccl_from=NcclFrom(facts.take("nccl_from")),
        tensorrt=facts.take("tensorrt"),
        tensorrt_packages=facts.take("tensorrt_packages"),
        capabilities=tuple(facts.take("capabilities")),
        capabilities_from=CapabilitiesFrom(facts.take("capabilities_from")),
        config=facts.take("config"),
    )


def _server(where: str, entry: Entry) -> ServerFacts:
    facts = _Facts(where, entry)
    found = ServerFacts(
        flags=_names(facts.take("flags")),
        model_status=facts.take("model_status"),
        integers_for_floats=facts.take("integers_for_floats"),
        stamped=facts.take("stamped"),
        grpc_ready=facts.take("grpc_ready"),
        rest_ready=facts.take("rest_ready"),
        models=facts.take("models"),
        testdata=_names(facts.take("testdata")),
    )
    facts.done()
    return found


def _names(entry: Entry) -> tuple[str, ...]:
    """The keys of a mapping that serves as a set: null takes a name away."""
    return tuple(sorted(name for name, there in entry.items() if there))


class _Facts:
    """An entry whose facts are taken one by one, so that one that is lacking or left over is told by its name."""

    _REQUIRED = object()

    def __init__(self, where: str, entry: Entry) -> None:
        self._where = where
        self._left = dict(entry)

    def peek(self, name: str) -> str:
        return str(self._left.get(name))

    def take(self, name: str, default: object = _REQUIRED) -> Any:  # noqa: ANN401 - the dataclasses give the types
        found = self._left.pop(name, default)
        if found is self._REQUIRED:
            raise CatalogueError(f"releases.yaml: {self._where}: {name} is missing", remedy=_REMEDY)
        for value in found if isinstance(found, list) else (found,):
            if isinstance(value, int | float) and not isinstance(value, bool):
                raise CatalogueError(
                    f"releases.yaml: {self._where}: {name} is the number {value}", remedy="put it in quotes"
                )
        return found

    def done(self) -> None:
        if self._left:
            raise CatalogueError(
                f"releases.yaml: {self._where}: nobody knows of {', '.join(self._left)}", remedy=_REMEDY
            )
