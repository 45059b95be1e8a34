from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

from serving_factory.errors import CompileError
from serving_factory.output.reporters import JsonLinesReporter, RunView
from serving_factory.output.text import Stream
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, Estimate, RunEstimate, add_up
from serving_factory.pipeline.events import SCHEMA_VERSION, Event, EventKind, Status, VariantResult


def _reporter(out: io.StringIO, estimate: RunEstimate = NOTHING_TO_DO) -> JsonLinesReporter:
    now = datetime(2026, 1, 31, 23, 41, 7, 123456, tzinfo=UTC)
    return JsonLinesReporter(Stream(out), RunView(now=lambda: now, clock=lambda: 0.0, estimate=estimate))


def test_the_document() -> None:
    out = io.StringIO()
    with _reporter(out) as reporter:
        reporter.handle(Event(variant="v", stage="compile", kind=EventKind.STARTED))
        reporter.handle(
            Event(
                variant="v", stage="compile", kind=EventKind.FAILED, text="no", seconds=1.5, log="build/v/compile.log"
            )
        )
        reporter.summary(
            [
                VariantResult(
                    variant="v",
                    status=Status.FAILED,
                    seconds=1.5,
                    error=CompileError("no", remedy="fix it"),
                    facts={"binary_size": 3, "folder": Path("/x"), "ratio": float("nan"), "names": ("a", "b")},
                )
            ]
        )
    time = "2026-01-31T23:41:07.123Z"
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "begin", "time": time, "schema_version": SCHEMA_VERSION, "variants": []},
        {"event": "started", "time": time, "variant": "v", "stage": "compile"},
        {
            "event": "failed",
            "time": time,
            "variant": "v",
            "stage": "compile",
            "text": "no",
            "seconds": 1.5,
            "log": "build/v/compile.log",
        },
        {
            "event": "summary",
            "time": time,
            "counts": {"built": 0, "up_to_date": 0, "failed": 1, "skipped": 0, "cancelled": 0},
            "seconds": 0.0,
            "results": [
                {
                    "variant": "v",
                    "status": "failed",
                    "seconds": 1.5,
                    "facts": {"binary_size": 3, "folder": "/x", "ratio": None, "names": ["a", "b"]},
                    "error": {"kind": "CompileError", "exit_code": 20, "what": "no", "remedy": "fix it"},
                }
            ],
        },
    ]


def test_foreign_text_stays_on_its_line_and_is_no_command() -> None:
    out = io.StringIO()
    text = "::error::x\n##[error]y \x1b[2J \u2028 \ud800"
    _reporter(out).handle(Event(variant="v", stage="smoke", kind=EventKind.PROGRESS, text=text))
    (line,) = out.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert "##[" not in line
    assert json.loads(line)["text"] == text


def test_the_estimate_comes_first_and_the_summary_names_it() -> None:
    out = io.StringIO()
    known = Estimate(variant="v", seconds=60.0, memory=7, download=None, basis=Basis.VARIANT)
    unknown = Estimate(variant="w", seconds=None, memory=None, download=None, basis=Basis.NOTHING)
    with _reporter(out, add_up([known, unknown])) as reporter:
        reporter.summary([])
    _, first, last = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first.pop("event"), first.pop("time")) == ("estimate", "2026-01-31T23:41:07.123Z")
    assert first == {
        "seconds": 60.0,
        "memory": 7,
        "estimated": False,
        "unknown": 1,
        "variants": [
            {
                "variant": "v",
                "seconds": 60.0,
                "memory": 7,
                "basis": "its own earlier runs",
                "compiles": True,
                "after_compile": 0.0,
            },
            {"variant": "w", "basis": "nothing: no earlier run is like it", "compiles": True, "after_compile": 0.0},
        ],
    }
    assert (last["event"], last["seconds"], last["estimate_seconds"], last["estimate_memory"]) == (
        "summary",
        0.0,
        60.0,
        7,
    )
    assert {"estimate_download", "memory", "download"} & set(last) == set(), "what is not known is left out"


def test_the_summary_has_the_actual_figures_beside_the_estimate() -> None:
    out = io.StringIO()
    known = Estimate(variant="v", seconds=60.0, memory=7, download=5, basis=Basis.VARIANT)
    done = VariantResult(variant="v", status=Status.BUILT, seconds=70.0, memory=9, download=0)
    with _reporter(out, add_up([known])) as reporter:
        reporter.summary([done])
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["estimate_memory"], last["memory"]) == (7, 9)
    assert (last["estimate_download"], last["download"]) == (5, 0)
    (result,) = last["results"]
    assert (result["memory"], result["download"]) == (9, 0)
