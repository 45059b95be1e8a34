"""docs/closed-network.md: its matrix file is one that works, and gives the build that the page promises."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from serving_factory.errors import MatrixError, MissingInputsError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix
from serving_factory.recipes.recipe import Recipe, recipe_for

from .matrices import ROOT

PAGE = (ROOT / "docs" / "closed-network.md").read_text(encoding="utf-8")
SEVEN = ("curl", "eigen_archive", "fft2d", "gif_archive", "nasm", "org_sqlite", "zlib_archive")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's matrix file, with everything that it names, as a stranger has it in the end."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "matrix.yaml").write_text(text, encoding="utf-8")
    for name in ("serving", "archives", "packages", "bazel"):
        (tmp_path / name).mkdir(parents=True)
    for name in SEVEN:
        (tmp_path / "overrides" / name).mkdir(parents=True)
    for file in ("serving/WORKSPACE", "bazel/bazel-0.17.2-linux-x86_64", "packages/Packages"):
        (tmp_path / file).touch()
    return tmp_path


@pytest.fixture
def matrix(folder: Path) -> Matrix:
    return load_matrix(folder / "matrix.yaml")


@pytest.fixture
def recipe(matrix: Matrix) -> Recipe:
    return recipe_for(matrix.variants[1], matrix)


def test_the_page_names_the_build_that_was_done(recipe: Recipe) -> None:
    assert recipe.variant.id == "1.9.1-cpu-v3"
    toolchain = recipe.toolchain
    assert (toolchain.base, toolchain.bazel.version) == ("debian:bullseye", "0.17.2")
    assert {"automake", "gcc-9", "g++-9", "git", "libtool", "zip", "unzip", "python2"} <= set(toolchain.packages)
    assert not {name for name in toolchain.packages if "jdk" in name}, "Bazel brings a Java"


def test_the_dockerfile_has_no_other_input(recipe: Recipe) -> None:
    text = recipe.devel
    assert "FROM debian:bullseye AS base_build" in text
    assert "ENV CC=/usr/bin/gcc-9" in text
    assert "COPY --from=bazel" in text
    assert "target=/inputs/distdir" in text
    assert "COPY --from=overrides / /inputs/overrides/" in text
    assert "from=patches,target=/inputs/patches" in text
    assert "disk_cache=--disk_cache" in text
    assert "event_file=--build_event_json_file" in text
    assert "--experimental_" not in text, "0.17 knows all of these by their names of today"


def test_the_build_gets_every_folder_and_no_network(recipe: Recipe, folder: Path) -> None:
    staged = folder / "staged"
    assert dict(recipe.contexts(staged)) == {
        "source": str(folder / "serving"),
        "debian:bullseye": "docker-image://base:bullseye",
        "apt": str(folder / "packages"),
        "bazel": str(staged / "bazel"),
        "distdir": str(folder / "archives"),
        "overrides": str(staged / "overrides"),
    }
    assert tuple(name for name, _ in recipe.inputs.overrides) == SEVEN
    assert recipe.inputs.offline


def test_flags_are_those_of_the_release_and_the_level(recipe: Recipe) -> None:
    assert "--cxxopt=-D_GLIBCXX_USE_CXX11_ABI=0" in recipe.devel
    assert "--config=" not in recipe.devel, "1.9.1 has none that a cpu build needs"
    assert "--copt=-mavx2" in dict(recipe.build_args)["COPTS"]
    assert "-mavx" not in recipe.devel


def test_figures_and_names_of_the_page_are_those_of_the_program() -> None:
    assert f"ends with {MissingInputsError.exit_code}" in PAGE
    assert set(re.findall(r"^override (\w+) ", PAGE, re.MULTILINE)) == set(SEVEN)
    known = yaml.safe_load((ROOT / "src/serving_factory/catalogue/data/bazel.yaml").read_text(encoding="utf-8"))
    assert known["0.17.2"] in PAGE
    assert (ROOT / "dockerfiles" / "context" / "grpc-gettid.sh").is_file()
    assert "## The network" in (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8"), "the page links to it"


@pytest.mark.parametrize("name", ["serving", "archives", "overrides", "bazel/bazel-0.17.2-linux-x86_64"])
def test_what_is_not_there_yet_is_reported(folder: Path, name: str) -> None:
    place = folder / name
    place.unlink() if place.is_file() else shutil.rmtree(place)
    with pytest.raises(MatrixError, match=re.escape(f"there is no {'file' if 'bazel' in name else 'folder'} {place}")):
        load_matrix(folder / "matrix.yaml")
