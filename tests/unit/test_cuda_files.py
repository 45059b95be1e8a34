"""The files of CUDA: what TensorFlow's rules copy, what an image gets, and under which licences."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.cuda import cuda_in_image
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.libraries import cuda_packages, opened_libraries
from serving_factory.catalogue.releases import releases
from serving_factory.errors import RecipeError
from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.explain import explain
from serving_factory.recipes.labels import image_labels
from serving_factory.recipes.recipe import CONTEXT, recipe_for

from .matrices import ROOT, SAMPLE, document, load
from .test_golden_dockerfiles import broken_rules

RULES = yaml.safe_load((Path(__file__).parent / "recorded" / "cuda_rules.yaml").read_text(encoding="utf-8"))
FROM_APT = tuple(tag for tag, one in releases().items() if Flavour.GPU in one.flavours and cuda_packages(one).packages)
NVIDIA = ["LicenseRef-NVIDIA-End-User-License-Agreement", "LicenseRef-cuDNN-Software-License-Agreement"]
HERMETIC = tuple(tag for tag, one in releases().items() if Flavour.GPU in one.flavours and tag not in FROM_APT)


def installed(tag: str) -> set[str]:
    packages = cuda_packages(releases()[tag])
    tensorrt = packages.tensorrt.packages if packages.tensorrt else ()
    return {package.partition("=")[0] for package in (*packages.packages, *tensorrt)}


def missing(tag: str, names: Collection[str]) -> list[str]:
    """What TensorFlow's rules of a release name and none of these packages has."""
    gpu = releases()[tag].flavours[Flavour.GPU].gpu
    assert gpu is not None
    found = []
    for rule in RULES:
        wanted = {package.format(cuda=gpu.cuda.replace(".", "-")) for package in rule["packages"]}
        if tag in SpecifierSet(rule["releases"]) and not wanted & set(names):
            found += rule["files"]
    return found


