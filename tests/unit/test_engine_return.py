"""pipeline/retry.py: an engine that goes away under a stage, and whether it comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.docker import client
from serving_factory.docker.engine import Engine
from serving_factory.errors import (
    CancelledError,
    CompileError,
    DockerCommandError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
)
from serving_factory.pipeline import retry as engine_return
from serving_factory.pipeline.job import Job, Outputs, Site
from serving_factory.pipeline.retry import with_engine_back
from serving_factory.recipes.recipe import recipe_for

from .matrices import load

LOST = EngineLostError("It went away.", why="EOF", remedy="see why")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]) -> Job:
    monkeypatch.setattr(engine_return, "_LOOK", 0.001)
    matrix = load(tmp_path)
    site = Site(build=tmp_path, models=tmp_path, connect=lambda: Engine.__new__(Engine))
    assert isinstance(site.engine, Engine)
    return Job(recipe=recipe_for(matrix.variants[0], matrix), site=site, report_retry=told.append)


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


def stage_that_fails(*errors: FactoryError) -> Callable[[], Outputs]:
    left = list(errors)

    def run() -> Outputs:
        if left:
            raise left.pop(0)
        return {"done": True}

    return run


def test_the_stage_is_done_once_more_when_the_engine_is_back(
    job: Job, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = engine_that_is_silent(monkeypatch, 3)
    assert with_engine_back(stage_that_fails(LOST), job) == {"done": True}
    assert answers == ["no", "no", "no", "26"]
    assert told == ["It went away; once more when it is back, which is waited for up to 60 s"]
    assert job.site.lost_engine


def test_what_no_wait_can_help_is_raised_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = engine_that_is_silent(monkeypatch, 0)
    bare = replace(job, site=Site(build=job.site.build, models=job.site.models))
    never = EngineUnavailableError("there never was one")
    for error, its in ((CompileError("no"), job), (DockerCommandError("no buildx"), job), (never, bare)):
        with pytest.raises(type(error)):
            with_engine_back(stage_that_fails(error), its)
    assert answers == []


def test_one_that_a_stage_finds_gone_is_waited_for_too(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_is_silent(monkeypatch, 1)
    gone = EngineUnavailableError("The Docker engine does not answer.")
    assert with_engine_back(stage_that_fails(gone), job) == {"done": True}


def test_it_is_done_once_more_and_not_twice(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_is_silent(monkeypatch, 0)
    for again in (EngineLostError("It went away."), EngineUnavailableError("It went away.")):
        with pytest.raises(EngineLostError, match=r"^It went away, for the second time\.$") as caught:
            with_engine_back(stage_that_fails(LOST, again), job)
        assert not caught.value.gone
    with pytest.raises(CompileError):
        with_engine_back(stage_that_fails(LOST, CompileError("no")), job)


def test_one_that_stays_away_is_told_as_lost(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_return, "_PATIENCE", 0.05)
    engine_that_is_silent(monkeypatch, float("inf"))
    with pytest.raises(EngineLostError, match="It went away, and was not back after") as caught:
        with_engine_back(stage_that_fails(LOST), job)
    assert (caught.value.why, caught.value.remedy, caught.value.gone) == ("no socket", "see why", True)


def test_a_run_that_is_to_end_does_not_wait(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_that_is_silent(monkeypatch, float("inf"), also=job.cancel.ask)
    with pytest.raises(CancelledError):
        with_engine_back(stage_that_fails(LOST), job)
