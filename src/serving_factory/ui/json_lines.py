"""The line's events for machines: one JSON object per line on stdout.

Each event is a line of this shape (members without a value are left out)::

    {"event": "finished", "time": "2026-01-31T23:41:07.123Z", "variant": "2.19.1-cpu-v3",
     "stage": "compile", "text": "...", "seconds": 71.4, "log": "build/2.19.1-cpu-v3/compile.log",
     "fields": {"actions": 53}}

The first line tells what the run is expected to take, where it has anything to do::

    {"event": "forecast", "time": "...", "seconds": 1680.0, "memory": 4187593113, "estimated": true, "unknown": 0,
     "variants": [{"variant": "2.19.1-cpu-v3", "seconds": 1680.0, "memory": 4187593113, "basis": "..."}]}

`event` is otherwise one of `started`, `progress`, `finished`, `up-to-date`, `failed`, `skipped`, `cancelled`. The last
line, and only the last, is the summary; a document without it is incomplete::

    {"event": "summary", "time": "...",
     "counts": {"built": 0, "up-to-date": 0, "failed": 1, "skipped": 0, "cancelled": 0},
     "seconds": 71.6, "forecast_seconds": 1680.0,
     "results": [{"variant": "2.19.1-cpu-v3", "status": "failed", "seconds": 71.4, "image": "...",
                  "because": "...", "log": "...", "facts": {"binary_size": 12345678, "rest": [2.5, 3.0]},
                  "error": {"kind": "CompileError", "exit_code": 20,
                            "what": "...", "why": "...", "remedy": "..."}}]}

Times are UTC, spans are seconds, sizes are bytes. Numbers that JSON lacks (infinity, not a number) become
null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from serving_factory.line.forecast import NOTHING_TO_DO
from serving_factory.line.results import Status, VariantResult

if TYPE_CHECKING:
    from types import TracebackType

    from serving_factory.errors import FactoryError
    from serving_factory.line.events import Event
    from serving_factory.line.forecast import Outlook
    from serving_factory.ui.streams import Stream

__all__ = ["JsonLinesReporter", "result_document"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class JsonLinesReporter:
    """Writes each event, and at the end the summary, as a line of JSON."""

    def __init__(
        self,
        out: Stream,
        *,
        now: Callable[[], datetime] = _utc_now,
        clock: Callable[[], float] = time.monotonic,
        outlook: Outlook = NOTHING_TO_DO,
    ) -> None:
        self._out = out
        self._now = now
        self._clock = clock
        self._outlook = outlook
        self._began = clock()

    def __enter__(self) -> Self:
        if self._outlook.forecasts:
            variants = [{**_present(asdict(one)), "basis": one.basis.value} for one in self._outlook.forecasts]
            self._write("forecast", {**asdict(self._outlook.total), "variants": variants})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def handle(self, event: Event) -> None:
        """Write one event."""
        members = {
            "variant": event.variant,
            "stage": event.stage.value,
            "text": event.text or None,
            "seconds": event.seconds,
            "log": event.log,
            "fields": dict(event.fields) or None,
        }
        self._write(event.kind.value, members)

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Write the last line."""
        counts = {status.value: sum(result.status is status for result in results) for status in Status}
        members = {
            "counts": counts,
            "seconds": round(self._clock() - self._began, 3),
            "forecast_seconds": self._outlook.total.seconds,
            "results": [result_document(result) for result in results],
        }
        self._write("summary", members)

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        at = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"event": name, "time": at, **_present(members)}
        line = json.dumps(_plain(document), ensure_ascii=True, allow_nan=False)
        # the older of GitHub's two command notations is looked for anywhere in a line
        self._out.write(line.replace("##[", "#\\u0023[") + "\n")


def result_document(result: VariantResult) -> dict[str, object]:
    """A variant's end as JSON members, in the shape of the module's text."""
    return _present(
        {
            "variant": result.variant,
            "status": result.status.value,
            "seconds": result.seconds,
            "image": result.image,
            "because": result.because or None,
            "log": result.log,
            "facts": dict(result.facts) or None,
            "error": None if result.error is None else _error_document(result.error),
        }
    )


def _error_document(error: FactoryError) -> dict[str, object]:
    members = {"what": error.what, "why": error.why or None, "remedy": error.remedy or None}
    return {"kind": type(error).__name__, "exit_code": error.exit_code, **_present(members)}


def _present(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}


def _plain(value: object) -> object:
    """Only what JSON knows: paths, enums and the like become text."""
    match value:
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return str(value)
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case Sequence() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return str(value)
