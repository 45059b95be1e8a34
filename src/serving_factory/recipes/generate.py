"""The committed Dockerfiles: one devel and one runtime file for each release and flavour of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving_factory.matrix.matrix import Matrix
from serving_factory.recipes.recipe import recipes_for

__all__ = ["Drift", "drift", "generated_files", "generated_folder"]

Drift = Mapping[str, str]
"""Path, relative to the folder → what is wrong with it: `missing`, `differs` or `nothing makes it`."""


def generated_folder(matrix_file: Path) -> Path:
    """Where a matrix's Dockerfiles lie: `dockerfiles` beside matrix.yaml, `NAME.dockerfiles` beside NAME.yaml."""
    stem = matrix_file.stem
    return matrix_file.parent / ("dockerfiles" if stem == "matrix" else f"{stem}.dockerfiles")


def generated_files(matrix: Matrix) -> Mapping[str, str]:
    """Render the Dockerfiles of every variant that has a recipe: path, relative to their folder → text."""
    files: dict[str, str] = {}
    for recipe in recipes_for(matrix.variants, matrix)[0]:
        variant = recipe.variant
        files[f"{variant.release}/{variant.flavour}.devel.Dockerfile"] = recipe.devel
        files[f"{variant.release}/{variant.flavour}.runtime.Dockerfile"] = recipe.runtime
    return files


def drift(folder: Path, files: Mapping[str, str]) -> Drift:
    """Compare the files in a folder with what the data gives."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("[0-9]*/*.Dockerfile")}
    wrong = {
        name: "differs" if name in found else "missing"
        for name, text in files.items()
        if found.get(name) != text.encode()
    }
    return dict(sorted({**wrong, **{name: "nothing makes it" for name in found if name not in files}}.items()))
