"""line/history: what is written, and what survives."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.errors import CompileError, HistoryError
from serving_factory.pipeline.budget import one_by_one
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, Estimate, RunEstimate, StageRun, add_up
from serving_factory.pipeline.events import Event, EventKind, StageName, Status, VariantResult
from serving_factory.pipeline.history import (
    FILE,
    Recorder,
    VariantRow,
    changes,
    estimate_run,
    numbers,
    open_for_writing,
    read_history,
    read_latest,
    read_runs,
    read_stages,
    read_variants,
)
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import Record, record_path, write_record
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load

V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    target = {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]}
    matrix = load(tmp_path, document(image={"repository": "r", "aliases": ["{id}"]}, targets={"t": target}))
    site = Site(build=tmp_path / "variants", models=tmp_path)
    return [Job(recipe=recipe_for(variant, matrix), site=site) for variant in matrix.variants]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return tmp_path / "build"


def recorder(
    build: Path, jobs: list[Job], *, estimate: RunEstimate = NOTHING_TO_DO, matrix: str = "matrix.yaml"
) -> Recorder:
    return Recorder(build, jobs, command="build --release 2.19.1", matrix=matrix, estimate=estimate)


def work(listener: Recorder, job: Job, stage: StageName = StageName.COMPILE, seconds: float = 2.5, **more: int) -> None:
    """Have a stage work and leave a record, as the line does."""
    variant = job.recipe.variant.id
    outputs: dict[str, object] = {"actions": 53, "runners": {"worker": 3}, "sha256": f"of {variant}", **more}
    outputs |= {"size": 7, "image": "sha256:i"}
    listener.handle(Event(variant=variant, stage=stage, kind=EventKind.STARTED))
    record = Record(variant=variant, stage=stage, key="k", started="then", seconds=seconds, outputs=outputs)
    write_record(job.folder, record)
    listener.handle(Event(variant=variant, stage=stage, kind=EventKind.FINISHED, seconds=seconds))


def result(job: Job, status: Status = Status.BUILT, **more: object) -> VariantResult:
    return VariantResult(variant=job.recipe.variant.id, status=status, seconds=3.0, **more)  # type: ignore[arg-type]


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_a_run_is_remembered(build: Path, jobs: list[Job]) -> None:
    expected = Estimate(variant=V1, seconds=9.0, memory=None, download=None, basis=Basis.VARIANT)
    listener = recorder(build, jobs, estimate=add_up([expected]))
    for stage in (StageName.COMPILE, StageName.EXTRACT, StageName.INSPECT, StageName.PACKAGE):
        work(listener, jobs[0], stage)
    error = CompileError("no")
    listener.handle(Event(variant=V3, stage=StageName.COMPILE, kind=EventKind.STARTED))
    listener.handle(Event(variant=V3, stage=StageName.COMPILE, kind=EventKind.FAILED, text="no"))
    listener.handle(Event(variant=V3, stage=StageName.EXTRACT, kind=EventKind.SKIPPED))
    listener.end([result(jobs[0]), result(jobs[1], Status.FAILED, error=error)])
    assert listener.trouble == ""
    with read_history(build / FILE) as connection:
        assert connection
        (run,) = read_runs(connection)
        first, second = read_variants(connection, run.id)
        stages = read_stages(connection, run.id)
    assert (run.id, run.command, run.estimate, run.counts) == (
        1,
        "build --release 2.19.1",
        9.0,
        {"built": 1, "failed": 1},
    )
    assert run.ended
    assert (first.variant, first.status, first.estimate, first.binary, first.image) == (
        V1,
        "built",
        9.0,
        f"of {V1}",
        "sha256:i",
    )
    assert (first.binary_size, first.image_size, first.level) == (7, 7, "x86-64")
    assert first.toolchain.startswith("ubuntu:")
    assert (second.status, second.error, second.binary) == ("failed", "CompileError", None)
    assert [(row.variant, row.stage, row.status) for row in stages] == [
        (V1, "compile", "finished"),
        (V1, "extract", "finished"),
        (V1, "inspect", "finished"),
        (V1, "package", "finished"),
        (V3, "compile", "failed"),
    ], "a stage that was not worked on has no row"
    assert (stages[0].key, stages[0].seconds) == ("k", 2.5)
    assert stages[0].facts == {"actions": 53, "runners.worker": 3, "size": 7}


def test_a_variant_that_failed_has_no_binary_of_an_earlier_run(build: Path, jobs: list[Job]) -> None:
    stages = (StageName.COMPILE, StageName.EXTRACT, StageName.INSPECT, StageName.PACKAGE)
    listener = recorder(build, jobs)
    for stage in stages:
        work(listener, jobs[0], stage)
    record_path(jobs[0].folder, StageName.COMPILE).unlink()
    listener.end([result(jobs[0], Status.FAILED, error=CompileError("no"))])
    with read_history(build / FILE) as connection:
        assert connection
        (row,) = read_variants(connection, 1)
    assert (row.binary, row.binary_size, row.image, row.image_size) == (None, None, None, None)


def test_variants_may_run_at_once(build: Path, jobs: list[Job]) -> None:
    listener = recorder(build, jobs)
    threads = [threading.Thread(target=work, args=(listener, job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.end([result(job) for job in jobs])
    assert listener.trouble == ""
    with read_history(build / FILE) as connection:
        assert connection
        assert {row.variant for row in read_stages(connection, 1)} == {V1, V3}


def test_a_stage_that_was_tried_again_took_all_of_its_time(build: Path, jobs: list[Job]) -> None:
    listener = recorder(build, jobs[:1])
    variant = jobs[0].recipe.variant.id
    for kind in (EventKind.STARTED, EventKind.RETRIED, EventKind.FAILED):
        listener.handle(Event(variant=variant, stage=StageName.COMPILE, kind=kind, text="no"))
    listener.end([result(jobs[0], Status.FAILED)])
    assert [row.status for row in stages_of(build, 1)] == ["failed"]


def test_numbers_are_picked_and_nothing_else() -> None:
    outputs = {"a": 1, "b": 2.5, "c": "3", "d": None, "e": True, "f": {"g": 4, "h": "5"}, "i": [6]}
    assert numbers(outputs) == {"a": 1, "b": 2.5, "f.g": 4}


def test_there_may_be_no_history_yet(build: Path) -> None:
    with read_history(build / FILE) as connection:
        assert connection is None
    assert not build.exists()


def test_only_the_latest_runs_of_a_stage_are_looked_at(build: Path, jobs: list[Job]) -> None:
    for seconds in (1.0, 2.0, 3.0):
        listener = recorder(build, jobs)
        work(listener, jobs[0], seconds=seconds)
        listener.end([result(jobs[0])])
    with read_history(build / FILE) as connection:
        assert connection
        assert [row.seconds for row in read_latest(connection, matrix="matrix.yaml", each=2)] == [2.0, 3.0]
        assert [run.id for run in read_runs(connection, limit=2)] == [3, 2]


def test_the_estimate_comes_from_the_history(build: Path, jobs: list[Job]) -> None:
    recipes = [job.recipe for job in jobs]
    runs = dict.fromkeys((V1, V3), (StageName.COMPILE,))
    turns = one_by_one([V1, V3])

    def found() -> RunEstimate:
        return estimate_run(recipes, runs, turns, build, matrix="matrix.yaml")

    assert [one.basis for one in found().variants] == [Basis.ESTIMATE] * 2
    assert estimate_run(recipes, {V1: ()}, turns, build, matrix="matrix.yaml") == NOTHING_TO_DO
    listener = recorder(build, jobs)
    work(listener, jobs[0])
    listener.end([result(jobs[0])])
    assert [(one.basis, one.seconds) for one in found().variants] == [(Basis.VARIANT, 2.5), (Basis.FLAVOUR, 2.5)]
    (build / FILE).write_bytes(b"no database" * 100)
    assert found().variants[0].basis is Basis.ESTIMATE


def test_a_compile_that_buildkit_had_already_foretells_nothing(build: Path, jobs: list[Job]) -> None:
    recipes, runs, turns = [jobs[0].recipe], {V1: (StageName.COMPILE,)}, one_by_one([V1])
    for seconds, cached in ((3600.0, 2), (1.5, 9), (1.4, 9)):
        listener = recorder(build, jobs)
        work(listener, jobs[0], seconds=seconds, steps=9, cached_steps=cached)
        listener.end([result(jobs[0])])
    (found,) = estimate_run(recipes, runs, turns, build, matrix="matrix.yaml").variants
    assert found.seconds == 3600.0


def test_runs_of_another_matrix_foretell_nothing(build: Path, jobs: list[Job]) -> None:
    listener = recorder(build, jobs, matrix="samples/matrix.yaml")
    work(listener, jobs[0])
    listener.end([result(jobs[0])])
    recipes, runs, turns = [jobs[0].recipe], {V1: (StageName.COMPILE,)}, one_by_one([V1])
    (small,) = estimate_run(recipes, runs, turns, build, matrix="samples/matrix.yaml").variants
    (large,) = estimate_run(recipes, runs, turns, build, matrix="matrix.yaml").variants
    assert (small.basis, large.basis) == (Basis.VARIANT, Basis.ESTIMATE)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_broken_file_is_put_aside_and_told(build: Path, jobs: list[Job]) -> None:
    build.mkdir()
    (build / FILE).write_bytes(b"no database at all, and long enough to look like one" * 100)
    with pytest.raises(HistoryError, match="cannot be used"), read_history(build / FILE):
        pass
    listener = recorder(build, jobs)
    listener.end([result(jobs[0])])
    assert "the history was broken" in listener.trouble
    (aside,) = build.glob(f"{FILE}.broken-*")
    assert aside.read_bytes().startswith(b"no database")
    assert str(aside) in listener.trouble
    with read_history(build / FILE) as connection:
        assert connection
        assert len(read_runs(connection)) == 1


def test_a_file_cut_short_is_put_aside(build: Path, jobs: list[Job]) -> None:
    recorder(build, jobs).end([result(job) for job in jobs])
    whole = (build / FILE).read_bytes()
    (build / FILE).write_bytes(whole[:5000])
    listener = recorder(build, jobs)
    assert "the history was broken" in listener.trouble
    listener.end([])


def test_a_history_that_cannot_be_written_stops_no_build(build: Path, jobs: list[Job]) -> None:
    (build / FILE).mkdir(parents=True)
    listener = recorder(build, jobs)
    work(listener, jobs[0])
    listener.end([result(jobs[0])])
    assert "this run is not in the history" in listener.trouble


def test_a_history_that_goes_away_in_the_middle_stops_no_build(
    build: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = recorder(build, jobs)
    monkeypatch.setattr("serving_factory.pipeline.history._plain", lambda _value: object())
    work(listener, jobs[0])
    work(listener, jobs[1])
    listener.end([result(jobs[0])])
    assert "this run is not in the history" in listener.trouble


def test_a_history_of_a_newer_factory_is_left_alone(build: Path, jobs: list[Job]) -> None:
    recorder(build, jobs).end([])
    connection = sqlite3.connect(build / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HistoryError, match="format 99"), read_history(build / FILE):
        pass
    listener = recorder(build, jobs)
    assert "format 99" in listener.trouble
    listener.end([])
    assert list(build.glob("*.broken-*")) == []


def test_a_file_in_which_nothing_was_ever_written_is_no_history(build: Path, jobs: list[Job]) -> None:
    build.mkdir()
    (build / FILE).touch()
    with read_history(build / FILE) as connection:
        assert connection is None
    recorder(build, jobs).end([result(jobs[0])])
    with read_history(build / FILE) as connection:
        assert connection
        assert len(read_runs(connection)) == 1


def test_a_database_of_somebody_elses_is_told_and_left_alone(build: Path, jobs: list[Job]) -> None:
    build.mkdir()
    connection = sqlite3.connect(build / FILE)
    connection.execute("CREATE TABLE run (id INTEGER)")
    connection.close()
    before = (build / FILE).read_bytes()
    with pytest.raises(HistoryError, match="format 0"), read_history(build / FILE):
        pass
    listener = recorder(build, jobs)
    listener.end([])
    assert "this run is not in the history" in listener.trouble
    assert (build / FILE).read_bytes() == before


def stages_of(build: Path, run: int) -> tuple[StageRun, ...]:
    with read_history(build / FILE) as connection:
        return read_stages(connection, run) if connection else ()


@pytest.mark.parametrize("facts", ["{", "[]", '{"peak_memory_bytes": "much"}', '{"bytes_fetched": true}'])
def test_facts_that_make_no_sense_stop_no_build(build: Path, jobs: list[Job], facts: str) -> None:
    listener = recorder(build, jobs)
    work(listener, jobs[0])
    listener.end([result(jobs[0])])
    connection = sqlite3.connect(build / FILE)
    with connection:
        connection.execute("UPDATE stage SET facts = ?", (facts,))
    connection.close()
    recipes, runs, turns = [jobs[0].recipe], {V1: (StageName.COMPILE,)}, one_by_one([V1])
    assert estimate_run(recipes, runs, turns, build, matrix="matrix.yaml").variants[0].basis is Basis.ESTIMATE
    with pytest.raises(HistoryError, match="cannot be used"):
        stages_of(build, 1)


def test_a_kill_in_the_middle_of_writing_leaves_whole_rows_and_the_next_run_goes_on(
    build: Path, jobs: list[Job]
) -> None:
    recorder(build, jobs).end([result(jobs[0])])
    script = """
        import os, signal, sys
        from pathlib import Path
        from serving_factory.pipeline.history import open_for_writing
        connection, _ = open_for_writing(Path(sys.argv[1]))
        connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(3000):
            connection.execute("INSERT INTO run (started, command, matrix) VALUES ('now', ?, '')", ("x" * 500,))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(build / FILE)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (build / f"{FILE}-journal").exists(), "it was in the middle of it"
    with read_history(build / FILE) as connection:
        assert connection
        assert len(read_runs(connection)) == 1
    listener = recorder(build, jobs)
    listener.end([result(jobs[0])])
    assert listener.trouble == ""


