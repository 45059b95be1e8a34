"""`history` and `report`: what earlier runs did, and what the records tell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import UnknownNameError, UsageError
from serving_factory.output.text import Column, Section, count, duration, page, size, table
from serving_factory.pipeline.build_lock import held_since
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.history import FILE, RunRow, changes, read_history, read_runs, read_stages, read_variants
from serving_factory.pipeline.records import Record, build_folder, matrix_name, reached

_OF_BAZEL = (
    "wall_seconds",
    "actions",
    "local_actions",
    "disk_cache_hits",
    "remote_cache_hits",
    "remote_actions",
    "bytes_fetched",
    "critical_path_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The numbers of one variant.

    Args:
        variant: its id.
        compiled: when the binary was compiled; UTC, ISO 8601.
        stage_seconds: how long the compile stage took.
        wall_seconds: of these, Bazel's.
        actions: that Bazel ran or took from a cache.
        local_actions: of these, those that ran in the build's container.
        disk_cache_hits: of these, those from the disk cache.
        remote_cache_hits: of these, those from the remote cache.
        remote_actions: of these, those that a remote execution service ran.
        bytes_fetched: what came over the network to Bazel's containers.
        critical_path_seconds: the longest chain of actions.
        cpu_seconds: of all actions and of Bazel.
        peak_memory_bytes: of the build's container.
        binary_size: bytes, stripped.
        image_size: bytes.
        smoke_seconds: check's name → how long it took.
    """

    variant: str
    compiled: str | None = None
    stage_seconds: float | None = None
    wall_seconds: float | None = None
    actions: int | None = None
    local_actions: int | None = None
    disk_cache_hits: int | None = None
    remote_cache_hits: int | None = None
    remote_actions: int | None = None
    bytes_fetched: int | None = None
    critical_path_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    binary_size: int | None = None
    image_size: int | None = None
    smoke_seconds: Mapping[str, float] = field(default_factory=dict)


def measure(variant: str, records: Mapping[StageName, Record]) -> Measures:
    """Read the numbers out of a variant's records."""
    compiled = records.get(StageName.COMPILE)
    facts: Mapping[str, Any] = compiled.outputs if compiled else {}
    binary, image, smoke = (
        records[stage].outputs if stage in records else {}
        for stage in (StageName.EXTRACT, StageName.PACKAGE, StageName.SMOKE)
    )
    return Measures(
        variant=variant,
        compiled=compiled.started if compiled else None,
        stage_seconds=compiled.seconds if compiled else None,
        **{name: facts.get(name) for name in _OF_BAZEL},
        binary_size=binary.get("size"),
        image_size=image.get("size"),
        smoke_seconds=smoke.get("checks") or {},
    )


Row = Mapping[str, Any]

_ABSENT = "absent"
_DIGEST = 19  # characters of `sha256:` and a dozen digits
_MEASURES = (
    ("compiled", "compiled", str),
    ("compile stage", "stage_seconds", duration),
    ("Bazel's wall time", "wall_seconds", duration),
    ("critical path", "critical_path_seconds", duration),
    ("CPU time", "cpu_seconds", duration),
    ("peak memory", "peak_memory_bytes", size),
    ("actions", "actions", str),
    ("ran here", "local_actions", str),
    ("disk cache hits", "disk_cache_hits", str),
    ("remote cache hits", "remote_cache_hits", str),
    ("ran remotely", "remote_actions", str),
    ("downloaded", "bytes_fetched", size),
    ("binary", "binary_size", size),
    ("image", "image_size", size),
)


def runs_table(runs: Sequence[Row], *, more: int, width: int | None = None) -> str:
    """A line per run, the latest first.

    Args:
        runs: with the members of `RunRow`.
        more: how many older ones are not among them.
        width: columns of the terminal; None for no limit.
    """
    if not runs:
        return "No such run yet in this checkout.\n"
    columns = [Column("run", right=True), Column("began"), Column("time", right=True), Column("expected", right=True)]
    columns += [Column("variants"), Column("command")]
    cells = [
        (str(run["id"]), run["started"], _span(run), _seconds(run["estimate"]), _counts(run["counts"]), run["command"])
        for run in runs
    ]
    older = f"Not shown: {count(more, 'older run')}.\n" if more else ""
    return (
        f"{table(columns, cells, width=width)}\n{older}./factory history RUN tells more of one, RUN RUN compares two.\n"
    )


def run_page(run: Row, variants: Sequence[Row], stages: Sequence[Row], *, width: int | None = None) -> str:
    """One run: what became of its variants, and of the stages that were worked on."""
    head = f"Run {run['id']}, {run['started']}, {_span(run)}: {run['command']}\n"
    columns = [Column("variant"), Column("result"), Column("time", right=True), Column("expected", right=True)]
    columns += [Column("binary", right=True), Column("image", right=True), Column("binary's digest"), Column("error")]
    rows = [
        (
            row["variant"],
            row["status"],
            _seconds(row["seconds"]),
            _seconds(row["estimate"]),
            _size(row["binary_size"]),
            _size(row["image_size"]),
            (row["binary"] or "")[:12],
            row["error"] or "",
        )
        for row in variants
    ]
    without = "\nIt did not come to its end.\n" if run["ended"] is None else "\nIt had no variant to work on.\n"
    text = head + ("\n" + table(columns, rows, width=width) if rows else without)
    if not stages:
        return text
    worked = [(row["variant"], row["stage"], row["status"], _seconds(row["seconds"])) for row in stages]
    names = [Column("variant"), Column("stage"), Column("result"), Column("time", right=True)]
    return f"{text}\nWorked on:\n\n{table(names, worked, width=width)}"


