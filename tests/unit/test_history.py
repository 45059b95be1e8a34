"""pipeline/history: what is written, what survives, and what later runs are estimated from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.errors import CompileError, HistoryError
from serving_factory.pipeline.budget import one_by_one
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, Estimate, RunEstimate, add_up
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult
from serving_factory.pipeline.history import Recorder, VariantRun, changes, estimate_run, numbers, read_run, read_runs
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import record_path, write_record
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load
from .stage_records import OBSTACLES, record

V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"
COMPILE = "compile"


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


def work(recording: Recorder, job: Job, stage: str = COMPILE, seconds: float = 2.5, **more: int) -> None:
    """Have a stage work and leave a record, as the pipeline does."""
    variant = job.recipe.variant.id
    changes: dict[str, Any] = {"actions": 53, "runners": {"worker": 3}, **more} if stage == COMPILE else {}
    recording.handle(Event(variant=variant, stage=stage, kind=EventKind.STARTED))
    recording.handle(Event(variant=variant, stage=stage, kind=EventKind.PROGRESS, text="1/2 Compiling x.cc"))
    write_record(job.folder, record(stage, variant=variant, seconds=seconds, **changes))
    recording.handle(Event(variant=variant, stage=stage, kind=EventKind.FINISHED, seconds=seconds))


def result(job: Job, status: Status = Status.BUILT, **more: object) -> VariantResult:
    return VariantResult(variant=job.recipe.variant.id, status=status, seconds=3.0, **more)  # type: ignore[arg-type]


def record_run(build: Path, job: Job, **how: object) -> None:
    """Record a whole run of one variant that compiles."""
    recording = recorder(build, [job], matrix=str(how.pop("matrix", "matrix.yaml")))
    work(recording, job, **how)  # type: ignore[arg-type]
    recording.end([result(job)])
    assert recording.trouble == ""


def file_of(build: Path, run: int = 1) -> Path:
    return build / "history" / f"{run}.jsonl"


def ids(build: Path) -> list[int]:
    return [run.id for run in read_runs(build)[0]]


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_a_run_is_recorded(build: Path, jobs: list[Job]) -> None:
    expected = Estimate(variant=V1, seconds=9.0, memory=None, download=None, basis=Basis.VARIANT)
    recording = recorder(build, jobs, estimate=add_up([expected]))
    for stage in (COMPILE, "extract", "libraries", "inspect", "package"):
        work(recording, jobs[0], stage)
    recording.handle(Event(variant=V3, stage=COMPILE, kind=EventKind.STARTED))
    recording.handle(Event(variant=V3, stage=COMPILE, kind=EventKind.FAILED, text="no", seconds=7.5))
    recording.handle(Event(variant=V3, stage="extract", kind=EventKind.SKIPPED))
    recording.end([result(jobs[0]), result(jobs[1], Status.FAILED, error=CompileError("no"))])
    assert recording.trouble == ""
    run = read_run(build, 1)
    assert (run.command, run.matrix, run.estimate) == ("build --release 2.19.1", "matrix.yaml", 9.0)
    assert run.counts == {"built": 1, "failed": 1}
    assert run.ended
    assert run.damaged == 0
    first, second = run.variants
    assert (first.variant, first.status, first.estimate, first.level) == (V1, "built", 9.0, "x86-64")
    assert (first.binary, first.binary_size, first.image, first.image_size) == ("b" * 64, 7, "sha256:image", 9)
    assert first.toolchain.startswith("ubuntu:")
    assert (second.status, second.error, second.binary) == ("failed", "CompileError", None)
    assert [(one.variant, one.stage, one.status) for one in run.stages] == [
        *((V1, stage, "finished") for stage in ("compile", "extract", "libraries", "inspect", "package")),
        (V3, "compile", "failed"),
    ], "a stage that did not run is not among them"
    assert (run.stages[0].key, run.stages[0].seconds) == ("k", 2.5)
    assert run.stages[0].facts == {"actions": 53, "runners.worker": 3, "steps": 3, "cached_steps": 1}


def test_the_file_holds_the_events_of_json_lines_but_for_progress(build: Path, jobs: list[Job]) -> None:
    record_run(build, jobs[0])
    lines = [json.loads(line) for line in file_of(build).read_text("utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["run", "started", "finished", "summary"]
    assert {"variant", "stage", "seconds", "time"} <= lines[2].keys()


def test_a_failed_variant_has_no_binary_of_an_earlier_run(build: Path, jobs: list[Job]) -> None:
    recording = recorder(build, jobs)
    for stage in (COMPILE, "extract", "libraries", "inspect", "package"):
        work(recording, jobs[0], stage)
    record_path(jobs[0].folder, COMPILE).unlink()
    recording.end([result(jobs[0], Status.FAILED, error=CompileError("no"))])
    (one,) = read_run(build, 1).variants
    assert (one.binary, one.binary_size, one.image, one.image_size) == (None, None, None, None)


def test_variants_may_run_at_once(build: Path, jobs: list[Job]) -> None:
    recording = recorder(build, jobs)
    threads = [threading.Thread(target=work, args=(recording, job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recording.end([result(job) for job in jobs])
    assert {one.variant for one in read_run(build, 1).stages} == {V1, V3}


def test_several_runs_at_once_have_a_file_each(build: Path, jobs: list[Job]) -> None:
    first, second = recorder(build, jobs[:1]), recorder(build, jobs[1:])
    work(second, jobs[1])
    work(first, jobs[0])
    first.end([result(jobs[0])])
    second.end([result(jobs[1])])
    assert [[one.variant for one in read_run(build, run).stages] for run in (1, 2)] == [[V1], [V3]]
    begun = []
    threads = [threading.Thread(target=lambda: begun.append(recorder(build, jobs))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(build) == list(range(10, 0, -1))
    assert [one.trouble for one in begun] == [""] * 8


def test_numbers_are_picked_and_nothing_else() -> None:
    outputs = {"a": 1, "b": 2.5, "c": "3", "d": None, "e": True, "f": {"g": 4, "h": "5"}, "i": [6], "j": float("inf")}
    assert numbers(outputs) == {"a": 1, "b": 2.5, "f.g": 4}


def test_there_may_be_no_history_yet(build: Path) -> None:
    assert read_runs(build) == ((), ())
    assert not build.exists()


def test_only_the_latest_runs_are_kept(build: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.pipeline.history._KEPT", 2)
    for _ in range(4):
        record_run(build, jobs[0])
    assert ids(build) == [4, 3]


# --- estimates --------------------------------------------------------------------------------------------------------


def estimated(build: Path, *jobs: Job, matrix: str = "matrix.yaml") -> list[tuple[Basis, float | None]]:
    variants = [job.recipe.variant.id for job in jobs]
    runs, turns = dict.fromkeys(variants, (COMPILE,)), one_by_one(variants)
    found = estimate_run([job.recipe for job in jobs], runs, turns, build, matrix=matrix)
    return [(one.basis, one.seconds) for one in found.variants]


def test_the_estimate_comes_from_earlier_runs(build: Path, jobs: list[Job]) -> None:
    assert [basis for basis, _ in estimated(build, *jobs)] == [Basis.ESTIMATE] * 2
    turns = one_by_one([V1])
    assert estimate_run([jobs[0].recipe], {V1: ()}, turns, build, matrix="matrix.yaml") == NOTHING_TO_DO
    record_run(build, jobs[0])
    assert estimated(build, *jobs) == [(Basis.VARIANT, 2.5), (Basis.FLAVOUR, 2.5)]
    file_of(build).write_bytes(b"garbage" * 100)
    assert estimated(build, *jobs)[0][0] is Basis.ESTIMATE


def test_a_stage_counts_although_its_run_never_ended(build: Path, jobs: list[Job]) -> None:
    work(recorder(build, jobs), jobs[0])
    assert estimated(build, jobs[0]) == [(Basis.VARIANT, 2.5)]


def test_a_compile_that_buildkit_had_already_says_nothing(build: Path, jobs: list[Job]) -> None:
    for seconds, cached in ((3600.0, 2), (1.5, 9), (1.4, 9)):
        record_run(build, jobs[0], seconds=seconds, steps=9, cached_steps=cached)
    assert estimated(build, jobs[0]) == [(Basis.VARIANT, 3600.0)]


def test_runs_of_another_matrix_say_nothing(build: Path, jobs: list[Job]) -> None:
    record_run(build, jobs[0], matrix="samples/matrix.yaml")
    assert estimated(build, jobs[0], matrix="samples/matrix.yaml")[0][0] is Basis.VARIANT
    assert estimated(build, jobs[0])[0][0] is Basis.ESTIMATE


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 5000,
        b"[1]\n",
        b'"run"\n',
        b'{"event": "run"}\n',
        b'{"event": "run", "format": 1, "time": "2026-01-31T23:39:55.800Z", "command": 7, "matrix": "m"}\n',
        b'{"event": "run", "format": 1, "time": "then", "command": "build", "matrix": "m"}\n',
        b"[" * 9000 + b"\n",
        b'{"event": "x',
    ],
    ids=range(9),
)
def test_a_file_of_garbage_is_one_note_and_no_run(build: Path, jobs: list[Job], content: bytes) -> None:
    record_run(build, jobs[0])
    file_of(build, 2).write_bytes(content)
    record_run(build, jobs[0])
    runs, (note,) = read_runs(build)
    assert [run.id for run in runs] == [3, 1]
    assert str(file_of(build, 2)) in note
    assert "\n" not in note
    with pytest.raises(HistoryError, match="run 2 cannot be read"):
        read_run(build, 2)
    assert estimated(build, jobs[0]) == [(Basis.VARIANT, 2.5)]


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[]",
        b"{}",
        b"[" * 9000,
        b'{"event": "finished", "variant": "unknown", "stage": "compile", "seconds": 1}',
        b'{"event": "finished", "variant": "2.19.1-cpu-v1", "stage": "compile", "seconds": "much"}',
        b'{"event": "finished", "variant": "2.19.1-cpu-v1", "stage": "compile", "seconds": -900}',
        b'{"event": "summary", "time": "2026-01-31T23:39:55.800Z", "seconds": -9, "counts": {}, "results": []}',
        b'{"event": "summary", "time": "2026-01-31T23:39:55.800Z", "seconds": Infinity, "counts": {}, "results": []}',
        b'{"event": "summary", "time": "then", "seconds": 9, "counts": {}, "results": []}',
        b'{"event": "finished", "variant": "2.19.1-cpu-v1", "stage": ["compile"], "seconds": 1}',
        b'{"event": "finished", "variant": "2.19.1-cpu-v1", "stage": "compile", "seconds": 1, "facts": []}',
        b'{"event": "estimate", "variants": {}}',
        b'{"event": "summary", "results": 7}',
    ],
    ids=range(14),
)
def test_garbage_on_a_line_is_counted_and_costs_that_line(build: Path, jobs: list[Job], line: bytes) -> None:
    record_run(build, jobs[0])
    first, *others = file_of(build).read_bytes().splitlines(keepends=True)
    file_of(build).write_bytes(b"".join([first, line + b"\n", *others]))
    run = read_run(build, 1)
    assert run.damaged == (0 if line == b'{"event": "estimate", "variants": {}}' else 1)
    assert [one.seconds for one in run.stages] == [2.5]
    assert [one.status for one in run.variants] == ["built"]


def test_facts_that_are_not_numbers_are_passed_over(build: Path, jobs: list[Job]) -> None:
    record_run(build, jobs[0])
    text = file_of(build).read_text("utf-8")
    file_of(build).write_text(text.replace('"actions": 53', '"peak_memory_bytes": "much", "bytes_fetched": true'))
    assert read_run(build, 1).stages[0].facts == {"runners.worker": 3, "steps": 3, "cached_steps": 1}
    assert estimated(build, jobs[0]) == [(Basis.VARIANT, 2.5)]


def test_a_run_of_a_newer_factory_is_left_alone(build: Path, jobs: list[Job]) -> None:
    record_run(build, jobs[0])
    text = file_of(build).read_text("utf-8").replace('"format": 1', '"format": 99')
    file_of(build).write_text(text)
    with pytest.raises(HistoryError, match="run 1 cannot be read") as found:
        read_run(build, 1)
    assert "99" in found.value.why
    record_run(build, jobs[0])
    assert ids(build) == [2]
    assert file_of(build).read_text("utf-8") == text


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_is_one_note_and_is_not_waited_for(build: Path, jobs: list[Job], obstacle: str) -> None:
    record_run(build, jobs[0])
    OBSTACLES[obstacle](file_of(build, 2))
    record_run(build, jobs[0])
    runs, (note,) = read_runs(build)
    assert [run.id for run in runs] == [3, 1]
    assert str(file_of(build, 2)) in note
    assert estimated(build, jobs[0]) == [(Basis.VARIANT, 2.5)]


def test_a_history_of_an_earlier_factory_is_one_note(build: Path, jobs: list[Job]) -> None:
    old = build / "history.sqlite"
    build.mkdir()
    old.write_bytes(b"SQLite format 3\0" + b"\xff" * 100)
    assert str(old) in recorder(build, jobs).trouble
    assert recorder(build, jobs).trouble == "", "it is said once"
    runs, (note,) = read_runs(build)
    assert [run.id for run in runs] == [2, 1]
    assert str(old) in note
    assert old.exists()


def other_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()


def denied(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def read_only(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize(("fault", "remedy"), [(denied, "access"), (read_only, "file system")])
def test_a_folder_that_cannot_be_written_is_a_note_that_says_what_to_do(
    build: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], remedy: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", fault)
        recording = recorder(build, jobs)
    work(recording, jobs[0])
    recording.end([result(jobs[0])])
    assert "this run is not in the history" in recording.trouble
    assert remedy in recording.trouble


def test_a_file_in_the_place_of_the_folder_is_a_note(build: Path, jobs: list[Job]) -> None:
    other_file(build / "history")
    recording = recorder(build, jobs)
    recording.end([result(jobs[0])])
    assert "move that file away" in recording.trouble
    with pytest.raises(HistoryError, match="cannot be read") as found:
        read_runs(build)
    assert "move that file away" in found.value.remedy
    assert estimated(build, jobs[0])[0][0] is Basis.ESTIMATE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(build: Path, jobs: list[Job]) -> None:
    record_run(build, jobs[0])
    file_of(build).chmod(0)
    with pytest.raises(HistoryError) as found:
        read_run(build, 1)
    assert "access" in found.value.remedy


def test_a_disk_that_fills_in_the_middle_stops_no_build(build: Path, jobs: list[Job]) -> None:
    recording = recorder(build, jobs)
    work(recording, jobs[0])
    recording._file = Path("/dev/full")
    work(recording, jobs[1])
    recording.end([result(jobs[0])])
    assert "space" in recording.trouble
    run = read_run(build, 1)
    assert (run.ended, [one.variant for one in run.stages]) == (None, [V1])


def test_a_kill_leaves_whole_lines_and_the_next_run_goes_on(build: Path, jobs: list[Job]) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from serving_factory.pipeline.events import Event, EventKind
        from serving_factory.pipeline.history import Recorder
        recording = Recorder(Path(sys.argv[1]), [], command="build", matrix="m")
        recording.handle(Event(variant="v", stage="compile", kind=EventKind.STARTED))
        with recording._file.open("ab", buffering=0) as file:
            file.write(b'{"event": "finished", "vari')
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(build)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not file_of(build).read_bytes().endswith(b"\n"), "it was in the middle of a line"
    run = read_run(build, 1)
    assert (run.command, run.ended, run.damaged) == ("build", None, 0)
    record_run(build, jobs[0])
    assert ids(build) == [2, 1]


def test_a_run_that_has_not_ended_has_its_stages(build: Path, jobs: list[Job]) -> None:
    work(recorder(build, jobs), jobs[0])
    run = read_run(build, 1)
    assert (run.ended, run.seconds, run.counts, run.variants) == (None, None, {}, ())
    assert [one.variant for one in run.stages] == [V1]


# --- what changed -----------------------------------------------------------------------------------------------------

ROW = VariantRun(
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


def compared(first: VariantRun, second: VariantRun) -> list[tuple[str, object, object]]:
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


@pytest.mark.parametrize(("seconds", "changed"), [(109.0, False), (120.0, True), (85.0, True), (100.5, False)])
def test_times_count_where_they_differ_by_much(seconds: float, *, changed: bool) -> None:
    assert bool(compared(ROW, replace(ROW, seconds=seconds))) == changed
    assert compared(ROW, replace(ROW, seconds=seconds, status="up_to_date")) == [("status", "built", "up_to_date")]


def test_short_times_are_noise() -> None:
    assert compared(replace(ROW, seconds=0.1), replace(ROW, seconds=0.9)) == []


def test_a_variant_of_one_run_alone_is_a_change() -> None:
    other = replace(ROW, variant=V3)
    assert [(one.variant, one.what, one.before, one.after) for one in changes([ROW], [other])] == [
        (V3, "variant", None, "built"),
        (V1, "variant", "built", None),
    ]
