"""What happens in a run, what became of it, and the JSON lines that say so (docs/json.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

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
    text: str = ""  # PROGRESS: the action; RETRIED: what failed, and how it is tried again; FAILED, SKIPPED: why
    seconds: float | None = None  # how long the stage took; only with FINISHED
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
    # `registry/repository:tag@sha256:...`)
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
    return {
        "variant": event.variant,
        "stage": event.stage,
        "text": event.text or None,
        "seconds": event.seconds,
        "log": event.log,
    }


def result_members(result: VariantResult) -> dict[str, object]:
    """A variant's end as the members of its JSON object in the summary."""
    error = result.error
    return {
        "variant": result.variant,
        "status": result.status.value,
        "seconds": result.seconds,
        "memory": result.memory,
        "download": result.download,
        "image": result.image,
        "because": result.because or None,
        "log": result.log,
        "facts": dict(result.facts) or None,
        "error": error
        and {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "what": error.what,
            "why": error.why or None,
            "remedy": error.remedy or None,
        },
    }


def counts_of(results: Sequence[VariantResult]) -> Mapping[str, int]:
    """How many variants ended how."""
    return {status.value: sum(result.status is status for result in results) for status in Status}


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def json_line(name: str, members: Mapping[str, object], *, at: datetime) -> str:
    """An event as a line of JSON in ASCII; members without a value are left out, as deep as they lie."""
    time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps(_as_json({"event": name, "time": time, **members}), ensure_ascii=True, allow_nan=False)
    # The older of GitHub's two command notations is looked for anywhere in a line.
    return line.replace("##[", "#\\u0023[") + "\n"


def _as_json(value: object) -> object:
    """Only what JSON has: paths, enums and the like become text, numbers that it lacks become null."""
    match value:
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return str(value)
        case Mapping():
            return {str(name): _as_json(item) for name, item in value.items() if item is not None}
        case Sequence() | set() | frozenset():
            return [_as_json(item) for item in value]
        case _:
            return str(value)
