"""Start and finish lines, for logs and CI; folds and annotations on GitHub Actions.

    23:41:07 2.19.1-cpu-v3 compile started
    23:42:07 2.19.1-cpu-v3 compile still running after 1 min 00 s: Compiling mat_mul.cc
    23:42:18 2.19.1-cpu-v3 compile finished in 1 min 11 s

Times are UTC. What belongs together is written in one piece, so that variants that run at once never mix their lines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from textwrap import shorten

from serving_factory.output.errors import holds_last_line, log_excerpt, read_tail
from serving_factory.output.estimates import Counted, estimate_line, remaining, see
from serving_factory.output.github import annotation, fold, markdown_summary
from serving_factory.output.outcomes import Reporter, write_summary
from serving_factory.output.text import Stream, clean, clean_lines, duration, label
from serving_factory.pipeline.estimates import NOTHING_TO_DO, RunEstimate
from serving_factory.pipeline.events import Event, EventKind, VariantResult, utc_now

_FOLD_LINES = 10_000
_PROGRESS_LINES = 2_000
_LOOK_EVERY = 5.0
_ACTION = 100  # columns: the name of a Dockerfile's step is its whole command


@dataclass(frozen=True, slots=True)
class GitHub:
    """That this is GitHub Actions, and the file that takes its step summary, where there is one."""

    step_summary: Path | None = None


@dataclass(slots=True)
class _Running:
    started: float
    reported: float
    progress: deque[str] = field(default_factory=lambda: deque(maxlen=_PROGRESS_LINES))
    counted: Counted | None = None


class PlainReporter(Reporter):
    """Prints a line when a stage starts, ends, or has been silent for `silence` seconds."""

    def __init__(
        self,
        *,
        lines: Stream,
        out: Stream,
        github: GitHub | None = None,
        silence: float = 60.0,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
        estimate: RunEstimate = NOTHING_TO_DO,
    ) -> None:
        super().__init__(out, estimate, clock)
        self._lines, self._github, self._silence, self._now = lines, github, silence, now
        self._lock = threading.RLock()
        self._running: dict[tuple[str, str], _Running] = {}
        self._spent: dict[str, float] = {}
        self._failed: set[str] = set()
        self._end = threading.Event()
        self._heartbeat = threading.Thread(target=self._beats, name="heartbeat", daemon=True)

    def _start(self) -> None:
        self._lines.write(estimate_line(self._estimate))
        self._heartbeat.start()

    def _stop(self) -> None:
        self._end.set()
        self._heartbeat.join(timeout=1.0)

    def _beats(self) -> None:
        while not self._end.wait(min(_LOOK_EVERY, self._silence)):
            self.beat()

    def handle(self, event: Event) -> None:
        """Print what the event calls for; progress is kept for later lines and the fold."""
        key = (event.variant, event.stage)
        now = self._clock()
        with self._lock:
            if event.kind is EventKind.STARTED:
                self._running[key] = _Running(now, now)
            elif event.kind is EventKind.PROGRESS:
                self._keep(self._running.setdefault(key, _Running(now, now)), event.text, now)
                return
            elif event.kind is EventKind.RETRIED:
                self._running.setdefault(key, _Running(now, now)).reported = now
                self._lines.write(self._retry(event))
                return
            running = None if event.kind is EventKind.STARTED else self._running.pop(key, None)
            if running:
                self._spent[event.variant] = self._spent.get(event.variant, 0.0) + now - running.started
            if event.kind is EventKind.FAILED:
                self._failed.add(event.variant)
        self._lines.write(self._block(event, running, now))

    def beat(self) -> None:
        """Print a line for each stage that has been silent for too long."""
        now = self._clock()
        with self._lock:
            for (variant, stage), running in self._running.items():
                if now - running.reported < self._silence:
                    continue
                running.reported = now
                latest = running.progress[-1] if running.progress else ""
                action = f": {shorten(clean(latest), _ACTION, placeholder=' ...')}" if latest else ""
                took = now - running.started
                expected, spent = self._estimate.by_variant.get(variant), self._spent.get(variant, 0.0)
                seconds = remaining(running.counted, running=took, expected=expected, spent=spent, now=now)
                left = f", about {duration(seconds)} left" if seconds else ""
                line = f"{variant} {stage} still running after {duration(took)}{left}{action}"
                self._lines.write(f"{self._stamp()} {line}\n")

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Print the errors that no line has reported yet, then the table; append it to the step summary."""
        write_summary(results, self._estimate, self._seconds, errors=self._lines, out=self._out, reported=self._failed)
        if self._github and self._github.step_summary:
            try:
                with self._github.step_summary.open("a", encoding="utf-8") as file:
                    file.write(markdown_summary(results))
            except OSError as error:
                self._lines.write(clean(f"The step summary could not be written: {error}") + "\n")

    @staticmethod
    def _keep(running: _Running, text: str, now: float) -> None:
        running.counted = see(running.counted, text, now)
        if text and (not running.progress or running.progress[-1] != text):
            running.progress.append(text)

    def _block(self, event: Event, running: _Running | None, now: float) -> str:
        seconds = event.seconds
        if seconds is None and running is not None:
            seconds = now - running.started
        line = f"{self._stamp()} {clean(event.variant)} {event.stage} {_ending(event, seconds)}\n"
        if event.kind is EventKind.FAILED:
            line += "".join(f"  {text}".rstrip() + "\n" for text in _failure(event))
        if self._github is None or event.kind is EventKind.STARTED:
            return line
        if event.kind is EventKind.FAILED:
            line += annotation(f"{event.variant} {event.stage} failed", event.text)
        return self._fold(event, running) + line

    def _retry(self, event: Event) -> str:
        text = " ".join(clean_lines(event.text))
        line = f"{self._stamp()} {clean(event.variant)} {event.stage} tried again: {text}\n"
        if self._github is None:
            return line
        return annotation(f"{event.variant} {event.stage} tried again", event.text, level="warning") + line

    def _fold(self, event: Event, running: _Running | None) -> str:
        if running is None:
            return ""
        log = read_tail(event.log, _FOLD_LINES)
        lines = log.lines or tuple(running.progress)
        if not log.complete:
            lines = (f"(the lines before these are in {event.log})", *lines)
        return fold(f"{event.variant} {event.stage}: log", lines) if lines else ""

    def _stamp(self) -> str:
        return f"{self._now():%H:%M:%S}"


def _ending(event: Event, seconds: float | None) -> str:
    kind, text = event.kind, label(event.kind.value)
    if kind is EventKind.SKIPPED and event.text:
        return f"{text}: {clean(event.text)}"
    if seconds is not None and kind in {EventKind.FINISHED, EventKind.FAILED, EventKind.CANCELLED}:
        text += f" {'in' if kind is EventKind.FINISHED else 'after'} {duration(seconds)}"
    return text


def _failure(event: Event) -> Iterator[str]:
    tail = read_tail(event.log).lines
    yield from clean_lines(event.text)
    if not holds_last_line(tail, event.text):
        yield from ("", *log_excerpt(tail, event.log))
    elif event.log is not None:
        yield from ("", f"The whole log: {clean(event.log)}")
