"""Listens to a run, and writes the history. Whatever happens to the history, the build goes on."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from serving_factory.errors import HistoryError
from serving_factory.line.events import Event, EventKind, StageName
from serving_factory.line.forecast import NOTHING_TO_DO, Outlook
from serving_factory.line.history.rows import StageRow, VariantRow, is_number
from serving_factory.line.history.store import FILE, open_for_writing
from serving_factory.line.job import Job
from serving_factory.line.records import reached, read_record
from serving_factory.line.results import VariantResult
from serving_factory.recipes.toolchain import Toolchain

__all__ = ["Recorder", "numbers", "toolchain_words"]

_WORKS = {EventKind.PROGRESS, EventKind.RETRIED}
_WORKED = {EventKind.FINISHED, EventKind.FAILED, EventKind.CANCELLED}


class Recorder:
    """Writes one run: its beginning, each stage that was worked on as it ends, and what became of the variants.

    Args:
        build: the build folder of the checkout.
        jobs: the variants of the run.
        command: what the user typed, without the program's name.
        matrix: the matrix file, as `RunRow` has it.
        outlook: what the run is expected to take.
    """

    def __init__(
        self,
        build: Path,
        jobs: Sequence[Job],
        *,
        command: str,
        matrix: str,
        outlook: Outlook = NOTHING_TO_DO,
    ) -> None:
        self._jobs = {job.recipe.variant.id: job for job in jobs}
        self._foretold = outlook.seconds
        self._began = time.monotonic()
        self._started: dict[tuple[str, StageName], float] = {}
        self._lock = threading.Lock()
        self._run = 0
        self._connection: sqlite3.Connection | None = None
        self.trouble = ""
        """What there is to tell of the history itself; empty where all went well."""
        try:
            self._connection, self.trouble = open_for_writing(build / FILE)
            cursor = self._connection.execute(
                "INSERT INTO run (started, command, matrix, forecast) VALUES (?, ?, ?, ?)",
                (_now(), command, matrix, outlook.total.seconds),
            )
            self._run = int(cursor.lastrowid or 0)
        except (HistoryError, sqlite3.Error, OSError) as error:
            self._give_up(error)

    def handle(self, event: Event) -> None:
        """Take in an event; from any thread (this is the line's `Emit`)."""
        now = time.monotonic()
        with self._lock:
            began = self._started.pop((event.variant, event.stage), None)
            if event.kind is EventKind.STARTED or (event.kind in _WORKS and began is not None):
                self._started[event.variant, event.stage] = now if began is None else began
            job = self._jobs.get(event.variant)
            if began is None or event.kind not in _WORKED or job is None:
                return
            seconds = event.seconds if event.seconds is not None else now - began
            self._write("stage", [asdict(self._stage(job, event, seconds))])

    def end(self, results: Sequence[VariantResult]) -> None:
        """Write what became of the variants, and that the run came to its end."""
        rows = [
            asdict(self._variant(self._jobs[result.variant], result))
            for result in results
            if result.variant in self._jobs
        ]
        with self._lock:
            self._write("variant", rows, ended=True)
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _stage(self, job: Job, event: Event, seconds: float) -> StageRow:
        record = read_record(job.folder, event.stage) if event.kind is EventKind.FINISHED else None
        variant = job.recipe.variant
        return StageRow(
            run=self._run,
            variant=variant.id,
            release=variant.release,
            flavour=variant.flavour.value,
            toolchain=toolchain_words(job.recipe.toolchain),
            stage=event.stage.value,
            status=event.kind.value,
            seconds=round(seconds, 3),
            key=record.key if record else "",
            facts=numbers(record.outputs) if record else {},
        )

    def _variant(self, job: Job, result: VariantResult) -> VariantRow:
        records = reached(job.folder)
        binary, image = records.get(StageName.EXTRACT), records.get(StageName.PACKAGE)
        variant = job.recipe.variant
        return VariantRow(
            run=self._run,
            variant=variant.id,
            release=variant.release,
            flavour=variant.flavour.value,
            level=variant.level.value,
            toolchain=toolchain_words(job.recipe.toolchain),
            status=result.status.value,
            seconds=result.seconds,
            forecast=self._foretold.get(variant.id),
            binary=binary.outputs.get("sha256") if binary else None,
            binary_size=binary.outputs.get("size") if binary else None,
            image=image.outputs.get("image") if image else None,
            image_size=image.outputs.get("size") if image else None,
            error=type(result.error).__name__ if result.error else None,
        )

    def _write(self, table: str, rows: Sequence[dict[str, object]], *, ended: bool = False) -> None:
        if self._connection is None:
            return
        names = [field.name for field in fields(StageRow if table == "stage" else VariantRow)]
        # The names are those of our own dataclasses.
        insert = f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(insert, [[_plain(row[name]) for name in names] for row in rows])
                if ended:
                    seconds = round(time.monotonic() - self._began, 3)
                    self._connection.execute(
                        "UPDATE run SET ended = ?, seconds = ? WHERE id = ?", (_now(), seconds, self._run)
                    )
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.trouble = f"this run is not in the history: {error}"
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def toolchain_words(toolchain: Toolchain) -> str:
    """Name a toolchain in a few words. Two with the same words may differ in their packages."""
    return f"{toolchain.base} {toolchain.compiler} bazel-{toolchain.bazel.version}"


def numbers(outputs: Mapping[str, object]) -> dict[str, float]:
    """Pick the numbers out of a record's outputs; those of a table in it as `table.name`."""
    found: dict[str, float] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in value.items() if is_number(number)}
        elif is_number(value):
            found[name] = value  # type: ignore[assignment]  # a number, as was just seen
    return found


def _plain(value: object) -> object:
    return json.dumps(value) if isinstance(value, Mapping) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
