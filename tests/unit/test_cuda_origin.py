"""CUDA of Python wheels or of a folder, and device code that a compiler of its own makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.catalogue.libraries import cuda_wheels
from serving_factory.errors import MatrixError, RecipeError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.settings import cuda_in
from serving_factory.pipeline import inputs as pipeline_inputs
from serving_factory.pipeline.inputs import secrets_of, stage_inputs
from serving_factory.recipes.dockerfile import stages
from serving_factory.recipes.explain import explain
from serving_factory.recipes.labels import image_labels
from serving_factory.recipes.recipe import Recipe, recipe_for, recipes_for

from .matrices import SAMPLE, document, load, tree


def toolkit(folder: Path, version: int = 12020) -> Path:
    (folder / "include").mkdir(parents=True)
    (folder / "include" / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
    return folder


def gpu_matrix(folder: Path, tag: str, flavour: str = "gpu", **sections: object) -> Matrix:
    target = {"flavour": flavour, "levels": ["x86-64"]}
    return load(folder, document(releases=[tag], targets={"t": target}, **sections))


def recipe(
    folder: Path, tag: str = "2.19.1", flavour: str = "gpu", *, own_sources: bool = False, **choice: object
) -> Recipe:
    sections = {"source": str(tree(folder / "source"))} if own_sources else {}
    matrix = gpu_matrix(folder, tag, flavour, toolchain=choice, **sections)
    return recipe_for(matrix.variants[0], matrix)


def sample() -> dict[str, Recipe]:
    matrix = load_matrix(SAMPLE)
    made, unbuildable = recipes_for(matrix.variants, matrix)
    assert unbuildable == ()
    return {one.variant.id.removeprefix("2.19.1-"): one for one in made}


# --- wheels -----------------------------------------------------------------------------------------------------------


def test_wheels_are_checked_before_they_are_unpacked() -> None:
    *_, get, unpack = stages(sample()["gpu-cuda12.2-v1"].devel)["cuda_wheels"].instructions
    for wheel in cuda_wheels()["12.2"]:
        asked = get.index(f"get_wheel /wheels {wheel.file} {wheel.sha256}")
        assert asked < get.index(f"{wheel.requirement} {' '.join(wheel.pip_options)}") < get.index("unzip -qo")
        assert f"/unpacked/{wheel.folder}/" in unpack
    assert "install -D /unpacked/nvidia/cu13/bin/fatbinary /cuda/bin/fatbinary" in unpack


def test_a_wheel_is_asked_of_pip_for_each_platform_that_it_is_for() -> None:
    *_, last = cuda_wheels()["12.2"]
    assert last.requirement == "nvidia-cuda-nvcc==13.0.88"
    assert last.pip_options == (
        "--implementation=py",
        "--python-version=3",
        "--abi=none",
        "--platform=manylinux2014_x86_64",
        "--platform=manylinux_2_17_x86_64",
    )


def test_a_build_for_the_cpu_downloads_nothing_of_cuda() -> None:
    for name, one in sample().items():
        text = "\n".join(line for stage in stages(one.devel).values() for line in stage.instructions).lower()
        assert ("cuda" in text) == ("clang" in text) == ("nvidia" in text) == name.startswith("gpu")
        assert one.inputs.cuda == ("12.2" if name.startswith("gpu") else "")


def test_a_gpu_build_shares_its_toolchain_with_builds_for_the_cpu() -> None:
    """Up to the id that names the disk cache's folder: what is installed after it compiles device code alone."""
    cpu, gpu = (stages(sample()[name].devel)["base_build"].instructions for name in ("cpu-v1", "gpu-cuda12.2-v1"))
    assert cpu[-1].endswith("> /factory/toolchain-id")
    before = gpu[: gpu.index(cpu[-1]) + 1]
    assert [line for line in before if line != "ENV TMP=/tmp"] == list(cpu)
    assert "apt_install clang-19" in gpu[len(before)]


