"""`generate`: the Dockerfiles beside a matrix file, and the schema of matrix files."""

from __future__ import annotations

from pathlib import Path

from serving_factory.commands.shared import Asked, write
from serving_factory.errors import DriftError
from serving_factory.matrix.model import SCHEMA_FILE, matrix_schema
from serving_factory.output.text import count
from serving_factory.pipeline.records import write_atomically
from serving_factory.recipes.generate import OVERVIEW_FILE, drift, generated_files, generated_folder, overview


def generate(asked: Asked, *, check: bool) -> None:
    """Write the Dockerfiles of a matrix file's variants, and remove those that nothing generates any more.

    The checkout's own matrix gets those of every release and flavour, the overview in docs/, and the schema.
    """
    matrix, folder = asked.load(), generated_folder(asked.file)
    schema = asked.checkout.root / SCHEMA_FILE
    is_own = asked.file.resolve().parent == schema.parent
    dockerfiles = generated_files(matrix, every_release=is_own)
    files = {folder / name: text for name, text in dockerfiles.items()}
    wrong = {folder / name: what for name, what in drift(folder, dockerfiles).items()}
    if is_own:
        page = asked.checkout.root / OVERVIEW_FILE
        for path, text in ((schema, matrix_schema()), (page, overview(matrix))):
            files[path] = text
            wrong |= _text_drift(path, text)
    if check and wrong:
        raise DriftError(
            f"{count(len(wrong), 'generated file')} out of date",
            why="\n".join(f"{path}: {what}" for path, what in wrong.items()),
            remedy=f"run `./factory generate --matrix {asked.file}` and commit what it changes",
        )
    for path in wrong:
        if path in files:
            write_atomically(path, files[path])
        else:
            path.unlink()
        write(f"{'wrote' if path in files else 'removed'} {path}\n")
    write(f"{len(files)} files are up to date\n")


def _text_drift(path: Path, text: str) -> dict[Path, str]:
    if not path.is_file():
        return {path: "missing"}
    return {} if path.read_bytes() == text.encode() else {path: "differs"}
