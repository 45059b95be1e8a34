"""Comparing checkouts with the catalogue: what is planted is found, with file and line, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.catalogue.upstream_check import Difference, check_upstream, release_of
from serving_factory.catalogue.upstream_files import BazelrcFile, Dockerfile, read_version, read_workspace

from .upstream_trees import (
    DEVEL,
    DEVEL_GPU,
    DEVEL_MKL,
    DOCKER,
    SERVERS,
    TESTDATA,
    Tree,
    main_cc,
    tree_1_8_0,
    tree_2_19_1,
    write_tree,
)

RELEASE = releases()["2.19.1"]


def compare(folder: Path, tree: Tree, tag: str = "2.19.1") -> tuple[Difference, ...]:
    return check_upstream(write_tree(folder, tree), releases()[tag]).differences


def rows(differences: tuple[Difference, ...]) -> list[tuple[str, int | None, str, str, str]]:
    return [(one.file, one.line, one.what, one.catalogue, one.upstream) for one in differences]


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    assert compare(tmp_path / "new", tree_2_19_1()) == ()
    assert compare(tmp_path / "old", tree_1_8_0(), "1.8.0") == ()


def test_what_is_absent_is_listed(tmp_path: Path) -> None:
    found = check_upstream(write_tree(tmp_path, tree_2_19_1()), RELEASE)
    assert found.read == ("WORKSPACE", ".bazelrc", f"{SERVERS}/version.h", DOCKER)
    assert found.absent == (f"{SERVERS}/main.cc", TESTDATA)
    nothing = check_upstream(tmp_path / "nowhere", RELEASE)
    assert (nothing.differences, nothing.read) == ((), ())


CAPABILITIES = "sm_50,sm_60,sm_70,sm_80,compute_90"
PLANTED = {
    "wrong Bazel": (DEVEL, "ENV BAZEL_VERSION 6.5.0", "ENV BAZEL_VERSION 7.0.0", ("Bazel", "6.5.0", "7.0.0")),
    "no Bazel": (DEVEL, "ENV BAZEL_VERSION 6.5.0", "ENV BAZEL 6.5.0", ("Bazel", "6.5.0", "")),
    "wrong Bazel of mkl": (DEVEL_MKL, "BAZEL_VERSION=6.5.0", "BAZEL_VERSION=6.4.0", ("Bazel", "6.5.0", "6.4.0")),
    "moved base": (DEVEL, "FROM ubuntu:20.04", "FROM ubuntu:22.04", ("cpu: base", "ubuntu:20.04", "ubuntu:22.04")),
    "moved base of gpu": (
        DEVEL_GPU,
        "FROM nvidia/cuda:12.2.0-base-ubuntu20.04",
        "FROM nvidia/cuda:12.2.2-base-ubuntu20.04",
        ("gpu: base", "nvidia/cuda:12.2.0-base-ubuntu20.04", "nvidia/cuda:12.2.2-base-ubuntu20.04"),
    ),
    "moved runtime base": (
        f"{DOCKER}/Dockerfile.mkl",
        "FROM ubuntu:20.04",
        "FROM debian:12",
        ("mkl: runtime base", "ubuntu:20.04", "debian:12"),
    ),
    "changed capabilities": (
        ".bazelrc",
        f'TF_CUDA_COMPUTE_CAPABILITIES="{CAPABILITIES}"',
        'TF_CUDA_COMPUTE_CAPABILITIES="sm_60,compute_90"',
        ("capabilities in config cuda_clang", CAPABILITIES, "sm_60,compute_90"),
    ),
    "changed default options": (
        DEVEL,
        'OPTIONS="--config=release"',
        'OPTIONS="--config=nativeopt"',
        ("cpu: default options", "--config=release", "--config=nativeopt"),
    ),
    "changed default options of mkl": (
        DEVEL_MKL,
        '"--config=mkl --config=release"',
        '"--config=mkl"',
        ("mkl: default options", "--config=mkl --config=release", "--config=mkl"),
    ),
    "a build flag more": (
        DEVEL_GPU,
        "    bazel build --color=yes",
        "    bazel build -c opt --color=yes",
        ("gpu: build flag", "", "-c opt"),
    ),
    "another Python": (DEVEL, "    python3.9 python3.9-dev", "    python3.11-dev", ("cpu: Python", "3.9", "3.11")),
    "another CUDA": (DEVEL_GPU, "ENV CUDA=12.2", "ENV CUDA=12.3", ("gpu: CUDA", "12.2", "12.3")),
    "another cuDNN": (
        DEVEL_GPU,
        "ENV CUDNN_VERSION=8.9.4.25",
        "ENV CUDNN_VERSION=9.1",
        ("gpu: cuDNN", "8.9.4.25", "9.1"),
    ),
    "other TensorRT packages": (
        DEVEL_GPU,
        "libnvinfer8=8.6.1.6-1+cuda12.0",
        "libnvinfer8=8.6.1.6-1+cuda12.1",
        ("gpu: TensorRT packages", "8.6.1.6-1+cuda12.0", "8.6.1.6-1+cuda12.1"),
    ),
    "TensorRT compiled in": (DEVEL_GPU, "ENV TF_NCCL_VERSION=", "ENV TF_NEED_TENSORRT=1", ("gpu: TensorRT", "", "1")),
    "another NCCL": (DEVEL_GPU, "libnccl2=2.18.5-1", "libnccl2=2.19.3-1", ("gpu: NCCL", "2.18.5", "2.19.3")),
    "capabilities in the environment": (
        DEVEL_GPU,
        'ENV TMP="/tmp"',
        "ENV TF_CUDA_COMPUTE_CAPABILITIES=9.0",
        ("gpu: capabilities", "", "9.0"),
    ),
    "a config more": (
        ".bazelrc",
        "build --define=build_with_onednn_v2=true",
        "build:rocm --config=gpu",
        ("config", "", "rocm"),
    ),
    "a config's flag more": (
        ".bazelrc",
        "build:release --copt=-msse4.2",
        "build:release --copt=-msse4.2 --copt=-mfma",
        ("config release", "", "--copt=-mfma"),
    ),
    "another TensorFlow": (
        "WORKSPACE",
        'git_commit = "f4247ebb6f9e7421f38c3f01a9a5d5cd54bd24fd"',
        'git_commit = "0000000000000000000000000000000000000000"',
        ("TensorFlow commit", "f4247ebb6f9e7421f38c3f01a9a5d5cd54bd24fd", "0" * 40),
    ),
    "another checksum": (
        "WORKSPACE",
        'sha256 = "b4cbd03710db2f05a0f4f5f238c496f39e6be34bab1a168e5c0ade1b23d74dfe"',
        'sha256 = "00"',
        ("TensorFlow sha256", "b4cbd03710db2f05a0f4f5f238c496f39e6be34bab1a168e5c0ade1b23d74dfe", "00"),
    ),
    "another oldest Bazel": (
        "WORKSPACE",
        'versions.check("6.5.0")',
        'versions.check(minimum_bazel_version = "6.1.0")',
        ("oldest Bazel", "6.5.0", "6.1.0"),
    ),
    "another version": (
        f"{SERVERS}/version.h",
        "PATCH_VERSION 1",
        "PATCH_VERSION 2",
        ("reported version", "2.19.1-rc0", "2.19.2-rc0"),
    ),
}


@pytest.mark.parametrize(("file", "old", "new", "expected"), PLANTED.values(), ids=PLANTED)
def test_a_planted_difference_is_found_with_its_line(
    tmp_path: Path, file: str, old: str, new: str, expected: tuple[str, str, str]
) -> None:
    tree = tree_2_19_1()
    assert tree[file].count(old) == 1
    line = line_of(tree[file], old) if expected[2] else None
    tree[file] = tree[file].replace(old, new)
    assert rows(compare(tmp_path, tree)) == [(file, line, *expected)]


def test_a_flag_that_is_gone_has_the_line_of_the_command(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    command = line_of(tree[DEVEL_GPU], "    bazel build")
    tree[DEVEL_GPU] = tree[DEVEL_GPU].replace(' --copt="-fPIC"', " ")
    assert rows(compare(tmp_path, tree)) == [(DEVEL_GPU, command, "gpu: build flag", "--copt=-fPIC", "")]


def test_a_config_that_is_gone_and_one_that_lost_a_flag(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    lines = [line for line in tree[".bazelrc"].splitlines() if ":kokoro" not in line and "-DLIBTPU" not in line]
    tree[".bazelrc"] = "\n".join(lines)
    where = line_of(tree[".bazelrc"], "build:tpu")
    assert rows(compare(tmp_path, tree)) == [
        (".bazelrc", None, "config", "kokoro", ""),
        (".bazelrc", where, "config tpu", "--copt=-DLIBTPU_ON_GCE", ""),
    ]


def test_a_dockerfile_more_and_one_less(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    tree[f"{DOCKER}/Dockerfile.devel-rocm"] = "FROM rocm\n"
    del tree[f"{DOCKER}/Dockerfile.gpu"]
    assert rows(compare(tmp_path, tree)) == [
        (f"{DOCKER}/Dockerfile.devel-rocm", None, "Dockerfile", "", "Dockerfile.devel-rocm"),
        (f"{DOCKER}/Dockerfile.gpu", None, "Dockerfile", "Dockerfile.gpu", ""),
    ]


def test_a_flavour_that_upstream_has_not_yet(tmp_path: Path) -> None:
    tree = {**tree_1_8_0(), DEVEL_MKL: "FROM ubuntu:16.04\n"}
    assert rows(compare(tmp_path, tree, "1.8.0")) == [(DEVEL_MKL, None, "Dockerfile", "", "Dockerfile.devel-mkl")]


def test_changed_capabilities_in_the_environment(tmp_path: Path) -> None:
    tree = tree_1_8_0()
    line = line_of(tree[DEVEL_GPU], "ENV TF_CUDA_COMPUTE")
    tree[DEVEL_GPU] = tree[DEVEL_GPU].replace("6.1,7.0", "6.1,7.0,7.5")
    assert rows(compare(tmp_path, tree, "1.8.0")) == [
        (DEVEL_GPU, line, "gpu: capabilities", "3.0,3.5,5.2,6.0,6.1,7.0", "3.0,3.5,5.2,6.0,6.1,7.0,7.5")
    ]


def test_a_bazelrc_that_moved(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    tree["tools/bazel.rc"] = tree.pop(".bazelrc")
    assert rows(compare(tmp_path, tree)) == [("tools/bazel.rc", None, "bazelrc", ".bazelrc", "tools/bazel.rc")]


def test_flags_and_models(tmp_path: Path) -> None:
    flags = RELEASE.server.flags
    models = {f"{TESTDATA}/{name}/": "" for name in (*RELEASE.server.testdata, "another_model")}
    tree = {**tree_2_19_1(), f"{SERVERS}/main.cc": main_cc(flags), **models}
    assert compare(tmp_path / "same", tree) == ()
    tree[f"{SERVERS}/main.cc"] = main_cc((*flags[1:], "brand_new"))
    del tree[f"{TESTDATA}/saved_model_half_plus_two_mkl/"]
    tree[f"{TESTDATA}/saved_model_half_plus_two_tpu/"] = ""
    new = line_of(tree[f"{SERVERS}/main.cc"], '"brand_new"') - 1
    assert rows(compare(tmp_path / "changed", tree)) == [
        (f"{SERVERS}/main.cc", 3, "server flag", flags[0], ""),
        (f"{SERVERS}/main.cc", new, "server flag", "", "brand_new"),
        (f"{TESTDATA}/saved_model_half_plus_two_mkl", None, "model", "saved_model_half_plus_two_mkl", ""),
        (f"{TESTDATA}/saved_model_half_plus_two_tpu", None, "model", "", "saved_model_half_plus_two_tpu"),
    ]


def test_another_commit(tmp_path: Path) -> None:
    tree = {**tree_2_19_1(), ".git/HEAD": "0" * 40 + "\n"}
    assert rows(compare(tmp_path, tree)) == [(".git/HEAD", 1, "commit", RELEASE.commit, "0" * 40)]


def test_what_cannot_be_read_is_a_difference(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    command = line_of(tree[DEVEL], "bazel build")
    tree[DEVEL] = tree[DEVEL].replace("bazel build", "bazel build 'a", 1)
    tree[".bazelrc"] = "\n" + 'build:release --copt="-O3\n' + tree[".bazelrc"]
    del tree["WORKSPACE"]
    folder = write_tree(tmp_path, tree)
    (folder / "WORKSPACE").symlink_to("WORKSPACE")
    assert [(one.file, one.line, one.what, one.upstream) for one in check_upstream(folder, RELEASE).differences] == [
        (".bazelrc", 2, "cannot be read", "No closing quotation"),
        ("WORKSPACE", None, "cannot be read", "Too many levels of symbolic links"),
        (DEVEL, command, "cannot be read", "No closing quotation"),
    ]


def test_a_quote_without_a_partner_hides_no_other_config(tmp_path: Path) -> None:
    tree = tree_2_19_1()
    tree[".bazelrc"] = 'build:release --copt="-O3\n' + tree[".bazelrc"] + "build:brand_new --define=x=y\n"
    found = [(one.what, one.upstream) for one in check_upstream(write_tree(tmp_path, tree), RELEASE).differences]
    assert found == [("cannot be read", "No closing quotation"), ("config", "brand_new")]


def test_a_loop_gives_no_release(tmp_path: Path) -> None:
    (tmp_path / ".git").symlink_to(".git")
    assert release_of(tmp_path, releases()) is None


# --- which release a checkout is --------------------------------------------------------------------------------------


def test_the_commit_reports_the_release(tmp_path: Path) -> None:
    detached = write_tree(tmp_path / "detached", {".git/HEAD": RELEASE.commit + "\n"})
    branch = {".git/HEAD": "ref: refs/heads/r2.18\n", ".git/refs/heads/r2.18": releases()["2.18.1"].commit}
    assert release_of(detached, releases()) == "2.19.1"
    assert release_of(write_tree(tmp_path / "branch", branch), releases()) == "2.18.1"


def test_version_h_reports_the_release_where_git_does_not(tmp_path: Path) -> None:
    tree = {**tree_2_19_1(), ".git": "gitdir: elsewhere\n"}
    assert release_of(write_tree(tmp_path / "worktree", tree), releases()) == "2.19.1"
    assert release_of(tmp_path, releases()) is None


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_dockerfile_is_read_as_docker_does() -> None:
    found = Dockerfile(
        "FROM one AS first\nFROM first AS second\nfrom two\n"
        "ENV A=1 B='two words' \\\n    C=3\nENV D four words\nARG E\nARG F=\"x\"\nENV A=5\n"
    )
    assert [(image.value, image.line) for image in found.images] == [("one", 1), ("two", 3)]
    values = {name: (value.value, value.line) for name, value in found.variables.items()}
    assert values == {"A": ("5", 9), "B": ("two words", 4), "C": ("3", 5), "D": ("four words", 6), "F": ("x", 8)}
    assert found.build_flags() == ()
    assert found.pin("libnothing") is None
    assert found.python() is None


def test_a_from_line_may_have_options() -> None:
    found = Dockerfile("FROM --platform=linux/amd64 --x=y one AS  first\nFROM first\nFROM --platform=x two\n")
    assert [image.value for image in found.images] == ["one", "two"]


def test_a_bazelrc_is_read_as_bazel_does() -> None:
    found = BazelrcFile("build:one-two -c opt \\\n  --copt=-g\nmobile-install:one-two --x\nbuild:last \\\n--y \\")
    flags = {name: [(flag.value, flag.line) for flag in flags] for name, flags in found.configs.items()}
    assert flags == {"one-two": [("-c opt", 1), ("--copt=-g", 1), ("mobile-install: --x", 3)], "last": [("--y", 4)]}


def test_a_pin_is_read_through_its_variable() -> None:
    found = Dockerfile("ENV V=7.2.2\nRUN apt-get install libnvinfer7=${V}-1+cuda11.1 libnvinfer-dev=$V-${W}\n")
    pin = found.pin(r"libnvinfer\d+")
    assert pin
    assert (pin.value, pin.line) == ("7.2.2-1+cuda11.1", 2)
    other = found.pin("libnvinfer-dev")
    assert other
    assert other.value == "7.2.2-${W}"


def test_files_that_say_nothing() -> None:
    assert read_workspace('local_repository(\n    name = "org_tensorflow",\n    path = "tensorflow",\n)\n') == {}
    assert read_version("#define TF_MODELSERVER_MAJOR_VERSION 2\n") is None
    unsuffixed = read_version(
        "".join(f"#define TF_MODELSERVER_{part}_VERSION 3\n" for part in ("MAJOR", "MINOR", "PATCH"))
    )
    assert unsuffixed
    assert unsuffixed.value == "3.3.3"
