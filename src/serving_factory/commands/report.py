"""`report`: what the records say of each variant, as text, as JSON, or as a page for browsers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_factory.catalogue.levels import Level
from serving_factory.commands.history import listed_runs, span
from serving_factory.commands.images import build_command, image_names
from serving_factory.commands.shared import Asked, progress, show, write_file
from serving_factory.load.levels import LevelFigures
from serving_factory.load.statistics import Interval
from serving_factory.matrix.variant import Variant
from serving_factory.output import page as pages
from serving_factory.output.page import Node, node
from serving_factory.output.text import cell, count, duration, label, page, size, words
from serving_factory.pipeline.history import Run, read_run
from serving_factory.pipeline.records import Record, matrix_name
from serving_factory.pipeline.stages import reached

_ABSENT = "absent"
_LATEST = 20  # runs that the page lists

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
    checks = smoke.outputs.checks if smoke else {}
    return {
        "variant": variant,
        **found,
        **elsewhere,
        "last_stage": list(records)[-1] if records else None,
        "smoke_checks": [{"name": name, "seconds": seconds} for name, seconds in checks.items()],
    }


def show_report(asked: Asked, *, json: bool, html: str = "") -> None:
    """Print what the records of the chosen variants say, and how to build those without; or write it as a page."""
    chosen = asked.choose(asked.load())
    name = matrix_name(asked.file, asked.checkout.root)
    runs = listed_runs(asked.checkout.build, name)
    benches = (read_run(asked.checkout.build, run.id) for run in runs if run.command.split()[:1] == ["bench"])
    known = speeds(benches)
    documents = []
    for variant in chosen:
        records = reached(asked.folder / variant.id)
        one = measure(variant.id, records)
        command = None if one["compiled"] else build_command(asked, variant.id)
        speed = next((known[name] for name in image_names(records) if name in known), None)
        documents.append({**one, "runs": past(variant.id, runs), "speed": speed, "build_command": command})
    if html:
        write_file(Path(html), matrix_page(name, list(zip(chosen, documents, strict=True)), runs))
        progress(f"Wrote {html}.")
    show({"variants": documents}, "" if html else report_page(documents), json=json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How many times the answers of its lowest level an image gives: the lowest and the highest ratio of all loads."""

    times_as: str  # the variant of the lowest level
    low: float
    high: float
    certain: bool  # whether it is faster under each load, or slower under each
    run: int  # that measured it


def speeds(runs: Iterable[Run]) -> dict[str, Speed]:
    """How fast images are, by the latest of these runs of `bench` that had each, the latest first."""
    found: dict[str, Speed] = {}
    for run in runs:
        by_image: dict[str, list[LevelFigures]] = {}
        for one in run.bench:
            by_image.setdefault(one.image, []).append(one)
        for image, figures in by_image.items():
            if ratios := [one.to_lowest for one in figures if one.to_lowest]:
                found.setdefault(image, _speed_of(ratios, str(figures[0].lowest), run.id))
    return found


def _speed_of(ratios: Sequence[Interval], lowest: str, run: int) -> Speed:
    low, high = (choose(one.middle for one in ratios) for choose in (min, max))
    certain = all(one.excludes(1.0) for one in ratios) and (low > 1 or high < 1)
    return Speed(times_as=lowest, low=low, high=high, certain=certain, run=run)