def test_a_run_that_never_ended_is_seen_as_such(build: Path, jobs: list[Job]) -> None:
    listener = recorder(build, jobs)
    work(listener, jobs[0])
    with read_history(build / FILE) as connection:
        assert connection
        (run,) = read_runs(connection)
        assert (run.ended, run.seconds, run.counts) == (None, None, {})
        assert [row.variant for row in read_stages(connection, run.id)] == [V1], "what was done is there already"
    listener.end([])


def test_two_read_while_one_writes(build: Path, jobs: list[Job]) -> None:
    recorder(build, jobs).end([result(jobs[0])])
    writer, _ = open_for_writing(build / FILE)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO run (started, command, matrix) VALUES ('now', 'c', 'm')")
    with read_history(build / FILE) as first, read_history(build / FILE) as second:
        assert first
        assert second
        assert len(read_runs(first)) == len(read_runs(second)) == 1
    writer.execute("COMMIT")
    writer.close()
    with read_history(build / FILE) as connection:
        assert connection
        assert len(read_runs(connection)) == 2


# --- what changed -----------------------------------------------------------------------------------------------------

ROW = VariantRow(
    run=1,
    variant=V1,
    release="2.19.1",
    flavour="cpu",
    level="x86-64",
    toolchain="gcc",
    status="built",
    seconds=100.0,
    binary="b1",
    binary_size=5,
    image="i1",
    image_size=6,
)


