"""What happens in a run, what became of it, and how `--json` spells values (docs/json.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from serving_factory.errors import FactoryError


class EventKind(StrEnum):
    """What happened to a stage of a variant."""

    STARTED = "started"
    PROGRESS = "progress"
    RETRIED = "retried"
    FINISHED = "finished"
    UP_TO_DATE = "up_to_date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    variant: str  # the variant's id, such as `2.19.1-cpu-v3`
    stage: str  # the name of its stage
    kind: EventKind  # what happened
    # PROGRESS: the action; RETRIED: what failed, and how it is tried again; STARTED: why it works again; else why
    text: str = ""
    seconds: float | None = None  # how long the stage worked: FINISHED; FAILED and CANCELLED where it had begun
    log: str | None = None  # path of the stage's full log, where there is one


Emit = Callable[[Event], None]


class Status(StrEnum):
    """How a variant ended, in the order in which a summary lists them."""

    BUILT = "built"
    UP_TO_DATE = "up_to_date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """One variant's end."""

    variant: str  # the variant's id, such as `2.19.1-cpu-v3`
    status: Status  # how it ended
    seconds: float = 0.0  # time spent on it in this run, all its stages together
    memory: int | None = None  # peak of its compile in this run, in bytes; None where not compiled, or not measured
    download: int | None = None  # bytes that its compile downloaded in this run; None likewise
    image: str | None = None  # the name under which its image can be run, where there is one
    # what is worth a column. Known names: `binary_size` and `image_size` (bytes, int), `rest` and `grpc` (the numbers
    # that the server answered, a sequence of floats, or a text), `pushed` (names with digests,
    # `registry/repository:tag@sha256:...`), `not_moved` (`registry/repository:alias stays at RELEASE`)
    facts: Mapping[str, object] = field(default_factory=dict)
    error: FactoryError | None = None  # why it failed; only with FAILED
    because: str = ""  # why it was not worked on; only with SKIPPED and CANCELLED, such as `because of 2.19.1-cpu`
    log: str | None = None  # path of the log that says most about the end, where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run of the pipeline ended."""

    results: tuple[VariantResult, ...]  # one for each variant, in the order in which they were given
    ended_by: FactoryError | None = None  # Ctrl-C, a signal, a time limit; None where all was done


def event_members(event: Event) -> dict[str, object]:
    """An event as the members of its JSON line."""
    return {**asdict(event), "kind": None, "text": event.text or None}


def counts_of(results: Sequence[VariantResult]) -> Mapping[str, int]:
    """How many variants ended how."""
    return {status.value: sum(result.status is status for result in results) for status in Status}


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


SCHEMA_VERSION = 1
"""Of what `--json` prints. Grows when a member is renamed, removed or changes its meaning; new members do not count."""


def document_text(document: Mapping[str, object]) -> str:
    """A document of JSON; what is absent in it is null."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **as_json(document)}, indent=2, allow_nan=False) + "\n"


def json_line(name: str, members: Mapping[str, object], *, at: datetime) -> str:
    """An event as a line of JSON in ASCII; members without a value are left out, as deep as they lie."""
    time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps(as_json({"event": name, "time": time, **members}, whole=False), allow_nan=False)
    # The older of GitHub's two command notations is looked for anywhere in a line.
    return line.replace("##[", "#\\u0023[") + "\n"


def as_json(value: object, *, whole: bool = True) -> Any:  # noqa: ANN401 - whatever JSON has
    """Only what JSON has: dataclasses become objects, paths and enums texts, numbers that it lacks null."""
    # Unless `whole`, members that are None are left out, and a dataclass's empty texts and tables.
    if isinstance(value, FactoryError):
        parts = {name: getattr(value, name) or None for name in ("what", "why", "remedy")}
        value = {"kind": type(value).__name__, "exit_code": value.exit_code, **parts}
    elif is_dataclass(value):
        members = {one.name: getattr(value, one.name) for one in fields(value)}
        value = {name: one for name, one in members.items() if whole or one not in ("", {})}
    if isinstance(value, Mapping):
        return {str(name): as_json(one, whole=whole) for name, one in value.items() if whole or one is not None}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return [as_json(one, whole=whole) for one in value]
    if isinstance(value, bool | int | float):
        return value if math.isfinite(value) else None
    return None if value is None else str(value)
