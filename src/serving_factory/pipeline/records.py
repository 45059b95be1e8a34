"""Records: what each stage of a variant leaves behind, where that lies, and how it is read and written.

A record is read into the type that its stage declares. One that lacks what its readers need is no record, and neither
is one in the format of an earlier factory (`adoption.py` takes over what can be taken over of those).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

from serving_factory.recipes.recipe import key_of, short

FORMAT = 2  # of the records' files. Those of format 1 do not say so, and hold whatever their stage put in.
_FILES = {"extract": "binary.json"}
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a stage found and made. Each stage has a subclass, in which None stands for what is not known."""

    def summary(self) -> Mapping[str, object]:
        """What is reported of the variant: `image`, and the names of `VariantResult.facts`."""
        return {}

    def measures(self) -> Mapping[str, int | None]:
        """What is reported of the run that made it, and of no later one: `memory` and `download`."""
        return {}


O = TypeVar("O", bound=Outputs)  # noqa: E741 - no zero is near
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Generic[O]):
    """What one stage of one variant did."""

    variant: str
    stage: str
    key: str  # the key it ran under; the same key again means there is nothing to do
    started: str  # UTC, ISO 8601
    seconds: float
    outputs: O
    tried_again: tuple[str, ...] = ()  # what failed before it succeeded, a text for each attempt
    inputs: Mapping[str, str] = field(default_factory=dict)  # what the key was made of: name → digits of a digest

    def __post_init__(self) -> None:
        if self.seconds < 0 or datetime.fromisoformat(self.started).tzinfo is None:
            raise ValueError(f"{self.started}, {self.seconds} s: no work takes place then, or for so long")

    @property
    def ended(self) -> datetime:
        """When it was done."""
        return datetime.fromisoformat(self.started) + timedelta(seconds=self.seconds)


def record_path(folder: Path, stage: str) -> Path:
    """Where a stage's record lies in a variant's folder."""
    return folder / _FILES.get(stage, f"{stage}.json")


def log_path(folder: Path, stage: str) -> Path:
    """Where a stage's full log lies in a variant's folder."""
    return folder / "logs" / f"{stage}.log"


def read_record(folder: Path, stage: str, outputs: type[O]) -> Record[O] | None:
    """Read a stage's record; None when there is none that holds all of these outputs."""
    return _read(folder, stage, outputs, FORMAT)


def read_old_record(folder: Path, stage: str) -> Record[Any] | None:
    """Read a record of format 1, whose outputs are a dictionary; None when there is no such record."""
    return _read(folder, stage, dict[str, Any], None)


def _read(folder: Path, stage: str, outputs: Any, form: int | None) -> Record[Any] | None:  # noqa: ANN401 - any type
    document = _document(folder, stage)
    if document is None or document.pop("format", None) != form:
        return None
    try:
        record: Record[Any] = decode(Record[Any], document)
        return replace(record, outputs=decode(outputs, record.outputs))
    except _UNREADABLE:
        return None


def last_stage(folder: Path, stages: Sequence[str]) -> str:
    """The last of these stages that a variant has reached without a gap; empty before the first."""
    # Without the stages' own types, which take a while to import.
    return next(reversed(without_gap(folder, stages, lambda one: _read(folder, one, dict[str, Any], FORMAT))), "")


def without_gap(
    folder: Path, stages: Sequence[str], read: Callable[[str], Record[Any] | None]
) -> dict[str, Record[Any]]:
    """Read the records of these stages up to the first that has none, or one of another image."""
    # What lies behind a gap describes an earlier binary or image.
    found: dict[str, Record[Any]] = {}
    for name in stages:
        there = os.path.exists(record_path(folder, name))  # noqa: PTH110 - Path.exists raises for a closed folder
        record = read(name) if there else None
        if record is None or not _is_of_image(record, found.get("package")):
            break
        found[name] = record
    return found


def _is_of_image(record: Record[Any], packaged: Record[Any] | None) -> bool:
    """Whether what was tried or pushed is the image that was packaged last; earlier factories did not write it down."""
    if packaged is None or "image" not in record.inputs:
        return True
    made = packaged.outputs
    image = made.get("image") if isinstance(made, dict) else made.image
    return record.inputs["image"] == short(key_of(part=image))  # as Stage.digests has it


