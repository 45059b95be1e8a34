"""What holds of the Dockerfiles of all eras, and what their scripts do; the texts are committed, and compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from serving_factory.catalogue.bazel import bazel_flag, bazel_reads
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.fixes import fixes_for
from serving_factory.catalogue.libraries import cuda_packages
from serving_factory.catalogue.releases import releases
from serving_factory.errors import RecipeError
from serving_factory.matrix.matrix import Matrix
from serving_factory.recipes.explain import explain
from serving_factory.recipes.labels import image_env, image_json, image_labels
from serving_factory.recipes.recipe import CONTEXT, Recipe, recipe_for

from .matrices import ROOT, document, load
from .test_recipes import BINARY

GPU_RELEASES = tuple(tag for tag, release in releases().items() if Flavour.GPU in release.flavours)


def committed(tag: str, flavour: str, kind: str = "devel") -> str:
    return (ROOT / "dockerfiles" / tag / f"{flavour}.{kind}.Dockerfile").read_text(encoding="utf-8")


def matrix_of(folder: Path, tag: str, flavour: str = "cpu", **sections: object) -> Matrix:
    target = {"flavour": flavour, "levels": ["x86-64"]}
    return load(folder, document(releases=[tag], targets={"t": target}, **sections))


def recipe(folder: Path, tag: str, flavour: str = "cpu", **sections: object) -> Recipe:
    matrix = matrix_of(folder, tag, flavour, **sections)
    return recipe_for(matrix.variants[0], matrix)


def test_the_libraries_of_a_gpu_image_are_those_it_was_compiled_with() -> None:
    """The runtime image installs nothing: what it has comes from the devel image's packages."""
    for tag in GPU_RELEASES:
        release, packages = releases()[tag], cuda_packages(releases()[tag])
        gpu = release.flavours[Flavour.GPU].gpu
        assert gpu is not None
        installed = {package.partition("=")[0] for package in packages.packages}
        assert set(packages.server) <= installed
        assert bool(packages.packages) != bool(packages.hermetic)
        assert bool(packages.hermetic) == (release.version >= Version("2.18"))
        for package in packages.packages:
            if package.startswith("cuda-") and not packages.hermetic:
                assert package.endswith("-" + gpu.cuda.replace(".", "-")), "parts of two toolkits"
        if packages.packages and gpu.cudnn.replace(".", "").isdigit():
            assert any(package.startswith("libcudnn") and f"={gpu.cudnn}-" in package for package in packages.packages)
        if packages.tensorrt:
            pinned = dict(package.split("=") for package in packages.tensorrt.packages)
            assert set(packages.tensorrt.server) <= set(pinned)
            assert set(pinned.values()) == {gpu.tensorrt_packages}
        devel, runtime = committed(tag, "gpu"), committed(tag, "gpu", "runtime")
        assert not re.search(r"apt|RUN|stubs", runtime.partition("FROM ubuntu")[2])
        assert (
            ("TENSORRT" in devel)
            == (gpu.tensorrt is not None)
            == (Version("1.11") <= release.version < Version("2.18"))
        )


def test_the_stub_of_the_driver_is_gone_when_its_run_ends() -> None:
    for tag in GPU_RELEASES:
        text = committed(tag, "gpu")
        made, removed = text.count("stubs/libcuda.so.1 \\"), text.count("rm /usr/local/cuda/lib64/stubs/libcuda.so.1")
        assert made == removed == (0 if releases()[tag].version >= Version("2.18") else 1)
        compiled, _, devel = text.partition("# --- devel: ")
        assert not re.search(r"^ENV .*LD_LIBRARY_PATH", compiled, re.MULTILINE)
        assert "stubs" not in devel
        assert text.count("DRIVER_STUB=/usr/local/cuda/lib64/stubs/libcuda.so ") == made, (
            "or --version cannot be asked for"
        )


@pytest.mark.parametrize(
    ("tag", "flavour", "pip", "finds"),
    [
        ("1.5.0", "cpu", "python-pip", "/inputs/rootfs"),
        ("1.15.0", "gpu", "python-pip", "ENV LD_LIBRARY_PATH"),
        ("2.5.1", "mkl", "python3-pip", "/inputs/rootfs"),
        ("2.17.1", "gpu", "python3-pip", "ENV LD_LIBRARY_PATH"),
        ("2.20.0", "gpu", "python3-pip", "/inputs/rootfs"),
    ],
)
def test_the_devel_image_has_a_pip_and_finds_what_the_server_needs(
    tag: str, flavour: str, pip: str, finds: str
) -> None:
    devel = committed(tag, flavour).partition("# --- devel: ")[2]
    assert f"      {pip} \\\n" in devel
    assert ("ENV LD_LIBRARY_PATH" in devel, "/inputs/rootfs" in devel) == (
        finds == "ENV LD_LIBRARY_PATH",
        finds == "/inputs/rootfs",
    )


