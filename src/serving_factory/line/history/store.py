"""The history's file. Reading and writing it, safe under a crash and while others read.

SQLite's own journal (not WAL, which network file systems cannot do) makes each transaction whole or nothing; a reader
waits for the few milliseconds of a writer.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving_factory.errors import HistoryError
from serving_factory.line.history.rows import RunRow, StageRow, VariantRow, is_number

__all__ = ["FILE", "open_for_writing", "read_history", "read_latest", "read_runs", "read_stages", "read_variants"]

FILE = "history.sqlite"
"""The file's name in the build folder."""

_VERSION = 1
_PATIENCE = 10.0  # seconds to wait for another process that writes
_SCHEMA = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, ended TEXT, command TEXT NOT NULL, matrix TEXT NOT NULL,
    seconds REAL, forecast REAL
);
CREATE TABLE variant (
    run INTEGER NOT NULL REFERENCES run (id), variant TEXT NOT NULL, release TEXT NOT NULL, flavour TEXT NOT NULL,
    level TEXT NOT NULL, toolchain TEXT NOT NULL, status TEXT NOT NULL, seconds REAL NOT NULL, forecast REAL,
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


def read_stages(connection: sqlite3.Connection, run: int) -> tuple[StageRow, ...]:
    """Read what became of a run's stages, in the order in which they ended."""
    return _stages(_rows(connection, "SELECT * FROM stage WHERE run = ? ORDER BY rowid", (run,)))


def read_latest(connection: sqlite3.Connection, *, matrix: str, each: int) -> tuple[StageRow, ...]:
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


def _stages(rows: Sequence[dict[str, Any]]) -> tuple[StageRow, ...]:
    return tuple(StageRow(**{**row, "facts": _facts(row["facts"])}) for row in rows)


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
