"""What the catalogue says of releases: how many, what changed where, and how the file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from packaging.version import Version

from serving_factory.catalogue.facts import CapabilitiesFrom, Flavour, FlavourFacts, GpuFacts, NcclFrom, Release
from serving_factory.catalogue.releases import AllSeries, closest_release, inherited, merged, read_releases, releases
from serving_factory.errors import CatalogueError


def release(tag: str) -> Release:
    return releases()[tag]


def cpu(tag: str) -> FlavourFacts:
    return release(tag).flavours[Flavour.CPU]


def mkl(tag: str) -> FlavourFacts:
    return release(tag).flavours[Flavour.MKL]


def gpu(tag: str) -> GpuFacts:
    facts = release(tag).flavours[Flavour.GPU].gpu
    assert facts
    return facts


def span(holds: Callable[[Release], object]) -> tuple[str, str, int]:
    """First, last and number of the releases of which something holds."""
    found = [each.tag for each in releases().values() if holds(each)]
    return found[0], found[-1], len(found)


def has_tensorrt(each: Release) -> bool:
    facts = each.flavours[Flavour.GPU].gpu
    return facts is not None and facts.tensorrt is not None


def test_every_stable_release_is_there() -> None:
    assert span(lambda _: True) == ("1.5.0", "2.20.0", 73)
    assert span(lambda each: Flavour.CPU in each.flavours) == ("1.5.0", "2.20.0", 73)
    assert span(lambda each: Flavour.GPU in each.flavours) == ("1.5.0", "2.20.0", 73)
    assert span(lambda each: Flavour.MKL in each.flavours) == ("1.13.0", "2.20.0", 59)
    assert len({each.series for each in releases().values()}) == 32


def test_what_a_binary_has_begins_and_ends_where_it_does() -> None:
    assert span(has_tensorrt)[:2] == ("1.11.0", "2.17.1")
    assert span(lambda each: each.server.rest)[:2] == ("1.8.0", "2.20.0")
    assert span(lambda each: each.server.version_flag)[0] == "1.10.0"
    assert span(lambda each: each.server.monitoring)[0] == "1.11.0"
    assert span(lambda each: each.server.integers_for_floats)[0] == "1.11.0"
    assert span(lambda each: each.server.stamped)[0] == "1.11.1"
    assert span(lambda each: each.server.model_status)[0] == "1.12.0"
    assert span(lambda each: each.server.grpc_health)[0] == "2.15.1"
    assert span(lambda each: "use_tflite_model" in each.server.flags)[:2] == ("1.15.0", "2.2.3")


def test_flags_that_must_always_be_there() -> None:
    def fixed(flag: str, flavour: Flavour) -> tuple[str, str, int]:
        return span(lambda each: flavour in each.flavours and flag in each.flavours[flavour].fixed_flags)

    assert fixed("-c opt", Flavour.CPU)[:2] == ("1.5.0", "1.10.1")
    assert fixed("--cxxopt=-D_GLIBCXX_USE_CXX11_ABI=0", Flavour.GPU)[:2] == ("1.5.0", "1.10.1")
    assert fixed("--config=kokoro", Flavour.CPU) == ("2.17.1", "2.19.1", 5)
    assert fixed("--config=mkl", Flavour.MKL) == ("1.13.0", "2.20.0", 59)
    assert fixed("--config=clang_local", Flavour.MKL) == ("2.20.0", "2.20.0", 1)
    assert fixed("--config=cuda", Flavour.GPU)[:2] == ("1.5.0", "2.14.1")
    assert fixed("--config=cuda_clang", Flavour.GPU)[:2] == ("2.15.1", "2.20.0")
    assert fixed("--copt=-fPIC", Flavour.GPU)[:2] == ("1.11.1", "2.20.0")


@pytest.mark.parametrize(
    ("tag", "base", "runtime", "os", "compiler"),
    [
        ("1.5.0", "ubuntu:16.04", None, "ubuntu:16.04", "gcc 5.4"),
        ("1.8.0", "ubuntu:16.04", "ubuntu:16.04", "ubuntu:16.04", "gcc 5.4"),
        ("1.13.2", "ubuntu:18.04", "ubuntu:18.04", "ubuntu:18.04", "gcc 7.5"),
        ("2.17.1", "ubuntu:20.04", "ubuntu:20.04", "ubuntu:20.04", "gcc 9.4"),
        ("2.18.0", "ubuntu:20.04", "ubuntu:20.04", "ubuntu:20.04", "gcc-10"),
    ],
)
def test_cpu_by_era(tag: str, base: str, runtime: str | None, os: str, compiler: str) -> None:
    facts = cpu(tag)
    assert (facts.base, facts.runtime_base, facts.os, facts.compiler) == (base, runtime, os, compiler)


def test_gpu_by_era() -> None:
    old = gpu("1.10.1")
    assert (old.cuda, old.cudnn, old.nccl, old.tensorrt) == ("9.0", "7.1.4.18", "2.2.13", None)
    assert (old.nccl_from, old.capabilities_from) == (NcclFrom.PACKAGE, CapabilitiesFrom.ENVIRONMENT)
    assert release("1.13.0").flavours[Flavour.GPU].os == "ubuntu:16.04"
    assert cpu("1.13.0").os == "ubuntu:18.04"
    middle = gpu("2.11.1")
    assert (middle.cuda, middle.toolkit, middle.tensorrt) == ("11.2", "11.2.1", "7.2.2")
    assert (middle.nccl, middle.nccl_from, middle.capabilities_from) == (None, NcclFrom.SOURCE, CapabilitiesFrom.CONFIG)
    new = gpu("2.20.0")
    assert (new.cuda, new.toolkit, new.cudnn, new.tensorrt) == ("12.5", "12.5.1", "9.3.0.75", None)
    assert new.capabilities == ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")
    assert (
        "--repo_env=TF_CUDA_COMPUTE_CAPABILITIES=sm_60,sm_70,sm_80,sm_89,compute_90"
        in (release("2.20.0").configs["cuda_clang"])
    )


def test_a_compiler_has_a_package_unless_bazel_downloads_it() -> None:
    assert cpu("2.19.1").compiler_package == "gcc-10"
    assert mkl("2.19.1").compiler_package == "gcc"
    assert release("2.19.1").flavours[Flavour.GPU].compiler_package == "clang-17"
    assert cpu("2.20.0").compiler_package is None
    assert mkl("2.20.0").compiler_package == "gcc"


def test_minors_differ_inside() -> None:
    assert (release("2.5.3").python, release("2.5.4").python) == ("3.6", "3.7")
    assert (gpu("2.6.2").tensorrt_packages, gpu("2.6.5").tensorrt_packages) == ("7.2.2-1+cuda11.1", "7.2.2-1+cuda11.0")
    assert (release("2.6.2").python, release("2.6.5").python) == ("3.6", "3.7")
    assert release("2.7.0").commit != release("2.7.3").commit
    assert (release("2.7.0").python, release("2.7.3").python) == ("3.7", "3.7")
    assert (gpu("2.8.0").tensorrt_packages, gpu("2.8.2").tensorrt_packages) == ("7.2.2-1+cuda11.1", "7.2.2-1+cuda11.0")
    assert (cpu("2.17.0").configs, cpu("2.17.1").configs) == ((), ("kokoro",))
    assert ("kokoro" in release("2.17.0").configs, "kokoro" in release("2.17.1").configs) == (False, True)
    assert (release("1.9.0").bazel, release("1.9.1").bazel) == ("0.11.1", "0.15.0")
    assert (gpu("2.2.0").capabilities, gpu("2.2.2").capabilities[0]) == ((), "3.5")
    assert gpu("2.2.0").capabilities_from is CapabilitiesFrom.TENSORFLOW


def test_what_is_shared_and_what_is_not() -> None:
    assert release("1.13.1").commit == release("1.13.2").commit
    assert release("1.5.0").tensorflow_sha256 is None
    assert release("1.11.0").reported == "1.10.0-dev"
    assert release("1.9.1").reported == ""
    assert release("2.19.1").reported == "2.19.1-rc0"
    assert (release("1.12.3").bazelrc, release("1.13.0").bazelrc) == ("tools/bazel.rc", ".bazelrc")
    assert (mkl("2.14.0").python, cpu("2.14.0").python) == ("3.8", "3.9")
    assert release("2.20.0").bazel_python == "3.10"
    assert release("1.5.0").server.models == {"cpu": "saved_model_half_plus_three"}
    assert set(release("1.13.0").server.models) == {"cpu", "mkl", "gpu", "gpu_trt"}
    assert cpu("2.2.3").default_options == ("--config=nativeopt",)
    assert mkl("2.20.0").default_options == ("--config=mkl", "--config=release", "--config=clang_local")


def test_an_unknown_checksum_is_none() -> None:
    assert release("2.4.4").bazel_sha256 is None
    assert str(release("2.19.1").bazel_sha256).startswith("a40ac692")


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


def test_releases_are_sorted_as_versions() -> None:
    assert Version("1.10.0") > Version("1.9.1")
    assert list(releases()).index("1.10.0") > list(releases()).index("1.9.1")
