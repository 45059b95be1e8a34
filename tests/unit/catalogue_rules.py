"""The rules that hold the catalogue together. Each gives what breaks it, as sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from packaging.version import Version

from serving_factory.catalogue.cuda import cudas, why_not
from serving_factory.catalogue.facts import CapabilitiesFrom, Flavour, FlavourFacts, Release
from serving_factory.catalogue.releases import inherited, merged
from serving_factory.errors import CatalogueError

Releases = Mapping[str, Release]
Lines = Mapping[str, Mapping[str, Any]]

ABI = "--cxxopt=-D_GLIBCXX_USE_CXX11_ABI=0"
# What 1.11.0 put into the bazelrc, and what the command line therefore has to name before.
ALWAYS = ("-c opt", ABI)


def commits_are_commits(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        for name, length in (("commit", 40), ("tensorflow_commit", 40), ("tensorflow_sha256", 64)):
            value = getattr(release, name)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
                yield f"{release.tag}: {name} {value} is not {length} hex digits"
        if release.commit == release.tensorflow_commit:
            yield f"{release.tag}: TensorFlow's commit is Serving's"


def tags_are_full(releases: Releases) -> Iterator[str]:
    for tag in releases:
        if not re.fullmatch(r"\d+\.\d+\.\d+", tag):
            yield f"{tag} is no full tag"


def dates_are_dates(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        if not re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", release.date):
            yield f"{release.tag}: {release.date} is no date"


def reports_are_of_the_series(releases: Releases) -> Iterator[str]:
    """Two releases of one series reported the series before: version.h had not been changed."""
    for release in releases.values():
        if bool(release.reported) != release.server.version_flag:
            yield f"{release.tag}: --version and what it reports do not go together"
        if release.reported and Version(release.reported).release > release.version.release:
            yield f"{release.tag}: reports {release.reported}, a later release"


def bazel_is_not_below_its_minimum(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        if Version(release.bazel) < Version(release.bazel_minimum):
            yield f"{release.tag}: Bazel {release.bazel} is below {release.bazel_minimum}"


def bazel_checksums_are_known_or_said_to_be_unknown(releases: Releases, checksums: Mapping[str, str]) -> Iterator[str]:
    for version in {release.bazel: None for release in releases.values()}:
        if not re.fullmatch(r"[0-9a-f]{64}|unknown", checksums.get(version, "")):
            yield f"bazel.yaml: {version}: neither a sha256 nor unknown"


def capabilities_are_within_the_cudas(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        gpu = release.flavours[Flavour.GPU].gpu
        if gpu is None or gpu.cuda not in cudas():
            yield f"{release.tag}: no facts of its CUDA"
        elif reason := why_not(gpu.capabilities, cudas()[gpu.cuda]):
            yield f"{release.tag}: {reason}"


def capabilities_reach_bazel(releases: Releases) -> Iterator[str]:
    """A config passes them if it says so, and only then; without any, TensorFlow decides."""
    for release in releases.values():
        gpu = release.flavours[Flavour.GPU].gpu
        if gpu is None:
            continue
        passed = any("TF_CUDA_COMPUTE_CAPABILITIES" in flag for flag in release.configs.get(gpu.config, ()))
        if passed != (gpu.capabilities_from is CapabilitiesFrom.CONFIG):
            yield f"{release.tag}: config {gpu.config} and capabilities_from do not agree"
        if bool(gpu.capabilities) == (gpu.capabilities_from is CapabilitiesFrom.TENSORFLOW):
            yield f"{release.tag}: capabilities and capabilities_from do not agree"


def cuda_is_that_of_the_base(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        facts = release.flavours[Flavour.GPU]
        if facts.gpu is None:
            continue
        if not facts.base.startswith(f"nvidia/cuda:{facts.gpu.toolkit}-"):
            yield f"{release.tag}: base {facts.base} is not of CUDA {facts.gpu.toolkit}"
        if not f"{facts.gpu.toolkit}.".startswith(f"{facts.gpu.cuda}."):
            yield f"{release.tag}: toolkit {facts.gpu.toolkit} is not of CUDA {facts.gpu.cuda}"


def tensorrt_is_what_the_build_asks_for(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        gpu = release.flavours[Flavour.GPU].gpu
        off = any("TF_NEED_TENSORRT=0" in flag for flags in release.configs.values() for flag in flags)
        if gpu and off and gpu.tensorrt:
            yield f"{release.tag}: TensorRT {gpu.tensorrt} though the build leaves it out"
        if gpu and gpu.tensorrt and not (gpu.tensorrt_packages or "").startswith(gpu.tensorrt):
            yield f"{release.tag}: TensorRT {gpu.tensorrt} and its packages do not agree"


def flags_exist(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        for flavour, facts in release.flavours.items():
            for flag in facts.fixed_flags + facts.default_options:
                config = flag.removeprefix("--config=")
                if config != flag and config not in release.configs:
                    yield f"{release.tag}, {flavour}: the bazelrc has no config {config}"
                if not re.fullmatch(r"--?[a-zA-Z_][^\s\"']*|-c opt", flag):
                    yield f"{release.tag}, {flavour}: {flag!r} is no flag"
            if facts.gpu and f"--config={facts.gpu.config}" not in facts.fixed_flags:
                yield f"{release.tag}, {flavour}: config {facts.gpu.config} is not among its flags"


def flags_are_always_there(releases: Releases) -> Iterator[str]:
    """Before 1.11.0 the bazelrc had neither, and the default options that had one are replaced."""
    for release in releases.values():
        for flavour, facts in release.flavours.items():
            for flag in ALWAYS:
                if (flag in facts.fixed_flags) != (release.version < Version("1.11.0")):
                    yield f"{release.tag}, {flavour}: {flag}"
            if flavour is Flavour.MKL and "--config=mkl" not in facts.fixed_flags:
                yield f"{release.tag}, mkl: --config=mkl"


def bases_name_their_system(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        for flavour, facts in release.flavours.items():
            if not _names_ubuntu(facts):
                yield f"{release.tag}, {flavour}: {facts.base} names no Ubuntu"


def _names_ubuntu(facts: FlavourFacts) -> bool:
    try:
        return bool(re.fullmatch(r"ubuntu:\d\d\.04", facts.os))
    except CatalogueError:
        return False


def models_are_in_the_testdata(releases: Releases) -> Iterator[str]:
    for release in releases.values():
        for role, model in release.server.models.items():
            if model not in release.server.testdata:
                yield f"{release.tag}: {role}'s model {model} is not in the testdata folder"


def what_is_stated_differs(lines: Lines) -> Iterator[str]:
    """A line states what the line that it is like has not, a release what its line has not."""
    own: dict[str, Mapping[str, Any]] = {}
    for name, line in lines.items():
        stated = {key: value for key, value in line.items() if key not in {"like", "releases"}}
        below = own.get(line.get("like", ""), {})
        if "like" in line:
            yield from _same(f"line {name}", stated, below)
        own[name] = merged(below, stated)
        for tag, release in line["releases"].items():
            yield from _same(tag, release, own[name])


def _same(where: str, stated: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[str]:
    for key, value in stated.items():
        if key not in below:
            continue
        if isinstance(value, Mapping) and isinstance(below[key], Mapping):
            yield from _same(f"{where}: {key}", value, below[key])
        elif value == below[key]:
            yield f"{where}: {key} is stated, and no other than without it"


RULES: tuple[Callable[[Releases], Iterator[str]], ...] = (
    *(tags_are_full, dates_are_dates, commits_are_commits, reports_are_of_the_series),
    *(bazel_is_not_below_its_minimum, capabilities_are_within_the_cudas, capabilities_reach_bazel),
    *(cuda_is_that_of_the_base, tensorrt_is_what_the_build_asks_for, flags_exist, flags_are_always_there),
    *(bases_name_their_system, models_are_in_the_testdata),
)


def problems(releases: Releases, lines: Lines, checksums: Mapping[str, str]) -> list[str]:
    """All that breaks any rule."""
    assert set(inherited(lines)) == set(releases)
    return [
        *(problem for rule in RULES for problem in rule(releases)),
        *bazel_checksums_are_known_or_said_to_be_unknown(releases, checksums),
        *what_is_stated_differs(lines),
    ]