def compared(first: VariantRow, second: VariantRow) -> list[tuple[str, object, object]]:
    return [(change.what, change.before, change.after) for change in changes([first], [second])]


def test_what_changed_between_two_runs() -> None:
    assert compared(ROW, ROW) == []
    assert compared(ROW, replace(ROW, status="failed", error="CompileError", binary=None, toolchain="clang")) == [
        ("status", "built", "failed"),
        ("binary", "b1", None),
        ("toolchain", "gcc", "clang"),
        ("error", None, "CompileError"),
    ]
    assert compared(ROW, replace(ROW, binary_size=9, image="i2", image_size=8)) == [
        ("binary_size", 5, 9),
        ("image", "i1", "i2"),
        ("image_size", 6, 8),
    ]


@pytest.mark.parametrize(("seconds", "told"), [(109.0, False), (120.0, True), (85.0, True), (100.5, False)])
def test_times_are_told_where_they_differ_by_much(seconds: float, *, told: bool) -> None:
    assert bool(compared(ROW, replace(ROW, seconds=seconds))) == told
    assert compared(ROW, replace(ROW, seconds=seconds, status="up-to-date")) == [("status", "built", "up-to-date")]


def test_short_times_are_noise() -> None:
    assert compared(replace(ROW, seconds=0.1), replace(ROW, seconds=0.9)) == []


def test_a_variant_of_one_run_alone_is_told() -> None:
    other = replace(ROW, variant=V3)
    assert [(one.variant, one.what, one.before, one.after) for one in changes([ROW], [other])] == [
        (V3, "variant", None, "built"),
        (V1, "variant", "built", None),
    ]


def test_rows_are_json(build: Path, jobs: list[Job]) -> None:
    listener = recorder(build, jobs)
    work(listener, jobs[0])
    listener.end([])
    connection = sqlite3.connect(build / FILE)
    (facts,) = connection.execute("SELECT facts FROM stage").fetchone()
    connection.close()
    assert json.loads(facts)["actions"] == 53
