"""matrix/select.py and variant.py: choosing variants, and their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, Level
from serving_factory.errors import UnknownNameError, UsageError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.select import select
from serving_factory.matrix.variant import Platform, Variant, upstreams_capabilities

from .matrices import SHIPPED, load

SHIPPED_MATRIX = load_matrix(SHIPPED[1])
RELEASES = ("2.5.0", "2.19.1", "2.19.0")

cells = st.builds(
    Variant,
    release=st.sampled_from(RELEASES),
    flavour=st.sampled_from(Flavour),
    level=st.sampled_from(Level),
    platform=st.sampled_from(Platform),
)


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    variants = tuple(sorted(draw(st.sets(cells, min_size=1, max_size=6)), key=lambda variant: variant.order))
    ids = [variant.id for variant in variants]
    chosen = st.lists(st.sampled_from(ids), unique=True).map(tuple)
    targets = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), chosen, min_size=1))
    return replace(SHIPPED_MATRIX, variants=variants, targets=MappingProxyType(targets))


def some(names: object) -> st.SearchStrategy[list[str]]:
    assert isinstance(names, list)
    return st.lists(st.sampled_from(names), max_size=3)


@settings(max_examples=40)
@given(st.data())
def test_what_is_asked_narrows_and_is_never_widened(data: st.DataObject) -> None:
    """Names of one kind add up; kinds narrow each other down; no names of a kind mean all of it."""
    matrix = data.draw(matrices())
    targets = data.draw(some(list(matrix.targets)))
    releases = data.draw(some([variant.release for variant in matrix.variants]))
    ids = data.draw(some([variant.id for variant in matrix.variants]))
    expected = tuple(
        variant
        for variant in matrix.variants
        if (not targets or any(variant.id in matrix.targets[name] for name in targets))
        and (not releases or variant.release in releases)
        and (not ids or variant.id in ids)
    )
    if expected:
        assert select(matrix, targets=targets, releases=releases, variants=ids) == expected
    else:
        with pytest.raises(UnknownNameError, match=r"no variant of .* matches all of"):
            select(matrix, targets=targets, releases=releases, variants=ids)


def test_nothing_asked_is_all() -> None:
    assert select(SHIPPED_MATRIX) == SHIPPED_MATRIX.variants


@settings(max_examples=40)
@given(st.sets(cells, max_size=20))
def test_ids_are_as_different_as_the_cells(variants: set[Variant]) -> None:
    assert len({variant.id for variant in variants}) == len(variants)
    assert len({variant.order for variant in variants}) == len(variants)


def test_ids_are_readable() -> None:
    upstreams = upstreams_capabilities("2.19.1")
    variant = Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V3, cuda="12.2", capabilities=upstreams)
    assert variant.id == "2.19.1-gpu-cuda12.2-v3"
    assert replace(variant, platform=Platform.LINUX_ARM64).id == "2.19.1-gpu-cuda12.2-v3-arm64"
    assert replace(variant, capabilities=("sm_75", "sm_80", "compute_90")).id == "2.19.1-gpu-cuda12.2-sm75-80-90-v3"


def test_order_goes_by_version_and_level_not_by_text() -> None:
    def ids(*cells: tuple[str, Level]) -> list[str]:
        variants = [Variant(release=release, flavour=Flavour.CPU, level=level) for release, level in cells]
        return [variant.id for variant in sorted(variants, key=lambda variant: variant.order)]

    assert ids(("2.19.1", Level.V1), ("2.5.0", Level.V4)) == ["2.5.0-cpu-v4", "2.19.1-cpu-v1"]
    assert ids(*(("2.5.0", level) for level in reversed(Level))) == [
        *(f"2.5.0-cpu-{short}" for short in ("v1", "v2", "avx", "v3", "v4", "native"))
    ]


def test_the_variants_own_options_come_after_the_levels() -> None:
    variant = Variant(release="2.19.1", flavour=Flavour.CPU, level=Level.AVX, copts=("-mno-avx",))
    assert variant.all_copts == ("-mavx", "-msse4.2", "-mno-avx")
    assert set(LEVELS) == set(Level) - {Level.NATIVE}


AXES = """
image: {repository: r, aliases: ["{id}"]}
releases: ["2.9.3", "2.14.1", "2.19.1"]
targets:
  cpu: {flavour: cpu, levels: [x86-64, x86-64-v3]}
  gpu: {flavour: gpu, levels: [x86-64-v3]}
