"""Where each variant of a run stands, and what is left of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from serving_factory.pipeline.events import Event, EventKind

_COUNTED = re.compile(r"([\d,]+)/([\d,]+)(?: |$)")
_STEP = "["  # begins the name of a Dockerfile's step: after Bazel has counted, the one that follows it
_TELLING_SHARE = 0.05
_STEADY_SECONDS = 60.0
_STEADY_GROWTH = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What Bazel counted so far."""

    done: int  # actions
    total: int  # actions that Bazel knows of; it learns of more while it works
    base: int  # what growth is measured from: the first total, or the latest that had grown by much
    since: float  # the clock when that was
    ended: bool = False


def see(before: Counted | None, text: str, now: float) -> Counted | None:
    """Take in a stage's progress, which begins with `DONE/TOTAL` while Bazel works; None where nothing was counted."""
    match = _COUNTED.match(text)
    if match is None:
        return replace(before, ended=True) if before and text.startswith(_STEP) else before
    done, total = (int(number.replace(",", "")) for number in match.groups())
    steady = (
        before is not None and total <= before.base * _STEADY_GROWTH and total - before.base <= max(1, total - done)
    )
    base, since = (before.base, before.since) if before and steady else (total, now)
    return Counted(done=done, total=total, base=base, since=since)


def remaining(
    counted: Counted | None, *, running: float, expected: float | None, now: float, spent: float = 0.0
) -> float | None:
    """Estimate the seconds that are left of a stage that has run for `running`; None where that is unknown.

    The first actions are the cheap ones, and so are those from a cache: half of them say little, nine tenths say most.
    So what earlier runs took counts first, and the count of actions with the fourth power of the share that is done.
    `expected` seconds are those of all stages, of which the ended ones took `spent`.
    """
    expected = None if expected is None else expected - spent
    if counted and counted.ended:
        return None
    steady = counted is not None and now - counted.since >= _STEADY_SECONDS and counted.total > 0
    share = min(1.0, counted.done / counted.total) if counted and steady else 0.0
    if share < _TELLING_SHARE:
        return expected - running if expected is not None and expected > running else None
    by_actions = running * (1 - share) / share
    if expected is None:
        return by_actions
    weight = share**4
    return weight * by_actions + (1 - weight) * max(expected - running, expected * (1 - share))


class State(Enum):
    """Where a variant stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_AFTER = {kind: State[kind.name] for kind in EventKind if kind.name in State.__members__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where one variant stands."""

    variant: str
    state: State = State.WAITING
    stage: str | None = None  # of the latest event
    text: str = ""  # the current action, or why it ended
    started: float | None = None  # clock of the running stage's start
    spent: float = 0.0  # seconds in the stages that have ended
    changed: float = 0.0  # clock of the latest event
    counted: Counted | None = None

    def elapsed(self, now: float) -> float:
        """Seconds of the running stage, or of all stages when none runs."""
        return self.spent if self.started is None else now - self.started

    def left(self, expected: float | None, now: float) -> float | None:
        """Seconds that the variant still takes, of `expected` ones; None where that is unknown."""
        if self.state not in {State.WAITING, State.RUNNING}:
            return None
        running = 0.0 if self.started is None else now - self.started
        return remaining(self.counted, running=running, expected=expected, spent=self.spent, now=now)


class Progress:
    """The rows, in the order of the plan. Several threads may add events, but those of one variant come from one.

    Without a last stage, a variant counts as done between two stages.
    """

    def __init__(self, variants: Sequence[str] = (), last_stage: str | None = None) -> None:
        self._rows = {variant: Row(variant=variant) for variant in variants}
        self._last_stage = last_stage

    def rows(self) -> tuple[Row, ...]:
        """The rows as they stand."""
        return tuple(self._rows.values())

    def apply(self, event: Event, now: float) -> Row:
        """Take in one event; `now` is in monotonic seconds. Gives the variant's row as it was before."""
        before = self._rows.get(event.variant, Row(variant=event.variant))
        self._rows[event.variant] = self._next(replace(before, stage=event.stage, changed=now), event, now)
        return before

    def _next(self, row: Row, event: Event, now: float) -> Row:
        if event.kind is EventKind.STARTED:
            return replace(row, state=State.RUNNING, text="", started=now, counted=None)
        if event.kind in {EventKind.PROGRESS, EventKind.RETRIED}:
            started = now if row.started is None else row.started
            counted = see(row.counted, event.text, now)
            return replace(row, state=State.RUNNING, text=event.text, started=started, counted=counted)
        state = _AFTER.get(event.kind, State.DONE)
        if state is State.UP_TO_DATE and row.spent:
            state = State.DONE
        text = event.text if state in {State.FAILED, State.SKIPPED} else ""
        if state in {State.DONE, State.UP_TO_DATE} and self._last_stage not in {None, event.stage}:
            state = State.WAITING
        return replace(row, state=state, text=text, started=None, spent=row.spent + (event.seconds or 0.0))
