"""pipeline/scheduler.py where several variants work at once: the budget, who waits for whom, and how a run is ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.errors import (
    CancelledError,
    ChecksumError,
    CompileError,
    DockerCommandError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
    TimeLimitError,
)
from serving_factory.pipeline.budget import Budget, Limits, Schedule, Share, Turn, schedule
from serving_factory.pipeline.events import Event, EventKind, Outcome, Status
from serving_factory.pipeline.job import Job, Progress, Site, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.runner import candidates
from serving_factory.pipeline.scheduler import PipelineRun, Policy
from serving_factory.recipes.recipe import recipe_for

from .matrices import document, load

GIB = 2**30
LEVELS = ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"]
IMAGE = {"repository": "r", "aliases": ["{id}"]}
NAMES = [f"2.19.1-cpu-v{number}" for number in (1, 2, 3, 4)]
Act = Callable[[Job], None]


def sleep(job: Job) -> None:
    job.cancel.wait(0.02)


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def made_stage(name: str, run: Callable[[Job, Progress], Outputs], ingredient: str = "", **more: Any) -> Stage[Outputs]:  # noqa: ANN401
    inputs = more.pop("inputs", lambda _job: {"ingredient": ingredient})
    return Stage(name=name, version=1, outputs=Outputs, inputs=inputs, run=run, **more)


@dataclass
class Crowd:
    """Four variants of one toolchain, with two stages that note who works at once with whom."""

    jobs: list[Job]
    acts: dict[str, Act] = field(default_factory=dict)
    smoke: Act = sleep
    lock: threading.Lock = field(default_factory=threading.Lock)
    working: dict[str, int] = field(default_factory=dict)
    most: int = 0
    began: list[str] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    shares: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def _compile(self, job: Job, _report: Progress) -> Outputs:
        name = job.recipe.variant.id
        with self.lock:
            self.began.append(name)
            self.shares[name] = job.share.jobs
            self.working[name] = job.share.jobs
            self.most = max(self.most, sum(self.working.values()))
        try:
            self.acts.get(name, sleep)(job)
        finally:
            with self.lock:
                self.compiled.append(name)
                self.working[name] = 0
        return Outputs()

    def _smoke(self, job: Job, _report: Progress) -> Outputs:
        with self.lock:
            self.most = max(self.most, sum(self.working.values()))
        self.smoke(job)
        with self.lock:
            del self.working[job.recipe.variant.id]
        return Outputs()

    def run(
        self, *, cpus: int = 8, policy: Policy | None = None, parallel: int | None = None, plan: Schedule | None = None
    ) -> Outcome:
        stages = [self.compile_stage(), made_stage("smoke", self._smoke)]
        budget = Budget(cpus=cpus, memory=999 * GIB)
        plan = plan or schedule(candidates(self.jobs, stages), budget, Limits(parallel=parallel))
        return PipelineRun(self.jobs, stages, self.events.append, schedule=plan, policy=policy).run()

    def compile_stage(self, ingredient: str = "", **more: Any) -> Stage[Outputs]:  # noqa: ANN401 - as Stage takes them
        return made_stage("compile", self._compile, ingredient, compiles=True, **more)

    def is_through(self, name: str) -> bool:
        last = (name, "smoke", EventKind.FINISHED)
        return any((event.variant, event.stage, event.kind) == last for event in list(self.events))

    def statuses(self, outcome: Outcome) -> list[Status]:
        return [result.status for result in outcome.results]


@pytest.fixture(autouse=True)
def no_nohup() -> Iterator[None]:
    """The environment of the tests may have them ignore a hang-up."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def crowd(tmp_path: Path) -> Crowd:
    matrix = load(tmp_path, document(image=IMAGE, targets={"t": {"flavour": "cpu", "levels": LEVELS}}))
    site = Site(build=tmp_path / "build", models=tmp_path)
    return Crowd(jobs=[Job(recipe=recipe_for(variant, matrix), site=site) for variant in matrix.variants])


def fail(error: Exception) -> Act:
    def act(_job: Job) -> None:
        raise error

    return act


