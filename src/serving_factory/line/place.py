"""Where in the build folder a matrix's variants lie."""

from __future__ import annotations

from pathlib import Path

from serving_factory.recipes.keys import key_of, short

__all__ = ["build_folder", "build_name", "matrix_name"]


def build_folder(matrix_file: Path, root: Path, build: Path) -> Path:
    """Where the variants of a matrix file lie.

    Args:
        matrix_file: the file.
        root: the checkout.
        build: its build folder.
    """
    return build / build_name(matrix_file.resolve(), root)


def build_name(matrix_file: Path, root: Path) -> str:
    """Where in the build folder the variants of a matrix file lie: at its top for the checkout's own matrix.yaml.

    For any other file it is a folder of its own, so that no other matrix's binary of the same name is overwritten; but
    for the sample's, its name ends in digits of the file's path.

    Args:
        matrix_file: the file, as an absolute path.
        root: the checkout.
    """
    inside = _inside(matrix_file, root)
    known = {"matrix.yaml": "", "samples/matrix.yaml": "samples"}
    return known.get(inside, f"matrix-{short(key_of(file=inside))}")


def matrix_name(matrix_file: Path, root: Path) -> str:
    """The name by which a matrix file is remembered: its path below the checkout, or else its whole path."""
    return _inside(matrix_file.resolve(), root)


def _inside(matrix_file: Path, root: Path) -> str:
    return matrix_file.relative_to(root).as_posix() if matrix_file.is_relative_to(root) else str(matrix_file)