def test_a_dockerfile_says_nothing_of_what_it_does_not_do(tmp_path: Path) -> None:
    assert "Java" not in committed("1.11.1", "cpu")
    assert "cuda_configure looks at" not in committed("2.20.0", "gpu"), "from 2.18 on Bazel brings CUDA"
    assert "man1" in recipe(tmp_path, "2.19.1", bazel={"version": "4.2.3", "package": "bazel-bootstrap"}).devel


def test_the_libraries_are_looked_for_before_hours_of_compiling() -> None:
    for tag in GPU_RELEASES:
        text, packages = committed(tag, "gpu"), cuda_packages(releases()[tag])
        found = text.index("> /factory/libraries")
        assert text.count("> /factory/libraries") == 1
        assert found < text.index(" AS binary_build")
        for name in packages.hermetic:
            # Bazel downloads what it is asked for. Nothing that is compiled asks for NVRTC, which cuDNN opens.
            assert text.count(f"@{name}//:all") == 1, "among the targets of the fetch and of the preflight"


def test_a_repository_that_a_package_holds_is_signed_too() -> None:
    """apt knows NVIDIA's keys by signed-by alone, and the package leaves a list without it."""
    for tag in GPU_RELEASES:
        text, tensorrt = committed(tag, "gpu"), cuda_packages(releases()[tag]).tensorrt
        signs = "deb [signed-by=/usr/share/keyrings/nvidia-machine-learning.gpg] file:"
        assert (signs in text) == bool(tensorrt and tensorrt.repository)


def test_capabilities_are_an_argument_and_part_of_the_key(tmp_path: Path) -> None:
    matrix = matrix_of(tmp_path, "2.17.1", "gpu")
    (variant,) = matrix.variants
    other = recipe_for(replace(variant, capabilities=("8.0",)), matrix)
    made = recipe_for(variant, matrix)
    assert dict(other.build_args)["CUDA_CAPABILITIES"] == "8.0"
    assert dict(made.build_args)["CUDA_CAPABILITIES"] == "sm_50,sm_60,sm_70,sm_80,compute_90"
    assert (made.devel == other.devel, made.compile_key == other.compile_key) == (True, False)


# --- what the matrix may choose ---------------------------------------------------------------------------------------


def test_tensorrt_may_be_left_out_for_some_releases(tmp_path: Path) -> None:
    targets = {"g": {"flavour": "gpu", "levels": ["x86-64"]}, "c": {"flavour": "cpu", "levels": ["x86-64"]}}
    tags = ["2.11.1", "2.12.2", "2.18.1"]
    back = [{"releases": "2.12.2", "toolchain": {"tensorrt": True}}]
    usual = load(tmp_path, document(releases=tags, targets=targets))
    chosen = load(tmp_path, document(releases=tags, targets=targets, toolchain={"tensorrt": False}, per_release=back))
    for variant in usual.variants:
        plain, made = recipe_for(variant, usual), recipe_for(variant, chosen)
        without = variant.release == "2.11.1" and variant.flavour is Flavour.GPU
        assert dict(made.build_args).get("TENSORRT") == ("0" if without else None), variant.id
        assert (made.compile_key != plain.compile_key) is without, "another binary has another key"
        assert made.devel == plain.devel
        assert ("ARG TENSORRT=1" in made.devel) or not without
    pages = {
        made.release.tag: {one.name: one for one in dict(explain(made, chosen, devel_command=""))["toolchain"]}
        for made in (recipe_for(variant, chosen) for variant in chosen.variants if variant.flavour is Flavour.GPU)
    }
    left, back_in = pages["2.11.1"]["tensorrt"], pages["2.12.2"]["tensorrt"]
    assert (left.value, left.origin.partition(",")[0]) == ("left out", "toolchain.tensorrt")
    assert (back_in.value, back_in.origin.partition(",")[0]) == ("8.4.3", "per_release[0].toolchain.tensorrt")
    assert "tensorrt" not in pages["2.18.1"]


def test_the_build_that_was_done_by_hand_is_a_matrix_file(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "a.patch").touch()
    made = recipe(
        tmp_path,
        "1.9.1",
        toolchain={"base": "debian:bullseye", "compiler": "gcc-9", "python": "2.7"},
        bazel={"version": "0.17.2", "distdir": "dist", "overrides": {"grpc": "dist"}},
        patches=["patches"],
    )
    for words in (
        "FROM debian:bullseye",
        "g++-9",
        "python2-dev",
        "numpy-1.16.6-cp27",
        "ENV CC=/usr/bin/gcc-9",
        "bazel-0.17.2-linux",
    ):
        assert words in made.devel
    assert "COPY grpc-gettid.sh /factory/fixes/grpc/" in made.devel


