"""What the line tells while it works. The line emits events; only the rooms under `ui` print them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Emit", "Event", "EventKind", "StageName"]


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
