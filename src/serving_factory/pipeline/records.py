"""Where in the build folder a matrix's variants lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

from serving_factory.pipeline.events import StageName
from serving_factory.recipes.recipe import key_of, short

_FILES = {StageName.EXTRACT: "binary.json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one stage of one variant did.

    Args:
        variant: the variant's id.
        stage: the stage.
        key: the key it ran under; the same key again means there is nothing to do.
        started: UTC time, ISO 8601.
        seconds: how long it took.
        outputs: what it found and made, as JSON knows it.
        tried_again: what failed before it went well, a text for each try.
    """

    variant: str
    stage: StageName
    key: str
    started: str
    seconds: float
    outputs: Mapping[str, Any]
    tried_again: Sequence[str] = ()


def record_path(folder: Path, stage: StageName) -> Path:
    """Where a stage's record lies in a variant's folder."""
    return folder / _FILES.get(stage, f"{stage}.json")


def read_record(folder: Path, stage: StageName) -> Record | None:
    """Read a stage's record; None when there is none, or none that can be used."""
    try:
        data = json.loads(record_path(folder, stage).read_text(encoding="utf-8"))
        usable = data["stage"] == stage and isinstance(data["key"], str) and isinstance(data["outputs"], dict)
        tries = tuple(data.get("tried_again", ()))
        return Record(**{**data, "stage": stage, "tried_again": tries}) if usable else None
    except (OSError, TypeError, KeyError, ValueError):
        return None


def reached(folder: Path) -> Mapping[StageName, Record]:
    """Read the records of the stages that a variant has been through without a gap, in their order.

    What lies behind a gap tells of an earlier binary or image.
    """
    records = ((stage, read_record(folder, stage)) for stage in StageName)
    return {stage: record for stage, record in takewhile(lambda pair: pair[1], records) if record}


def last_stage(folder: Path) -> str:
    """The last stage that a variant has reached; empty before the first."""
    return next(reversed([stage.value for stage in reached(folder)]), "")


def write_record(folder: Path, record: Record) -> None:
    """Write a stage's record in one step: it is there whole, or not at all."""
    text = json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n"
    write_atomically(record_path(folder, record.stage), text)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, meets the old text or the new, never a part."""
    with _replacing(path) as stream:
        stream.write(text.encode())


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file likewise."""
    with source.open("rb") as content, _replacing(path) as stream:
        shutil.copyfileobj(content, stream)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def file_digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """The sha256 over a folder: each file's path, content and whether it can be run; links by their target."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = _quoted(path.relative_to(folder))
        if path.is_symlink():
            total.update(f"link {name} {_quoted(path.readlink())}\n".encode())
        elif path.is_file():
            mode = "program" if os.access(path, os.X_OK) else "file"
            total.update(f"{mode} {name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def _quoted(path: Path) -> str:
    """A name of any bytes on one line, so that no name can pass for another file's line."""
    return ascii(path.as_posix())


def clear_logs(log: Path) -> None:
    """Remove what an earlier run left.

    Args:
        log: the stage's log, `logs/compile.log`.
    """
    for old in (log, *log.parent.glob(f"{log.stem}.try-*.log")):
        old.unlink(missing_ok=True)


def put_aside(log: Path) -> None:
    """Keep the log of the try before, if there was one, as `compile.try-1.log` and so on."""
    if log.exists():
        numbered = (log.with_suffix(f".try-{number}.log") for number in count(1))
        log.rename(next(name for name in numbered if not name.exists()))


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