@pytest.mark.parametrize(
    ("tag", "flavour", "sections", "expected"),
    [
        ("1.9.1", "cpu", {"toolchain": {"base": "debian:bookworm"}}, "debian:bookworm has no Python 2.7"),
        ("1.15.0", "cpu", {"toolchain": {"base": "debian:bullseye"}}, "has no `future` for Python 2.7"),
        ("2.11.1", "gpu", {"toolchain": {"base": "debian:bullseye"}}, "NVIDIA has no packages of CUDA 11.2"),
        ("1.9.1", "cpu", {"bazel": {"version": "0.24.1"}}, "Bazel 0.24.1 does not read tools/bazel.rc"),
        ("2.11.1", "cpu", {"bazel": {"version": "0.17.2"}}, "Bazel 0.17.2 does not read .bazelrc"),
        ("1.5.0", "cpu", {"bazel": {"distdir": "."}}, "Bazel 0.5.4 has no --distdir"),
    ],
)
def test_what_cannot_work_is_reported(
    tmp_path: Path, tag: str, flavour: str, sections: dict[str, object], expected: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, tag, flavour, **sections)
    assert expected in caught.value.what
    assert caught.value.remedy


def test_fixes_are_for_bases_with_a_new_glibc() -> None:
    assert [fix.script for fix in fixes_for(Version("2.1.4"), Version("2.31"))] == ["grpc-gettid.sh"]
    assert fixes_for(Version("2.1.4"), Version("2.27")) == ()
    assert fixes_for(Version("2.2.0"), Version("2.31")) == ()
    assert not any("fixes/" in path.read_text("utf-8") for path in (ROOT / "dockerfiles").glob("*/*.devel.Dockerfile"))


@pytest.mark.parametrize(("tag", "asked"), [("2.19.1", False), ("2.20.0", True)])
def test_bazel_7_is_asked_to_read_all_that_its_caches_have(tag: str, asked: bool) -> None:  # noqa: FBT001
    """Else a damaged entry of the disk cache ends the build; before 7 that is the default."""
    assert ("'build --remote_download_outputs=all'" in committed(tag, "cpu")) == asked


def test_every_bazel_gets_flags_that_it_knows() -> None:
    assert bazel_flag("repository_cache", "0.5.4") == "--experimental_repository_cache"
    assert bazel_flag("disk_cache", "0.11.1") is None
    assert bazel_flag("disk_cache", "0.15.0") == "--disk_cache"
    assert bazel_flag("distdir", "6.5.0") == "--distdir"
    assert (bazel_reads("tools/bazel.rc", "0.17.2"), bazel_reads("tools/bazel.rc", "0.18.0")) == (True, False)
    assert (bazel_reads(".bazelrc", "0.17.2"), bazel_reads(".bazelrc", "0.20.0")) == (False, True)


@pytest.mark.parametrize(
    ("tag", "rest", "status"), [("1.7.1", "no", "no"), ("1.11.1", "yes", "no"), ("1.12.0", "yes", "yes")]
)
def test_the_image_says_what_its_server_can_do(tmp_path: Path, tag: str, rest: str, status: str) -> None:
    text = image_env(recipe(tmp_path, tag), None)
    assert f'REST="{rest}"\n' in text
    assert f'MODEL_STATUS="{status}"\n' in text
    assert "CUDA" not in text


def test_a_gpu_image_says_its_driver_and_what_was_found_in_its_binary(tmp_path: Path) -> None:
    made = recipe(tmp_path, "2.17.1", "gpu")
    driver, label = 'CUDA="12.2"\nDRIVER="525.60.13"\n', "org.serving-factory.capabilities"
    expected = "sm_50 sm_60 sm_70 sm_80 sm_90 compute_90"
    assert f'{driver}CAPABILITIES="{expected}"\n' in image_env(made, None)
    assert image_labels(made, None)[label] == expected
    assert f'{driver}CAPABILITIES="sm_80 compute_80"\n' in image_env(made, BINARY)
    assert image_labels(made, BINARY)[label] == "sm_80 compute_80"
    assert json.loads(image_json(made, BINARY))["binary"]["device_code"] == ["sm_80", "compute_80"]


# --- scripts ----------------------------------------------------------------------------------------------------------

OLD_LOG = """\
#include <unistd.h>
static long gettid(void) { return syscall(__NR_gettid); }
void log(void) { if (tid == 0) tid = gettid(); }
"""


