"""`history` and `report`: what earlier runs did, and what the records tell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import UnknownNameError, UsageError
from serving_factory.line.history.changes import changes
from serving_factory.line.history.rows import RunRow
from serving_factory.line.history.store import FILE, read_history, read_runs, read_stages, read_variants
from serving_factory.line.lock import held_since
from serving_factory.line.measures import measure
from serving_factory.line.place import build_folder, matrix_name
from serving_factory.line.records import reached
from serving_factory.ui import history as pages

if TYPE_CHECKING:
    import sqlite3

__all__ = ["build_command", "show_history", "show_report"]

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
    """Tell a run that still works from one that was killed: it began when, or after, the checkout's lock was taken."""
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
        write(pages.runs_table(rows[:_LATEST], more=len(rows[_LATEST:]), width=width()))


def _show_run(connection: sqlite3.Connection, run: RunRow, *, json: bool) -> None:
    variants = [asdict(row) for row in read_variants(connection, run.id)]
    stages = [asdict(row) for row in read_stages(connection, run.id)]
    if json:
        print_json({**asdict(run), "variants": variants, "stages": stages})
    else:
        write(pages.run_page(asdict(run), variants, stages, width=width()))


def _show_changes(connection: sqlite3.Connection, before: RunRow, after: RunRow, *, json: bool) -> None:
    found = changes(read_variants(connection, before.id), read_variants(connection, after.id))
    rows = [asdict(change) for change in found]
    if json:
        print_json({"before": asdict(before), "after": asdict(after), "changes": rows})
    else:
        write(pages.changes_table(asdict(before), asdict(after), rows, width=width()))


def show_report(asked: Asked, *, json: bool) -> None:
    """Print what the records of the chosen variants tell."""
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    chosen = asked.choose(asked.load())
    rows = [asdict(measure(variant.id, reached(folder / variant.id))) for variant in chosen]
    if json:
        print_json(rows)
    else:
        write(pages.report_page(rows, {variant.id: build_command(asked, variant.id) for variant in chosen}))


def build_command(asked: Asked, variant: str) -> str:
    """The command that builds a variant of the matrix that was asked for."""
    return shlex.join(
        ["./factory", "build", *(("--matrix", asked.matrix) if asked.matrix else ()), "--variant", variant]
    )
