"""The events of a run for machines: one JSON object per line on stdout, as docs/json.md describes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from serving_factory.output.documents import SCHEMA_VERSION
from serving_factory.output.outcomes import Reporter
from serving_factory.output.text import Stream
from serving_factory.pipeline.estimates import NOTHING_TO_DO, RunEstimate, actual
from serving_factory.pipeline.events import (
    Event,
    VariantResult,
    counts_of,
    event_members,
    json_line,
    result_members,
    utc_now,
)


class JsonLinesReporter(Reporter):
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
        super().__init__(out, estimate, clock)
        self._variants, self._now = variants, now

    def _start(self) -> None:
        self._write("begin", {"schema_version": SCHEMA_VERSION, "variants": self._variants})
        if self._estimate.variants:
            self._write("estimate", self._estimate.members())

    def handle(self, event: Event) -> None:
        """Write one event."""
        self._write(event.kind.value, event_members(event))

    def summary(self, results: Sequence[VariantResult]) -> None:
        """Write the last line."""
        seconds = round(self._seconds, 3)
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
