"""`history` and `report`: what earlier runs did, and what the records say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from serving_factory.commands.shared import Asked, progress, show, width
from serving_factory.errors import UnknownNameError, UsageError
from serving_factory.output.text import cell, count, duration, label, page, size, table, words
from serving_factory.pipeline.build_lock import held_since
from serving_factory.pipeline.history import Change, Run, changes, read_run, read_runs, run_numbers
from serving_factory.pipeline.records import Record, matrix_name
from serving_factory.pipeline.stages import reached

_LATEST = 30  # runs that are listed for people
_ABSENT = "absent"
_DIGEST = 19  # characters of `sha256:` and a dozen digits


def show_history(asked: Asked, numbers: Sequence[str], *, json: bool) -> None:
    """Print the latest runs (of the matrix file, if one is named); or one of them; or what changed between two."""
    chosen = [_number(word) for word in numbers]
    build = asked.checkout.build
    since = held_since(build)
    if not chosen:
        found, notes = read_runs(build)
        progress(*(f"Note: {note}" for note in notes))
        name = matrix_name(asked.file, asked.checkout.root) if asked.matrix else ""
        _show_runs([_marked(run, since) for run in found if not name or run.matrix == name], json=json)
        return
    known = run_numbers(build)
    for number in chosen:
        if number not in known:
            latest = f"the latest is {max(known)}" if known else "there is none yet in this checkout"
            raise UnknownNameError(f"there is no run {number}; {latest}", remedy="`./factory history` lists the runs")
    runs = [_marked(read_run(build, number), since) for number in chosen]
    for run in runs:
        if run.damaged:
            progress(f"Note: run {run.id}: {count(run.damaged, 'line')} of its file cannot be read")
    if len(runs) == 1:
        _show_run(runs[0], json=json)
    else:
        _show_changes(runs[0], runs[1], json=json)


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


def _pairs(values: Mapping[str, float], word: str) -> list[dict[str, str | float]]:
    return [{"name": name, word: value} for name, value in values.items()]


def _show_runs(runs: Sequence[Run], *, json: bool) -> None:
    heads = (">run", "started", ">time", ">estimated", "variants", "command")
    cells = []
    for run in runs[:_LATEST]:
        counts = words({label(status): number for status, number in run.counts.items()})
        cells.append((str(run.id), run.started, _span(run), _time(run.estimate), counts, run.command))
    older = f"Not shown: {count(len(runs) - _LATEST, 'older run')}.\n" if runs[_LATEST:] else ""
    hint = "`./factory history RUN` shows one run, `./factory history RUN RUN` compares two.\n"
    text = f"{table(heads, cells, width=width())}\n{older}{hint}" if runs else "There is no run yet in this checkout.\n"
    show({"runs": [_head(run) for run in runs]}, text, json=json)


def _show_run(run: Run, *, json: bool) -> None:
    document = {
        "run": _head(run),
        "variants": run.variants,
        "stages": [{**asdict(one), "facts": _pairs(one.facts, "value")} for one in run.stages],
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
    without = "It did not end by itself.\n" if run.ended is None else "It had no variant to work on.\n"
    text = f"Run {run.id}, {run.started}, {_span(run)}: {run.command}\n\n"
    text += table(heads, rows, width=width()) if rows else without
    if run.stages:
        worked = [(one.variant, one.stage, one.status, _time(one.seconds)) for one in run.stages]
        text += f"\nStages that ran:\n\n{table(('variant', 'stage', 'result', '>time'), worked, width=width())}"
    show(document, text, json=json)


def _show_changes(before: Run, after: Run, *, json: bool) -> None:
    found = changes(before.variants, after.variants)
    text = f"Run {before.id} ({before.started}) and run {after.id} ({after.started}):\n"
    if before.matrix != after.matrix:
        text += f"The matrix files differ: {before.matrix} and {after.matrix}\n"
    heads = ("variant", "what", "before", "after")
    cells = [(one.variant, one.what, _value(one, one.before), _value(one, one.after)) for one in found]
    text += f"\n{table(heads, cells, width=width())}" if cells else "Nothing changed.\n"
    show({"before": _head(before), "after": _head(after), "changes": found}, text, json=json)


def _span(run: Run) -> str:
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


_MEASURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("compiled", "compiled", str),
    ("compile stage", "stage_seconds", duration),
    ("Bazel's wall time", "wall_seconds", duration),
    ("critical path", "critical_path_seconds", duration),
    ("CPU time", "cpu_seconds", duration),
    ("peak memory", "peak_memory_bytes", size),
    ("actions", "actions", str),
    ("run locally", "local_actions", str),
    ("disk cache hits", "disk_cache_hits", str),
    ("remote cache hits", "remote_cache_hits", str),
    ("run remotely", "remote_actions", str),
    ("downloaded", "bytes_fetched", size),
    ("binary", "binary_size", size),
    ("GPU code", "device_code", lambda codes: ", ".join(codes) or "none"),
    ("image", "image_size", size),
    ("tried on GPU", "gpu", lambda gpu: f"{gpu.name}, capability {gpu.capability}"),
    ("emulated CPUs", "emulated", str),
)


def measure(variant: str, records: Mapping[str, Record[Any]]) -> dict[str, Any]:
    """Read the numbers out of a variant's records (docs/records.md); None where a record does not have it."""
    compiled, binary, image, smoke = (records.get(stage) for stage in ("compile", "extract", "package", "smoke"))
    elsewhere = {
        "compiled": compiled and compiled.started,
        "stage_seconds": compiled and compiled.seconds,
        "binary_size": binary and binary.outputs.size,
        "device_code": binary and binary.outputs.device_code.codes,
        "image_size": image and image.outputs.size,
        "gpu": smoke and smoke.outputs.gpu,
        "emulated": smoke and smoke.outputs.emulated,
    }
    found = {name: getattr(compiled and compiled.outputs, name, None) for _, name, _ in _MEASURES}
    return {
        "variant": variant,
        **found,
        **elsewhere,
        "smoke_checks": _pairs(smoke.outputs.checks if smoke else {}, "seconds"),
    }


def show_report(asked: Asked, *, json: bool) -> None:
    """Print what the records of the chosen variants say; for those without a record, the command that builds them."""
    measures = [measure(variant.id, reached(asked.folder / variant.id)) for variant in asked.choose(asked.load())]
    documents = [
        {**one, "build_command": None if one["compiled"] else build_command(asked, one["variant"])} for one in measures
    ]
    show({"variants": documents}, report_page(documents), json=json)


def report_page(documents: Sequence[Mapping[str, Any]]) -> str:
    """A section for each variant; at the end those without a record."""
    sections = []
    for one in documents:
        if one["compiled"]:
            values = [(title, one[name], form) for title, name, form in _MEASURES]
            entries = [(title, _ABSENT if value is None else form(value)) for title, value, form in values]
            checks = "\n".join(f"{duration(check['seconds'])}  {check['name']}" for check in one["smoke_checks"])
            sections.append((one["variant"], (*entries, ("smoke checks", checks or _ABSENT))))
    never = tuple((one["variant"], one["build_command"]) for one in documents if one["build_command"])
    sections.append(("Not built yet; to build:", never))
    return page("Report", sections)


def build_command(asked: Asked, variant: str) -> str:
    """The command that builds a variant of the matrix that was asked for."""
    matrix = ("--matrix", asked.matrix) if asked.matrix else ()
    return shlex.join(["./factory", "build", *matrix, "--variant", variant])
