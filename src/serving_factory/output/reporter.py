"""Which of the three ways of printing a run gets: the board, plain lines, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from serving_factory.output.json_lines import JsonLinesReporter
from serving_factory.output.outcomes import Reporter
from serving_factory.output.plain import GitHub, PlainReporter
from serving_factory.output.text import Stream
from serving_factory.pipeline.estimates import NOTHING_TO_DO, RunEstimate


def choose(
    *,
    json: bool,
    stdout: TextIO,
    stderr: TextIO,
    environ: Mapping[str, str],
    variants: Sequence[str] = (),
    last_stage: str | None = None,
    estimate: RunEstimate = NOTHING_TO_DO,
) -> Reporter:
    """Choose how to print: JSON lines; the live board on a terminal; else plain lines.

    On GitHub Actions all goes to stdout, where the runner keeps commands and lines in order. Elsewhere board and lines
    go to stderr, the summary to stdout.

    Of `environ`, `CI`, `GITHUB_ACTIONS`, `GITHUB_STEP_SUMMARY`, `NO_COLOR` and `TERM` count.
    """
    out = Stream(stdout)
    if json:
        return JsonLinesReporter(out, variants=variants, estimate=estimate)
    if environ.get("GITHUB_ACTIONS") == "true":
        summary = environ.get("GITHUB_STEP_SUMMARY")
        return PlainReporter(lines=out, out=out, github=GitHub(Path(summary) if summary else None), estimate=estimate)
    if _can_draw(stderr, environ):
        # rich takes a third of a second to import: only the board waits for it
        from serving_factory.output.board import BoardReporter

        colour = not environ.get("NO_COLOR")
        return BoardReporter(
            err=stderr, out=out, variants=variants, last_stage=last_stage, colour=colour, estimate=estimate
        )
    return PlainReporter(lines=Stream(stderr), out=out, estimate=estimate)


def _can_draw(stderr: TextIO, environ: Mapping[str, str]) -> bool:
    in_ci = environ.get("CI", "").lower() not in {"", "0", "false"}
    return stderr.isatty() and not in_ci and environ.get("TERM", "") not in {"", "dumb", "unknown"}
