"""What a stage is tried again for, how often, and what is done before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.docker import client
from serving_factory.docker.caches import CacheMount
from serving_factory.docker.engine import Engine
from serving_factory.errors import (
    CacheCorruptError,
    CancelledError,
    ChecksumError,
    CompileError,
    DockerCommandError,
    EngineError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
    FetchError,
    OutOfMemoryError,
)
from serving_factory.pipeline import retry
from serving_factory.pipeline.budget import Share
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.retry import Recovery
from serving_factory.recipes.recipe import recipe_for

from .matrices import load

LOST = EngineLostError("It went away.", why="EOF", remedy="see why")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(retry, "_LOOK", 0.001)
    matrix = load(tmp_path)
    site = Site(build=tmp_path, models=tmp_path, connect=lambda: Engine.__new__(Engine))
    assert isinstance(site.engine, Engine)
    return Job(recipe=recipe_for(matrix.variants[0], matrix), site=site, share=Share(jobs=5, memory=8))


class Attempts:
    """A stage that fails as often as it has errors, then succeeds."""

    def __init__(self, *errors: FactoryError) -> None:
        self.errors = list(errors)
        self.shares: list[Share] = []
        self.reported: list[str] = []

    def run(self, job: Job) -> None:
        attempts = Recovery(replace(job, report_retry=self.reported.append))
        while True:
            self.shares.append(attempts.job.share)
            if not self.errors:
                return
            attempts.prepare(self.errors.pop(0))

    def fail(self, job: Job, error: type[FactoryError], match: str = ".") -> FactoryError:
        with pytest.raises(error, match=match) as caught:
            self.run(job)
        return caught.value


# --- memory and downloads ---------------------------------------------------------------------------------------------


def test_out_of_memory_is_tried_once_more_with_half_the_jobs_in_the_same_memory(job: Job) -> None:
    what = "the build ran out of memory, with 5 jobs (peak 3.9 GiB, limit 4.0 GiB)"
    tried = Attempts(OutOfMemoryError(f"{job.recipe.variant.id}: {what}", jobs=5))
    tried.run(job)
    assert tried.shares == [Share(jobs=5, memory=8), Share(jobs=2, memory=8)]
    assert tried.reported == [f"{what}; once more with 2 jobs, on the warm cache"], (
        "the numbers are there, the name is not"
    )


def test_and_never_a_third_time(job: Job) -> None:
    tried = Attempts(OutOfMemoryError("first", jobs=5), OutOfMemoryError("second", jobs=2))
    tried.fail(job, OutOfMemoryError, "second; before that, with 5 jobs")
    assert len(tried.shares) == 2


@pytest.mark.parametrize("jobs", [1, 0])
def test_where_no_jobs_can_be_halved_it_is_not_tried_again(job: Job, jobs: int) -> None:
    """With 0, it was not Bazel: that would run again, with other jobs and without a share of the machine."""
    tried = Attempts(OutOfMemoryError("no", jobs=jobs))
    tried.fail(job, OutOfMemoryError)
    assert len(tried.shares) == 1


def test_a_download_is_tried_four_times(job: Job) -> None:
    tried = Attempts(*[FetchError("cut")] * 3)
    tried.run(job)
    assert [text.partition(" in ")[0] for text in tried.reported] == [f"cut; try {number} of 4" for number in (2, 3, 4)]
    tried = Attempts(*[FetchError("cut")] * 4)
    tried.fail(job, FetchError)
    assert len(tried.shares) == 4


def test_without_a_network_a_download_is_tried_once(job: Job) -> None:
    offline = replace(job, recipe=replace(job.recipe, inputs=replace(job.recipe.inputs, offline=True)))
    tried = Attempts(FetchError("cut"))
    tried.fail(offline, FetchError)
    assert len(tried.shares) == 1


def test_a_wait_ends_when_the_run_does(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY", 20.0)
    job.cancel.ask()
    Attempts(FetchError("cut")).fail(job, CancelledError)


@pytest.mark.parametrize("error", [ChecksumError("no"), CompileError("no")])
def test_nothing_else_is_tried_again(job: Job, error: FactoryError) -> None:
    tried = Attempts(error)
    tried.fail(job, type(error))
    assert (len(tried.shares), tried.reported) == (1, [])


# --- damaged caches ---------------------------------------------------------------------------------------------------

MOUNT = CacheMount(record="x", id="serving-factory-bazel-disk", size="1MB")


@pytest.fixture
def done_to_caches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to caches, which no other build uses; `used_by_another` is the opposite."""
    done: list[str] = []

    def drop(prefix: str) -> tuple[list[CacheMount], list[CacheMount]]:
        done.append(f"drop {prefix}")
        return [MOUNT], []

    monkeypatch.setattr(retry, "drop_cache_mounts", drop)
    monkeypatch.setattr(retry, "empty_cache", lambda base, name: done.append(f"empty {name} from {base}"))
    return done


