"""CUDA, cards, retired bases, bad pairs, flag sets and levels: each agrees with the releases, and is read right."""

from __future__ import annotations

import operator
import re
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.cuda import Capability, cards, cuda_in_image, cudas, device_code, notation, why_not
from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.distributions import left_out, retired_bases
from serving_factory.catalogue.facts import Flavour, GpuFacts
from serving_factory.catalogue.fixes import bad_pairs, known_bad
from serving_factory.catalogue.levels import LEVELS, Level, above_level, flag_sets, instruction_flags, level_facts
from serving_factory.catalogue.libraries import opened_libraries
from serving_factory.catalogue.releases import built, releases
from serving_factory.errors import CatalogueError

# --- CUDA -------------------------------------------------------------------------------------------------------------


def test_the_toolkits_are_those_of_the_releases() -> None:
    facts = [each.flavours[Flavour.GPU].gpu for each in releases().values()]
    assert list(cudas()) == list(dict.fromkeys(gpu.cuda for gpu in facts if gpu is not None))
    versions = list(map(Version, cudas()))
    assert versions == sorted(versions)


@pytest.mark.parametrize(
    ("version", "driver", "minimum"),
    [
        ("8.0", "375.26", "375.26"),
        ("11.0", "450.51.05", "450.51.05"),
        ("11.2", "460.32.03", "450.80.02"),
        ("12.2", "535.54.03", "525.60.13"),
        ("12.5", "555.42.06", "525.60.13"),
    ],
)
def test_drivers(version: str, driver: str, minimum: str) -> None:
    assert (cudas()[version].driver, cudas()[version].minimum_driver) == (driver, minimum)


def accepts(requirement: str, driver: str) -> bool:
    """As NVIDIA's container runtime reads it: spaces are `or`, and `cuda` is what the driver came with."""
    came_with = [version for version, cuda in cudas().items() if Version(cuda.driver) <= Version(driver)]
    known = {"driver": driver, "cuda": came_with[-1] if came_with else "0"}
    compare = {">=": operator.ge, "<": operator.lt}
    return any(
        all(
            compare[sign](Version(known[name]), Version(number))
            for name, sign, number in re.findall(r"(\w+)(>=|<)([\d.]+)", term)
        )
        for term in requirement.split(" ")
    )


def test_the_container_runtime_starts_an_image_on_just_the_drivers_that_run_it() -> None:
    assert cuda_in_image("12.2", compat=False).requirement() == "cuda>=12.2 driver>=525.60.13"
    assert cuda_in_image("10.1", compat=False).requirement() == "cuda>=10.1"
    drivers = {one for cuda in cudas().values() for one in (cuda.driver, cuda.minimum_driver)} | {
        "525.60.11",
        "450.80.01",
    }
    for cuda in (cuda_in_image(version, compat=compat) for version in cudas() for compat in (False, True)):
        for driver in drivers:
            assert accepts(cuda.requirement(), driver) == cuda.runs_on(driver), (cuda.version, driver)


def test_with_cuda_compat_it_starts_on_older_branches_too() -> None:
    without, with_it = (cuda_in_image("12.2", compat=compat) for compat in (False, True))
    for driver, starts in (("470.57.02", (False, True)), ("460.32.03", (False, False)), ("535.54.03", (True, True))):
        for ask in (
            lambda cuda, driver=driver: accepts(cuda.requirement(), driver),
            lambda cuda, driver=driver: cuda.runs_on(driver),
        ):
            assert (ask(without), ask(with_it)) == starts
    assert cuda_in_image("9.0", compat=True) == cuda_in_image("9.0", compat=False), "NVIDIA has no cuda-compat for it"