@pytest.mark.parametrize(
    "place", ["src/core/lib/support/log_linux.c", "src/core/lib/gpr/log_linux.cc", "src/core/lib/iomgr/ev.cc"]
)
def test_gettid_is_renamed_wherever_it_is(tmp_path: Path, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(OLD_LOG, encoding="utf-8")
    for _ in range(2):  # and what was renamed stays as it is
        subprocess.run(["sh", str(CONTEXT / "grpc-gettid.sh"), str(tmp_path)], check=True, capture_output=True)
        text = file.read_text(encoding="utf-8")
        assert text == OLD_LOG.replace(" gettid(", " sys_gettid(")
    assert "__NR_gettid)" in text


def test_every_fix_says_why_and_where_from() -> None:
    for fix in fixes_for(Version("2.1.4"), Version("2.31")):
        head = (CONTEXT / fix.script).read_text(encoding="utf-8")
        assert "# Why: " in head
        assert "# Reference: https://" in head


class Patching:
    """apply_patches.sh in a folder, with its paths turned there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        text = (CONTEXT / "apply_patches.sh").read_text(encoding="utf-8")
        for path in ("/inputs/patches", "/factory/fixes"):
            assert path in text
            text = text.replace(path, f"{root}{path}")
        self.script = root / "apply_patches.sh"
        self.script.write_text(text, encoding="utf-8")

    def write(self, place: str, text: str) -> None:
        file = self.root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.script), *arguments]
        return subprocess.run(command, cwd=self.root, check=False, capture_output=True, text=True)


def diff(before: str, after: str) -> str:
    return f"--- a/x.cc\n+++ b/x.cc\n@@ -1 +1 @@\n-{before}\n+{after}\n"


def test_patches_are_applied_in_order_to_sources_and_external_repositories(tmp_path: Path) -> None:
    patching = Patching(tmp_path)
    patching.write("source/x.cc", "one\n")
    patching.write("bazel/0123/external/grpc/x.cc", "one\n")
    patching.write("inputs/patches/2-second.patch", diff("two", "three"))
    patching.write("inputs/patches/1-first.patch", diff("one", "two"))
    patching.write("inputs/patches/external/grpc/a.patch", diff("one", "four"))
    patching.write("factory/fixes/grpc/fix.sh", 'echo fixed >>"$1/x.cc"\n')
    assert patching.run("source", "source").returncode == 0
    assert patching.run("external", "bazel").returncode == 0
    assert (tmp_path / "source/x.cc").read_text() == "three\n"
    assert (tmp_path / "bazel/0123/external/grpc/x.cc").read_text() == "four\nfixed\n"


def test_without_patches_nothing_is_done(tmp_path: Path) -> None:
    patching = Patching(tmp_path)
    assert [patching.run(*words).returncode for words in (("source", "."), ("external", "."))] == [0, 0]


def test_a_patch_that_does_not_fit_and_one_for_nothing_end_the_build(tmp_path: Path) -> None:
    patching = Patching(tmp_path)
    patching.write("source/x.cc", "other\n")
    patching.write("inputs/patches/a.patch", diff("one", "two"))
    assert "a.patch does not fit" in patching.run("source", "source").stderr
    patching.write("inputs/patches/external/nowhere/a.patch", diff("one", "two"))
    assert "there is no external repository nowhere" in patching.run("external", "bazel").stderr


def test_a_fix_is_passed_over_where_its_repository_is_absent(tmp_path: Path) -> None:
    """The fixes are the catalogue's, for upstream's sources; another tree need not have what they change."""
    patching = Patching(tmp_path)
    patching.write("bazel/0123/external/other/x.cc", "one\n")
    patching.write("factory/fixes/grpc/fix.sh", "exit 1\n")
    patching.write("factory/fixes/other/fix.sh", 'echo fixed >>"$1/x.cc"\n')
    done = patching.run("external", "bazel")
    assert done.returncode == 0, done.stderr
    assert "there is no external repository grpc" in done.stdout
    assert (tmp_path / "bazel/0123/external/other/x.cc").read_text() == "one\nfixed\n"


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed here")
def test_a_key_is_used_only_with_the_expected_fingerprint(tmp_path: Path) -> None:
    script, key = CONTEXT / "apt_key.sh", CONTEXT / "llvm-snapshot.asc"
    good = "6084F3CF814B57C1CF12EFD515CF4D18AF4F7421"
    keyring = tmp_path / "keyrings" / "llvm.gpg"
    subprocess.run(["sh", str(script), str(key), good, str(keyring)], check=True, capture_output=True)
    assert keyring.stat().st_size > 1000
    keyring.unlink()
    done = subprocess.run(
        ["sh", str(script), str(key), "0" * 40, str(keyring)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"holds the key {good}" in done.stderr
    assert not keyring.exists()
