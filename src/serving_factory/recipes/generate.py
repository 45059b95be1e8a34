"""The committed Dockerfiles: one devel and one runtime file for each release and flavour of a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import releases
from serving_factory.errors import RecipeError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.recipe import recipe_for

__all__ = ["Drift", "drift", "generated_files", "generated_folder"]

Drift = Mapping[str, str]
"""Path, relative to the folder → what is wrong with it: `missing`, `differs` or `nothing makes it`."""


def generated_folder(matrix_file: Path) -> Path:
    """Where a matrix's Dockerfiles lie: `dockerfiles` beside matrix.yaml, `NAME.dockerfiles` beside NAME.yaml."""
    stem = matrix_file.stem
    return matrix_file.parent / ("dockerfiles" if stem == "matrix" else f"{stem}.dockerfiles")


def generated_files(matrix: Matrix, *, every_release: bool = False) -> Mapping[str, str]:
    """Render Dockerfiles: path, relative to their folder → text.

    Args:
        matrix: whose settings hold, and whose variants are meant.
        every_release: whether every release and flavour of the catalogue is meant instead.
    """
    files: dict[str, str] = {}
    for variant in _every_variant() if every_release else matrix.variants:
        devel = f"{variant.release}/{variant.flavour}.devel.Dockerfile"
        if devel in files:
            continue
        try:
            recipe = recipe_for(variant, matrix)
        except RecipeError:  # the matrix chooses what cannot build it; a build tells so
            continue
        files[devel] = recipe.devel
        files[f"{variant.release}/{variant.flavour}.runtime.Dockerfile"] = recipe.runtime
    return files


def _every_variant() -> Iterator[Variant]:
    """A variant of each release and flavour; its level and its capabilities are in no Dockerfile."""
    for release in releases().values():
        for flavour, facts in release.flavours.items():
            cuda = facts.gpu.cuda if facts.gpu else None
            yield Variant(release=release.tag, flavour=flavour, level=Level.V1, cuda=cuda)


def drift(folder: Path, files: Mapping[str, str]) -> Drift:
    """Compare the files in a folder with what the data gives."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("[0-9]*/*.Dockerfile")}
    wrong = {
        name: "differs" if name in found else "missing"
        for name, text in files.items()
        if found.get(name) != text.encode()
    }
    return dict(sorted({**wrong, **{name: "nothing makes it" for name in found if name not in files}}.items()))
