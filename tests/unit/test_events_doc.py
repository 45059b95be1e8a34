"""docs/events.md against what `--json` prints: every event and every member is documented."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from serving_factory.errors import CompileError
from serving_factory.output.json_lines import JsonLinesReporter
from serving_factory.output.text import Stream
from serving_factory.pipeline.estimates import Basis, Estimate, add_up
from serving_factory.pipeline.events import Event, EventKind, StageName, Status, VariantResult

from .matrices import ROOT

TEXT = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
EVERYWHERE = {"event", "time"}
MEMBERS_OF_KIND: Mapping[EventKind, Mapping[str, Any]] = {
    EventKind.PROGRESS: {"text": "1/2 Compiling x.cc"},
    EventKind.RETRIED: {"text": "a download failed; try 2 of 4 in 3 s"},
    EventKind.FINISHED: {"seconds": 1.0, "log": "l"},
    EventKind.FAILED: {"text": "no", "log": "l"},
    EventKind.SKIPPED: {"text": "because"},
}
"""What the line gives an event, as `Event` says it."""


def table(heading: str) -> dict[str, str]:
    """The rows of a table: names in its first cell → the other cells."""
    lines = TEXT.partition(heading)[2].partition("\n\n")[0].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    return {name: " ".join(rest) for first, *rest in rows for name in names(first)}


def names(text: str) -> set[str]:
    return set(re.findall(r"`([a-z][a-z_-]*)`", text))


EVENTS = table("| `event` |")
SUMMARY = table("| member of the summary |")


def printed() -> Iterator[dict[str, Any]]:
    """A document of each kind, with all its members."""
    out = io.StringIO()
    estimate = Estimate(variant="w", seconds=1.0, memory=1, download=1, basis=Basis.VARIANT)
    error = CompileError("what", why="why", remedy="remedy")
    facts = {"binary_size": 1, "image_size": 1, "rest": (1.0,), "grpc": (1.0,), "pushed": ["r/x:1@sha256:0"]}
    result = VariantResult(
        variant="v", status=Status.FAILED, seconds=1.0, image="i", because="b", log="l", facts=facts, error=error
    )
    with JsonLinesReporter(Stream(out), estimate=add_up([estimate])) as reporter:
        for kind in EventKind:
            reporter.handle(Event(variant="v", stage=StageName.COMPILE, kind=kind, **MEMBERS_OF_KIND.get(kind, {})))
        done = VariantResult(variant="w", status=Status.BUILT, seconds=1.0, memory=1, download=1)
        reporter.summary([replace(result, memory=1, download=1), done])
    yield from map(json.loads, out.getvalue().splitlines())


DOCUMENTS = {document["event"]: document for document in printed()}


def test_every_event_is_documented_and_no_other() -> None:
    assert set(EVENTS) == set(DOCUMENTS)
    assert all(f"`{stage}`" in TEXT.partition("`stage` is one of")[2].partition("\n")[0] for stage in StageName)


@pytest.mark.parametrize("event", sorted({*EventKind, "estimate"}))
def test_an_events_members_are_those_documented(event: str) -> None:
    members = set(DOCUMENTS[event]) - EVERYWHERE
    told = names(EVENTS[event])
    inner = set(DOCUMENTS[event].get("variants", [{}])[0])
    assert (members | inner) - {"variant"} == told - {"variant"}


def test_the_summarys_members_are_documented() -> None:
    summary = DOCUMENTS["summary"]
    assert set(summary) - EVERYWHERE == set(SUMMARY)
    assert names(SUMMARY["counts"]) == set(Status)
    result = summary["results"][0]
    inner = {*result, *result["facts"], *result["error"]}
    assert inner <= names(SUMMARY["results"])
