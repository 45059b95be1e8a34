"""pipeline/scheduler.py, runner.py and job.py, with stages that only note that they ran."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving_factory.errors import CompileError, DiskFullError, EngineUnavailableError, FactoryError, NotBuiltError
from serving_factory.pipeline.events import Event, EventKind, Outcome, Status, VariantResult
from serving_factory.pipeline.job import Job, Progress, Site, Stage
from serving_factory.pipeline.records import Outputs, last_stage, record_path
from serving_factory.pipeline.runner import plan_stages
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import STAGES, stage
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load
from .stage_records import OUTPUTS, outputs, write_records

ORDER = ("compile", "extract", "package")
V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"


def nothing(_job: Job) -> None:
    pass


def no_engine() -> object:
    raise EngineUnavailableError("the engine must not be asked")


@dataclass
class Line:
    """A line of three stages: a key is made of the stage's own ingredient and of the record before it."""

    jobs: list[Job]
    ingredients: dict[str, str] = field(default_factory=dict)
    does: dict[tuple[str, str], Callable[[Job], object]] = field(default_factory=dict)
    outputs: dict[str, Outputs] = field(default_factory=lambda: dict(OUTPUTS))
    lost: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    how: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None

    @property
    def stages(self) -> list[Stage[Any]]:
        stages: list[Stage[Any]] = []
        for name in ORDER:
            stages.append(self._stage(name, tuple(stages[-1:])))
        return stages

    def _stage(self, name: str, needs: tuple[Stage[Any], ...]) -> Stage[Any]:
        def inputs(job: Job) -> dict[str, object]:
            before = [asdict(job.record(needed).outputs) for needed in needs]
            return {"ingredient": self.ingredients.get(name, ""), "before": before}

        return Stage(
            name=name,
            version=1,
            outputs=type(OUTPUTS[name]),
            inputs=inputs,
            run=self._run(name),
            needs=needs,
            intact=lambda _job, _outputs: name not in self.lost,
            compiles=name == "compile",
        )

    def _run(self, name: str) -> Callable[[Job, Progress], Outputs]:
        def run(job: Job, progress: Progress) -> Outputs:
            self.ran.append(f"{job.recipe.variant.id} {name}")
            progress("working")
            self.does.get((job.recipe.variant.id, name), nothing)(job)
            # Two stages differ in what they take in, and not in what they give: as a compiler with another comment.
            return self.outputs[name]

        return run

    def run(self, stages: slice = slice(None)) -> dict[str, VariantResult]:
        """Run the line; the stages that ran are in `ran` then."""
        self.ran.clear()
        self.events.clear()
        chosen = self.stages[stages]
        self.outcome = PipelineRun(self.jobs, chosen, self.events.append, **self.how).run()
        return {result.variant: result for result in self.outcome.results}

    def kinds(self, variant: str) -> list[str]:
        return [f"{event.stage} {event.kind}" for event in self.events if event.variant == variant]


def fail(error: BaseException) -> Callable[[Job], None]:
    def act(_job: Job) -> None:
        raise error

    return act


def ctrl_c(job: Job) -> None:
    """What a user does while a stage works, and what the stage does then."""
    os.kill(os.getpid(), signal.SIGINT)
    job.cancel.wait(10)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    target = {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]}
    image = {"repository": "r", "aliases": ["{id}"]}
    matrix = load(tmp_path, document(image=image, targets={"t": target}))
    site = Site(build=tmp_path / "build", models=tmp_path, connect=no_engine)  # type: ignore[arg-type]
    return Line(jobs=[Job(recipe=recipe_for(variant, matrix), site=site) for variant in matrix.variants])


def records(line: Line, variant: str) -> list[str]:
    (job,) = [job for job in line.jobs if job.recipe.variant.id == variant]
    return [name for name in STAGES if stage(name).read(job.folder)]


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_first_run_does_everything_and_a_second_nothing(line: Line) -> None:
    first = line.run()
    assert line.ran == [f"{variant} {stage}" for variant in (V1, V3) for stage in ORDER]
    assert {result.status for result in first.values()} == {Status.BUILT}
    assert line.kinds(V1)[:3] == ["compile started", "compile progress", "compile finished"]
    second = line.run()
    assert line.ran == []
    assert {result.status for result in second.values()} == {Status.UP_TO_DATE}
    assert line.kinds(V1) == [f"{stage} up_to_date" for stage in ORDER]
    assert (first[V1].image, first[V1].facts) == (second[V1].image, second[V1].facts)


def test_facts_are_reported_as_far_as_the_records_go_without_a_gap(line: Line) -> None:
    result = line.run()[V1]
    assert (result.image, result.facts) == (None, {"binary_size": 7}), "the image is of a binary that was not inspected"
    write_records(line.jobs[0].folder, "libraries", "inspect")
    result = line.run()[V1]
    assert (result.image, result.facts) == ("r:alias", {"binary_size": 7, "image_size": 9})


