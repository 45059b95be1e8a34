"""The estimate of a run, from the history of the build folder."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving_factory.catalogue.upstream_files import read_workspace
from serving_factory.errors import HistoryError
from serving_factory.pipeline.budget import Schedule
from serving_factory.pipeline.estimates import (
    NOTHING_TO_DO,
    RunEstimate,
    StageRun,
    Work,
    add_up,
    estimate_variants,
    size_of,
)
from serving_factory.pipeline.events import Event, EventKind, StageName, VariantResult
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import reached, read_record
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import Toolchain


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of the line.

    Args:
        id: its number, counted from 1.
        started: UTC time, ISO 8601.
        ended: the same; None where the run never got to its end: it was killed, or still works.
        command: what the user typed, without the program's name.
        matrix: the matrix file, by its path below the checkout where it is there.
        seconds: wall time of the whole run; None as with `ended`.
        estimate: seconds that were expected; None where nothing was.
        counts: how many variants ended how, `{"built": 3, "failed": 1}`.
        works: whether it still works; the database does not know.
    """

    id: int
    started: str
    ended: str | None
    command: str
    matrix: str
    seconds: float | None
    estimate: float | None
    counts: Mapping[str, int] = field(default_factory=dict)
    works: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRow:
    """What became of one variant in one run.

    Args:
        run: the run's number.
        variant: the variant's id.
        release: the full tag.
        flavour: the flavour.
        level: the level.
        toolchain: what compiled it, in a few words.
        status: how it ended, as `line.results.Status` spells it.
        seconds: spent on it, all stages together.
        estimate: seconds that were expected; None where nothing was.
        binary: sha256 of the binary; None where there is none.
        binary_size: bytes.
        image: the image's id; None where there is none.
        image_size: bytes.
        error: the name of the error's class, where it failed.
    """

    run: int
    variant: str
    release: str
    flavour: str
    level: str
    toolchain: str
    status: str
    seconds: float
    estimate: float | None = None
    binary: str | None = None
    binary_size: int | None = None
    image: str | None = None
    image_size: int | None = None
    error: str | None = None


def is_number(value: object) -> bool:
    """Whether a value can be one of a stage's facts; what is true or false cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool)


FILE = "history.sqlite"
"""The file's name in the build folder."""

