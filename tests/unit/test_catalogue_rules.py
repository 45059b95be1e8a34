"""The catalogue hangs together; and each rule of that can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.facts import CapabilitiesFrom, Flavour, GpuFacts, Release
from serving_factory.catalogue.releases import releases

from . import catalogue_rules as rules

Spoil = Callable[[Release], Release]


def test_the_catalogue_hangs_together() -> None:
    assert rules.problems(releases(), read_yaml("releases.yaml"), read_yaml("bazel.yaml")) == []


def flavour(release: Release, name: Flavour, **changes: object) -> Release:
    facts = replace(release.flavours[name], **changes)  # type: ignore[arg-type] # the callers know the fields
    return replace(release, flavours={**release.flavours, name: facts})


def gpu(**changes: object) -> Spoil:
    def spoil(release: Release) -> Release:
        facts = release.flavours[Flavour.GPU].gpu
        assert isinstance(facts, GpuFacts)
        return flavour(release, Flavour.GPU, gpu=replace(facts, **changes))  # type: ignore[arg-type] # the callers know the fields

    return spoil


CPU, MKL, GPU = Flavour
SPOILT: tuple[tuple[Callable[..., Any], str, Spoil, str], ...] = (
    (rules.dates_are_dates, "2.19.1", lambda r: replace(r, date="18-08-2025"), "is no date"),
    (rules.commits_are_commits, "2.19.1", lambda r: replace(r, commit="eab9c352"), "is not 40 hex digits"),
    (rules.commits_are_commits, "2.19.1", lambda r: replace(r, commit="G" * 40), "is not 40 hex digits"),
    (rules.commits_are_commits, "2.19.1", lambda r: replace(r, commit=r.tensorflow_commit), "is Serving's"),
    (rules.commits_are_commits, "2.19.1", lambda r: replace(r, tensorflow_sha256="0"), "is not 64 hex digits"),
    (rules.reports_are_of_the_series, "2.19.1", lambda r: replace(r, reported="2.20.0"), "a later release"),
    (rules.reports_are_of_the_series, "2.19.1", lambda r: replace(r, reported=""), "do not go together"),
    (rules.bazel_is_not_below_its_minimum, "2.19.1", lambda r: replace(r, bazel="6.4.0"), "6.4.0 is below 6.5.0"),
    (rules.capabilities_are_within_the_cudas, "2.19.1", gpu(capabilities=("sm_35",)), "not 3.5"),
    (rules.capabilities_are_within_the_cudas, "2.19.1", gpu(capabilities=("10.0",)), "it needs CUDA 12.8"),
    (rules.capabilities_are_within_the_cudas, "2.19.1", gpu(cuda="12.8"), "no facts of its CUDA"),
    (rules.capabilities_reach_bazel, "2.19.1", gpu(config="cuda"), "do not agree"),
    (rules.capabilities_reach_bazel, "2.19.1", gpu(capabilities=()), "capabilities and capabilities_from"),
    (rules.capabilities_reach_bazel, "1.9.1", gpu(capabilities_from=CapabilitiesFrom.CONFIG), "config cuda and"),
    (rules.cuda_is_that_of_the_base, "2.19.1", gpu(toolkit="12.3.0"), "is not of CUDA 12.3.0"),
    (rules.cuda_is_that_of_the_base, "2.19.1", gpu(cuda="12.20"), "toolkit 12.2.0 is not of"),
    (rules.tensorrt_is_what_the_build_asks_for, "2.19.1", gpu(tensorrt="8.6.1"), "though the build leaves it out"),
    (rules.tensorrt_is_what_the_build_asks_for, "2.17.1", gpu(tensorrt="8.7"), "packages do not agree"),
    (rules.flags_exist, "2.20.0", lambda r: flavour(r, CPU, command_flags=("--config=kokoro",)), "no config kokoro"),
    (rules.flags_exist, "2.19.1", lambda r: flavour(r, CPU, kept_flags=("copt",)), "is no flag"),
    (rules.flags_exist, "2.19.1", lambda r: flavour(r, GPU, command_flags=()), "cuda_clang is not among"),
    (rules.flags_are_always_there, "1.10.1", lambda r: flavour(r, CPU, kept_flags=()), "ABI"),
    (rules.flags_are_always_there, "2.19.1", lambda r: flavour(r, CPU, kept_flags=("-c opt",)), "-c opt"),
    (rules.flags_are_always_there, "2.19.1", lambda r: flavour(r, MKL, kept_flags=()), "--config=mkl"),
    (rules.bases_name_their_system, "2.19.1", lambda r: flavour(r, CPU, base="debian:12"), "names no Ubuntu"),
    (
        rules.models_are_in_the_testdata,
        "2.19.1",
        lambda r: replace(r, server=replace(r.server, testdata=())),
        "is not in the testdata",
    ),
)


@pytest.mark.parametrize(("rule", "tag", "spoil", "text"), SPOILT)
def test_a_rule_can_fail(rule: Callable[..., Any], tag: str, spoil: Spoil, text: str) -> None:
    found = list(rule({tag: spoil(releases()[tag])}))
    assert found
    assert all(sentence.startswith(tag) for sentence in found)
    assert any(text in sentence for sentence in found), found


def test_the_rule_for_tags_can_fail() -> None:
    assert list(rules.tags_are_full({"2.19": releases()["2.19.1"]})) == ["2.19 is no full tag"]


def test_the_rule_for_checksums_can_fail() -> None:
    rule = rules.bazel_checksums_are_known_or_said_to_be_unknown
    one = {"2.19.1": releases()["2.19.1"]}
    assert list(rule(one, {})) == ["bazel.yaml: 6.5.0: neither a sha256 nor unknown"]
    assert list(rule(one, {"6.5.0": "tbd"})) != []
    assert list(rule(one, {"6.5.0": "unknown"})) == []


def test_every_rule_is_tried() -> None:
    tried = {rule for rule, *_ in SPOILT} | {rules.tags_are_full}
    assert tried == set(rules.RULES)


def stated(place: tuple[str, ...], value: object) -> Mapping[str, Any]:
    """The file with one thing more stated."""
    lines = deepcopy(read_yaml("releases.yaml"))
    node = lines
    for key in place[:-1]:
        node = node.setdefault(key, {})
    node[place[-1]] = value
    return lines  # type: ignore[no-any-return] # what YAML gives has no type


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (("2.19", "releases", "2.19.1", "bazel"), "6.5.0", "2.19.1: bazel is stated, and no other than without it"),
        (("2.19", "releases", "2.19.1", "gpu", "cuda"), "12.2", "2.19.1: gpu: cuda is stated"),
        (("2.19", "python"), "3.9", "line 2.19: python is stated"),
        (("2.19", "server", "flags", "port"), True, "line 2.19: server: flags: port is stated"),
    ],
)
def test_what_changes_nothing_is_found(place: tuple[str, ...], value: object, text: str) -> None:
    (found,) = rules.what_is_stated_differs(stated(place, value))
    assert found.startswith(text)
