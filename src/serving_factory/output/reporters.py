"""The ways of printing a run: JSON lines, plain lines for logs and CI, and the board (in its own module).

    23:41:07 2.19.1-cpu-v3 compile started
    23:42:07 2.19.1-cpu-v3 compile still running after 1 min 00 s: Compiling mat_mul.cc
    23:42:18 2.19.1-cpu-v3 compile finished in 1 min 11 s

Times are UTC. What belongs together is written in one piece, so that variants that run at once never mix their lines.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Self, TextIO

from serving_factory.output.errors import log_end, read_tail, render_error
from serving_factory.output.github import annotation, fold, markdown_summary
from serving_factory.output.outcomes import actual_line, estimate_line, summary_table
from serving_factory.output.progress import Progress, Row
from serving_factory.output.text import Stream, clean, clean_lines, duration, label
from serving_factory.pipeline.estimates import NOTHING_TO_DO, RunEstimate, actual
from serving_factory.pipeline.events import (
    SCHEMA_VERSION,
    Event,
    EventKind,
    VariantResult,
    counts_of,
    event_members,
    json_line,
    utc_now,
)

_FOLD_LINES = 10_000
_PROGRESS_LINES = 2_000
_LOOK_EVERY = 5.0
_ACTION = 100  # columns: the name of a Dockerfile's step is its whole command


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What reporters know of a run before it begins, and their clocks."""

    variants: Sequence[str] = ()
    last_stage: str | None = None
    estimate: RunEstimate = NOTHING_TO_DO
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now


class Reporter(ABC):
    """What the reporters share: where the summary goes, and the run."""

    def __init__(self, out: Stream, view: RunView) -> None:
        self._out, self._view, self._estimate, self._began = out, view, view.estimate, view.clock()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Take in an event."""

    @abstractmethod
    def summary(self, results: Sequence[VariantResult]) -> None:
        """Print what became of the run."""

    @abstractmethod
    def _start(self) -> None: ...

    def _stop(self) -> None:  # noqa: B027 - JSON lines have nothing to stop
        pass

    def _print(self, results: Sequence[VariantResult], errors: Stream, reported: Collection[str] = ()) -> None:
        """Print the errors but for variants whose error is reported already, then the table and what the run took."""
        for result in results:
            if result.error is not None and result.variant not in reported:
                errors.write("\n" + render_error(result.error, result.log))
        self._out.write("\n" + summary_table(results, expected=self._estimate.by_variant, width=self._out.width))
        self._out.write(actual_line(self._estimate, actual(self._estimate, results, self._seconds)))

    @property
    def _seconds(self) -> float:
        return self._view.clock() - self._began


class JsonLinesReporter(Reporter):
    """Writes each event, and at the end the summary, as a line of JSON (docs/json.md)."""

    def _start(self) -> None:
        self._write("begin", {"schema_version": SCHEMA_VERSION, "variants": self._view.variants})
        if self._estimate.variants:
            self._write("estimate", self._estimate.members())

    def handle(self, event: Event) -> None:
        """Write one event."""
        self._write(event.kind.value, event_members(event))

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Write the last line."""
        seconds = round(self._seconds, 3)
        expected, taken = self._estimate, actual(self._estimate, results, seconds)
        members = {"counts": counts_of(results), "seconds": seconds, "estimate_seconds": expected.seconds}
        for name in ("memory", "download"):
            members |= {name: getattr(taken, name, None), f"estimate_{name}": getattr(expected, name)}
        self._write("summary", {**members, "results": results})

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        self._out.write(json_line(name, members, at=self._view.now()))