def test_newer_toolkits_want_newer_drivers_and_take_newer_compilers() -> None:
    rows = list(cudas().values())
    for older, newer in pairwise(rows):
        assert Version(older.driver) < Version(newer.driver)
        assert older.newest_gcc <= newer.newest_gcc
        assert Version(older.architectures[-1]) <= Version(newer.architectures[-1])
        assert list(newer.architectures) == sorted(newer.architectures, key=Version)


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        ("7.5", Capability(7, 5)),
        ("10.0", Capability(10, 0)),
        ("sm_75", Capability(7, 5)),
        ("compute_90", Capability(9, 0, ptx=True)),
        ("compute_120", Capability(12, 0, ptx=True)),
    ],
)
def test_capabilities_are_read(text: str, capability: Capability) -> None:
    assert Capability.parse(text) == capability


@pytest.mark.parametrize("text", ["", "75", "sm_7", "sm75", "7", "7.55", "ptx_75", "sm_9a0", " 7.5"])
def test_what_is_no_capability(text: str) -> None:
    with pytest.raises(ValueError, match="is no compute capability"):
        Capability.parse(text)


# What cuda_configure.bzl makes of a list, in each of its forms
ERAS = {
    "2.2": {"7.0,7.5": "sm_70 sm_75 compute_70 compute_75", "": "sm_35 sm_52 compute_35 compute_52"},
    "2.9.3": {
        "7.0,7.5": "sm_70 sm_75 compute_70 compute_75",
        "sm_70,compute_75": "sm_70 sm_75 compute_75",
        "": "sm_35 sm_52 compute_35 compute_52",
    },
    "2.10": {
        "8.0,9.0": "sm_80 sm_90 compute_90",
        "9.0,8.0": "sm_80 sm_90 compute_90",
        "sm_70,8.0,9.0": "sm_70 sm_80 sm_90 compute_80 compute_90",
        "sm_80,compute_80": "sm_80 compute_80",
        "": "sm_35 sm_52 compute_35 compute_52",
    },
    "2.20.0": {"8.0,9.0": "sm_80 sm_90 compute_90"},
}


@pytest.mark.parametrize(
    ("release", "words", "code"), [(tag, *row) for tag, rows in ERAS.items() for row in rows.items()]
)
def test_what_tensorflow_makes_of_words(release: str, words: str, code: str) -> None:
    found = notation(Version(release)).read(words.split(",") if words else ())
    assert " ".join(device_code(found)) == code


def test_words_are_refused_by_a_tensorflow_that_does_not_know_them() -> None:
    assert notation(Version("2.2.3")).why_not(["7.0", "sm_75", "compute_70"]).endswith("so sm_75 cannot be had without")
    assert notation(Version("2.2.3")).why_not(["7.0", "compute_70"]) == ""
    assert notation(Version("2.3.0")).why_not(["sm_75"]) == ""


def test_what_a_toolkit_cannot_compile_is_named() -> None:
    assert why_not(["sm_50", "compute_90"], cudas()["12.2"]) == ""
    assert why_not([], cudas()["12.2"]) == ""
    reason = why_not(["3.5", "sm_37", "8.0"], cudas()["12.2"])
    assert reason == "CUDA 12.2 compiles capabilities 5.0 to 9.0, not 3.5, 3.7"
    assert why_not(["8.9"], cudas()["11.2"]).endswith("3.5 to 8.6, not 8.9; it needs CUDA 11.8")
    assert why_not(["10.0"], cudas()["12.5"]).endswith("not 10.0; it needs CUDA 12.8")


def test_a_card_can_be_compiled_for_since_the_cuda_that_it_names() -> None:
    assert list(cards()) == ["t4", "v100", "a100", "l4", "h100", "blackwell"]
    for card in cards().values():
        for cuda in cudas().values():
            fits = Version(cuda.version) >= Version(card.since)
            assert (why_not(card.capabilities, cuda) == "") == fits, (card.name, cuda.version)


def test_no_release_compiles_for_blackwell() -> None:
    assert all(Version(cuda) < Version(cards()["blackwell"].since) for cuda in cudas())


# --- libraries that are opened ----------------------------------------------------------------------------------------

