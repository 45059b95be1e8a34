"""The pages of `history` and `report`. Pure, from values to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving_factory.ui.layout import Column, Section, page, table
from serving_factory.ui.text import count, duration, size

__all__ = ["changes_table", "report_page", "run_page", "runs_table"]

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
    columns = [Column("run", right=True), Column("began"), Column("time", right=True), Column("foretold", right=True)]
    columns += [Column("variants"), Column("command")]
    cells = [
        (str(run["id"]), run["started"], _span(run), _seconds(run["forecast"]), _counts(run["counts"]), run["command"])
        for run in runs
    ]
    older = f"Not shown: {count(more, 'older run')}.\n" if more else ""
    return (
        f"{table(columns, cells, width=width)}\n{older}./factory history RUN tells more of one, RUN RUN compares two.\n"
    )


def run_page(run: Row, variants: Sequence[Row], stages: Sequence[Row], *, width: int | None = None) -> str:
    """One run: what became of its variants, and of the stages that were worked on."""
    head = f"Run {run['id']}, {run['started']}, {_span(run)}: {run['command']}\n"
    columns = [Column("variant"), Column("result"), Column("time", right=True), Column("foretold", right=True)]
    columns += [Column("binary", right=True), Column("image", right=True), Column("binary's digest"), Column("error")]
    rows = [
        (
            row["variant"],
            row["status"],
            _seconds(row["seconds"]),
            _seconds(row["forecast"]),
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
    """What the records tell, a section per variant; what has no record is listed at the end.

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