exclude: [{reason: too old for us, releases: "2.9.3", flavours: [cpu], levels: [x86-64-v3]}]
"""


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"flavours": ["gpu"]}, ["2.9.3-gpu-cuda11.2-v3", "2.14.1-gpu-cuda11.8-v3", "2.19.1-gpu-cuda12.2-v3"]),
        ({"levels": ["x86-64"], "releases": [">=2.10"]}, ["2.14.1-cpu-v1", "2.19.1-cpu-v1"]),
        ({"levels": ["v3"], "flavours": ["cpu"]}, ["2.14.1-cpu-v3", "2.19.1-cpu-v3"]),
        ({"cuda": ["12.2"]}, ["2.19.1-gpu-cuda12.2-v3"]),
        ({"cuda": [">=11.8"]}, ["2.14.1-gpu-cuda11.8-v3", "2.19.1-gpu-cuda12.2-v3"]),
        ({"cuda": ["11.2", ">=12"]}, ["2.9.3-gpu-cuda11.2-v3", "2.19.1-gpu-cuda12.2-v3"]),
        ({"releases": ["<2.10", "2.14.1"], "levels": ["v1"]}, ["2.9.3-cpu-v1", "2.14.1-cpu-v1"]),
        ({"releases": ["latest-patches,<2.15"], "levels": ["v1"]}, ["2.9.3-cpu-v1", "2.14.1-cpu-v1"]),
        ({"platforms": ["linux/amd64"], "targets": ["gpu"], "releases": ["2.19.1"]}, ["2.19.1-gpu-cuda12.2-v3"]),
    ],
)
def test_any_axis_can_be_asked_for(tmp_path: Path, asked: dict[str, list[str]], found: list[str]) -> None:
    assert [variant.id for variant in select(load(tmp_path, AXES), **asked)] == found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cuda": ["12.3"]}, "no CUDA version is named '12.3'; did you mean '12.2'?"),
        ({"cuda": [">=13"]}, "CUDA version '>=13': no release was built with such a CUDA"),
        ({"releases": [">=99"]}, "release '>=99': the catalogue has no such release"),
        ({"releases": ["2.14.1,2.19.1"]}, "release '2.14.1,2.19.1': parts joined by commas narrow each other"),
        ({"releases": ["2.15.0,<3"]}, "release '2.15.0,<3': upstream has no stable tag 2.15.0"),
        ({"variants": ["2.9.3-cpu-v3"]}, "2.9.3-cpu-v3 is not built: too old for us"),
    ],
)
def test_an_axis_has_its_names_too(tmp_path: Path, asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        select(load(tmp_path, AXES), **asked)
    assert caught.value.what.startswith(message)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"flavours": ["tpu"]}, "no flavour is named 'tpu'; did you mean 'gpu'?"),
        ({"levels": ["v5"]}, "no level is named 'v5'"),
        ({"platforms": ["amd64"]}, "no platform is named 'amd64'; did you mean 'linux/amd64'?"),
        ({"cuda": [">=x"]}, "CUDA version '>=x': this is not a version specifier"),
        ({"cuda": ["12,13"]}, "CUDA version '12,13': expected a CUDA version or a specifier"),
        ({"releases": [">=x"]}, "release '>=x': this is not a version specifier"),
        ({"releases": ["===2.9.3"]}, "release '===2.9.3': === compares texts"),
        ({"releases": [">=2.9,"]}, "release '>=2.9,': there is nothing before or after a comma"),
        ({"releases": ["latest-patchs,<3"]}, "release 'latest-patchs,<3': this is neither a release nor a specifier"),
        ({"releases": ["2.*,<3"]}, "release '2.*,<3': this is neither a release nor a specifier"),
    ],
)
def test_a_value_that_no_matrix_file_gives_a_meaning_is_a_usage_error(
    tmp_path: Path, asked: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        select(load(tmp_path, AXES), **asked)
    assert caught.value.what.startswith(message)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"targets": ["cpu-optimised"]}, "no target is named 'cpu-optimised'; did you mean 'cpu-optimized'?"),
        ({"releases": ["2.19"]}, "no release is named '2.19'; did you mean '2.19.1'?"),
        ({"variants": ["2.19.1-CPU-v3"]}, "no variant is named '2.19.1-CPU-v3'; did you mean '2.19.1-cpu-v3'?"),
        (
            {"variants": ["2.19.1-mkl-v4"]},
            (
                "no variant is named '2.19.1-mkl-v4': no target selects mkl at level x86-64-v4 of release 2.19.1; "
                "did you mean '2.19.1-mkl-v3'?"
            ),
        ),
        (
            {"variants": ["2.19.1-gpu-cuda12.2-sm70-v3"]},
            (
                "no variant is named '2.19.1-gpu-cuda12.2-sm70-v3': no target selects gpu at level x86-64-v3 "
                "of release 2.19.1 with these capabilities; did you mean '2.19.1-gpu-cuda12.2-sm80-90-v3'?"
            ),
        ),
        ({"variants": ["mkl"]}, "no variant is named 'mkl'; did you mean '2.19.1-mkl-v3'?"),
        ({"targets": ["tpu"]}, "no target is named 'tpu'"),
        ({"targets": [""]}, "no target is named ''"),
        ({"targets": ["zzz", "yyy"]}, "no target is named 'zzz'; no target is named 'yyy'"),
    ],
)
def test_a_wrong_name_is_reported_with_the_nearest_right_one(asked: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        select(SHIPPED_MATRIX, **asked)
    assert caught.value.what == message
    assert caught.value.why.startswith(f"{next(iter(asked))}: ")


def test_a_release_that_the_matrix_lacks_is_reported_as_such(tmp_path: Path) -> None:
    matrix = load(tmp_path, AXES)
    with pytest.raises(UnknownNameError) as upstreams:
        select(matrix, releases=["2.17.1"])
    assert upstreams.value.what == "release 2.17.1 is not in this matrix; it has: 2.9.3, 2.14.1, 2.19.1"
    with pytest.raises(UnknownNameError) as unknown:
        select(matrix, releases=["2.15.0"])
    assert unknown.value.what == "no release is named '2.15.0': upstream has no stable tag 2.15.0"
    assert "the nearest one is 2.15.1" in unknown.value.remedy
    assert "{name: 2.15.0, like:" in unknown.value.remedy