def write_record(folder: Path, record: Record[Any]) -> None:
    """Write a stage's record atomically."""
    text = json.dumps({"format": FORMAT, **asdict(record)}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(record_path(folder, record.stage), text)


def _document(folder: Path, stage: str) -> dict[str, Any] | None:
    document = read_json(record_path(folder, stage), dict[str, Any])
    return document if document is not None and document.get("stage") == stage else None


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a JSON file into a type; None when there is none, or it holds something else."""
    try:
        # To open a pipe would be to wait for its writer.
        return decode(kind, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except _UNREADABLE:
        return None


def decode(kind: type[T], data: object) -> T:
    """Read what JSON gives into a type; TypeError, KeyError or ValueError if it is something else."""
    # The types: dataclasses, enumerations, mappings from texts, tuples of one type, plain ones; and these or None.
    read = _reader(kind)  # type: ignore[arg-type]  # every type has a hash
    return cast("T", read(data))


def decode_known(kind: type[T], members: Mapping[str, Any]) -> T:
    """Read those members that a dataclass has, likewise; TypeError also if one is missing."""
    known = {one.name for one in fields(cast("Any", kind))}
    return decode(kind, {name: value for name, value in members.items() if name in known})


@cache
def _reader(kind: Any) -> Callable[[Any], object]:  # noqa: ANN401, PLR0911 - types of all kinds, one after the other
    base: Any = get_origin(kind) or kind
    arguments = get_args(kind)
    if base is Any or isinstance(base, TypeVar):
        return lambda data: data
    if type(None) in arguments:
        present = _reader(next(one for one in arguments if one is not type(None)))
        return lambda data: None if data is None else present(data)
    if is_dataclass(base):
        made: Any = base
        members = {name: _reader(hint) for name, hint in get_type_hints(made).items()}
        return lambda data: made(**{name: members[name](item) for name, item in _checked(data, dict).items()})
    if base is tuple:
        one = _reader(arguments[0])
        return lambda data: tuple(map(one, _checked(data, list)))
    if issubclass(base, Mapping):
        value = _reader(arguments[1])
        return lambda data: {name: value(item) for name, item in _checked(data, dict).items()}
    if issubclass(base, Enum):
        member: Callable[[Any], object] = base
        return member
    return _finite if base is float else lambda data: _checked(data, base)


def _finite(data: object) -> float:
    number = float(data) if type(data) is int else _checked(data, float)
    if not math.isfinite(number):  # JSON has no such numbers; Python writes and reads them all the same
        raise ValueError(f"{number} is no number")
    return number


def _checked(data: object, kind: type[T]) -> T:
    if type(data) is not kind:  # for JSON, True is no number
        raise TypeError(f"{data!r} is no {kind.__name__}")
    return data


def encoded(text: str) -> bytes:
    """A text as a file has it: in UTF-8, but a path in it keeps the bytes that it has."""
    return text.encode(errors="surrogateescape")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, meets the old text or the new, never a part."""
    with _replacing(path) as stream:
        stream.write(encoded(text))


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file likewise."""
    with source.open("rb") as content, _replacing(path) as stream:
        shutil.copyfileobj(content, stream)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        partial = Path(name)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException as error:
        if partial:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the other name means nothing to a user
        raise


def clear_logs(log: Path) -> None:
    """Remove a stage's log and those of its attempts, which an earlier run left."""
    for old in (log, *log.parent.glob(f"{log.stem}.try-*.log")):
        old.unlink(missing_ok=True)


def put_aside(log: Path) -> None:
    """Keep the log of the attempt before, if there was one, as `compile.try-1.log` and so on."""
    if log.exists():
        numbered = (log.with_suffix(f".try-{number}.log") for number in count(1))
        log.rename(next(name for name in numbered if not name.exists()))


def build_folder(matrix_file: Path, root: Path, build: Path) -> Path:
    """Where the variants of a matrix file lie: at the top of the build folder for the checkout's own matrix.yaml."""
    # Any other file has a folder of its own, so that no other matrix's binary of the same name is overwritten.
    name = matrix_name(matrix_file, root)
    known = {"matrix.yaml": "", "samples/matrix.yaml": "samples"}
    return build / known.get(name, f"matrix-{short(key_of(file=name))}")


def matrix_name(matrix_file: Path, root: Path) -> str:
    """The name by which a matrix file is remembered: its path below the checkout, or else its whole path."""
    file = matrix_file.resolve()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
