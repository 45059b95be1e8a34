"""line/stages/attempts.py: what is tried again, and how often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildResult
from serving_factory.docker.caches import CacheMount, Dropped
from serving_factory.errors import (
    CacheCorruptError,
    CancelledError,
    ChecksumError,
    CompileError,
    EngineError,
    FactoryError,
    FetchError,
    OutOfMemoryError,
)
from serving_factory.pipeline.budget import Share
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.stages import compile as attempts
from serving_factory.recipes.recipe import recipe_for

from .matrices import load

DONE = BuildResult(image_id=None, steps=1, cached=0, seconds=1.0)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(attempts, "_FIRST_DELAY", 0.01)
    matrix = load(tmp_path)
    site = Site(build=tmp_path, models=tmp_path)
    return Job(recipe=recipe_for(matrix.variants[0], matrix), site=site, share=Share(jobs=5, memory=8))


class Attempts:
    """Fails as often as it has errors, then succeeds."""

    def __init__(self, *errors: FactoryError, has_built: bool = False) -> None:
        self.errors = list(errors)
        self.has_built = has_built
        self.shares: list[Share] = []
        self.told: list[str] = []

    def __call__(self, job: Job) -> BuildResult:
        self.shares.append(job.share)
        if self.errors:
            raise self.errors.pop(0)
        return DONE

    def run(self, job: Job) -> BuildResult:
        telling = replace(job, report_retry=self.told.append)
        return attempts.with_second_chances(telling, self, has_built=lambda: self.has_built)


def test_out_of_memory_is_tried_once_more_with_half_the_jobs_in_the_same_memory(job: Job) -> None:
    what = "the build ran out of memory in Bazel's step, with 5 jobs (peak 3.9 GiB, limit 4.0 GiB, 1 process killed)"
    tried = Attempts(OutOfMemoryError(f"{job.recipe.variant.id}: {what}"))
    assert tried.run(job) is DONE
    assert tried.shares == [Share(jobs=5, memory=8), Share(jobs=2, memory=8)]
    assert tried.told == [f"{what}; once more with 2 jobs, on the warm cache"], "the numbers are told, the name is not"


def test_and_never_a_third_time(job: Job) -> None:
    tried = Attempts(OutOfMemoryError("first"), OutOfMemoryError("second"))
    with pytest.raises(OutOfMemoryError, match="second; before that, with 5"):
        tried.run(job)
    assert len(tried.shares) == 2


def test_one_job_cannot_be_halved(job: Job) -> None:
    tried = Attempts(OutOfMemoryError("no"))
    with pytest.raises(OutOfMemoryError, match="no"):
        tried.run(replace(job, share=Share(jobs=1, memory=8)))
    assert len(tried.shares) == 1


def test_what_runs_out_of_memory_after_bazel_is_not_tried_again(job: Job) -> None:
    """It would run Bazel again, with other jobs and without a share of the machine."""
    tried = Attempts(OutOfMemoryError("strip was killed"), has_built=True)
    with pytest.raises(OutOfMemoryError, match="strip was killed"):
        tried.run(job)
    assert len(tried.shares) == 1


def test_a_download_is_tried_four_times(job: Job) -> None:
    tried = Attempts(*[FetchError("cut")] * 3)
    assert tried.run(job) is DONE
    assert [text.partition(" in ")[0] for text in tried.told] == [f"cut; try {number} of 4" for number in (2, 3, 4)]
    tried = Attempts(*[FetchError("cut")] * 4)
    with pytest.raises(FetchError):
        tried.run(job)
    assert len(tried.shares) == 4


def test_without_a_network_a_download_is_tried_once(job: Job) -> None:
    offline = replace(job, recipe=replace(job.recipe, inputs=replace(job.recipe.inputs, offline=True)))
    tried = Attempts(FetchError("cut"))
    with pytest.raises(FetchError):
        tried.run(offline)
    assert len(tried.shares) == 1


def test_a_wait_ends_when_the_run_does(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_FIRST_DELAY", 20.0)
    job.cancel.ask()
    with pytest.raises(CancelledError):
        Attempts(FetchError("cut")).run(job)


MOUNT = CacheMount(record="x", id="serving-factory-bazel-disk", size="1MB")


@pytest.fixture
def done_to_caches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to caches, which nobody else uses; `used_by_another` is the opposite."""
    done: list[str] = []

    def drop(prefix: str) -> Dropped:
        done.append(f"drop {prefix}")
        return Dropped(gone=(MOUNT,), used=())

    monkeypatch.setattr(attempts, "drop_cache_mounts", drop)
    monkeypatch.setattr(attempts, "empty_cache", lambda base, name: done.append(f"empty {name} from {base}"))
    return done


@pytest.fixture
def used_by_another(done_to_caches: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(attempts, "drop_cache_mounts", lambda _prefix: Dropped(gone=(), used=(MOUNT,)))
    return done_to_caches


def test_a_damaged_cache_is_dropped_that_one_only_and_the_build_tried_once_more(
    job: Job, done_to_caches: list[str]
) -> None:
    tried = Attempts(CacheCorruptError("Bazel cannot use it", cache="disk"))
    assert tried.run(job) is DONE
    assert done_to_caches == ["drop serving-factory-bazel-disk"]
    assert tried.told == ["Bazel cannot use it; once more without it"]
    tried = Attempts(*[CacheCorruptError("no", cache="disk")] * 2)
    with pytest.raises(CacheCorruptError):
        tried.run(job)
    assert len(tried.shares) == 2


def test_one_that_another_build_uses_stays_so_its_entries_are_removed(job: Job, used_by_another: list[str]) -> None:
    tried = Attempts(CacheCorruptError("Bazel cannot use it", cache="disk"))
    assert tried.run(job) is DONE
    assert used_by_another == [f"empty disk from {job.recipe.base_image}"]
    assert tried.told == ["Bazel cannot use it, and another build uses it; once more, with its entries removed"]


def test_one_that_can_neither_be_dropped_nor_emptied_is_not_built_with(
    job: Job, used_by_another: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_base: str, _name: str) -> None:
        raise EngineError("it cannot be done", why="rm: Input/output error")

    monkeypatch.setattr(attempts, "empty_cache", broken)
    tried = Attempts(CacheCorruptError("damaged", cache="disk", why="x"))
    with pytest.raises(CacheCorruptError) as caught:
        tried.run(job)
    assert len(tried.shares) == 1
    assert used_by_another == []
    assert caught.value.what == "damaged; another build uses it, so that it cannot be dropped, and it cannot be emptied"
    assert caught.value.why == "x\nrm: Input/output error"
    assert "once that build has ended" in caught.value.remedy


@pytest.mark.parametrize("error", [ChecksumError("no"), CompileError("no")])
def test_nothing_else_is_tried_again(job: Job, error: FactoryError) -> None:
    tried = Attempts(error)
    with pytest.raises(type(error)):
        tried.run(job)
    assert len(tried.shares) == 1
    assert tried.told == []