EVER = ("cublas", "cudart", "cudnn", "cufft", "cupti", "curand", "cusolver", "cusparse")
SONAMES = {
    "1.5.0": "libcublas.so.8.0 libcudart.so.8.0 libcudnn.so.6 libcufft.so.8.0 libcupti.so.8.0 libcusparse.so.8.0",
    "1.12.0": "libcublas.so.9.0 libcudart.so.9.0 libcudnn.so.7 libcurand.so.9.0",
    "2.1.0": "libcublas.so.10.0 libcudart.so.10.0 libcudnn.so.7 libcupti.so.10.0",
    "2.3.4": "libcublas.so.10 libcudart.so.10.1 libcudnn.so.7 libcupti.so.10.1 libcusolver.so.10 libcusparse.so.10",
    "2.4.4": "libcublas.so.11 libcudart.so.11.0 libcudnn.so.8 libcufft.so.10 libcusolver.so.10 libcusparse.so.11",
    "2.11.1": "libcudart.so.11.0 libcudnn_ops_infer.so.8 libcupti.so.11.2 libcusolver.so.11",
    "2.14.1": "libcudart.so.11.0 libcudnn_cnn_infer.so.8 libcupti.so.11.8",
    "2.17.1": "libcudart.so.12 libcufft.so.11 libcudnn.so.8 libnvrtc.so.12 libnvrtc-builtins.so.12.2 libcupti.so.12",
    "2.20.0": "libcudart.so.12 libcudnn.so.9 libcudnn_engines_runtime_compiled.so.9 libnvrtc-builtins.so.12.5",
}


def gpu_of(tag: str) -> GpuFacts:
    gpu = releases()[tag].flavours[Flavour.GPU].gpu
    assert gpu is not None
    return gpu


@pytest.mark.parametrize(("tag", "sonames"), SONAMES.items())
def test_the_sonames_that_an_era_opens(tag: str, sonames: str) -> None:
    assert set(sonames.split()) <= opened_libraries(EVER, gpu_of(tag)).keys()


def test_every_release_has_a_soname_for_what_it_may_open() -> None:
    for tag, release in releases().items():
        gpu = gpu_of(tag)
        names = set(EVER) | ({"cublasLt"} if release.version >= Version("2.4") else set())
        names |= {"nvinfer", "nvinfer_plugin"} if gpu.tensorrt else set()
        found = opened_libraries(sorted(names), gpu)
        assert all(re.fullmatch(r"lib\w+(-builtins)?\.so\.\d+(\.\d+)?|libnvrtc\.so", soname) for soname in found), tag
        assert f"libcudnn.so.{gpu.cudnn.partition('.')[0]}" in found


def test_a_binary_that_opens_the_runtime_alone_needs_no_more() -> None:
    found = opened_libraries(["cudart"], gpu_of("2.19.1"))
    assert found == {"libcudart.so.12": "the binary, which opens it"}


def test_what_cudnn_opens_is_named_with_it() -> None:
    found = opened_libraries(["cudnn"], gpu_of("2.19.1"))
    assert found["libcudnn_ops_infer.so.8"] == "libcudnn.so.8, which opens it"
    assert found["libnvrtc.so.12"] == "libcudnn.so.8, which opens it"
    assert found["libnvrtc-builtins.so.12.2"] == "libnvrtc.so.12, which opens it"


def test_a_library_that_the_era_is_not_known_to_open_is_named() -> None:
    """Such as by sources of another release: a check that left it out would pass for nothing."""
    with pytest.raises(CatalogueError, match=r"opens cublasLt, and no version of it is known for CUDA 10\.1"):
        opened_libraries(["cublas", "cublasLt"], gpu_of("2.2.0"))


def test_tensorrt_has_the_releases_version() -> None:
    assert set(opened_libraries(["nvinfer", "nvinfer_plugin"], gpu_of("2.17.1"))) == {
        "libnvinfer.so.8",
        "libnvinfer_plugin.so.8",
    }


# --- retired bases ----------------------------------------------------------------------------------------------------


