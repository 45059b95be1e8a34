"""The releases of upstream, the builds of them by this factory, and the nearest release to one that does not exist."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any

from packaging.version import InvalidVersion, Version

from serving_factory.catalogue.data import read_entry, read_list, read_yaml
from serving_factory.catalogue.facts import Flavour, FlavourFacts, GpuFacts, Release, ServerFacts
from serving_factory.errors import CatalogueError

Entry = Mapping[str, Any]  # A release, a series, or a part of one, as the file has it
AllSeries = Mapping[str, Entry]  # The whole file: series -> its entry, with `like` and `releases` in it


def merged(base: Entry, over: Entry) -> Entry:
    """Lay one entry over another: mappings are merged key by key, all else is replaced."""
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def inherited(all_series: AllSeries) -> Mapping[str, Entry]:
    """Return full tag -> entry, in the file's order: each release with all that it has from its series."""
    whole: dict[str, Entry] = {}
    found: dict[str, Entry] = {}
    for name, series in all_series.items():
        like = series.get("like")
        if like is not None and like not in whole:
            raise CatalogueError(f"releases.yaml: series {name} is like {like}, which does not stand above it")
        own = {key: value for key, value in series.items() if key not in {"like", "releases"}}
        whole[name] = merged(whole[like], own) if like is not None else own
        for tag, release in series["releases"].items():
            if tag.rpartition(".")[0] != name:
                raise CatalogueError(f"releases.yaml: {tag} stands in series {name}")
            found[tag] = merged(whole[name], release)
    return found


UPSTREAM_URL = "https://github.com/tensorflow/serving.git"
UPSTREAM_TARGET = "//tensorflow_serving/model_servers:tensorflow_model_server"

_UNKNOWN = "unknown"


@cache
def releases() -> Mapping[str, Release]:
    """Read all releases, oldest first, by full tag."""
    return read_releases(read_yaml("releases.yaml"), read_yaml("bazel.yaml"))


@cache
def bazel_checksums() -> Mapping[str, str]:
    """Read the sha256 of Bazel's Linux x86_64 binaries, by version; those that are unknown are left out."""
    return {version: sha256 for version, sha256 in read_yaml("bazel.yaml").items() if sha256 != _UNKNOWN}


def read_releases(all_series: AllSeries, checksums: Mapping[str, str]) -> Mapping[str, Release]:
    """Make releases of the two data files: full tag -> release, oldest first; raises CatalogueError."""
    found = [_release(tag, entry, checksums) for tag, entry in inherited(all_series).items()]
    return {release.tag: release for release in sorted(found, key=lambda release: release.version)}


def _release(tag: str, entry: Entry, checksums: Mapping[str, str]) -> Release:
    where = f"releases.yaml: {tag}"
    parts = ("configs", "server", *(flavour.value for flavour in Flavour))
    if missing := [name for name in parts if name not in entry]:
        raise CatalogueError(f"{where}: {', '.join(missing)} is missing")
    checksum = checksums.get(entry.get("bazel", ""), _UNKNOWN)
    capabilities = ",".join((entry[Flavour.GPU] or {}).get("capabilities", ()))
    return read_entry(
        Release,
        where,
        {name: value for name, value in entry.items() if name not in parts},
        tag=tag,
        bazel_sha256=None if checksum == _UNKNOWN else checksum,
        configs={
            name: tuple(flag.replace("{capabilities}", capabilities) for flag in flags)
            for name, flags in sorted(entry["configs"].items())
            if flags is not None
        },
        flavours={
            flavour: _flavour(f"{where}, {flavour}", {**own, "python": own.get("python") or entry.get("python")})
            for flavour in Flavour
            if (own := entry[flavour]) is not None
        },
        server=read_entry(ServerFacts, f"{where}, server", entry["server"], notes=("grpc_ready", "rest_ready")),
    )


def _flavour(where: str, entry: Entry) -> FlavourFacts:
    if "cuda" not in entry:
        return read_entry(FlavourFacts, where, entry)
    names = {field.name for field in fields(GpuFacts)} & entry.keys()
    gpu = read_entry(GpuFacts, where, {name: entry[name] for name in names})
    return read_entry(FlavourFacts, where, {name: entry[name] for name in entry.keys() - names}, gpu=gpu)


class Inputs(StrEnum):
    """Where a build's inputs came from."""

    FOLDERS = "folders"
    """No step had a network."""
    NETWORK = "network"
    """Stand-ins for the internet, and no other network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One build, of upstream's sources at the release's commit, by `build` through all stages to smoke."""

    release: str  # the tag
    flavour: str  # such as `cpu`
    level: str  # such as `x86-64-v3`
    base: str  # the base image
    compiler: str  # its package
    bazel: str  # the version
    inputs: Inputs  # where they came from
    date: str  # of the build, ISO 8601
    actions: int  # all that Bazel had to do
    cached: int  # those of them that it took from the disk cache
    minutes: int  # that the compile stage took
    processors: int  # of the machine


@cache
def built() -> tuple[Built, ...]:
    """Read the builds, in the order of the file."""
    return read_list(Built, "built.yaml")


@dataclass(frozen=True, slots=True)
class Closest:
    """A release to take instead, by its full tag, and why the one asked for does not exist: part of a sentence."""

    tag: str
    reason: str


def closest_release(asked: str, tags: Collection[str]) -> Closest:
    """Find the release nearest to one that is not in the catalogue."""
    # Of the same series the next one is taken, or the last: upstream skipped a patch where its branch went on. Without
    # such a series it is the nearest series' last release; where the text is no version, the newest of all.
    known = sorted(map(Version, tags))
    try:
        version = Version(asked)
    except InvalidVersion:
        return Closest(str(known[-1]), "this is no release: a release is a full tag such as 2.19.1")
    series = [one for one in known if one.release[:2] == version.release[:2]]
    if series and len(version.release) < len(known[0].release):
        return Closest(str(series[-1]), "a release is a full tag, with a patch number")
    if series:
        later = [one for one in series if one > version]
        return Closest(str(later[0] if later else series[-1]), f"upstream has no stable tag {asked}")
    nearest = [one for one in known if one <= version] or known[:1]
    return Closest(str(nearest[-1]), f"the catalogue knows no release {version.major}.{version.minor}.x")
