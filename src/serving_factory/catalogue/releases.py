"""The nearest release to one that does not exist, and why it does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from packaging.version import InvalidVersion, Version

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
from serving_factory.errors import CatalogueError

Entry = Mapping[str, Any]
"""A release, a line, or a part of one, as the file has it."""

Lines = Mapping[str, Entry]
"""The whole file: line -> its entry, with `like` and `releases` in it."""


def merged(base: Entry, over: Entry) -> Entry:
    """Lay one entry over another: mappings are merged key by key, all else is replaced."""
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def inherited(lines: Lines) -> Mapping[str, Entry]:
    """Give each release all that it has from its line, and its line from others.

    Args:
        lines: the file; a line stands below the one that it is like.

    Returns:
        Full tag -> entry, in the file's order.

    Raises:
        CatalogueError: a line is like one that does not stand above it, or a release is in the wrong line.
    """
    whole: dict[str, Entry] = {}
    found: dict[str, Entry] = {}
    for name, line in lines.items():
        like = line.get("like")
        if like is not None and like not in whole:
            raise CatalogueError(f"releases.yaml: line {name} is like {like}, which does not stand above it")
        own = {key: value for key, value in line.items() if key not in {"like", "releases"}}
        whole[name] = merged(whole[like], own) if like is not None else own
        for tag, release in line["releases"].items():
            if tag.rpartition(".")[0] != name:
                raise CatalogueError(f"releases.yaml: {tag} stands in line {name}")
            found[tag] = merged(whole[name], release)
    return found


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
    """An entry whose facts are taken one by one, so that one that is missing or left over is told by its name."""

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


class Inputs(StrEnum):
    """Where a build's inputs came from."""

    FOLDERS = "folders"
    """No step had a network."""
    NETWORK = "network"
    """Stand-ins for the internet, and no other network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One build, of upstream's sources at the release's commit, by `build` through all stages to smoke.

    Args:
        release: the tag.
        flavour: such as `cpu`.
        level: such as `x86-64-v3`.
        base: the base image.
        compiler: its package.
        bazel: the version.
        inputs: where they came from.
        date: of the build, ISO 8601.
        actions: all that Bazel had to do.
        cached: those of them that it took from the disk cache.
        minutes: that the compile stage took.
        processors: of the machine.
    """

    release: str
    flavour: str
    level: str
    base: str
    compiler: str
    bazel: str
    inputs: Inputs
    date: str
    actions: int
    cached: int
    minutes: int
    processors: int


@cache
def built() -> tuple[Built, ...]:
    """Read the builds, in the order of the file."""
    return tuple(Built(**{**entry, "inputs": Inputs(entry["inputs"])}) for entry in read_yaml("built.yaml"))


@dataclass(frozen=True, slots=True)
class Closest:
    """A release to take instead.

    Args:
        tag: the release's full tag.
        reason: why the one that was asked for is none: part of a sentence.
    """

    tag: str
    reason: str


def closest_release(asked: str, tags: Collection[str]) -> Closest:
    """Find the release nearest to one that the catalogue has not.

    Of the same line the next one is taken, or the last: upstream skipped a patch where its branch went on. Without a
    line of that name it is the nearest line's last release; where the text is no version, the newest of all.

    Args:
        asked: what was asked for; a full tag, a line, or anything.
        tags: the releases that there are; at least one.
    """
    known = _versions(tuple(tags))
    try:
        version = Version(asked)
    except InvalidVersion:
        return Closest(str(known[-1]), "this is no release: a release is a full tag such as 2.19.1")
    line = [one for one in known if one.release[:2] == version.release[:2]]
    if line and len(version.release) < len(known[0].release):
        return Closest(str(line[-1]), "a release is a full tag, with a patch number")
    if line:
        later = [one for one in line if one > version]
        return Closest(str(later[0] if later else line[-1]), f"upstream has no stable tag {asked}")
    nearest = [one for one in known if one <= version] or known[:1]
    return Closest(str(nearest[-1]), f"the catalogue knows no release {_line(version)}.x")


@cache
def _versions(tags: tuple[str, ...]) -> tuple[Version, ...]:
    return tuple(sorted(map(Version, tags)))


def _line(version: Version) -> str:
    return f"{version.major}.{version.minor}"
