"""Where a job works, and what its stages take into their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_factory.catalogue.levels import Level
from serving_factory.commands.generate import generated_folder
from serving_factory.errors import UsageError
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import build_folder, matrix_name
from serving_factory.pipeline.stages.compile import COMPILE
from serving_factory.pipeline.stages.push import PUSH, push_name
from serving_factory.recipes.pins import Base
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load

CHECKOUT = Path("/work/factory")
BUILD = CHECKOUT / "build"


@pytest.mark.parametrize(("file", "name"), [("matrix.yaml", ""), ("samples/matrix.yaml", "samples")])
def test_the_shipped_matrices_have_plain_names(file: str, name: str) -> None:
    assert build_folder(CHECKOUT / file, CHECKOUT, BUILD) == BUILD / name


def test_no_two_files_share_a_folder() -> None:
    files = (
        *("matrix.yaml", "matrix.yml", "samples.yaml", "samples/matrix.yaml", "a/b.yaml", "a-b.yaml", "x.yaml"),
        "xmatrix.yaml",
    )
    assert len({build_folder(CHECKOUT / file, CHECKOUT, BUILD) for file in files}) == len(files)


def test_matrices_from_elsewhere_never_share_a_folder() -> None:
    names = {build_folder(Path(f"/{owner}/samples/matrix.yaml"), CHECKOUT, BUILD).name for owner in ("ann", "bob")}
    assert len(names) == 2
    assert all(name.startswith("matrix-") for name in names)


def test_a_matrix_has_one_name_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert matrix_name(Path("samples/matrix.yaml"), tmp_path) == "samples/matrix.yaml"
    assert matrix_name(tmp_path / "samples" / "matrix.yaml", tmp_path) == "samples/matrix.yaml"
    assert matrix_name(Path("/elsewhere/matrix.yaml"), tmp_path) == "/elsewhere/matrix.yaml"


def test_each_matrix_has_its_own_dockerfiles() -> None:
    assert generated_folder(CHECKOUT / "matrix.yaml") == CHECKOUT / "dockerfiles"
    assert generated_folder(CHECKOUT / "nightly.yaml") == CHECKOUT / "nightly.dockerfiles"


def site(folder: Path, **images: str | None) -> Site:
    made = Site(build=folder, models=folder)
    for name, image_id in images.items():
        made.assume_image(name.replace("_", ":"), image_id)
    return made


def test_a_swapped_base_counts_by_its_image_id(tmp_path: Path) -> None:
    base = Base("debian:bookworm", "mine:1")
    assert site(tmp_path, mine_1="sha256:abc").base_id(base) == "sha256:abc"
    assert site(tmp_path, mine_1=None).base_id(base) == ""


def test_a_base_that_is_not_swapped_is_not_looked_for(tmp_path: Path) -> None:
    assert site(tmp_path).base_id(Base("ubuntu:20.04", "ubuntu:20.04")) == ""
    assert site(tmp_path).base_id(Base("ubuntu:20.04@sha256:1", "ubuntu:20.04@sha256:1")) == "sha256:1"


def native_job(folder: Path) -> Job:
    matrix = load(folder, document(targets={"mine": {"flavour": "cpu", "levels": ["native"]}}))
    return Job(recipe=recipe_for(matrix.variants[0], matrix), site=site(folder))


def test_a_native_image_is_never_pushed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not published"):
        PUSH.key(native_job(tmp_path))


def test_a_native_binary_is_of_one_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = native_job(tmp_path)
    assert job.recipe.variant.level is Level.NATIVE
    here = COMPILE.key(job)
    monkeypatch.setattr("serving_factory.pipeline.stages.compile._this_cpu", lambda: "flags: sse4_2 avx9000")
    assert COMPILE.key(job) != here


@pytest.mark.parametrize(
    "registry",
    ["myregistry", "http://127.0.0.1:5000", "user:secret@127.0.0.1:5000", "127.0.0.1:99999", "127.0.0.1:", "a b.c", ""],
)
def test_what_is_no_registry_is_refused_before_anything_is_built(registry: str) -> None:
    with pytest.raises(UsageError) as refused:
        push_name("team/serving", registry)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("registry", "repository", "host", "name"),
    [
        ("127.0.0.1:5000", "team/serving", "127.0.0.1:5000", "team/serving"),
        ("registry.example.com/ours/", "serving", "registry.example.com", "ours/serving"),
        ("localhost", "serving", "localhost", "serving"),
        ("hub:5000", "serving", "hub:5000", "serving"),
        (None, "registry.example.com/serving", "registry.example.com", "serving"),
    ],
)
def test_where_an_image_goes(registry: str | None, repository: str, host: str, name: str) -> None:
    found = push_name(repository, registry)
    assert (found.registry, found.repository) == (host, name)