def test_retired_bases_are_bases_of_releases_and_are_replaced_by_their_own_system() -> None:
    gpu = [each.flavours[Flavour.GPU] for each in releases().values()]
    systems = {facts.base: facts.os for facts in gpu}
    used = {*systems, *(facts.runtime_base for facts in gpu)}
    assert set(retired_bases()) <= used
    for image, retired in retired_bases().items():
        assert retired.replacement == systems.get(image, retired.replacement)
        assert image.endswith(retired.replacement.replace(":", ""))
        assert all(url.startswith("https://github.com/") for url in retired.references)


def test_all_before_cuda_11_8_is_retired() -> None:
    for each in releases().values():
        facts = each.flavours[Flavour.GPU]
        retired = each.version < Version("2.12.0")
        assert (facts.base in retired_bases()) == retired, each.tag
        assert facts.runtime_base is None or (facts.runtime_base in retired_bases()) == retired, each.tag


# --- bad pairs --------------------------------------------------------------------------------------------------------


def test_every_bad_pair_is_about_releases_that_exist_and_says_who_reported_it() -> None:
    for pair in bad_pairs():
        assert [tag for tag in releases() if tag in pair.releases], pair.releases
        assert pair.reason[0].islower()
        assert not pair.reason.endswith(".")
        assert pair.references
        assert all(url.startswith("https://github.com/tensorflow/") for url in pair.references)


@pytest.mark.parametrize(
    ("release", "flavour", "level", "compiler", "reason"),
    [
        ("1.10.1", Flavour.CPU, Level.V4, "gcc 5.4", "gcc 5 breaks down over AVX-512"),
        ("1.10.1", Flavour.CPU, Level.V3, "gcc 5.4", ""),
        ("1.10.1", Flavour.CPU, Level.V4, "gcc-7", ""),
        ("2.0.0", Flavour.MKL, Level.V4, "gcc 7.5", "AVX-512 kernels of TensorFlow Lite"),
        ("2.9.3", Flavour.CPU, Level.V4, "gcc-9", "Eigen's tensor contraction"),
        ("2.9.3", Flavour.CPU, Level.V4, "gcc", ""),
        ("2.16.1", Flavour.GPU, Level.NATIVE, "clang-17", "AVX512-FP16"),
        ("2.16.1", Flavour.GPU, Level.V3, "clang-17", ""),
        ("2.19.1", Flavour.CPU, Level.V4, "gcc-10", ""),
    ],
)
def test_what_is_known_not_to_compile(release: str, flavour: Flavour, level: Level, compiler: str, reason: str) -> None:
    found = known_bad(release, flavour, level, compiler)
    assert len(found) == bool(reason)
    assert all(reason in pair.reason for pair in found)


def test_what_was_reported_of_a_branch_is_not_certain() -> None:
    (found,) = known_bad("2.12.0", Flavour.CPU, Level.V3, "gcc 9.4")
    assert not found.certain
    assert found.releases == SpecifierSet("==2.12.*")


# --- flag sets and levels ---------------------------------------------------------------------------------------------


def test_a_flag_set_gives_no_more_than_its_level_has() -> None:
    for found in flag_sets().values():
        features = {copt.removeprefix("-m") for copt in found.copts if copt.startswith("-m")}
        assert features <= level_facts(found.level).features
        below = LEVELS[LEVELS.index(found.level) - 1]
        assert not features <= level_facts(below).features


def test_the_psabis_own_names() -> None:
    assert level_facts(Level.V1).psabi == ("CMOV", "CX8", "FPU", "FXSR", "MMX", "OSFXSR", "SCE", "SSE", "SSE2")
    assert {"OSXSAVE", "AVX2", "POPCNT", "SSE2"} <= set(level_facts(Level.V3).psabi)
    assert level_facts(Level.AVX).psabi == level_facts(Level.V2).psabi
    assert len(level_facts(Level.V4).psabi) == 9 + 7 + 9 + 5


def test_the_one_flag_of_a_level() -> None:
    assert level_facts(Level.AVX).march is None
    assert level_facts(Level.V3).march == "-march=x86-64-v3"
    assert level_facts(Level.V3).march_since == {"gcc": 11, "clang": 12}
    assert level_facts(Level.V1).march_since == {}