@pytest.fixture
def used_by_another(done_to_caches: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(retry, "drop_cache_mounts", lambda _prefix: ([], [MOUNT]))
    return done_to_caches


def test_a_damaged_cache_is_dropped_that_one_only_and_the_build_tried_once_more(
    job: Job, done_to_caches: list[str]
) -> None:
    tried = Attempts(CacheCorruptError("Bazel cannot use it", cache="disk"))
    tried.run(job)
    assert done_to_caches == ["drop serving-factory-bazel-disk"]
    assert tried.reported == ["Bazel cannot use it; once more without it"]
    tried = Attempts(*[CacheCorruptError("no", cache="disk")] * 2)
    tried.fail(job, CacheCorruptError)
    assert len(tried.shares) == 2


def test_one_that_another_build_uses_stays_so_its_entries_are_removed(job: Job, used_by_another: list[str]) -> None:
    tried = Attempts(CacheCorruptError("Bazel cannot use it", cache="disk"))
    tried.run(job)
    assert used_by_another == [f"empty disk from {job.recipe.base.image}"]
    assert tried.reported == ["Bazel cannot use it, and another build uses it; once more, with its entries removed"]


def test_one_that_can_neither_be_dropped_nor_emptied_is_not_built_with(
    job: Job, used_by_another: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_base: str, _name: str) -> None:
        raise EngineError("it cannot be done", why="rm: Input/output error")

    monkeypatch.setattr(retry, "empty_cache", broken)
    tried = Attempts(CacheCorruptError("damaged", cache="disk", why="x"))
    error = tried.fail(job, CacheCorruptError, "damaged; another build uses it")
    assert (len(tried.shares), used_by_another) == (1, [])
    assert error.why == "x\nrm: Input/output error"
    assert "once that build has ended" in error.remedy


# --- an engine that goes away -----------------------------------------------------------------------------------------


def engine_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, times: float, also: Callable[[], object] = list
) -> list[str]:
    """The engine's answers; it gives none as often as that."""
    answers: list[str] = []

    def version(*_arguments: str, timeout: float) -> str:
        assert timeout < 60
        also()
        answers.append("no" if len(answers) < times else "26")
        if answers[-1] == "no":
            raise EngineUnavailableError("The Docker engine does not answer.", why="no socket")
        return "26"

    monkeypatch.setattr(client, "run_docker", version)
    return answers


def test_the_stage_is_done_once_more_when_the_engine_is_back(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = engine_that_is_silent(monkeypatch, 3)
    tried = Attempts(LOST)
    tried.run(job)
    assert answers == ["no", "no", "no", "26"]
    assert tried.reported == ["It went away; once more when it is back, which is waited for up to 60 s"]
    assert job.site.lost_engine


def test_what_no_wait_can_help_is_raised_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = engine_that_is_silent(monkeypatch, 0)
    bare = replace(job, site=Site(build=job.site.build, models=job.site.models))
    Attempts(DockerCommandError("no buildx")).fail(job, DockerCommandError)
    Attempts(EngineUnavailableError("there never was one")).fail(bare, EngineUnavailableError)
    assert answers == []


def test_one_that_a_stage_finds_gone_is_waited_for_too(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = engine_that_is_silent(monkeypatch, 1)
    Attempts(EngineUnavailableError("The Docker engine does not answer.")).run(job)
    assert answers == ["no", "26"]


def test_it_is_done_once_more_and_not_twice(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_is_silent(monkeypatch, 0)
    for again in (EngineLostError("It went away."), EngineUnavailableError("It went away.")):
        error = Attempts(LOST, again).fail(job, EngineLostError, r"^It went away, for the second time\.")
        assert isinstance(error, EngineLostError)
        assert not error.gone
    Attempts(LOST, CompileError("no")).fail(job, CompileError)


def test_one_that_stays_away_is_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_PATIENCE", 0.05)
    engine_that_is_silent(monkeypatch, float("inf"))
    error = Attempts(LOST).fail(job, EngineLostError, "It went away, and was not back after")
    assert isinstance(error, EngineLostError)
    assert (error.why, error.remedy, error.gone) == ("no socket", "see why", True)


def test_a_run_that_is_to_end_does_not_wait(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_is_silent(monkeypatch, float("inf"), also=job.cancel.ask)
    Attempts(LOST).fail(job, CancelledError)
