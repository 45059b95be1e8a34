"""The events of a run for machines: one JSON object per line on stdout, as docs/json.md describes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from serving_factory.output.documents import SCHEMA_VERSION
from serving_factory.pipeline.estimates import NOTHING_TO_DO, actual
from serving_factory.pipeline.events import counts_of, event_members, json_line, result_members, utc_now

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from serving_factory.output.text import Stream
    from serving_factory.pipeline.estimates import RunEstimate
    from serving_factory.pipeline.events import Event, VariantResult


class JsonLinesReporter:
    """Writes each event, and at the end the summary, as a line of JSON."""

    def __init__(
        self,
        out: Stream,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
        variants: Sequence[str] = (),
        estimate: RunEstimate = NOTHING_TO_DO,
    ) -> None:
        self._out = out
        self._variants = variants
        self._now = now
        self._clock = clock
        self._estimate = estimate
        self._began = clock()

    def __enter__(self) -> Self:
        self._write("begin", {"schema_version": SCHEMA_VERSION, "variants": self._variants})
        if self._estimate.variants:
            self._write("estimate", self._estimate.members())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def handle(self, event: Event) -> None:
        """Write one event."""
        self._write(event.kind.value, event_members(event))

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Write the last line."""
        seconds = round(self._clock() - self._began, 3)
        expected, taken = self._estimate, actual(self._estimate, results, seconds)
        members = {
            "counts": counts_of(results),
            "seconds": seconds,
            "estimate_seconds": expected.seconds,
            "memory": taken.memory if taken else None,
            "estimate_memory": expected.memory,
            "download": taken.download if taken else None,
            "estimate_download": expected.download,
            "results": [result_members(result) for result in results],
        }
        self._write("summary", members)

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        self._out.write(json_line(name, members, at=self._now()))