def test_the_first_fills_the_caches_and_the_rest_share_the_machine(crowd: Crowd) -> None:
    outcome = crowd.run(cpus=12)
    assert crowd.statuses(outcome) == [Status.BUILT] * 4
    assert crowd.began[0] == crowd.compiled[0] == NAMES[0]
    assert crowd.shares == {NAMES[0]: 12, NAMES[1]: 4, NAMES[2]: 4, NAMES[3]: 4}
    assert 8 < crowd.most <= 12, "they worked at once, and within the budget"
    assert [result.variant for result in outcome.results] == NAMES
    assert outcome.ended_by is None


def test_a_compile_waits_for_another_bazel_and_not_for_what_comes_after_it(crowd: Crowd) -> None:
    beside: list[list[str]] = []

    def end_late(job: Job) -> None:
        sleep(job)
        beside.append(list(crowd.began))
        job.release_share()
        assert wait_until(lambda: NAMES[1] in crowd.began), "it begins beside what is left of the first's compile stage"

    def package(job: Job) -> None:
        if job.recipe.variant.id == NAMES[1]:
            assert wait_until(lambda: NAMES[2] in crowd.began), "and the third beside the second's other stages"

    crowd.acts[NAMES[0]], crowd.smoke = end_late, package
    assert crowd.statuses(crowd.run(cpus=2)) == [Status.BUILT] * 4
    assert beside == [NAMES[:1]]
    assert crowd.shares == dict.fromkeys(NAMES, 2)


def test_parallel_is_how_many_work_at_once_in_all_their_stages(crowd: Crowd) -> None:
    at_once: list[int] = []

    def count(job: Job) -> None:
        sleep(job)
        at_once.append(len(crowd.working))

    crowd.smoke = count
    crowd.run(cpus=64, parallel=2)
    assert max(at_once) == 2


def test_the_others_go_on_when_the_first_of_a_toolchain_fails(crowd: Crowd) -> None:
    crowd.acts[NAMES[0]] = fail(CompileError("no"))
    assert crowd.statuses(crowd.run()) == [Status.FAILED, *[Status.BUILT] * 3]


def test_what_would_fail_the_same_way_is_skipped_and_says_because_of_whom(crowd: Crowd) -> None:
    crowd.acts[NAMES[0]] = fail(ChecksumError("no"))
    outcome = crowd.run()
    assert crowd.statuses(outcome) == [Status.FAILED, *[Status.SKIPPED] * 3]
    assert crowd.began == [NAMES[0]]
    assert outcome.results[2].because == f"because of {NAMES[0]}: what failed there is the same here"
    reported = [(event.variant, event.text) for event in crowd.events if event.kind is EventKind.SKIPPED][1:]
    assert reported == [(name, outcome.results[2].because) for name in NAMES[1:]]


def test_fail_fast_begins_with_no_other_and_lets_what_runs_go_on(crowd: Crowd) -> None:
    def fail_late(_job: Job) -> None:
        assert wait_until(lambda: NAMES[2] in crowd.began)
        raise CompileError("no")

    crowd.acts[NAMES[1]] = fail_late
    outcome = crowd.run(cpus=8, policy=Policy(fail_fast=True))
    assert crowd.statuses(outcome) == [Status.BUILT, Status.FAILED, Status.BUILT, Status.SKIPPED]
    assert outcome.results[3].because == f"because of {NAMES[1]}, as --fail-fast says"


def test_fail_fast_says_so_of_a_toolchain_whose_first_was_not_begun(crowd: Crowd) -> None:
    """They wait for it, and it never comes."""
    crowd.jobs[2:] = other_toolchain(crowd.jobs[2:])
    crowd.acts[NAMES[0]] = fail(CompileError("no"))
    outcome = crowd.run(parallel=1, policy=Policy(fail_fast=True))
    assert crowd.statuses(outcome) == [Status.FAILED, *[Status.SKIPPED] * 3]


def other_toolchain(jobs: list[Job]) -> list[Job]:
    toolchain = replace(jobs[0].recipe.toolchain, compiler="another")
    return [replace(job, recipe=replace(job.recipe, toolchain=toolchain)) for job in jobs]


