"""`history`: what earlier runs did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from serving_factory.commands.shared import Asked, progress, show, width
from serving_factory.errors import UnknownNameError, UsageError
from serving_factory.load.levels import LevelFigures
from serving_factory.load.statistics import spread
from serving_factory.output.text import cell, count, duration, label, size, table, words
from serving_factory.pipeline.build_lock import held_since
from serving_factory.pipeline.history import Change, Run, changes, read_run, read_runs, run_numbers
from serving_factory.pipeline.records import matrix_name

_LATEST = 30  # runs that are listed for people
_DIGEST = 19  # characters of `sha256:` and a dozen digits


def show_history(asked: Asked, numbers: Sequence[str], *, json: bool) -> None:
    """Print the latest runs (of the matrix file, if one is named); or one of them; or what changed between two."""
    build = asked.checkout.build
    if not numbers:
        name = matrix_name(asked.file, asked.checkout.root) if asked.matrix else ""
        _show_runs(listed_runs(build, name), json=json)
        return
    runs = named_runs(build, numbers)
    if len(runs) == 1:
        _show_run(runs[0], json=json)
    else:
        _show_changes(runs[0], runs[1], json=json)


def named_runs(build: Path, numbers: Sequence[str]) -> list[Run]:
    """Read runs by their numbers."""
    chosen = [_number(word) for word in numbers]
    since = held_since(build)
    known = run_numbers(build)
    for number in chosen:
        if number not in known:
            latest = f"the latest is {max(known)}" if known else "there is none yet in this checkout"
            raise UnknownNameError(f"there is no run {number}; {latest}", remedy="`./factory history` lists the runs")
    runs = [_marked(read_run(build, number), since) for number in chosen]
    for run in runs:
        if run.damaged:
            progress(f"Note: run {run.id}: {count(run.damaged, 'line')} of its file cannot be read")
    return runs


def listed_runs(build: Path, matrix: str = "") -> list[Run]:
    """The runs (of a matrix file, if one is named), the latest first; a file that cannot be read is a note."""
    found, notes = read_runs(build)
    progress(*(f"Note: {note}" for note in notes))
    since = held_since(build)
    return [_marked(run, since) for run in found if not matrix or run.matrix == matrix]


def _number(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise UsageError(f"a run must be a number, got {word[:40]!r}", remedy="`./factory history` lists the runs")
    return int(word)


def _marked(run: Run, since: str | None) -> Run:
    """Say a run that still works from one that was killed: it began when, or after, the checkout's lock was taken."""
    return replace(run, works=run.ended is None and since is not None and run.started[:19] >= since[:19])


def _head(run: Run) -> dict[str, object]:
    """A run without its variants and stages."""
    return {name: value for name, value in asdict(run).items() if name not in {"variants", "stages"}}


def _show_runs(runs: Sequence[Run], *, json: bool) -> None:
    heads = (">run", "started", ">time", ">estimated", "variants", "command")
    cells = []
    for run in runs[:_LATEST]:
        counts = words({label(status): number for status, number in run.counts.items()})
        cells.append((str(run.id), run.started, span(run), _time(run.estimate), counts, run.command))
    older = f"Not shown: {count(len(runs) - _LATEST, 'older run')}.\n" if runs[_LATEST:] else ""
    hint = "`./factory history RUN` shows one run, `./factory history RUN RUN` compares two.\n"
    text = f"{table(heads, cells, width=width())}\n{older}{hint}" if runs else "There is no run yet in this checkout.\n"
    show({"runs": [_head(run) for run in runs]}, text, json=json)


def _show_run(run: Run, *, json: bool) -> None:
    document = {
        "run": _head(run),
        "variants": run.variants,
        "stages": [
            {**asdict(one), "facts": [{"name": name, "value": value} for name, value in one.facts.items()]}
            for one in run.stages
        ],
        "bench": run.bench,
    }
    heads = ("variant", "result", ">time", ">estimated", ">binary", ">image", "binary's sha256", "error")
    rows = [
        (
            one.variant,
            label(one.status),
            _time(one.seconds),
            _time(one.estimate),
            cell(one.binary_size, size),
            cell(one.image_size, size),
            (one.binary or "")[:12],
            one.error or "",
        )
        for one in run.variants
    ]
    measured = bench_table(run.bench) if run.bench else "It had no variant to work on.\n"
    without = "It did not end by itself.\n" if run.ended is None else measured
    text = f"Run {run.id}, {run.started}, {span(run)}: {run.command}\n\n"
    text += table(heads, rows, width=width()) if rows else without
    if run.stages:
        worked = [(one.variant, one.stage, one.status, _time(one.seconds)) for one in run.stages]
        text += f"\nStages that ran:\n\n{table(('variant', 'stage', 'result', '>time'), worked, width=width())}"
    show(document, text, json=json)


def bench_table(figures: Sequence[LevelFigures]) -> str:
    """A line for each variant and load."""
    heads = (
        "variant",
        "protocol",
        "input",
        ">answers/s",
        ">p50 ms",
        ">p99 ms",
        ">to the lowest",
        ">to the one below",
        "gate",
    )
    rows = [
        (
            *(one.variant, one.protocol, one.input, spread(one.per_second, ".0f")),
            *(spread(each, ".1f", 1000) if each else "never" for each in (one.p50, one.p99)),
            *(spread(each, ".2f") if each else "" for each in (one.to_lowest, one.to_below)),
            one.verdict or "",
        )
        for one in figures
    ]
    return table(heads, rows, width=width()) + "\n"


def _show_changes(before: Run, after: Run, *, json: bool) -> None:
    found = changes(before.variants, after.variants)
    text = f"Run {before.id} ({before.started}) and run {after.id} ({after.started}):\n"
    if before.matrix != after.matrix:
        text += f"The matrix files differ: {before.matrix} and {after.matrix}\n"
    heads = ("variant", "what", "before", "after")
    cells = [(one.variant, one.what, _value(one, one.before), _value(one, one.after)) for one in found]
    text += f"\n{table(heads, cells, width=width())}" if cells else "Nothing changed.\n"
    show({"before": _head(before), "after": _head(after), "changes": found}, text, json=json)


def span(run: Run) -> str:
    """Its wall time, or why it has none."""
    if run.seconds is not None:
        return duration(run.seconds)
    return "running" if run.works else "did not end"


def _time(value: float | None) -> str:
    return duration(value) if value else ""


def _value(change: Change, value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value[:_DIGEST] if change.what in {"binary", "image"} else value
    return duration(value) if change.what == "seconds" else size(int(value))