def devel(tag: str) -> str:
    return (ROOT / "dockerfiles" / tag / "gpu.devel.Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("tag", FROM_APT)
def test_everything_that_tensorflows_rules_name_is_installed(tag: str) -> None:
    assert missing(tag, installed(tag)) == []


@pytest.mark.parametrize(
    ("tag", "package", "file"),
    [
        ("2.5.1", "cuda-nvprune-11-2", "bin/nvprune"),
        ("2.17.1", "cuda-nvprune-12-2", "bin/nvprune"),
        ("1.5.0", "cuda-core-8-0", "bin/nvcc"),
        ("1.12.3", "libnccl-dev", "include/nccl.h"),
        ("2.2.0", "libcublas-dev", "include/cublas_api.h"),
        ("2.15.1", "cuda-nvml-dev-12-2", "include/nvml.h"),
    ],
)
def test_a_package_that_is_left_out_is_missed(tag: str, package: str, file: str) -> None:
    assert package in installed(tag)
    assert file in missing(tag, installed(tag) - {package})


@pytest.mark.parametrize("tag", [*FROM_APT, *HERMETIC])
def test_what_is_copied_by_name_is_looked_for_before_hours_of_compiling(tag: str) -> None:
    packages, text = cuda_packages(releases()[tag]), devel(tag)
    named = {file for rule in RULES if tag in SpecifierSet(rule["releases"]) for file in rule["files"]}
    assert set(packages.copied) == {file for file in named if re.match("bin/(?!nvcc)", file)}
    before = text[: text.index(" AS binary_build")]
    folder = "/factory/bazel/*/external/cuda_nvcc" if tag in HERMETIC else "/usr/local/cuda-"
    for file in (*packages.copied, *packages.tools):
        assert re.search(rf"^ +{re.escape(folder)}\S*/{re.escape(file)}( \\)?$", before, re.MULTILINE), file


def test_the_server_finds_the_tools_that_it_runs() -> None:
    """tensorflow/serving#2201: without them a model that XLA compiles ends in an error, or ends the server."""
    for tag in (*FROM_APT, *HERMETIC):
        version, tools = releases()[tag].version, cuda_packages(releases()[tag]).tools
        assert ("bin/ptxas" in tools) == (version >= Version("1.14"))
        assert ("nvvm/libdevice/libdevice.10.bc" in tools) == (version >= Version("2.5"))
        assert ("bin/nvlink" in tools) == (version >= Version("2.12"))
        collected = re.search(r"/factory/collect_cuda\.sh (.*) \\", devel(tag))
        assert collected is not None
        assert collected[1].split()[4:] == list(tools)


def test_libraries_that_no_server_opens_stay_out() -> None:
    for tag in (*FROM_APT, *HERMETIC):
        packages, text = cuda_packages(releases()[tag]), devel(tag)
        left_out = re.search(r"grep -vE '/\((.*)\)\\\.so'.* > /factory/libraries$", text, re.MULTILINE)
        assert left_out is not None
        assert left_out[1].split("|") == list(packages.unopened)
        assert ("libcurand" in packages.unopened) == (releases()[tag].version >= Version("2.14")), "16d250d6 of 2023"
        assert "cuda_curand" not in packages.hermetic


def test_the_link_that_cudnn_opens_by_its_name_without_a_version_goes_along() -> None:
    for tag in (*FROM_APT, *HERMETIC):
        gpu = releases()[tag].flavours[Flavour.GPU].gpu
        assert gpu is not None
        opened = [name for name in opened_libraries(["cudnn"], gpu) if name.endswith(".so")]
        assert list(cuda_packages(releases()[tag]).links) == opened, tag
        assert all(f"/lib/{name}; }} \\\n" in devel(tag) for name in opened), tag
    assert cuda_packages(releases()["2.13.0"]).links == ("libnvrtc.so",)


def test_repositories_are_listed_one_by_one() -> None:
    """`{one}` is no list for bash, and a name that matches nothing must end the build."""
    for tag in HERMETIC:
        assert "{" not in devel(tag).split("/factory/bazel.sh fetch")[1].partition("> /factory/libraries")[0]
        for name in (*cuda_packages(releases()[tag]).hermetic, "cuda_nvcc"):
            assert devel(tag).count(f"@{name}//:all") == 1


def test_a_gpu_image_finds_a_driver_that_no_ldconfig_knows_of_and_its_tools() -> None:
    for tag in (*FROM_APT, *HERMETIC):
        gpu = releases()[tag].flavours[Flavour.GPU].gpu
        assert gpu is not None
        text = (ROOT / "dockerfiles" / tag / "gpu.runtime.Dockerfile").read_text(encoding="utf-8")
        assert "ENV PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:${PATH} \\\n" in text
        assert "    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64\n" in text
        assert f'    NVIDIA_REQUIRE_CUDA="{cuda_in_image(gpu.cuda, compat=False).requirement()}"\n' in text


@pytest.mark.parametrize(
    ("tag", "sections", "licences"),
    [
        ("1.9.1", {}, [*NVIDIA, "BSD-3-Clause"]),
        ("2.11.1", {}, [*NVIDIA, "LicenseRef-TensorRT-Software-License-Agreement"]),
        ("2.11.1", {"toolchain": {"tensorrt": False}}, NVIDIA),
        ("2.20.0", {}, [*NVIDIA, "BSD-3-Clause"]),
    ],
)
def test_the_licence_label_names_what_was_put_into_the_image(
    tmp_path: Path, tag: str, sections: dict[str, object], licences: list[str]
) -> None:
    targets = {"g": {"flavour": "gpu", "levels": ["x86-64"]}, "c": {"flavour": "cpu", "levels": ["x86-64"]}}
    matrix = load(tmp_path, document(releases=[tag], targets=targets, **sections))
    for variant in matrix.variants:
        label = image_labels(recipe_for(variant, matrix), None)["org.opencontainers.image.licenses"]
        assert label.split(" AND ") == ["Apache-2.0", *(licences if variant.flavour is Flavour.GPU else [])]


def test_cuda_of_elsewhere_is_under_nvidias_licence_too(tmp_path: Path) -> None:
    sample = load_matrix(SAMPLE)
    (wheels, *_) = (one for one in sample.variants if one.flavour is Flavour.GPU)
    (tmp_path / "cuda" / "include").mkdir(parents=True)
    (tmp_path / "cuda" / "include" / "cuda.h").write_text("#define CUDA_VERSION 12020\n", encoding="utf-8")
    targets = {"g": {"flavour": "gpu", "levels": ["x86-64"]}}
    folder = load(tmp_path, document(releases=["2.19.1"], targets=targets, toolchain={"cuda": "cuda"}))
    for matrix, variant, licences in (
        (sample, wheels, NVIDIA[:1]),
        (folder, folder.variants[0], [*NVIDIA, "BSD-3-Clause"]),
    ):
        label = image_labels(recipe_for(variant, matrix), None)["org.opencontainers.image.licenses"]
        assert label.split(" AND ") == ["Apache-2.0", *licences]


@pytest.mark.parametrize(
    ("tag", "package", "keys"),
    [("2.20.0", "cuda-compat-12-5", 1), ("2.17.1", "cuda-compat-12-2", 2), ("1.13.0", "cuda-compat-10-0", 2)],
)
def test_forward_compatibility_is_a_choice(tmp_path: Path, tag: str, package: str, keys: int) -> None:
    sections = {"releases": [tag], "targets": {"g": {"flavour": "gpu", "levels": ["x86-64"]}}}
    usual = load(tmp_path, document(**sections))
    chosen = load(tmp_path, document(**sections, toolchain={"cuda_compat": True}))
    (plain, made) = (recipe_for(matrix.variants[0], matrix) for matrix in (usual, chosen))
    assert "cuda-compat" not in plain.devel + plain.runtime
    assert f"apt_install \\\n      {package} \\\n" in made.devel
    assert "COPY --from=compat /compat/ /rootfs/\n" in made.devel
    assert made.devel.count("/factory/apt_key.sh /nvidia/") == keys, "only those of repositories that are used"
    assert broken_rules(made.devel) == set()
    assert "driver<" in made.runtime
    assert "driver<" not in plain.runtime
    assert made.compile_key != plain.compile_key
    rows = {one.name: one for one in dict(explain(made, chosen, devel_command=""))["toolchain"]}
    assert rows["cuda compat"].value == package


def test_a_cuda_without_forward_compatibility_is_built_as_ever(tmp_path: Path) -> None:
    sections = {"releases": ["1.9.1"], "targets": {"g": {"flavour": "gpu", "levels": ["x86-64"]}}}
    usual = load(tmp_path, document(**sections))
    chosen = load(tmp_path, document(**sections, toolchain={"cuda_compat": True}))
    (plain, made) = (recipe_for(matrix.variants[0], matrix) for matrix in (usual, chosen))
    assert made.compile_key == plain.compile_key


def test_cuda_compat_is_refused_where_nvidia_has_no_packages(tmp_path: Path) -> None:
    toolchain = {"cuda_compat": True, "base": "debian:bookworm"}
    targets = {"g": {"flavour": "gpu", "levels": ["x86-64"]}}
    matrix = load(tmp_path, document(releases=["2.20.0"], targets=targets, toolchain=toolchain))
    with pytest.raises(RecipeError, match=r"NVIDIA has no packages of CUDA 12\.5 for debian:bookworm"):
        recipe_for(matrix.variants[0], matrix)


# --- collect_cuda.sh --------------------------------------------------------------------------------------------------


class Collecting:
    """collect_cuda.sh in a folder: what Bazel or wheels left, and an artifact that collect.sh has filled."""

    def __init__(self, root: Path) -> None:
        self.root, self.artifact = root, root / "artifact"
        self.write("artifact/facts/packages")
        (root / "artifact" / "rootfs").mkdir()
        self.write("libraries", "")

    def write(self, place: str, text: str = "", mode: int = 0o644) -> Path:
        file = self.root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return file

    def library(self, place: str) -> None:
        with (self.root / "libraries").open("a", encoding="utf-8") as libraries:
            libraries.write(f"{self.write(place)}\n")

    def run(self, toolkit: Path, *files: str) -> subprocess.CompletedProcess[str]:
        words = [str(self.artifact), str(self.root / "libraries"), str(toolkit), "12.2", *files]
        command = ["sh", str(CONTEXT / "collect_cuda.sh"), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    def files(self) -> list[str]:
        rootfs = self.artifact / "rootfs"
        return sorted(str(path.relative_to(rootfs)) for path in rootfs.rglob("*") if not path.is_dir())


@pytest.fixture
def collecting(tmp_path: Path) -> Collecting:
    return Collecting(tmp_path)


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg is not installed here")


@needs_dpkg
def test_what_bazel_downloaded_brings_its_tools_and_licences(collecting: Collecting) -> None:
    collecting.library("external/cuda_cublas/lib/libcublas.so.12")
    collecting.library("external/cuda_nccl/lib/libnccl.so.2")
    collecting.write("external/cuda_cublas/LICENSE", "one")
    collecting.write("external/cuda_nvcc/LICENSE", "two")
    collecting.write("external/cuda_nvcc/bin/ptxas", mode=0o755)
    collecting.write("external/cuda_nvcc/nvvm/libdevice/libdevice.10.bc")
    done = collecting.run(collecting.root / "external/cuda_nvcc", "bin/ptxas", "nvvm/libdevice/libdevice.10.bc")
    assert done.returncode == 0, done.stderr
    assert [path for path in collecting.files() if path != "usr/local/cuda"] == [
        "usr/local/cuda-12.2/bin/ptxas",
        "usr/local/cuda-12.2/nvvm/libdevice/libdevice.10.bc",
        "usr/share/doc/cuda_cublas/LICENSE",
        "usr/share/doc/cuda_nvcc/LICENSE",
    ]
    rootfs = collecting.artifact / "rootfs"
    assert os.access(rootfs / "usr/local/cuda/bin/ptxas", os.X_OK), "by the link too"
    assert (rootfs / "usr/share/doc/cuda_cublas/LICENSE").stat().st_mtime < 2**28, (
        "made of the content, as collect.sh does"
    )
    assert (rootfs / "usr/share/doc").stat().st_mtime == 0
    assert "no licence file is in" in done.stderr
    assert "cuda_nccl/lib" in done.stderr
    assert "cuda_cublas" not in done.stderr


@needs_dpkg
@pytest.mark.parametrize("place", ["License.txt", "licenses/License.txt"])
def test_a_wheels_licence_is_in_its_dist_info(collecting: Collecting, place: str) -> None:
    collecting.library("wheels/nvidia/cuda_runtime/lib/libcudart.so.12")
    collecting.write(f"wheels/nvidia_cuda_runtime_cu12-12.2.140.dist-info/{place}", "EULA")
    assert collecting.run(collecting.root).returncode == 0
    assert collecting.files() == ["usr/share/doc/nvidia_cuda_runtime_cu12-12.2.140.dist-info/License.txt"]


@needs_dpkg
def test_a_packages_tool_brings_the_package_along(collecting: Collecting) -> None:
    collecting.write("artifact/facts/packages", "bash=5.2\n")
    assert collecting.run(Path("/usr"), "bin/env").returncode == 0
    assert "usr/local/cuda-12.2/bin/env" in collecting.files()
    assert "usr/share/doc/coreutils/copyright" in collecting.files()
    rootfs = collecting.artifact / "rootfs"
    assert "Package: coreutils" in (rootfs / "var/lib/dpkg/status.d/coreutils").read_text(encoding="utf-8")
    assert (collecting.artifact / "facts/packages").read_text(encoding="utf-8").count("=") == 2, (
        "and those of libraries"
    )


@needs_dpkg
def test_a_tool_that_is_missing_ends_the_build(collecting: Collecting) -> None:
    done = collecting.run(collecting.root, "bin/ptxas")
    assert done.returncode != 0
    assert "bin/ptxas" in done.stderr