def test_no_one_waits_for_another_toolchains_first(crowd: Crowd) -> None:
    crowd.jobs[2:] = other_toolchain(crowd.jobs[2:])
    seen: list[bool] = []
    crowd.acts[NAMES[0]] = lambda _job: seen.append(wait_until(lambda: NAMES[3] in crowd.began))
    assert crowd.statuses(crowd.run(cpus=16)) == [Status.BUILT] * 4
    assert seen == [True], "the other toolchain's second began while this one's first still worked"
    assert crowd.began.index(NAMES[1]) > crowd.compiled.index(NAMES[0]), "and its own second waited for it"
    assert crowd.most <= 16


def test_what_does_not_fit_is_not_overtaken(crowd: Crowd) -> None:
    turns = [
        Turn(variant=name, wave=1, share=Share(jobs=jobs, memory=GIB))
        for name, jobs in zip(NAMES, (6, 4, 2, 2), strict=True)
    ]
    plan = Schedule(budget=Budget(cpus=8, memory=99 * GIB), parallel=None, turns=tuple(turns))
    beside: list[str] = []

    def compile_alone(job: Job) -> None:
        sleep(job)
        beside.extend(crowd.began)

    crowd.acts[NAMES[0]] = compile_alone
    assert crowd.statuses(crowd.run(plan=plan)) == [Status.BUILT] * 4
    assert beside == NAMES[:1], "the third would have fitted beside the first"


def test_without_it_all_others_are_worked_on(crowd: Crowd) -> None:
    crowd.acts[NAMES[1]] = fail(CompileError("no"))
    assert crowd.statuses(crowd.run()) == [Status.BUILT, Status.FAILED, Status.BUILT, Status.BUILT]


def test_a_variant_that_takes_too_long_fails_and_no_other(crowd: Crowd) -> None:
    crowd.acts[NAMES[1]] = lambda job: job.cancel.wait(30)
    outcome = crowd.run(policy=Policy(variant_seconds=0.3))
    assert crowd.statuses(outcome) == [Status.BUILT, Status.FAILED, Status.BUILT, Status.BUILT]
    assert isinstance(outcome.results[1].error, TimeLimitError)
    assert "--variant-minutes" in outcome.results[1].error.what
    assert outcome.ended_by is None