def past(variant: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What became of a variant in earlier runs, the oldest first."""
    members = ("status", "seconds", "error")
    found = [(run.id, one) for run in reversed(runs) for one in run.variants if one.variant == variant]
    return [{"run": number, **{name: getattr(one, name) for name in members}} for number, one in found]


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


# --- the page for browsers --------------------------------------------------------------------------------------------


def matrix_page(name: str, found: Sequence[tuple[Variant, Mapping[str, Any]]], runs: Sequence[Run]) -> str:
    """The variants by build and level, the numbers of those that were begun, the runs, and what is not built."""
    states = {variant.id: _state(one) for variant, one in found}
    counts = words(Counter(state.word for state in states.values()))
    lead = node("p", f"{count(len(found), 'variant')} of {name}: {counts}." if found else f"{name} has no variants.")
    begun = [one for _, one in found if one["last_stage"] or one["runs"]]
    never = [one for _, one in found if one["build_command"]]
    places = {one["variant"] for one in begun}  # that a link leads to
    sections: list[tuple[str, list[Node]]] = []
    if found:
        sections.append(("Variants", [_grid([variant for variant, _ in found], states)]))
    if begun:
        sections.append(("Numbers", _numbers(begun, states)))
    if runs:
        sections.append(("Runs", [_runs(runs)]))
    if never:
        sections.append(("Not built", [_never(never, places)]))
    return pages.page(f"Report: {name}", [lead], sections)


@dataclass(frozen=True, slots=True)
class _State:
    """What has become of a variant: a word, more of it, and its class in the page's style."""

    word: str
    more: str = ""
    style: str = "plain"


_ENDS = {
    None: _State("not built", style="faint"),
    "smoke": _State("tested", style="good"),
    "push": _State("pushed", style="good"),
}


def _state(one: Mapping[str, Any]) -> _State:
    last = one["runs"][-1] if one["runs"] else {}
    if last.get("status") == "failed":
        return _State("failed", f"run {last['run']}: {last['error']}", "bad")
    if one["last_stage"] in _ENDS:
        return _ENDS[one["last_stage"]]
    return _State("unfinished", f"after {one['last_stage']}")


def _grid(variants: Sequence[Variant], states: Mapping[str, _State]) -> Node:
    levels = [level for level in Level if any(one.level is level for one in variants)]
    platforms = {one.platform for one in variants}
    rows: dict[str, dict[Level, Node]] = {}
    for one in variants:
        state = states[one.id]
        build = one.build if len(platforms) == 1 else f"{one.build}, {one.platform}"
        link = node("a", state.word, href=f"#{one.id}", class_=state.style, aria_label=f"{state.word}: {one.id}")
        rows.setdefault(build, {})[one.level] = link
    cells = [(build, *(row.get(level, "") for level in levels)) for build, row in rows.items()]
    return pages.table("By CPU level", ("release and flavour", *levels), cells)


_Columns = Sequence[tuple[str, Callable[[Mapping[str, Any]], Node]]]
_IMAGES: _Columns = (
    (">binary", lambda one: cell(one["binary_size"], size)),
    (">image", lambda one: cell(one["image_size"], size)),
    (">smoke checks", lambda one: _checks(one["smoke_checks"])),
    ("its builds", lambda one: _builds(one["runs"])),
    ("speed", lambda one: _speed(one["speed"])),
    ("tried on GPU", lambda one: one["gpu"].name if one["gpu"] else ""),
    ("emulated CPUs", lambda one: cell(one["emulated"])),
)
_COMPILES: _Columns = (
    (">compile stage", lambda one: cell(one["stage_seconds"], duration)),
    (">critical path", lambda one: cell(one["critical_path_seconds"], duration)),
    (">actions", lambda one: cell(one["actions"], "{:,}".format)),
    (">from caches", lambda one: _hits(one["actions"], one["disk_cache_hits"], one["remote_cache_hits"])),
    (">downloaded", lambda one: cell(one["bytes_fetched"], size)),
    (">peak memory", lambda one: cell(one["peak_memory_bytes"], size)),
)


def _numbers(documents: Sequence[Mapping[str, Any]], states: Mapping[str, _State]) -> list[Node]:
    ways = [(_place(one["variant"]), _words(states[one["variant"]])) for one in documents]
    tables = [
        _table(
            "What was made; speed: answers a second, in ratio to the lowest CPU level",
            ("variant", "state"),
            ways,
            _IMAGES,
            documents,
        )
    ]
    if compiled := [one for one in documents if one["compiled"]]:
        names = [(_whole(one["variant"]),) for one in compiled]
        tables.append(_table("How it was compiled", ("variant",), names, _COMPILES, compiled))
    return tables


def _table(
    caption: str,
    heads: Sequence[str],
    firsts: Sequence[Sequence[Node]],
    columns: _Columns,
    documents: Sequence[Mapping[str, Any]],
) -> Node:
    """A table without the columns of which nothing is known."""
    cells = {head: [form(one) for one in documents] for head, form in columns}
    known = {head: column for head, column in cells.items() if any(one != "" for one in column)}
    rows = [(*first, *others) for first, *others in zip(firsts, *known.values(), strict=True)]
    return pages.table(caption, (*heads, *known), rows)


def _words(state: _State) -> Node:
    more = f" ({state.more})" if state.more else ""
    return node("span", node("span", state.word, class_=state.style), more, class_="whole")


def _whole(text: str) -> Node:
    return node("span", text, class_="whole")


def _place(variant: str) -> Node:
    """Its id, where links to it lead."""
    return node("span", variant, id=variant, class_="whole")


def _hits(actions: int | None, *hits: int | None) -> str:
    known = [number for number in hits if number is not None]
    return f"{sum(known):,} ({100 * sum(known) // actions}%)" if known and actions else ""


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    return f"{len(checks)} in {duration(sum(one['seconds'] for one in checks))}" if checks else ""


def _speed(speed: Speed | None) -> Node:
    if speed is None:
        return ""
    low, high = (f"{value:.2f}" for value in (speed.low, speed.high))
    return _whole((low if low == high else f"{low} to {high}") + ("" if speed.certain else ", uncertain"))


def _builds(runs: Sequence[Mapping[str, Any]]) -> Node:
    built = [run for run in runs if run["status"] == "built"]
    if not built:
        return ""
    first, last = (f"{duration(run['seconds'])} in run {run['run']}" for run in (built[0], built[-1]))
    line = pages.sparkline([run["seconds"] for run in built], label=f"{len(built)} builds, from {first} to {last}")
    return node("span", *([line] if built[1:] else []), f" {duration(built[-1]['seconds'])}", class_="whole")


def _runs(runs: Sequence[Run]) -> Node:
    rows = [
        (
            str(run.id),
            run.started,
            span(run),
            cell(run.estimate, duration),
            words({label(status): number for status, number in run.counts.items()}),
            node("code", run.command),
        )
        for run in runs[:_LATEST]
    ]
    older = f"; {count(len(runs) - _LATEST, 'older run')} not shown" if runs[_LATEST:] else ""
    heads = (">run", "started", ">time", ">estimated", "variants", "command")
    return pages.table(f"The latest first{older}", heads, rows)


def _never(documents: Sequence[Mapping[str, Any]], places: Container[str]) -> Node:
    rows = [
        (one["variant"] if one["variant"] in places else _place(one["variant"]), node("code", one["build_command"]))
        for one in documents
    ]
    return pages.table("How to build them", ("variant", "command"), rows)