# --- builds -----------------------------------------------------------------------------------------------------------


def test_what_is_called_proven_was_built() -> None:
    tags = {build.release for build in built()}
    assert tags <= set(releases())
    assert tags, "the page of releases says what was built"
    for entry in left_out():
        assert entry.built_without, f"{entry.packages}: without a proof they are installed"
        assert set(entry.built_without) <= tags


def test_builds_have_words_of_the_catalogue() -> None:
    for build in built():
        assert build.flavour in {flavour.value for flavour in releases()[build.release].flavours}
        assert build.level in {level.value for level in LEVELS}
        assert min(build.actions, build.minutes, build.processors) > 0


def test_the_drivers_in_the_documentation_are_the_catalogues() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+\.\d) \| (\S+)(?: to (\S+))? \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
    expected = []
    for cuda in cudas().values():
        facts = {tag: release.flavours.get(Flavour.GPU) for tag, release in releases().items()}
        tags = [tag for tag, one in facts.items() if one and one.gpu and one.gpu.cuda == cuda.version]
        last = tags[-1] if len(tags) > 1 else ""
        expected.append((cuda.version, tags[0], last, cuda.driver, cuda.minimum_driver))
    assert rows == expected


def test_no_levels_own_options_are_above_it() -> None:
    for level in LEVELS:
        assert [above_level(option, level) for option in level_facts(level).copts] == [""] * len(
            level_facts(level).copts
        )
    for one in flag_sets().values():
        assert not any(above_level(option, one.level) for option in one.copts)


@pytest.mark.parametrize(
    ("option", "level", "said"),
    [
        ("-mavx2", Level.V1, "avx2 is part of x86-64-v3"),
        ("-mavx2", Level.AVX, "avx2 is part of x86-64-v3"),
        ("-mavx", Level.V2, "avx is part of avx"),
        ("-mabm", Level.V2, "lzcnt is part of x86-64-v3"),
        ("-msse4", Level.V1, "sse4.2 is part of x86-64-v2"),
        ("-mavx512vnni", Level.V4, "avx512vnni is part of no level"),
        ("-mpclmul", Level.V4, "pclmulqdq is part of no level"),
        ("-march=x86-64-v3", Level.V2, "x86-64-v3 is the lowest level with all of x86-64-v3"),
        ("-march=haswell", Level.V3, ""),
        ("-march=skylake-avx512", Level.V3, "x86-64-v4 is the lowest level with all of skylake-avx512"),
        ("-march=of-tomorrow", Level.V1, ""),
        ("-mavx512vnni", Level.NATIVE, ""),
        ("-msse2", Level.V1, ""),
        ("-mno-avx2", Level.V1, ""),
        ("-mtune=haswell", Level.V1, ""),
        ("-O3", Level.V1, ""),
    ],
)
def test_what_is_above_a_level(option: str, level: Level, said: str) -> None:
    assert above_level(option, level) == said


def test_instruction_sets_among_the_flags_of_a_cpu() -> None:
    """Of the build machine's flags only these decide whether its code runs elsewhere."""
    flags = [
        "fpu",
        "sse2",
        "pni",
        "hypervisor",
        "constant_tsc",
        "abm",
        "sha_ni",
        "avx512_vnni",
        "xsaves",
        "avx_ifma",
        "amx_fp16",
        "lahf_lm",
    ]
    assert instruction_flags(flags) == ("pni", "abm", "sha_ni", "avx512_vnni", "avx_ifma", "amx_fp16", "lahf_lm")


def test_inspection_knows_the_features_beyond_levels_by_the_same_names() -> None:
    from serving_factory.inspection.instruction_set import FEATURES

    beyond = set(read_yaml("instruction_sets.yaml")["beyond"])
    assert beyond <= set(FEATURES)
    later_than_gcc_12 = {"amxcomplex", "amxfp16", "avxifma", "avxneconvert", "avxvnniint16", "avxvnniint8"}
    assert set(FEATURES) - beyond - level_facts(LEVELS[-1]).features == later_than_gcc_12
