"""What the catalogue says of releases, and how the file is read."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from serving_factory.catalogue.facts import Flavour, FlavourFacts, Release
from serving_factory.catalogue.releases import AllSeries, closest_release, inherited, merged, read_releases, releases
from serving_factory.errors import CatalogueError


def release(tag: str) -> Release:
    return releases()[tag]


def cpu(tag: str) -> FlavourFacts:
    return release(tag).flavours[Flavour.CPU]


def mkl(tag: str) -> FlavourFacts:
    return release(tag).flavours[Flavour.MKL]


COME_AND_STAY = ("rest", "model_status", "version_flag", "grpc_health", "monitoring", "integers_for_floats", "stamped")


@pytest.mark.parametrize("fact", COME_AND_STAY)
def test_what_a_server_can_do_later_ones_can_do_too(fact: str) -> None:
    has = [bool(getattr(each.server, fact)) for each in releases().values()]
    assert has == sorted(has)
    assert set(has) == {False, True}


@pytest.mark.parametrize("flavour", Flavour)
def test_a_flavour_that_there_was_once_there_is_later(flavour: Flavour) -> None:
    has = [flavour in each.flavours for each in releases().values()]
    assert has == sorted(has)
    assert has[-1]


def test_nothing_but_versions_orders_releases() -> None:
    assert list(releases()) == sorted(releases(), key=Version)
    assert list(releases()) == [each.tag for each in releases().values()]


def test_a_compiler_has_a_package_unless_bazel_downloads_it() -> None:
    assert cpu("2.19.1").compiler_package == "gcc-10"
    assert mkl("2.19.1").compiler_package == "gcc"
    assert release("2.19.1").flavours[Flavour.GPU].compiler_package == "clang-17"
    assert cpu("2.20.0").compiler_package is None
    assert mkl("2.20.0").compiler_package == "gcc"


# --- the file ---------------------------------------------------------------------------------------------------------


def test_entries_are_laid_over_each_other() -> None:
    base = {"a": 1, "m": {"x": 1, "y": 2}, "l": [1, 2]}
    assert merged(base, {"m": {"y": None, "z": 3}, "l": [3]}) == {"a": 1, "m": {"x": 1, "y": None, "z": 3}, "l": [3]}
    assert base == {"a": 1, "m": {"x": 1, "y": 2}, "l": [1, 2]}
    assert merged({"m": {"x": 1}}, {"m": None}) == {"m": None}


def test_a_series_is_like_another_and_a_release_like_its_series() -> None:
    series: AllSeries = {
        "1.0": {"a": 1, "b": {"c": 1}, "releases": {"1.0.0": {}, "1.0.1": {"a": 2}}},
        "1.1": {"like": "1.0", "b": {"d": 2}, "releases": {"1.1.0": {}}},
    }
    assert inherited(series) == {
        "1.0.0": {"a": 1, "b": {"c": 1}},
        "1.0.1": {"a": 2, "b": {"c": 1}},
        "1.1.0": {"a": 1, "b": {"c": 1, "d": 2}},
    }


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ({"1.1": {"like": "1.0", "releases": {}}}, "series 1.1 is like 1.0, which does not stand above it"),
        ({"1.1": {"like": "1.1", "releases": {}}}, "series 1.1 is like 1.1"),
        ({"1.1": {"releases": {"1.2.0": {}}}}, "1.2.0 stands in series 1.1"),
    ],
)
def test_a_wrong_file_is_refused(lines: dict[str, Any], text: str) -> None:
    with pytest.raises(CatalogueError, match=text):
        inherited(lines)


def entry(**more: object) -> dict[str, Any]:
    """The least that a release is made of."""
    facts: dict[str, Any] = {
        "date": "2030-01-01",
        "commit": "a" * 40,
        "tensorflow_commit": "b" * 40,
        "bazel": "9.0.0",
        "bazel_minimum": "9.0.0",
        "python": "3.14",
        "bazel_python": None,
        "bazelrc": ".bazelrc",
        "configs": {"release": ["--copt=-mavx"], "gone": None},
        "cpu": {
            "base": "ubuntu:30.04",
            "runtime_base": None,
            "compiler": "gcc 20.1",
            "default_options": [],
            "command_flags": [],
            "kept_flags": [],
            "packages": {},
        },
        "mkl": None,
        "gpu": None,
        "server": {
            "model_status": True,
            "integers_for_floats": True,
            "stamped": True,
            "grpc_ready": "a",
            "rest_ready": "b",
            "models": {},
            "flags": {"port": True, "gone": None},
            "testdata": {},
        },
    }
    return {**facts, **more}


def test_the_least_release() -> None:
    (made,) = read_releases({"9.9": {"releases": {"9.9.9": entry()}}}, {}).values()
    assert made.flavours.keys() == {Flavour.CPU}
    assert (made.server.flags, list(made.configs)) == (("port",), ["release"])
    assert (made.tensorflow_sha256, made.reported, made.bazel_sha256) == (None, "", None)
    assert made.series == "9.9"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"bazle": "9.0.1"}, "9.9.9: unknown: bazle"),
        ({"bazel_minimum": 9}, "9.9.9: bazel_minimum is 9: expected str"),
        ({"cpu": {**entry()["cpu"], "kept_flags": [7.5]}}, r"9.9.9, cpu: kept_flags is \[7.5\]: expected str"),
        ({"python": 3.1}, "9.9.9, cpu: python is 3.1: expected str"),
        ({"cpu": {**entry()["cpu"], "cudnn": "9"}}, "9.9.9, cpu: unknown: cudnn"),
        ({"server": {**entry()["server"], "rest": True}}, "9.9.9, server: unknown: rest"),
    ],
)
def test_a_wrong_fact_is_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(CatalogueError, match=text):
        read_releases({"9.9": {"releases": {"9.9.9": entry(**changed)}}}, {})


@pytest.mark.parametrize("name", ["bazelrc", "server", "mkl"])
def test_a_missing_fact_is_named(name: str) -> None:
    missing = entry()
    del missing[name]
    with pytest.raises(CatalogueError, match=rf"9\.9\.9: {name} is missing"):
        read_releases({"9.9": {"releases": {"9.9.9": missing}}}, {})


def test_a_base_without_a_system_is_refused() -> None:
    facts = {**entry()["cpu"], "base": "debian:12"}
    (made,) = read_releases({"9.9": {"releases": {"9.9.9": entry(cpu=facts)}}}, {}).values()
    with pytest.raises(CatalogueError, match="names no Ubuntu"):
        _ = made.flavours[Flavour.CPU].os


# --- releases that do not exist ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "tag", "reason"),
    [
        ("2.15.0", "2.15.1", "upstream has no stable tag 2.15.0"),
        ("2.5.0", "2.5.1", "upstream has no stable tag 2.5.0"),
        ("2.16.2", "2.16.1", "upstream has no stable tag 2.16.2"),
        ("1.12.1", "1.12.3", "upstream has no stable tag 1.12.1"),
        ("2.20.0rc1", "2.20.0", "upstream has no stable tag 2.20.0rc1"),
        ("2.16", "2.16.1", "a release is a full tag, with a patch number"),
        ("2.21.0", "2.20.0", "the catalogue knows no release 2.21.x"),
        ("1.16.0", "1.15.0", "the catalogue knows no release 1.16.x"),
        ("0.1.0", "1.5.0", "the catalogue knows no release 0.1.x"),
        ("latest", "2.20.0", "this is no release: a release is a full tag such as 2.19.1"),
    ],
)
def test_the_nearest_release_is_found_with_the_reason(asked: str, tag: str, reason: str) -> None:
    found = closest_release(asked, releases())
    assert (found.tag, found.reason) == (tag, reason)
