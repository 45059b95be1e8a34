"""Runs variants through the stages: in turn or at once, as their schedule says; one variant's failure is no other's.

Each variant works in a thread of its own. All decisions are made in the thread that calls `PipelineRun.run`. It reads
one queue of messages: what a variant has come to, and what the user asks for.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from serving_factory.docker.process import Cancel
from serving_factory.errors import (
    CancelledError,
    DockerCommandError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
    TimeLimitError,
)
from serving_factory.pipeline.budget import Schedule, Share, Turn, one_by_one
from serving_factory.pipeline.events import Emit, Event, Outcome
from serving_factory.pipeline.failures import is_shared
from serving_factory.pipeline.job import Job, Stage
from serving_factory.pipeline.runner import VariantRun


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask the process to end; a hang-up is none where it is ignored, which is what nohup is for."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


@contextmanager
def on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` for each signal that asks the process to end, instead of raising an exception."""
    # An exception may land anywhere, even in the middle of a lock; a call of something reentrant (a SimpleQueue's
    # `put`) does no harm. Outside the main thread, where Python takes no signals, nothing is done.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: act()) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_PATIENCE = 15.0  # seconds that variants get to end once they are asked to: a build's grace, and what comes after it
# Seconds between looks at the time limits, and for a signal: one that comes just before a wait does not end that
_LOOK = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to stop."""

    fail_fast: bool = False  # begin no other variant once one has failed; what runs goes on to its end
    seconds: float | None = None  # that the whole run may take
    variant_seconds: float | None = None  # that each variant may take


class PipelineRun:
    """A run of variants through stages. All but the variants' own work is done in one thread."""

    # A FactoryError ends its own variant, and those whose failure would be the same; no other. A first Ctrl-C, or
    # SIGTERM, ends all that runs, with 10 s for a build to put its things in order; a second one ends it at once.

    def __init__(
        self,
        jobs: Sequence[Job],
        stages: Sequence[Stage[Any]],
        emit: Emit,
        *,
        schedule: Schedule | None = None,
        policy: Policy | None = None,
    ) -> None:
        schedule, policy = schedule or one_by_one([job.recipe.variant.id for job in jobs]), policy or Policy()
        turns = {turn.variant: turn for turn in schedule.turns}
        self._emit, self._silent = emit, False
        self._schedule, self._policy = schedule, policy
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs = {job.recipe.variant.id: self._given(job, turns[job.recipe.variant.id]) for job in jobs}
        self._runs = {name: VariantRun(job, stages, self._report) for name, job in self._jobs.items()}
        self._waiting = list(schedule.turns)
        self._shares: dict[str, Share] = {}
        self._released: set[str] = set()
        self._deadlines: dict[str, float] = {}
        self._run_ends = _after(policy.seconds)
        self._given_up: float | None = None
        self._ended_by: FactoryError | None = None
        self._fault: BaseException | None = None

    def _given(self, job: Job, turn: Turn) -> Job:
        release = partial(self._inbox.put, partial(self._release, turn.variant))
        return replace(job, share=turn.share, cancel=Cancel(), release_share=release)

    def _report(self, event: Event) -> None:
        if not self._silent:
            self._emit(event)

    def run(self) -> Outcome:
        """Run, and say how it ended."""
        with on_signals(lambda: self._inbox.put(self._interrupt)):
            self._begin_what_fits()
            while self._shares:
                self._take_message()
                if self._given_up is not None and time.monotonic() > self._given_up:
                    break
                self._begin_what_fits()
        self._silent = True  # a thread that would not end has nothing to say any more
        if self._fault:
            raise self._fault
        return Outcome(results=tuple(run.result() for run in self._runs.values()), ended_by=self._ended_by)

    def _begin_what_fits(self) -> None:
        for turn in tuple(self._waiting):
            if self._ended_by or self._fault:
                return
            if turn.after and turn.after not in self._released:
                continue  # another toolchain's do not wait for this one's first
            if because := self._reason_to_skip(turn):
                self._waiting.remove(turn)
                self._runs[turn.variant].skip(because)
                self._released.add(turn.variant)  # who waits for it waits no more
                continue
            if not self._schedule.fits(turn.share, tuple(self._shares.values())):
                return  # or the small ones would keep it out for ever
            self._waiting.remove(turn)
            self._shares[turn.variant] = turn.share
            self._deadlines[turn.variant] = _after(self._policy.variant_seconds)
            # A daemon: one that does not end in time is no reason for the process to stay.
            threading.Thread(target=self._work, args=(turn.variant,), name=turn.variant, daemon=True).start()

    def _reason_to_skip(self, turn: Turn) -> str:
        failed = {name: run.error for name, run in self._runs.items() if run.error}
        if failed and self._policy.fail_fast:
            return f"because of {next(iter(failed))}, as --fail-fast says"
        recipe = self._jobs[turn.variant].recipe
        for name, error in failed.items():
            if self._stops_all(error):
                return f"because of {name}: there is nothing to build with"
            other = self._jobs[name].recipe
            if is_shared(error) and (other.devel, other.source) == (recipe.devel, recipe.source):
                return f"because of {name}: what failed there is the same here"
        return ""

    def _stops_all(self, error: FactoryError) -> bool:
        """Whether no variant can be built: there is no docker command, or there was or is no engine."""
        if isinstance(error, EngineLostError):
            return error.gone
        knew_one = any(job.site.knows_engine for job in self._jobs.values())
        return isinstance(error, DockerCommandError) or (isinstance(error, EngineUnavailableError) and not knew_one)

    def _work(self, variant: str) -> None:
        fault: BaseException | None = None
        try:
            self._runs[variant].run()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
            fault = error
        self._inbox.put(partial(self._end, variant, fault))

    def _take_message(self) -> None:
        """Do what the next message says; where none comes for a moment, see what is over."""
        try:
            act = self._inbox.get(timeout=_LOOK)
        except queue.Empty:
            act = self._end_what_is_over
        act()

    def _release(self, variant: str) -> None:
        """Its Bazel is done, or its compile stage has ended."""
        self._released.add(variant)
        self._shares[variant] = self._shares[variant].light()

    def _end(self, variant: str, fault: BaseException | None) -> None:
        """A variant has ended; with a fault, in an exception that is no FactoryError."""
        self._released.add(variant)
        del self._shares[variant]
        if fault is not None and self._fault is None:
            self._fault = fault
            self._end_all("a fault of the factory's own")

    def _interrupt(self) -> None:
        if isinstance(self._ended_by, CancelledError):
            self._end_all("cancelled", at_once=True)
        else:
            self._ended_by = CancelledError("The run was cancelled.")
            self._end_all("cancelled")

    def _end_what_is_over(self) -> None:
        now = time.monotonic()
        if now >= self._run_ends and not self._ended_by:
            minutes = (self._policy.seconds or 0) / 60
            self._ended_by = TimeLimitError(
                f"the run was ended after {minutes:g} min, as --max-minutes says",
                remedy="run the same command again: it goes on where this one was ended",
            )
            self._end_all(f"--max-minutes {minutes:g} was over")
        for name in self._shares:
            if now >= self._deadlines[name] and not self._jobs[name].cancel.asked:
                minutes = (self._policy.variant_seconds or 0) / 60
                self._runs[name].time_limit = TimeLimitError(
                    f"{name}: ended after {minutes:g} min, as --variant-minutes says",
                    remedy="give it more time; what was compiled is kept in Bazel's disk cache",
                )
                self._jobs[name].cancel.ask()

    def _end_all(self, because: str, *, at_once: bool = False) -> None:
        for name, run in self._runs.items():
            run.cancelled = run.cancelled or because
            if name in self._shares:
                self._jobs[name].cancel.ask(at_once=at_once)
        self._given_up = time.monotonic() + (_PATIENCE / 5 if at_once else _PATIENCE)


_NEVER = float("inf")


def _after(seconds: float | None) -> float:
    return _NEVER if seconds is None else time.monotonic() + seconds
