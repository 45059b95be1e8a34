"""Releases of the matrix file's own: a branch, a nightly or a candidate, built like a release of upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.commands.generate import generated_files
from serving_factory.errors import MatrixError, UnknownNameError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.select import select
from serving_factory.recipes.addresses import downloads_of
from serving_factory.recipes.explain import explain_matrix
from serving_factory.recipes.labels import BuiltBinary, image_json, image_labels
from serving_factory.recipes.recipe import recipe_for, recipes_for

from .matrices import document, load, problems, tree

COMMIT = "ab" * 20
RC: dict[str, Any] = {"name": "2.21.0-rc1", "like": "2.19.1", "source": "tree"}
NIGHTLY: dict[str, Any] = {"name": "nightly-20260131", "like": "2.18.1", "commit": COMMIT, "reports": "2.21.0-dev"}
BINARY = BuiltBinary(
    sha256="a" * 64,
    build_id=None,
    version="2.21.0-rc1",
    compiler="gcc",
    bazel="7",
    base_digest="",
    source="s",
    compile_key="k",
    cpu_flags=(),
    device_code=(),
)


def own(folder: Path, *entries: object, **sections: object) -> Matrix:
    tree(folder / "tree")
    return load(folder, document(releases=["2.19.1", *(entries or (RC, NIGHTLY))], **sections))


def test_it_has_a_name_of_its_own_and_is_built_like_the_release(tmp_path: Path) -> None:
    matrix = own(tmp_path)
    upstream, rc, nightly = (
        recipe_for(one, matrix) for one in sorted(matrix.variants, key=lambda one: one.own_release)
    )
    assert [one.variant.id for one in (upstream, rc, nightly)] == [
        "2.19.1-cpu-v1",
        "2.21.0-rc1-cpu-v1",
        "nightly-20260131-cpu-v1",
    ]
    assert (rc.toolchain, rc.build_args) == (upstream.toolchain, upstream.build_args)
    assert (rc.source, rc.upstream) == (tmp_path / "tree", False)
    assert (nightly.source, nightly.upstream) == (f"https://github.com/tensorflow/serving.git#{COMMIT}", True)
    assert nightly.toolchain == recipe_for(load(tmp_path, document(releases=["2.18.1"])).variants[0], matrix).toolchain
    assert nightly.release.commit == COMMIT
    assert (rc.release.reported, nightly.release.reported) == ("", "2.21.0-dev")
    assert rc.devel.startswith("# TensorFlow Serving 2.21.0-rc1, cpu:")
    assert upstream.compile_key != rc.compile_key
    assert rc.lower_image == "", "the other's image is another release"


def test_what_it_is_called_is_honest(tmp_path: Path) -> None:
    matrix = own(tmp_path, image={"repository": "r", "aliases": ["{id}", "{release}", "{series}-{level}", "latest"]})
    assert matrix.aliases == {
        "2.19.1-cpu-v1": ("2.19.1-cpu-v1", "2.19.1", "2.19-v1", "latest"),
        "2.21.0-rc1-cpu-v1": ("2.21.0-rc1-cpu-v1", "2.21.0-rc1"),
        "nightly-20260131-cpu-v1": ("nightly-20260131-cpu-v1", "nightly-20260131"),
    }
    recipe = recipe_for(next(one for one in matrix.variants if one.own_release == "2.21.0-rc1"), matrix)
    labels, page = image_labels(recipe, BINARY), image_json(recipe, BINARY)
    assert labels["org.opencontainers.image.version"] == "2.21.0-rc1"
    assert labels["org.opencontainers.image.title"].startswith("TensorFlow Serving 2.21.0-rc1, cpu")
    assert labels["org.serving-factory.like"] == "2.19.1"
    assert '"release": "2.21.0-rc1"' in page
    assert '"like": "2.19.1"' in page
    assert '"tensorflow_commit": null' in page
    shown = {one.name: one for one in dict(explain_matrix(recipe.variant, matrix, file_from=""))["variant"]}
    assert (shown["release"].value, shown["like"].value) == ("2.21.0-rc1", "2.19.1")
    assert shown["release"].origin.startswith("releases[1]")
    assert "2.21.0-rc1/cpu.devel.Dockerfile" in generated_files(matrix)
    upstream = next(one for one in matrix.variants if not one.own_release)
    plain = image_labels(recipe_for(upstream, matrix), BINARY)
    assert (plain["org.opencontainers.image.version"], "org.serving-factory.like" in plain) == ("2.19.1", False)


def test_what_the_file_says_of_the_release_holds_for_it(tmp_path: Path) -> None:
    targets = {
        "all": {"flavour": "cpu", "levels": ["x86-64"]},
        "some": {"flavour": "mkl", "levels": ["x86-64"], "releases": ["2.18.1"]},
    }
    exclude = [{"reason": "no", "releases": ">=2.19", "targets": ["all"]}]
    per_release = [{"releases": "2.18.1", "toolchain": {"packages": ["vim"]}, "source": "."}]
    tree(tmp_path)
    matrix = own(tmp_path, "2.18.1", RC, NIGHTLY, targets=targets, exclude=exclude, per_release=per_release)
    built = [one.id for one in matrix.variants]
    assert built == ["2.18.1-cpu-v1", "nightly-20260131-cpu-v1", "2.18.1-mkl-v1", "nightly-20260131-mkl-v1"]
    recipe = recipe_for(matrix.variants[1], matrix)
    assert "vim" in recipe.toolchain.packages
    assert str(recipe.source).endswith(COMMIT), "its own sources go before"


def test_it_is_chosen_by_its_name(tmp_path: Path) -> None:
    matrix = own(tmp_path)
    assert [one.id for one in select(matrix, releases=["2.21.0-rc1"])] == ["2.21.0-rc1-cpu-v1"]
    assert [one.id for one in select(matrix, releases=["2.19.1"])] == ["2.19.1-cpu-v1"]
    assert [one.id for one in select(matrix, releases=[">=2"])] == ["2.19.1-cpu-v1"]
    with pytest.raises(UnknownNameError) as caught:
        select(matrix, releases=["2.21.0-rc2"])
    assert "a candidate gets a name of its own at releases: in the matrix file" in caught.value.remedy


def test_its_bazel_and_its_archives_are_not_compared_with_the_releases(tmp_path: Path) -> None:
    matrix = own(tmp_path, NIGHTLY, bazel={"version": "6.4.0"})
    (nightly,), (refused,) = recipes_for(matrix.variants, matrix)
    assert (nightly.variant.own_release, refused.variant.own_release) == (NIGHTLY["name"], "")
    places = [one.place for one in downloads_of(nightly, matrix.network)]
    assert not [place for place in places if releases()["2.18.1"].tensorflow_commit in place]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a", "like": "2.19.1"}, "releases[1].name: 'a': its sources are a folder or a commit"),
        ({**RC, "commit": COMMIT}, "releases[1].name: '2.21.0-rc1': its sources are a folder or a commit"),
        ({**RC, "name": "2.20.0"}, "releases[1].name: '2.20.0': upstream has a release of this name"),
        ({**RC, "name": "Nightly"}, "a name is lower-case words"),
        ({**RC, "name": "n" * 41}, "40 characters at most"),
        ({**RC, "like": "2.19"}, "releases[1].like: '2.19': a release is a full tag"),
        ({**NIGHTLY, "commit": "abc"}, "a commit is 40 hex digits"),
        ({"name": "a", "source": "tree"}, "releases[1].like: this key is required"),
    ],
)
def test_what_is_wrong_with_one_is_said(tmp_path: Path, entry: dict[str, object], said: str) -> None:
    tree(tmp_path / "tree")
    (line,) = problems(tmp_path, document(releases=["2.19.1", entry]))
    assert said in line


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    (line,) = problems(tmp_path, document(releases=[RC, {**RC, "like": "2.18.1"}]))
    assert "releases[1].name: '2.21.0-rc1': another entry has this name" in line


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("rc.1", "rc_1"), "releases[1].name: 'rc_1': but for its separators it is 'rc.1'"),
        (("2_19_1",), "releases[0].name: '2_19_1': upstream has a release of this name"),
    ],
)
def test_names_that_are_one_in_bake_files_and_kubernetes_are_refused(
    tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    tree(tmp_path / "tree")
    (line,) = problems(tmp_path, document(releases=[{**RC, "name": name} for name in names]))
    assert said in line


def test_the_error_for_an_unknown_release_tells_of_it(tmp_path: Path) -> None:
    with pytest.raises(MatrixError) as caught:
        load(tmp_path, document(releases=["2.21.0-rc1"]))
    assert '{name: 2.21.0-rc1, like: "2.20.0", source: FOLDER}' in caught.value.why
