"""Images that a run replaces by others do not pile up in the engine under their full tags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from serving_factory.commands.build import _removed
from serving_factory.docker.engine import Engine
from serving_factory.errors import EngineError
from serving_factory.pipeline.events import Status, VariantResult
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.runner import remove_replaced, unpushed_images
from serving_factory.pipeline.stages import STAGES
from serving_factory.recipes.recipe import key_of, short

from .fake_compile import FakeDocker, FakeEngine
from .stage_records import record, write_records

OLD, NEW = "sha256:old", "sha256:new"
FULL, ALIAS = "r:full-old", "r:alias"
ID = "2.19.1-cpu-v3"


@pytest.fixture
def engine() -> FakeEngine:
    """One that has an image under its full name; the alias has moved to another image."""
    return FakeEngine({FULL: OLD, ALIAS: NEW})


@pytest.fixture
def job(tmp_path: Path, fake_docker: FakeDocker, engine: FakeEngine) -> Job:
    """A variant whose record names that image."""
    made = fake_docker.job(tmp_path)
    site = Site(build=made.site.build, models=tmp_path, connect=lambda: cast("Engine", engine))
    made = replace(made, site=site)
    write_records(made.folder, *STAGES[:-1])
    package(made, OLD, "full-old")
    return made


def package(job: Job, image: str, tag: str, *, made: str = "package") -> None:
    write_record(job.folder, record(made, image=image, tags=(tag,), aliases=("alias",)))


def run(job: Job, status: Status = Status.BUILT) -> str:
    """A run that makes another image; what is printed at its end."""
    held = {ID: unpushed_images(job)}
    package(job, NEW, "full-new")
    return _removed([job], held, [VariantResult(variant=ID, status=status)])


def test_the_image_of_the_record_before_goes_and_a_line_says_so(job: Job, engine: FakeEngine) -> None:
    assert run(job) == f"Removed 1 image that newer ones replaced: {FULL}.\n"
    assert engine.names == {ALIAS: NEW}
    assert run(job) == "", "the same image again replaces nothing"
    assert engine.removed == [OLD]


def test_a_devel_image_likewise(job: Job, engine: FakeEngine) -> None:
    package(job, "sha256:work", "full-work", made="devel")
    engine.names["r:full-work"] = "sha256:work"
    held = unpushed_images(job)
    assert list(held) == ["package", "devel"]
    package(job, "sha256:other", "full-other", made="devel")
    assert list(remove_replaced(job, held)) == ["r:full-work"]
    assert engine.names == {FULL: OLD, ALIAS: NEW}


def test_one_with_a_name_of_someone_elses_stays(job: Job, engine: FakeEngine) -> None:
    engine.names["team/mine:1"] = OLD
    assert run(job) == ""
    assert engine.names[FULL] == OLD


@pytest.mark.parametrize("pushed", [OLD, NEW])
def test_one_that_was_pushed_stays(job: Job, engine: FakeEngine, pushed: str) -> None:
    write_record(job.folder, replace(record("push"), inputs={"image": short(key_of(part=pushed))}))
    assert bool(run(job)) == (pushed != OLD)
    assert (FULL in engine.names) == (pushed == OLD)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.UP_TO_DATE])
def test_it_stays_until_the_new_one_has_passed_everything(job: Job, engine: FakeEngine, status: Status) -> None:
    assert run(job, status) == ""
    assert engine.removed == []


def test_it_stays_where_only_package_ran(job: Job, engine: FakeEngine) -> None:
    write_record(job.folder, replace(record("smoke"), inputs={"image": short(key_of(part=OLD))}))
    assert run(job) == ""
    assert engine.names[FULL] == OLD


def test_without_a_record_there_is_nothing_to_remove(job: Job) -> None:
    held = unpushed_images(job)
    (job.folder / "package.json").unlink()
    assert unpushed_images(job) == {}
    assert list(remove_replaced(job, held)) == []


def test_an_engine_that_refuses_fails_no_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: FakeEngine, _image: str, _names: object) -> bool:
        raise EngineError("The image could not be removed.", remedy="Try 'docker images'.")

    monkeypatch.setattr(FakeEngine, "remove_if_only", refused)
    assert run(job) == (
        "Images that newer ones replaced could not be removed: The image could not be removed.\n"
        "What to do: Try 'docker images'.\n"
    )
