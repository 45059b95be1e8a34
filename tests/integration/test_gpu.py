"""The sample's gpu variants, through the whole pipeline on a machine without a GPU; and what is refused of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.catalogue.libraries import cuda_wheels
from serving_factory.errors import ChecksumError, InspectionError, LibraryMissingError, MachineUnfitError

from .demo_story import Demo
from .pipeline import GPU_V1, GPU_V3, MATRIX, V1, VARIANTS, Checkout, docker, wait_until

ASKED = {
    GPU_V1: ["sm_50", "sm_60", "sm_70", "sm_80", "sm_90", "compute_90"],
    GPU_V3: ["sm_80", "sm_90", "compute_90"],
}
COLLECT = "dockerfiles/context/collect.sh"
TAKEN = '        take_library "$soname" "$path"\n'
COMPILED = 3  # the device code, the kernel that calls it, the link


@pytest.fixture
def gpu_checkout(demo: Demo, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the demo's checkout to change, with the first gpu variant built."""
    copy = demo.checkout.copy(tmp_path / "factory", GPU_V1)
    yield copy
    shutil.rmtree(copy.folder)


def answered(checkout: Checkout, variant: str) -> tuple[bytes, str]:
    """What the image of a variant answers for the dense model, and its log then."""
    model = f"type=bind,source={checkout.folder}/samples/model_server/models/dense,target=/models/dense"
    image = checkout.record(variant, "package")["outputs"]["image"]
    words = ("--publish", "127.0.0.1::8501", "--mount", model, "--env", "MODEL_NAME=dense")
    container = docker("run", "--detach", *words, image).strip()
    try:
        url = f"http://{docker('port', container, '8501').split()[0]}/v1/models/dense:predict"
        body, found = json.dumps({"instances": [[0.5] * 256]}).encode(), list[bytes]()

        def answers() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, body, timeout=10) as answer:
                found.append(answer.read())
            return bool(found)

        assert wait_until(answers)
        log = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
        return found[0], log.stdout + log.stderr
    finally:
        docker("rm", "--force", container)


@pytest.mark.parametrize("variant", [GPU_V1, GPU_V3])
def test_device_code_read_back_is_what_was_asked_for(demo: Demo, variant: str) -> None:
    code = demo.checkout.record(variant, "extract")["outputs"]["device_code"]
    assert code["fat_binaries"] == {" ".join(ASKED[variant]): 1}
    assert sorted(code["sizes"]) == sorted(ASKED[variant])
    image = demo.checkout.record(variant, "package")["outputs"]["image"]
    label = docker("image", "inspect", "--format", '{{index .Config.Labels "org.serving-factory.capabilities"}}', image)
    assert label.split() == ASKED[variant]


def test_a_gpu_variant_compiles_what_is_its_own(demo: Demo) -> None:
    """All else is in Bazel's disk cache since the same level was compiled for the CPU."""
    outputs = demo.checkout.record(GPU_V1, "compile")["outputs"]
    assert outputs["local_actions"] <= COMPILED, outputs
    assert outputs["disk_cache_hits"] + COMPILED + outputs["runners"]["internal"] >= outputs["actions"]


def test_a_build_for_the_cpu_takes_nothing_of_cuda(demo: Demo) -> None:
    for variant in VARIANTS:
        log = demo.checkout.compile_log(variant).lower()
        assert ("cuda" in log) == (variant in ASKED)
        assert variant in ASKED or "clang-19" not in log  # the log of a step that BuildKit had says nothing of packages


def test_the_image_has_libcudart_with_its_licence(demo: Demo) -> None:
    image = demo.checkout.record(GPU_V1, "package")["outputs"]["image"]
    command = "ls /usr/lib/x86_64-linux-gnu/libcudart.so.12 && head -n 1 /usr/share/doc/cuda-12.2/EULA.txt"
    said = docker("run", "--rm", "--entrypoint", "sh", image, "-c", command)
    assert said.splitlines()[-1] == "End User License Agreement"
    assert "libcudart" not in demo.checkout.record(GPU_V1, "compile")["outputs"]["facts"]["ldd"]


def test_without_a_gpu_the_cpu_computes_and_the_log_says_so(demo: Demo) -> None:
    """Each variant's image gives the same answer for a model with MatMul."""
    (expected, of_cpu), (answer, log) = (answered(demo.checkout, variant) for variant in (V1, GPU_V1))
    assert answer == expected
    assert "failed call to cuInit" in log
    assert "MatMul is computed on the CPU" in log
    assert "cuInit" not in of_cpu


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_capability_that_the_binary_lacks(gpu_checkout: Checkout) -> None:
    file, line = "samples/model_server/third_party/gpus/cuda_configure.bzl", '        if not word.startswith("sm_"):\n'
    with gpu_checkout.edited(file, line, "        if False:\n"):
        outcome = gpu_checkout.build("--variant", GPU_V1)
    error = outcome.error(InspectionError.exit_code, "InspectionError", GPU_V1)
    assert "compute_90" in error["what"] + error["why"]
    assert outcome.stages(GPU_V1)["package"] == "skipped"


@pytest.mark.parametrize(
    "instead",
    [
        "continue",
        'cp "$path" /tmp/libcudart.so.13; soname=libcudart.so.13 path=/tmp/libcudart.so.13',
    ],
    ids=["none", "another-major"],
)
def test_a_libcudart_that_is_not_the_one_to_open(gpu_checkout: Checkout, instead: str) -> None:
    with gpu_checkout.edited(COLLECT, TAKEN, f"        case $soname in libcudart.*) {instead} ;; esac\n{TAKEN}"):
        outcome = gpu_checkout.build("--variant", GPU_V1)
    error = outcome.error(LibraryMissingError.exit_code, "LibraryMissingError", GPU_V1)
    assert "libcudart.so.12" in error["what"] + error["why"]


def test_a_driver_that_is_too_old(demo: Demo) -> None:
    words = ("doctor", "--matrix", MATRIX, "--target", "gpu-optimized", "--driver")
    outcome = demo.checkout.run(*words, "525.60.11")
    assert outcome.code == MachineUnfitError.exit_code
    assert "525.60.13" in outcome.out
    assert demo.checkout.run(*words, "535.54.03").code == 0


def test_a_wheel_with_a_wrong_checksum(gpu_checkout: Checkout) -> None:
    wheel = cuda_wheels()["12.2"][1]
    (gpu_checkout.folder / "wheels").mkdir()
    (gpu_checkout.folder / "wheels" / wheel.file).write_bytes(b"not NVIDIA's")
    with gpu_checkout.edited(MATRIX, "bazel: {", "bazel: {distdir: ../wheels, "):
        outcome = gpu_checkout.build(
            "--variant", GPU_V3
        )  # where CUDA comes from compiles nothing again, so another one
    error = outcome.error(ChecksumError.exit_code, "ChecksumError", GPU_V3)
    assert f"{wheel.file} does not have its checksum" in error["what"]
    assert wheel.sha256 in error["why"]
