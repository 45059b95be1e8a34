"""recipes/bazel_version.py."""

from __future__ import annotations

from pathlib import Path

from serving_factory.errors import BazelTooOldError
from serving_factory.recipes.recipe import recipe_for, recipes_for
from serving_factory.recipes.toolchain import bazel_numbers

from .matrices import document, load, tree


def test_numbers() -> None:
    assert bazel_numbers("4.2.3+ds-1") == (4, 2, 3)
    assert bazel_numbers("0.23") < bazel_numbers("0.23.0") < bazel_numbers("0.24.1") < bazel_numbers("10.0")


def bazel(version: str) -> dict[str, object]:
    return {"bazel": {"version": version, "package": "bazel-bootstrap"}}


def test_a_bazel_that_is_too_old_is_refused_before_any_work(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(**bazel("4.2.3")))
    recipes, missing = recipes_for(matrix.variants, matrix)
    assert recipes == ()
    assert isinstance(missing[0].error, BazelTooOldError)
    assert missing[0].error.what.startswith("2.19.1-cpu-v1: Bazel 4.2.3 is older than ")


def test_the_oldest_that_is_accepted_is_accepted(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(**bazel("6.5.0")))
    minimum = recipe_for(matrix.variants[0], matrix).release.bazel_minimum
    matrix = load(tmp_path, document(**bazel(minimum)))
    assert recipes_for(matrix.variants, matrix)[1] == ()


def test_another_source_tree_says_for_itself_what_it_wants(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    matrix = load(tmp_path, document(source="tree", **bazel("4.2.3")))
    assert recipes_for(matrix.variants, matrix)[1] == ()