_VERSION = 1
_PATIENCE = 10.0  # seconds to wait for another process that writes
_SCHEMA = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, ended TEXT, command TEXT NOT NULL, matrix TEXT NOT NULL,
    seconds REAL, estimate REAL
);
CREATE TABLE variant (
    run INTEGER NOT NULL REFERENCES run (id), variant TEXT NOT NULL, release TEXT NOT NULL, flavour TEXT NOT NULL,
    level TEXT NOT NULL, toolchain TEXT NOT NULL, status TEXT NOT NULL, seconds REAL NOT NULL, estimate REAL,
    binary TEXT, binary_size INTEGER, image TEXT, image_size INTEGER, error TEXT, PRIMARY KEY (run, variant)
);
CREATE TABLE stage (
    run INTEGER NOT NULL REFERENCES run (id), variant TEXT NOT NULL, release TEXT NOT NULL, flavour TEXT NOT NULL,
    toolchain TEXT NOT NULL, stage TEXT NOT NULL, status TEXT NOT NULL, seconds REAL NOT NULL, key TEXT NOT NULL,
    facts TEXT NOT NULL, PRIMARY KEY (run, variant, stage)
);
"""


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, str]:
    """Open the history to write to it; a file that is none is put aside, and a new one begun.

    Returns:
        The connection, and what there is to tell of it: empty, or that the old file was put aside.

    Raises:
        HistoryError: it cannot be written here, or a newer factory has written it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _ready(path), ""
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except sqlite3.DatabaseError as error:
        aside = path.with_name(f"{path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        path.rename(aside)
        return _ready(path), f"the history was broken ({error}); a new one is begun, the old file is now {aside}"


def _ready(path: Path) -> sqlite3.Connection:
    """Connect, and make the tables where there are none yet."""
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _check_version(path, connection, new=True)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("SELECT count(*) FROM run").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(path: Path, connection: sqlite3.Connection, *, new: bool) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > _VERSION or (found < _VERSION and not new):
        raise HistoryError(
            f"the history {path} has format {found}, and this factory knows format {_VERSION}",
            remedy="use the factory that wrote it, or move the file away: a new one is begun",
        )


@contextmanager
def read_history(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the history to read it; None where there is none yet.

    Raises:
        HistoryError: the file is broken, or no history.
    """
    if not path.exists():
        yield None
        return
    connection = None
    try:
        # Not mode=ro: what a crash left half-written is rolled back by the first who opens the file, reader or not.
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_PATIENCE)
        # A run that was ended before it could write anything leaves an empty file.
        empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty:
            _check_version(path, connection, new=False)
        yield None if empty else connection
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    finally:
        if connection is not None:
            connection.close()


def _unusable(path: Path, error: sqlite3.Error) -> HistoryError:
    return HistoryError(
        f"the history {path} cannot be used",
        why=str(error),
        remedy="see who owns it; or move it away: a new one begins",
    )


def read_runs(connection: sqlite3.Connection, *, limit: int | None = None) -> tuple[RunRow, ...]:
    """Read the runs, latest first.

    Args:
        connection: as `read_history` gives it.
        limit: at most so many; None for all.
    """
    counts: dict[int, dict[str, int]] = {}
    for run, status, count in connection.execute("SELECT run, status, count(*) FROM variant GROUP BY run, status"):
        counts.setdefault(run, {})[status] = count
    rows = _rows(connection, "SELECT * FROM run ORDER BY id DESC LIMIT ?", (-1 if limit is None else limit,))
    return tuple(RunRow(**row, counts=counts.get(row["id"], {})) for row in rows)


def read_variants(connection: sqlite3.Connection, run: int) -> tuple[VariantRow, ...]:
    """Read what became of a run's variants."""
    return tuple(
        VariantRow(**row) for row in _rows(connection, "SELECT * FROM variant WHERE run = ? ORDER BY rowid", (run,))
    )


def read_stages(connection: sqlite3.Connection, run: int) -> tuple[StageRun, ...]:
    """Read what became of a run's stages, in the order in which they ended."""
    return _stages(_rows(connection, "SELECT * FROM stage WHERE run = ? ORDER BY rowid", (run,)))


def read_latest(connection: sqlite3.Connection, *, matrix: str, each: int) -> tuple[StageRun, ...]:
    """Read the latest finished runs of every stage of every variant of a matrix, oldest first.

    A build all of whose steps BuildKit had already (as after `clean`) is none: it tells of no work.

    Args:
        connection: as `read_history` gives it.
        matrix: the matrix file, as `RunRow` has it.
        each: how many of them.
    """
    query = (
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY variant, stage ORDER BY run DESC) AS place FROM stage"
        " WHERE status = 'finished'"
        " AND coalesce(json_extract(facts, '$.steps') <> json_extract(facts, '$.cached_steps'), 1)"
        " AND run IN (SELECT id FROM run WHERE matrix = ?)) WHERE place <= ? ORDER BY run"
    )
    rows = _rows(connection, query, (matrix, each))
    return _stages([{name: value for name, value in row.items() if name != "place"} for row in rows])


def _stages(rows: Sequence[dict[str, Any]]) -> tuple[StageRun, ...]:
    found = []
    for row in rows:
        members = {name: value for name, value in row.items() if name != "run"}
        found.append(StageRun(**{**members, "facts": _facts(row["facts"])}))
    return tuple(found)


def _facts(text: str) -> Mapping[str, float]:
    """Read the facts. SQLite has no checksums: what a disk did to a text in it shows only here."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(map(is_number, found.values())):
        raise sqlite3.DatabaseError(f"the facts of a stage make no sense: {text[:80]}")
    return found


def _rows(connection: sqlite3.Connection, query: str, values: Sequence[object]) -> list[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


_COMPARED = ("status", "binary", "binary_size", "image", "image_size", "toolchain", "error")
_NOTABLE = 0.1  # part of the longer time by which two times must differ to be told
_LEAST = 1.0  # seconds: below, a difference is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing about one variant that two runs do not agree in.

    Args:
        variant: the variant's id.
        what: `variant` where only one of the runs has it; else the name of a member of `VariantRow`.
        before: what it was in the first run; None where it was not there.
        after: what it was in the second.
    """

    variant: str
    what: str
    before: str | float | None
    after: str | float | None


def changes(before: Sequence[VariantRow], after: Sequence[VariantRow]) -> tuple[Change, ...]:
    """Compare two runs, variant by variant, in the order of the second.

    Times count as changed where both runs worked on the variant, and they differ by more than 10 % and a second.
    """
    old, new = ({row.variant: row for row in rows} for rows in (before, after))
    found: list[Change] = []
    for variant in dict.fromkeys([*new, *old]):
        first, second = old.get(variant), new.get(variant)
        if first is None or second is None:
            there = [row.status if row else None for row in (first, second)]
            found.append(Change(variant=variant, what="variant", before=there[0], after=there[1]))
            continue
        pairs = {name: (getattr(first, name), getattr(second, name)) for name in _COMPARED}
        if _slower_or_faster(first, second):
            pairs["seconds"] = (first.seconds, second.seconds)
        found += [
            Change(variant=variant, what=name, before=one, after=other)
            for name, (one, other) in pairs.items()
            if one != other
        ]
    return tuple(found)


def _slower_or_faster(first: VariantRow, second: VariantRow) -> bool:
    if {first.status, second.status} != {"built"}:
        return False
    difference = abs(first.seconds - second.seconds)
    return difference > max(_LEAST, _NOTABLE * max(first.seconds, second.seconds))


_WORKS = {EventKind.PROGRESS, EventKind.RETRIED}
_WORKED = {EventKind.FINISHED, EventKind.FAILED, EventKind.CANCELLED}


class Recorder:
    """Writes one run: its beginning, each stage that was worked on as it ends, and what became of the variants.

    Args:
        build: the build folder of the checkout.
        jobs: the variants of the run.
        command: what the user typed, without the program's name.
        matrix: the matrix file, as `RunRow` has it.
        estimate: what the run is expected to take.
    """

    def __init__(
        self,
        build: Path,
        jobs: Sequence[Job],
        *,
        command: str,
        matrix: str,
        estimate: RunEstimate = NOTHING_TO_DO,
    ) -> None:
        self._jobs = {job.recipe.variant.id: job for job in jobs}
        self._expected = estimate.by_variant
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
                "INSERT INTO run (started, command, matrix, estimate) VALUES (?, ?, ?, ?)",
                (_now(), command, matrix, estimate.seconds),
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
            self._write("stage", [{"run": self._run, **asdict(self._stage(job, event, seconds))}])

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

    def _stage(self, job: Job, event: Event, seconds: float) -> StageRun:
        record = read_record(job.folder, event.stage) if event.kind is EventKind.FINISHED else None
        variant = job.recipe.variant
        return StageRun(
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
            estimate=self._expected.get(variant.id),
            binary=binary.outputs.get("sha256") if binary else None,
            binary_size=binary.outputs.get("size") if binary else None,
            image=image.outputs.get("image") if image else None,
            image_size=image.outputs.get("size") if image else None,
            error=type(result.error).__name__ if result.error else None,
        )

    def _write(self, table: str, rows: Sequence[dict[str, object]], *, ended: bool = False) -> None:
        if self._connection is None:
            return
        names = list(rows[0]) if rows else ["run"]
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


_OTHER_SOURCES_DISK = 10**9  # bytes; of a source tree that is not upstream's nothing is known
_EACH = 3  # runs of every stage of every variant: more are not looked at


def estimate_run(
    recipes: Sequence[Recipe],
    runs: Mapping[str, Sequence[StageName]],
    schedule: Schedule,
    build: Path,
    *,
    matrix: str,
) -> RunEstimate:
    """Estimate what a run takes. A history that cannot be read counts as none: the run itself will tell of it.

    Args:
        recipes: of the variants.
        runs: variant's id → the stages that would run.
        schedule: who works when, and with how much.
        build: the build folder of the checkout.
        matrix: the matrix file, as runs are remembered by. Runs of another one estimate nothing: a variant of the same
            name may be made of other sources there, as the sample's are.
    """
    if not any(runs.values()):
        return NOTHING_TO_DO
    past: tuple[StageRun, ...] = ()
    with contextlib.suppress(HistoryError), read_history(build / FILE) as connection:
        past = read_latest(connection, matrix=matrix, each=_EACH) if connection else ()
    turns = {turn.variant: turn for turn in schedule.turns}
    work = [
        _work(recipe, runs.get(recipe.variant.id, ()), turns[recipe.variant.id].share.jobs)
        for recipe in recipes
        if recipe.variant.id in turns
    ]
    return add_up(estimate_variants(work, past), {turn.variant: turn.wave for turn in schedule.turns})


def is_upstreams(recipe: Recipe) -> bool:
    """Whether a variant is made of upstream's sources: of its repository, or a checkout that pins its TensorFlow."""
    if not isinstance(recipe.source, Path):
        return True
    try:
        text = (recipe.source / "WORKSPACE").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    commit = read_workspace(text).get("tensorflow_commit")
    return commit is not None and commit.value == recipe.release.tensorflow_commit


def disk_of(recipe: Recipe) -> int:
    """Estimate the bytes that a variant takes while it is built."""
    return int(size_of(recipe.variant.release).disk) if is_upstreams(recipe) else _OTHER_SOURCES_DISK


def _work(recipe: Recipe, run: Sequence[StageName], jobs: int) -> Work:
    return Work(
        variant=recipe.variant.id,
        release=recipe.variant.release,
        flavour=recipe.variant.flavour.value,
        toolchain=toolchain_words(recipe.toolchain),
        upstream=is_upstreams(recipe),
        offline=recipe.inputs.offline,
        run=tuple(map(str, run)),
        jobs=jobs,
    )
