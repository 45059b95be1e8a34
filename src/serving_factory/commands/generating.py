"""`generate`: the Dockerfiles beside a matrix file, and the schema of matrix files."""

from __future__ import annotations

from pathlib import Path

from serving_factory.commands.shared import Asked, count, write
from serving_factory.errors import DriftError
from serving_factory.line.records import write_atomically
from serving_factory.matrix.schema import SCHEMA_FILE, matrix_schema
from serving_factory.recipes.generate import drift, generated_files, generated_folder
from serving_factory.recipes.support import is_supported

__all__ = ["generate"]


def generate(asked: Asked, *, check: bool) -> None:
    """Write the Dockerfiles of every variant that has a recipe; take away what nothing makes any more.

    The schema is written along with those of a matrix file that lies beside it.

    Raises:
        DriftError: with `check`, a file is not what the data gives.
    """
    matrix, folder = asked.load(), generated_folder(asked.file)
    dockerfiles = generated_files(matrix)
    files = {folder / name: text for name, text in dockerfiles.items()}
    wrong = {folder / name: what for name, what in drift(folder, dockerfiles).items()}
    schema = asked.checkout.root / SCHEMA_FILE
    if asked.file.resolve().parent == schema.parent:
        files[schema] = matrix_schema()
        wrong |= _schema_drift(schema, files[schema])
    if check and wrong:
        raise DriftError(
            f"{len(wrong)} generated files are not what the templates and the data give",
            why="\n".join(f"{path}: {what}" for path, what in wrong.items()),
            remedy=f"run `./factory generate --matrix {asked.file}` and commit what it changes",
        )
    for path in wrong:
        if path in files:
            write_atomically(path, files[path])
        else:
            path.unlink()
        write(f"{'wrote' if path in files else 'removed'} {path}\n")
    lacking = sum(not is_supported(variant) for variant in matrix.variants)
    more = f"; {count(lacking, 'variant')} without a recipe yet" if lacking else ""
    write(f"{len(files)} files are up to date{more}\n")


def _schema_drift(path: Path, text: str) -> dict[Path, str]:
    if not path.is_file():
        return {path: "missing"}
    return {} if path.read_bytes() == text.encode() else {path: "differs"}
