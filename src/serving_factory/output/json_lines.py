"""The line's events for machines: one JSON object per line on stdout, in the shape that docs/events.md gives.

Numbers that JSON lacks (infinity, not a number) become null.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from serving_factory.pipeline.estimates import NOTHING_TO_DO, actual
from serving_factory.pipeline.events import Status, VariantResult

if TYPE_CHECKING:
    from types import TracebackType

    from serving_factory.errors import FactoryError
    from serving_factory.output.text import Stream
    from serving_factory.pipeline.estimates import RunEstimate
    from serving_factory.pipeline.events import Event


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
        estimate: RunEstimate = NOTHING_TO_DO,
    ) -> None:
        self._out = out
        self._now = now
        self._clock = clock
        self._estimate = estimate
        self._began = clock()

    def __enter__(self) -> Self:
        if self._estimate.variants:
            figures = ("seconds", "memory", "download", "estimated", "unknown")
            variants = [_present(asdict(one)) for one in self._estimate.variants]
            self._write("estimate", {**{name: getattr(self._estimate, name) for name in figures}, "variants": variants})
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
        }
        self._write(event.kind.value, members)

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Write the last line."""
        counts = {status.value: sum(result.status is status for result in results) for status in Status}
        seconds = round(self._clock() - self._began, 3)
        expected, taken = self._estimate, actual(self._estimate, results, seconds)
        members = {
            "counts": counts,
            "seconds": seconds,
            "estimate_seconds": expected.seconds,
            "memory": taken.memory if taken else None,
            "estimate_memory": expected.memory,
            "download": taken.download if taken else None,
            "estimate_download": expected.download,
            "results": [_result_document(result) for result in results],
        }
        self._write("summary", members)

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        at = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"event": name, "time": at, **_present(members)}
        line = json.dumps(_plain(document), ensure_ascii=True, allow_nan=False)
        # the older of GitHub's two command notations is looked for anywhere in a line
        self._out.write(line.replace("##[", "#\\u0023[") + "\n")


def _result_document(result: VariantResult) -> dict[str, object]:
    """A variant's end as JSON members, as docs/events.md has them."""
    return _present(
        {
            "variant": result.variant,
            "status": result.status.value,
            "seconds": result.seconds,
            "memory": result.memory,
            "download": result.download,
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