def test_what_a_compile_took_is_reported_of_the_run_that_it_was_in(line: Line) -> None:
    line.outputs["compile"] = outputs("compile", peak_memory_bytes=5, bytes_fetched=0)
    result = line.run()[V1]
    assert (result.memory, result.download) == (5, 0)
    result = line.run()[V1]
    assert (result.memory, result.download) == (None, None), "up to date: nothing was measured now"
    line.ingredients["compile"] = "another"
    line.outputs["compile"] = outputs("compile", peak_memory_bytes=5, bytes_fetched=0, bazel_ran=False)
    result = line.run()[V1]
    assert (result.memory, result.download) == (None, 0), "BuildKit had the step: the peak is an earlier run's"


def test_a_changed_key_redoes_its_stage_and_later_ones_only_if_their_keys_change(line: Line) -> None:
    line.run()
    line.ingredients["extract"] = "another"
    line.run()
    assert line.ran == [f"{V1} extract", f"{V3} extract"], "extract found the same as before: package stands"
    line.ingredients["extract"] = "a third"
    line.outputs["extract"] = outputs("extract", size=8)
    line.run()
    assert line.ran == [f"{variant} {stage}" for variant in (V1, V3) for stage in ("extract", "package")]


def test_what_is_gone_is_made_again(line: Line) -> None:
    line.run()
    line.lost.add("package")
    assert {result.status for result in line.run().values()} == {Status.BUILT}
    assert line.ran == [f"{V1} package", f"{V3} package"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stage": "compile"}'])
def test_a_record_that_cannot_be_used_is_as_none(line: Line, text: str) -> None:
    line.run()
    record_path(line.jobs[0].folder, "extract").write_text(text, encoding="utf-8")
    line.run()
    assert line.ran == [f"{V1} extract"]


def test_one_variants_failure_is_no_others(line: Line) -> None:
    line.does[V1, "extract"] = fail(CompileError("it broke"))
    results = line.run()
    assert (results[V1].status, results[V3].status) == (Status.FAILED, Status.BUILT)
    assert (str(results[V1].error), results[V3].error) == ("it broke", None)
    assert line.kinds(V1)[-2:] == ["extract failed", "package skipped"]
    assert [event.text for event in line.events if event.kind is EventKind.SKIPPED] == ["extract failed"]
    took = {f"{event.stage} {event.kind}": event.seconds for event in line.events if event.variant == V1}
    assert took["extract failed"] is not None, "it had begun"
    assert took["package skipped"] is None
    assert records(line, V1) == ["compile"]
    line.does.clear()
    assert line.run()[V1].status is Status.BUILT
    assert line.ran == [f"{V1} extract", f"{V1} package"]


def test_a_stage_that_fails_leaves_no_record_of_an_earlier_run(line: Line) -> None:
    line.run()
    line.ingredients["package"] = "another"
    line.does[V1, "package"] = fail(FactoryError("no"))
    line.run()
    assert records(line, V1) == ["compile", "extract"]
    assert records(line, V3) == list(ORDER)


def test_the_record_is_written_after_the_work_and_before_it_is_reported(line: Line) -> None:
    path = record_path(line.jobs[0].folder, "extract")
    seen: list[bool] = []
    line.does[V1, "extract"] = lambda _job: seen.append(path.exists())

    def emit(event: Event) -> None:
        if event.stage == "extract" and event.kind is EventKind.FINISHED and event.variant == V1:
            seen.append(path.exists())

    PipelineRun(line.jobs, line.stages, emit).run()
    assert seen == [False, True]


def test_ctrl_c_cancels_the_running_stage_and_all_that_comes_after(line: Line) -> None:
    line.does[V1, "extract"] = ctrl_c
    results = line.run()
    assert {variant: result.status for variant, result in results.items()} == {
        V1: Status.CANCELLED,
        V3: Status.CANCELLED,
    }
    assert line.ran == [f"{V1} compile", f"{V1} extract"]
    assert line.kinds(V1)[-2:] == ["extract cancelled", "package cancelled"]
    assert records(line, V1) == ["compile"]
    line.does.clear()
    assert {result.status for result in line.run().values()} == {Status.BUILT}
    assert f"{V1} compile" not in line.ran, "what was done before Ctrl-C is kept"


def test_ctrl_c_in_the_second_variant_leaves_the_first_ones_end(line: Line) -> None:
    line.does[V1, "extract"] = fail(CompileError("no"))
    line.does[V3, "compile"] = ctrl_c
    results = line.run()
    assert (results[V1].status, results[V3].status) == (Status.FAILED, Status.CANCELLED)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_costs_one_stage_and_is_reported(line: Line, number: int) -> None:
    line.does[V1, "extract"] = fail(OSError(number, "full"))
    results = line.run()
    assert isinstance(results[V1].error, DiskFullError)
    assert results[V3].status is Status.BUILT
    assert records(line, V1) == ["compile"]


def test_a_fault_of_our_own_is_not_hidden(line: Line) -> None:
    line.does[V1, "extract"] = fail(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        line.run()
    assert records(line, V1) == ["compile"]


def test_a_failure_shows_the_log_of_this_run_only(line: Line) -> None:
    log = line.jobs[0].log("extract")
    log.parent.mkdir(parents=True)
    log.write_text("of yesterday\n", encoding="utf-8")
    line.does[V1, "extract"] = fail(CompileError("no"))
    assert line.run()[V1].log is None, "this run has written none"

    def write_and_fail(_job: Job) -> None:
        log.write_text("of today\n", encoding="utf-8")
        raise CompileError("no")

    line.does[V1, "extract"] = write_and_fail
    assert line.run()[V1].log == str(log)
    alone = PipelineRun(line.jobs[:1], line.stages[2:], line.events.append).run().results
    assert isinstance(alone[0].error, NotBuiltError)
    assert alone[0].log is None


def test_stages_alone_refuse_what_is_out_of_date(line: Line) -> None:
    assert isinstance(line.run(slice(1, None))[V1].error, NotBuiltError)
    line.run()
    assert line.run(slice(1, None))[V1].status is Status.UP_TO_DATE
    line.ingredients["compile"] = "another"
    result = line.run(slice(1, None))[V1]
    assert isinstance(result.error, NotBuiltError)
    assert "./factory build" in result.error.remedy
    assert line.ran == []


# --- planning ---------------------------------------------------------------------------------------------------------


def plans(line: Line) -> dict[str, tuple[tuple[str, ...], tuple[str, ...], str]]:
    return {one.variant: (one.run, one.up_to_date, one.because) for one in plan_stages(line.jobs, line.stages)}


def test_a_plan_reports_what_a_run_would_do_and_does_nothing(line: Line) -> None:
    assert plans(line)[V1] == (ORDER, (), "compile has not run")
    assert line.ran == []
    assert not line.jobs[0].folder.exists()
    line.run()
    assert plans(line)[V1] == ((), ORDER, "")
    line.ingredients["extract"] = "another"
    assert plans(line)[V1] == (ORDER[1:], ORDER[:1], "what decides extract has changed: ingredient")
    record_path(line.jobs[0].folder, "compile").unlink()
    assert plans(line)[V1] == (ORDER, (), "compile has not run")
    assert plans(line)[V3][0] == ORDER[1:]


def test_a_plan_takes_the_base_image_to_be_the_recorded_one(line: Line) -> None:
    line.run()
    plans(line)
    job = line.jobs[0]
    assert job.site.image_id(job.recipe.base.image) == "sha256:base"


# --- jobs and sites ---------------------------------------------------------------------------------------------------


def test_a_job_reports_how_far_it_has_come(line: Line) -> None:
    job = line.jobs[0]
    assert last_stage(job.folder, STAGES) == ""
    line.does[V1, "package"] = fail(FactoryError("no"))
    line.run()
    assert last_stage(job.folder, STAGES) == "extract"
    with pytest.raises(NotBuiltError, match=r"2\.19\.1-cpu-v1: the stage smoke has not run"):
        job.record(stage("smoke"))


class FakeEngine:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def image_id(self, reference: str) -> str | None:
        self.asked.append(reference)
        return None

    def image_names(self, label: str) -> dict[str, str]:
        self.asked.append(label)
        return {"a:1": "sha256:1"}


def test_an_engine_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(report: object) -> None:
        asked.append(report)
        raise EngineUnavailableError("it does not answer")

    monkeypatch.setattr("serving_factory.docker.engine.Engine.connect", connect)
    said: list[str] = []
    site = Site(build=tmp_path, models=tmp_path, report=said.append)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError):
            site.image_id("a")
    assert asked == [said.append], "and what it is asked with says that it is waited for"
    assert not site.knows_engine


def test_a_site_asks_once_and_only_when_needed(tmp_path: Path) -> None:
    engine = FakeEngine()
    site = Site(build=tmp_path, models=tmp_path, connect=lambda: engine)  # type: ignore[arg-type,return-value]
    assert [site.image_id("a"), site.image_id("a")] == [None, None]
    assert site.packaged == site.packaged == {"a:1": "sha256:1"}
    assert engine.asked == ["a", "org.serving-factory.variant"]
    (tmp_path / "file").write_text("1", encoding="utf-8")
    before = site.tree(tmp_path)
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert site.tree(tmp_path) == before, "one run sees one state of the sources"