class PlainReporter(Reporter):
    """Prints a line when a stage starts, ends, or has been silent for `silence` seconds."""

    def __init__(
        self,
        out: Stream,
        view: RunView,
        *,
        lines: Stream,
        github: bool = False,  # whether this is GitHub Actions; `step_summary` is the file that it shows
        step_summary: Path | None = None,
        silence: float = 60.0,
    ) -> None:
        super().__init__(out, view)
        self._lines, self._silence = lines, silence
        self._github, self._step_summary = github, step_summary
        self._lock = threading.RLock()
        self._progress = Progress()
        self._printed: dict[str, float] = {}  # variant → the clock at its latest line
        self._actions: dict[str, deque[str]] = {}  # of the running stage
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
        now = self._view.clock()
        with self._lock:
            row = self._progress.apply(event, now)
            actions = self._actions.setdefault(event.variant, deque(maxlen=_PROGRESS_LINES))
            if event.kind is EventKind.PROGRESS:
                self._printed.setdefault(event.variant, now)
                if event.text and not (actions and actions[-1] == event.text):
                    actions.append(event.text)
                return
            self._printed[event.variant] = now
            if event.kind is EventKind.RETRIED:
                self._lines.write(self._retry(event))
                return
            del self._actions[event.variant]
            if event.kind is EventKind.FAILED:
                self._failed.add(event.variant)
        self._lines.write(self._block(event, row, actions))

    def beat(self) -> None:
        """Print a line for each stage that has been silent for too long."""
        now = self._view.clock()
        with self._lock:
            for row in self._progress.rows():
                variant = row.variant
                if row.started is None or now - self._printed[variant] < self._silence:
                    continue
                self._printed[variant] = now
                action = f": {shorten(clean(row.text), _ACTION, placeholder=' ...')}" if row.text else ""
                seconds = row.left(self._estimate.by_variant.get(variant), now)
                left = f", about {duration(seconds)} left" if seconds else ""
                line = f"{variant} {row.stage} still running after {duration(row.elapsed(now))}{left}{action}"
                self._lines.write(f"{self._stamp()} {line}\n")

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Print the errors that no line has reported yet, then the table; append it to the step summary."""
        self._print(results, self._lines, self._failed)
        if self._step_summary:
            try:
                with self._step_summary.open("a", encoding="utf-8") as file:
                    file.write(markdown_summary(results))
            except OSError as error:
                self._lines.write(clean(f"The step summary could not be written: {error}") + "\n")

    def _block(self, event: Event, row: Row, actions: Sequence[str]) -> str:
        line = f"{self._stamp()} {clean(event.variant)} {event.stage} {_ending(event)}\n"
        if event.kind is EventKind.FAILED:
            failure = (*clean_lines(event.text), *log_end(event.log, event.text))
            line += "".join(f"  {text}".rstrip() + "\n" for text in failure)
        if not self._github or event.kind is EventKind.STARTED:
            return line
        if event.kind is EventKind.FAILED:
            line += annotation(f"{event.variant} {event.stage} failed", event.text)
        if row.started is None:
            return line
        log = read_tail(event.log, _FOLD_LINES)
        lines = log.lines or tuple(actions)
        if not log.complete:
            lines = (f"(the lines before these are in {event.log})", *lines)
        return (fold(f"{event.variant} {event.stage}: log", lines) if lines else "") + line

    def _retry(self, event: Event) -> str:
        title = f"{event.variant} {event.stage} tried again"
        line = f"{self._stamp()} {clean(title)}: {' '.join(clean_lines(event.text))}\n"
        return annotation(title, event.text, level="warning") + line if self._github else line

    def _stamp(self) -> str:
        return f"{self._view.now():%H:%M:%S}"


def _ending(event: Event) -> str:
    kind, text = event.kind, label(event.kind.value)
    if kind is EventKind.STARTED and event.text:
        text += " again"
    if kind in {EventKind.STARTED, EventKind.SKIPPED} and event.text:
        return f"{text}: {clean(event.text)}"
    if event.seconds is None:
        return text
    return f"{text} {'in' if kind is EventKind.FINISHED else 'after'} {duration(event.seconds)}"


def choose(view: RunView, *, json: bool, stdout: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> Reporter:
    """Choose how to print: JSON lines; the live board on a terminal; else plain lines.

    On GitHub Actions all goes to stdout, where the runner keeps commands and lines in order. Elsewhere board and lines
    go to stderr, the summary to stdout.

    Of `environ`, `CI`, `GITHUB_ACTIONS`, `GITHUB_STEP_SUMMARY`, `NO_COLOR` and `TERM` count.
    """
    out = Stream(stdout)
    if json:
        return JsonLinesReporter(out, view)
    if environ.get("GITHUB_ACTIONS") == "true":
        summary = Path(name) if (name := environ.get("GITHUB_STEP_SUMMARY")) else None
        return PlainReporter(out, view, lines=out, github=True, step_summary=summary)
    in_ci = environ.get("CI", "").lower() not in {"", "0", "false"}
    if not stderr.isatty() or in_ci or environ.get("TERM", "") in {"", "dumb", "unknown"}:
        return PlainReporter(out, view, lines=Stream(stderr))
    # rich takes a third of a second to import: only the board waits for it
    from serving_factory.output.board import BoardReporter

    return BoardReporter(out, view, err=stderr, colour=not environ.get("NO_COLOR"))
