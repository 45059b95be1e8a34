"""What became of a run: one result per variant, and what ended it early, if anything did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING


class StageName(StrEnum):
    """The stages of the line, in their order."""

    COMPILE = "compile"
    EXTRACT = "extract"
    INSPECT = "inspect"
    PACKAGE = "package"
    SMOKE = "smoke"
    PUSH = "push"


class EventKind(StrEnum):
    """What happened to a stage of a variant."""

    STARTED = "started"
    PROGRESS = "progress"
    RETRIED = "retried"
    FINISHED = "finished"
    UP_TO_DATE = "up-to-date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Args:
        variant: the variant's id, such as `2.19.1-cpu-v3`.
        stage: which stage of it.
        kind: what happened.
        text: for PROGRESS the current action in a few words; for RETRIED what failed, and how it is tried again; for
            FAILED the error's whole message; for SKIPPED why.
        seconds: how long the stage took; only with FINISHED.
        log: path of the stage's full log, where there is one.
    """

    variant: str
    stage: StageName
    kind: EventKind
    text: str = ""
    seconds: float | None = None
    log: str | None = None


Emit = Callable[[Event], None]


if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving_factory.errors import FactoryError


class Status(StrEnum):
    """How a variant ended, in the order in which a summary lists them."""

    BUILT = "built"
    UP_TO_DATE = "up-to-date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """One variant's end.

    Args:
        variant: the variant's id, such as `2.19.1-cpu-v3`.
        status: how it ended.
        seconds: time spent on it in this run, all its stages together.
        memory: peak memory of its compile in this run, in bytes; None where it was not compiled, or not measured.
        download: bytes that its compile downloaded in this run; None likewise.
        image: the name under which its image can be run, where there is one.
        facts: what is worth a column. Known names: `binary_size` and `image_size` (bytes, int), `rest` and
            `grpc` (the numbers that the server answered, a sequence of floats, or a text), `pushed` (names with
            digests, `registry/repository:tag@sha256:...`).
        error: why it failed; only with FAILED.
        because: why it was not worked on; only with SKIPPED and CANCELLED, such as `because of 2.19.1-cpu`.
        log: path of the log that tells most about the end, where there is one.
    """

    variant: str
    status: Status
    seconds: float = 0.0
    memory: int | None = None
    download: int | None = None
    image: str | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    error: FactoryError | None = None
    because: str = ""
    log: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run of the line ended.

    Args:
        results: one for each variant, in the order in which they were given.
        ended_by: what ended the run before all was done: Ctrl-C, a signal, a time limit; None where nothing did.
    """

    results: tuple[VariantResult, ...]
    ended_by: FactoryError | None = None