def test_pip_trusts_what_this_machine_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machine.pem").write_text("MACHINE\n")
    (tmp_path / "more.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "machine.pem"))
    monkeypatch.setattr(pipeline_inputs, "java_truststore", lambda _: b"store")
    made = sample()
    assert secrets_of(made["gpu-cuda12.2-v1"].inputs) == {"pip_ca": b"MACHINE\n"}
    assert secrets_of(made["cpu-v1"].inputs) == {}
    more = replace(made["gpu-cuda12.2-v1"].inputs, certificates=tmp_path / "more.pem")
    assert secrets_of(more)["pip_ca"] == b"MACHINE\n" + (tmp_path / "more.pem").read_bytes()


def test_a_machine_whose_certificates_are_not_known_leaves_them_to_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    assert secrets_of(sample()["gpu-cuda12.2-v1"].inputs) == {}


def test_the_image_of_a_gpu_variant_names_nvidias_licence() -> None:
    labels = {name: image_labels(one, None)["org.opencontainers.image.licenses"] for name, one in sample().items()}
    assert labels.pop("cpu-v1") == labels.pop("cpu-v3") == labels.pop("mkl-v3") == "Apache-2.0"
    assert set(labels.values()) == {"Apache-2.0 AND LicenseRef-NVIDIA-End-User-License-Agreement"}


def test_what_brings_cuda_is_explained(tmp_path: Path) -> None:
    matrix = load_matrix(SAMPLE)
    made = recipe_for(next(one for one in matrix.variants if one.cuda), matrix)
    entries = {one.name: one for _, section in explain(made, matrix, devel_command="") for one in section}
    assert entries["cuda_from"].value == "NVIDIA's Python wheels"
    assert "matrix.yaml:" in entries["cuda_from"].origin
    assert entries["device_compiler"].value == "clang-19"
    folder = str(toolkit(tmp_path / "cuda"))
    for choice, tag, expected in (
        ({"cuda": folder}, "2.19.1", folder),
        ({}, "2.19.1", "Bazel's downloads"),
        ({}, "2.17.1", "NVIDIA's apt repositories"),
    ):
        matrix = gpu_matrix(tmp_path, tag, toolchain=choice)
        page = explain(recipe_for(matrix.variants[0], matrix), matrix, devel_command="")
        assert {one.name: one.value for _, section in page for one in section}["cuda_from"] == expected


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_upstreams_sources_are_not_built_with_wheels(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="upstream's sources cannot be built with CUDA of Python wheels") as caught:
        recipe(tmp_path, cuda="wheels")
    assert "nvcc" in caught.value.why
    assert "/usr/local/cuda-12.2" in caught.value.remedy
    assert recipe(tmp_path, flavour="cpu", cuda="wheels").toolchain.gpu is None


def test_wheels_of_another_cuda_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no Python wheels of CUDA 12\.5 are known"):
        recipe(tmp_path, "2.20.0", own_sources=True, cuda="wheels")


def test_tensorrt_is_not_in_a_folder(tmp_path: Path) -> None:
    cuda = str(toolkit(tmp_path / "cuda"))
    with pytest.raises(RecipeError, match="TensorRT is no part of CUDA"):
        recipe(tmp_path, "2.17.1", cuda=cuda)
    assert dict(recipe(tmp_path, "2.17.1", cuda=cuda, tensorrt=False).build_args)["TENSORRT"] == "0"


@pytest.mark.parametrize(
    ("cuda", "reported"),
    [("wheelz", "there is no folder"), (".", "it has no include/cuda.h"), ("include", "there is no CUDA toolkit in")],
)
def test_a_place_without_cuda_is_reported(tmp_path: Path, cuda: str, reported: str) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda.h").mkdir()
    with pytest.raises(MatrixError) as caught:
        recipe(tmp_path, cuda=cuda)
    assert reported in caught.value.why
    assert "write wheels" in caught.value.why


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_takes_the_place_of_nvidias_packages(tmp_path: Path) -> None:
    made = recipe(tmp_path, "2.17.1", cuda=str(toolkit(tmp_path / "cuda")), tensorrt=False)
    assert dict(made.contexts(tmp_path))["cuda"] == str(tmp_path / "cuda")
    base = "\n".join(stages(made.devel)["base_build"].instructions)
    assert "COPY --from=cuda / /usr/local/cuda-12.2/" in base
    assert "cuda-nvcc-12-2" not in base
    assert "developer.download.nvidia.com" not in made.devel
    assert "/usr/local/cuda-12.2/bin/nvprune" in base, "what TensorFlow's rules copy is looked for early"
    assert "stubs/libcuda.so" in made.devel


def test_bazels_rules_are_given_the_folder_instead_of_downloads(tmp_path: Path) -> None:
    made = recipe(tmp_path, cuda=str(toolkit(tmp_path / "cuda")))
    for part in ("CUDA", "CUDNN", "NCCL"):
        assert f"--repo_env=LOCAL_{part}_PATH=/usr/local/cuda" in made.devel
    assert "runtime_targets" not in made.devel
    assert "stubs" not in made.devel


def test_one_compiler_for_all_makes_cuda_part_of_the_toolchain(tmp_path: Path) -> None:
    cuda = str(toolkit(tmp_path / "cuda"))
    *_, last = stages(recipe(tmp_path, cuda=cuda).devel)["base_build"].instructions
    assert "find -L /usr/local/cuda/" in last
    assert last.endswith("> /factory/toolchain-id")
    apart = stages(recipe(tmp_path, cuda=cuda, device_compiler="clang-19").devel)["base_build"].instructions
    assert "find -L /usr/local/cuda/" not in next(line for line in apart if line.endswith("> /factory/toolchain-id"))


def test_a_folder_needs_the_cuda_of_the_release(tmp_path: Path) -> None:
    folder = toolkit(tmp_path / "cuda", 11080)
    assert cuda_in(folder) == "11.8"
    with pytest.raises(RecipeError, match=r"has CUDA 11\.8, and this release is built with CUDA 12\.2"):
        stage_inputs(recipe(tmp_path, cuda=str(folder)).inputs, tmp_path / "staged")
    (folder / "include" / "cuda.h").write_text("#define CUDA_VERSION 12020\n")
    stage_inputs(recipe(tmp_path, cuda=str(folder)).inputs, tmp_path / "staged")


def test_flags_of_a_flavour_take_the_place_of_upstreams(tmp_path: Path) -> None:
    assert recipe(tmp_path).toolchain.flags == ("--copt=-fPIC",)
    assert recipe(tmp_path, flags={"gpu": []}).toolchain.flags == ()
    assert recipe(tmp_path, flags={"cpu": ["--copt=-g"]}).toolchain.flags == ("--copt=-fPIC",)
