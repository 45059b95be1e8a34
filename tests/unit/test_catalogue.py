"""The catalogue's data hangs together."""

from __future__ import annotations

import re

import pytest

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.distributions import distributions
from serving_factory.catalogue.levels import LEVELS, Level, allowed_features, level_facts
from serving_factory.catalogue.releases import UPSTREAM_TARGET, releases

# psABI, section "Micro-Architecture Levels": what each level adds, in the psABI's own names.
PSABI = {
    Level.V2: "CMPXCHG16B LAHF-SAHF POPCNT SSE3 SSE4_1 SSE4_2 SSSE3",
    Level.V3: "AVX AVX2 BMI1 BMI2 F16C FMA LZCNT MOVBE",
    Level.V4: "AVX512F AVX512BW AVX512CD AVX512DQ AVX512VL",
}
NAMES = {"cmpxchg16b": "cx16", "lahf-sahf": "lahf"}


def psabi(level: Level) -> set[str]:
    """All that a level has, by the psABI, in the catalogue's spelling."""
    names = " ".join(PSABI[each] for each in PSABI if LEVELS.index(each) <= LEVELS.index(level)).lower().split()
    return {NAMES.get(name, name.replace("sse4_", "sse4.")) for name in names}


def test_releases_come_oldest_first() -> None:
    versions = [release.version for release in releases().values()]
    assert versions == sorted(versions)
    assert list(releases()) == [release.tag for release in releases().values()]


def test_checksums_are_of_bazels_that_are_used() -> None:
    used = {release.bazel for release in releases().values()}
    assert set(read_yaml("bazel.yaml")) - {"0.17.2"} <= used
    assert UPSTREAM_TARGET == "//tensorflow_serving/model_servers:tensorflow_model_server"


def test_package_lists_are_packages_once_and_in_order() -> None:
    for distribution in distributions().values():
        assert list(distribution.packages) == sorted(set(distribution.packages))
        for package in (*distribution.packages, *distribution.compilers, distribution.tools):
            assert re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package)


@pytest.mark.parametrize("level", PSABI)
def test_levels_are_the_psabis(level: Level) -> None:
    assert level_facts(level).features == psabi(level)


def test_every_level_has_all_of_the_level_below_and_more() -> None:
    below = level_facts(LEVELS[0])
    assert (below.features, below.cpuinfo, below.copts) == (frozenset(), (), ())
    for level in LEVELS[1:]:
        facts = level_facts(level)
        assert below.features < facts.features
        assert facts.adds == facts.features - below.features
        assert facts.cpuinfo[: len(below.cpuinfo)] == below.cpuinfo
        assert len(set(facts.cpuinfo)) == len(facts.cpuinfo) == len(facts.features)
        below = facts


@pytest.mark.parametrize("level", [Level.V2, Level.V3, Level.V4])
def test_flags_ask_for_all_of_a_level_and_no_more(level: Level) -> None:
    spelled = {"lahf": "sahf", "bmi1": "bmi"}
    facts = level_facts(level)
    assert {option.removeprefix("-m") for option in facts.copts} == {spelled.get(name, name) for name in facts.features}


def test_avx_is_upstreams_release_config() -> None:
    assert level_facts(Level.AVX).copts == ("-mavx", "-msse4.2")


def test_short_names_are_as_different_as_levels() -> None:
    assert len({level_facts(level).short for level in Level}) == len(Level)
    assert level_facts(Level.NATIVE).copts == ("-march=native",)


def test_native_is_not_published() -> None:
    assert Level.NATIVE not in LEVELS
    assert set(allowed_features()) == {level.value for level in LEVELS}