def changes_table(before: Row, after: Row, changes: Sequence[Row], *, width: int | None = None) -> str:
    """What changed between two runs, a line for each change."""
    head = f"Run {before['id']} ({before['started']}) and run {after['id']} ({after['started']}):\n"
    if before["matrix"] != after["matrix"]:
        head = f"{head}of different matrix files: {before['matrix']} and {after['matrix']}\n"
    if not changes:
        return f"{head}nothing changed.\n"
    columns = [Column("variant"), Column("what"), Column("before"), Column("after")]
    cells = [
        (row["variant"], row["what"], _value(row["what"], row["before"]), _value(row["what"], row["after"]))
        for row in changes
    ]
    return f"{head}\n{table(columns, cells, width=width)}"


def report_page(measures: Sequence[Row], commands: Mapping[str, str]) -> str:
    """What the records progress, a section per variant; what has no record is listed at the end.

    Args:
        measures: with the members of `Measures`.
        commands: variant's id → the command that builds it.
    """
    sections = [
        Section(
            row["variant"],
            (
                *((title, _ABSENT if row[name] is None else show(row[name])) for title, name, show in _MEASURES),
                ("smoke checks", _checks(row["smoke_seconds"])),
            ),
        )
        for row in measures
        if row["compiled"] is not None
    ]
    never = tuple((row["variant"], commands[row["variant"]]) for row in measures if row["compiled"] is None)
    return page("What the records tell", [*sections, Section("Not built: there is no record. This builds it:", never)])


def _checks(seconds: Mapping[str, float]) -> str:
    return "\n".join(f"{duration(spent)}  {name}" for name, spent in seconds.items()) or _ABSENT


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _span(run: Row) -> str:
    if run["seconds"] is not None:
        return duration(run["seconds"])
    return "still works" if run["works"] else "never ended"


def _seconds(value: float | None) -> str:
    return duration(value) if value else ""


def _size(value: int | None) -> str:
    return "" if value is None else size(value)


def _value(what: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int | float):
        return duration(value) if what == "seconds" else size(int(value))
    return str(value)[:_DIGEST] if what in {"binary", "image"} else str(value)


if TYPE_CHECKING:
    import sqlite3


_LATEST = 30


def show_history(asked: Asked, words: Sequence[str], *, json: bool) -> None:
    """Print the latest runs; or one of them; or what changed between two.

    Args:
        asked: where things are, and the matrix file whose runs are listed; of all where it names none.
        words: none, one or two numbers of runs.
        json: print a JSON document.

    Raises:
        HistoryError: the history cannot be read.
        UnknownNameError: there is no such run.
        UsageError: a word is no number.
    """
    numbers = [_number(word) for word in words]
    build = asked.checkout.build
    since = held_since(build)
    with read_history(build / FILE) as connection:
        runs = {run.id: _told(run, since) for run in read_runs(connection)} if connection else {}
        chosen = [_run(number, runs) for number in numbers]
        if not chosen or connection is None:
            name = matrix_name(asked.file, asked.checkout.root) if asked.matrix else ""
            _show_runs([run for run in runs.values() if not name or run.matrix == name], json=json)
        elif len(chosen) == 1:
            _show_run(connection, chosen[0], json=json)
        else:
            _show_changes(connection, chosen[0], chosen[1], json=json)


def _told(run: RunRow, since: str | None) -> RunRow:
    """Say a run that still works from one that was killed: it began when, or after, the checkout's lock was taken."""
    return replace(run, works=run.ended is None and since is not None and run.started >= since)


def _number(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise UsageError(f"{word!r} is no number of a run", remedy="`./factory history` lists the runs")
    return int(word)


def _run(number: int, runs: dict[int, RunRow]) -> RunRow:
    if number not in runs:
        known = f"the latest is {next(iter(runs))}" if runs else "there is none yet in this checkout"
        raise UnknownNameError(f"there is no run {number}; {known}", remedy="`./factory history` lists the runs")
    return runs[number]


def _show_runs(runs: Sequence[RunRow], *, json: bool) -> None:
    rows = [asdict(run) for run in runs]
    if json:
        print_json(rows)
    else:
        write(runs_table(rows[:_LATEST], more=len(rows[_LATEST:]), width=width()))


def _show_run(connection: sqlite3.Connection, run: RunRow, *, json: bool) -> None:
    variants = [asdict(row) for row in read_variants(connection, run.id)]
    stages = [asdict(row) for row in read_stages(connection, run.id)]
    if json:
        print_json({**asdict(run), "variants": variants, "stages": stages})
    else:
        write(run_page(asdict(run), variants, stages, width=width()))


def _show_changes(connection: sqlite3.Connection, before: RunRow, after: RunRow, *, json: bool) -> None:
    found = changes(read_variants(connection, before.id), read_variants(connection, after.id))
    rows = [asdict(change) for change in found]
    if json:
        print_json({"before": asdict(before), "after": asdict(after), "changes": rows})
    else:
        write(changes_table(asdict(before), asdict(after), rows, width=width()))


def show_report(asked: Asked, *, json: bool) -> None:
    """Print what the records of the chosen variants tell."""
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    chosen = asked.choose(asked.load())
    rows = [asdict(measure(variant.id, reached(folder / variant.id))) for variant in chosen]
    if json:
        print_json(rows)
    else:
        write(report_page(rows, {variant.id: build_command(asked, variant.id) for variant in chosen}))


def build_command(asked: Asked, variant: str) -> str:
    """The command that builds a variant of the matrix that was asked for."""
    return shlex.join(
        ["./factory", "build", *(("--matrix", asked.matrix) if asked.matrix else ()), "--variant", variant]
    )