def test_a_run_that_takes_too_long_is_ended_and_says_so(crowd: Crowd) -> None:
    crowd.acts[NAMES[1]] = lambda job: job.cancel.wait(30)
    outcome = crowd.run(cpus=4, policy=Policy(seconds=0.6))
    assert isinstance(outcome.ended_by, TimeLimitError)
    assert crowd.statuses(outcome) == [Status.BUILT, *[Status.CANCELLED] * 3]
    assert {result.because for result in outcome.results[1:]} == {"--max-minutes 0.01 was over"}
    assert crowd.began == NAMES[:2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_that_runs_and_begins_nothing(crowd: Crowd, number: signal.Signals) -> None:
    def end(job: Job) -> None:
        assert wait_until(lambda: NAMES[2] in crowd.began and crowd.is_through(NAMES[0]))
        os.kill(os.getpid(), number)
        job.cancel.wait(30)

    crowd.acts = {NAMES[1]: end, NAMES[2]: lambda job: job.cancel.wait(30)}
    before = signal.getsignal(number)
    outcome = crowd.run(cpus=8)
    assert isinstance(outcome.ended_by, CancelledError)
    assert crowd.statuses(outcome) == [Status.BUILT, *[Status.CANCELLED] * 3]
    assert NAMES[3] not in crowd.began
    assert not crowd.compile_stage().read(crowd.jobs[1].folder)
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_them_at_once(crowd: Crowd) -> None:
    seen: list[bool] = []

    def stubborn(job: Job) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not job.cancel.asked:
            time.sleep(0.01)
        seen.append(job.cancel.at_once)
        os.kill(os.getpid(), signal.SIGINT)
        while not job.cancel.at_once:
            time.sleep(0.01)
        seen.append(job.cancel.at_once)
        job.cancel.check()

    crowd.acts[NAMES[0]] = stubborn
    assert crowd.statuses(crowd.run()) == [Status.CANCELLED] * 4
    assert seen == [False, True]


def test_a_signal_that_does_not_wake_the_waiting_thread_is_heard_soon(crowd: Crowd) -> None:
    """As one that comes just before it begins to wait; here because another thread takes it."""

    def act(job: Job) -> None:
        signal.raise_signal(signal.SIGINT)
        job.cancel.wait(30)

    crowd.acts[NAMES[0]] = act
    began = time.monotonic()
    assert crowd.statuses(crowd.run()) == [Status.CANCELLED] * 4
    assert time.monotonic() - began < 5


def test_a_variant_that_does_not_end_is_not_waited_for(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.pipeline.scheduler._PATIENCE", 0.3)
    release = threading.Event()

    def deaf(_job: Job) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(30)

    crowd.acts[NAMES[0]] = deaf
    began = time.monotonic()
    assert crowd.statuses(crowd.run()) == [Status.CANCELLED] * 4
    assert time.monotonic() - began < 5
    heard = len(crowd.events)
    release.set()
    for thread in threading.enumerate():
        if thread.name == NAMES[0]:
            thread.join(5)
    assert len(crowd.events) == heard, "it has nothing to say any more"


def test_a_fault_of_our_own_ends_the_run_and_is_raised(crowd: Crowd) -> None:
    crowd.acts = {NAMES[1]: fail(ZeroDivisionError()), NAMES[2]: lambda job: job.cancel.wait(30)}
    with pytest.raises(ZeroDivisionError):
        crowd.run(cpus=8)
    assert NAMES[3] not in crowd.began


def test_failures_that_come_of_the_end_are_not_reported_as_failures(crowd: Crowd) -> None:
    """As when a container is removed under a smoke test that asks it something."""

    def act(job: Job) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not job.cancel.asked:
            time.sleep(0.01)
        raise FactoryError("no such container")

    crowd.acts[NAMES[0]] = act
    outcome = crowd.run()
    assert outcome.results[0].status is Status.CANCELLED
    assert outcome.results[0].error is None


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailableError("no answer"),
        DockerCommandError("there is no buildx"),
        EngineLostError("it was not back", gone=True),
    ],
)
def test_where_nothing_can_be_built_one_failure_is_enough(crowd: Crowd, error: FactoryError) -> None:
    crowd.acts[NAMES[0]] = fail(error)
    outcome = crowd.run(cpus=1)
    assert crowd.statuses(outcome) == [Status.FAILED, *[Status.SKIPPED] * 3]
    assert outcome.results[3].because == f"because of {NAMES[0]}: there is nothing to build with"


def test_an_engine_that_came_back_is_there_for_the_others(crowd: Crowd) -> None:
    crowd.acts[NAMES[0]] = fail(EngineLostError("it went away twice"))
    assert crowd.statuses(crowd.run(cpus=1)) == [Status.FAILED, *[Status.BUILT] * 3]


def test_who_is_to_end_does_not_try_again(crowd: Crowd) -> None:
    def act(job: Job) -> None:
        job.cancel.ask()
        job.report_retry("once more")

    crowd.acts[NAMES[0]] = act
    assert crowd.statuses(crowd.run())[0] is Status.CANCELLED
    assert [event for event in crowd.events if event.kind is EventKind.RETRIED] == []


def test_what_is_tried_again_is_an_event_of_its_stage(crowd: Crowd) -> None:
    crowd.acts[NAMES[0]] = lambda job: job.report_retry("once more")
    crowd.run()
    retried = [event for event in crowd.events if event.kind is EventKind.RETRIED]
    record = crowd.compile_stage().read(crowd.jobs[0].folder)
    assert record
    assert list(record.tried_again) == ["once more"]
    assert [(event.variant, event.stage, event.text) for event in retried] == [(NAMES[0], "compile", "once more")]


def test_whether_a_compile_has_work_to_do_is_asked_of_its_record(crowd: Crowd) -> None:
    crowd.run()

    def broken(_job: Job) -> dict[str, object]:
        raise EngineUnavailableError("no answer")

    done, changed = crowd.compile_stage(), crowd.compile_stage("another")
    unknown, gone = crowd.compile_stage(inputs=broken), crowd.compile_stage(intact=lambda _job, _outputs: False)
    compiles = [candidates(crowd.jobs[:1], [stage])[0].compiles for stage in (done, changed, unknown, gone)]
    assert compiles == [False, True, True, True]
    assert len({one.toolchain for one in candidates(crowd.jobs, [done])}) == 1
