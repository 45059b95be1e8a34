"""Records: the JSON file that a stage leaves behind, and by which the next run sees what need not be done again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from serving_factory.line.events import StageName

__all__ = [
    "Record",
    "copy_atomically",
    "last_stage",
    "reached",
    "read_record",
    "record_path",
    "write_atomically",
    "write_record",
]

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
