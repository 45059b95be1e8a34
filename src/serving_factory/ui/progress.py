"""What the board shows, without the showing: each variant's stage, action and times, made from events."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from serving_factory.line.events import Event, EventKind, StageName
from serving_factory.ui.remaining import Counted, see

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Progress", "Row", "State"]


class State(Enum):
    """Where a variant stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_AFTER = {
    EventKind.UP_TO_DATE: State.UP_TO_DATE,
    EventKind.FAILED: State.FAILED,
    EventKind.SKIPPED: State.SKIPPED,
    EventKind.CANCELLED: State.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant's line.

    Args:
        variant: the id.
        state: where it stands.
        stage: the stage last heard of.
        text: the current action, or why it ended.
        started: clock of the running stage's start.
        spent: seconds in the stages that have ended.
        changed: a counter that grows with each event, to find the latest ones.
        counted: what Bazel counted in the running stage.
    """

    variant: str
    state: State = State.WAITING
    stage: StageName | None = None
    text: str = ""
    started: float | None = None
    spent: float = 0.0
    changed: int = 0
    counted: Counted | None = None

    def elapsed(self, now: float) -> float:
        """Seconds of the running stage, or of all stages when none runs."""
        return self.spent if self.started is None else now - self.started


class Progress:
    """The rows, in the order of the plan; safe to use from several threads.

    Args:
        variants: ids that will be worked on, as far as known; others are added when heard of.
        last_stage: the stage after which a variant is done. Without it, a variant counts as done between
            two stages.
    """

    def __init__(self, variants: Sequence[str] = (), last_stage: StageName | None = None) -> None:
        self._rows = {variant: Row(variant=variant) for variant in variants}
        self._last_stage = last_stage
        self._events = 0
        self._lock = threading.RLock()

    def apply(self, event: Event, now: float) -> None:
        """Take in one event, heard at `now` (monotonic seconds)."""
        with self._lock:
            self._events += 1
            row = self._rows.get(event.variant, Row(variant=event.variant))
            row = replace(row, stage=event.stage, changed=self._events)
            self._rows[event.variant] = self._next(row, event, now)

    def rows(self) -> tuple[Row, ...]:
        """The rows as they stand."""
        with self._lock:
            return tuple(self._rows.values())

    def _next(self, row: Row, event: Event, now: float) -> Row:
        if event.kind is EventKind.STARTED:
            return replace(row, state=State.RUNNING, text="", started=now, counted=None)
        if event.kind in {EventKind.PROGRESS, EventKind.RETRIED}:
            started = now if row.started is None else row.started
            counted = see(row.counted, event.text, now)
            return replace(row, state=State.RUNNING, text=event.text, started=started, counted=counted)
        took = event.seconds
        if took is None:
            took = 0.0 if row.started is None else now - row.started
        state = _AFTER.get(event.kind, State.DONE)
        if state is State.UP_TO_DATE and row.spent:
            state = State.DONE
        text = event.text if state in {State.FAILED, State.SKIPPED} else ""
        if state in {State.DONE, State.UP_TO_DATE} and self._last_stage not in {None, event.stage}:
            state = State.WAITING
        return replace(row, state=state, text=text, started=None, spent=row.spent + took)
