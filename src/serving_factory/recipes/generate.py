"""The committed Dockerfiles: one devel and one runtime file for each release and flavour of a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from serving_factory.matrix.matrix import Matrix
from serving_factory.recipes.recipe import recipe_for

__all__ = ["FOLDER", "Drift", "drift", "generated_files"]

FOLDER = "dockerfiles"

Drift = Mapping[str, str]
"""Path, relative to the matrix file's folder → what is wrong with it: `missing`, `differs` or `nothing makes it`."""


def generated_files(matrix: Matrix) -> Mapping[str, str]:
    """Render every Dockerfile of a matrix: path, relative to the matrix file's folder → text."""
    files: dict[str, str] = {}
    for variant in matrix.variants:
        recipe = recipe_for(variant, matrix)
        folder = f"{FOLDER}/{variant.release}"
        files[f"{folder}/{variant.flavour}.devel.Dockerfile"] = recipe.devel
        files[f"{folder}/{variant.flavour}.runtime.Dockerfile"] = recipe.runtime
    return files


def drift(root: Path, files: Mapping[str, str]) -> Drift:
    """Compare the files on disk with what the data gives."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in _on_disk(root)}
    wrong = {
        name: "differs" if name in found else "missing"
        for name, text in files.items()
        if found.get(name) != text.encode()
    }
    return dict(sorted({**wrong, **{name: "nothing makes it" for name in found if name not in files}}.items()))


def _on_disk(root: Path) -> Iterable[Path]:
    return (root / FOLDER).glob("[0-9]*/*.Dockerfile")
