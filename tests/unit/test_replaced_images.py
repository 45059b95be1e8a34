"""Images that a run replaces by others do not pile up in the engine under their full tags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from serving_factory.commands.build import _removed
from serving_factory.docker.engine import Engine
from serving_factory.errors import EngineError, PackageError
from serving_factory.pipeline.events import Status, VariantResult
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import Outputs, write_record
from serving_factory.pipeline.runner import VariantRun, clean, note_replaced, remove_replaced
from serving_factory.pipeline.stages import STAGES, stage
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


def run(job: Job, status: Status = Status.BUILT, *, image: str = NEW, made: str = "package") -> str:
    """A run that makes another image; what is printed at its end."""
    note_replaced(job, stage(made))
    package(job, image, f"full-{image.rpartition(':')[2]}", made=made)
    return _removed([job], [VariantResult(variant=ID, status=status)])


def test_the_image_of_the_record_before_goes_and_a_line_says_so(job: Job, engine: FakeEngine) -> None:
    assert run(job) == f"Removed 1 image that newer ones replaced: {FULL}.\n"
    assert engine.names == {ALIAS: NEW}
    assert run(job) == "", "the same image again replaces nothing"
    assert engine.removed == [OLD]


def test_a_devel_image_likewise(job: Job, engine: FakeEngine) -> None:
    package(job, "sha256:work", "full-work", made="devel")
    engine.names["r:full-work"] = "sha256:work"
    assert "r:full-work" in run(job, image="sha256:other", made="devel")
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


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.SKIPPED])
def test_it_stays_until_the_new_one_has_passed_everything(job: Job, engine: FakeEngine, status: Status) -> None:
    assert run(job, status) == ""
    assert engine.removed == []


@pytest.mark.parametrize("status", [Status.BUILT, Status.UP_TO_DATE])
def test_what_runs_left_that_failed_goes_once_one_has_passed(job: Job, engine: FakeEngine, status: Status) -> None:
    for image in ("sha256:bad", "sha256:worse"):
        assert run(job, Status.FAILED, image=image) == ""
        engine.names[f"r:full-{image.rpartition(':')[2]}"] = image
    assert run(job, status) == f"Removed 3 images that newer ones replaced: {FULL}, r:full-bad, r:full-worse.\n"
    assert engine.names == {ALIAS: NEW}


def test_a_run_that_fails_notes_the_image_of_the_record_that_it_takes_away(job: Job) -> None:
    def fail(_job: Job, _progress: object) -> Outputs:
        raise PackageError("no")

    failing = replace(stage("package"), run=fail, inputs=lambda _job: {}, needs=())
    VariantRun(job, (failing,), lambda _event: None).run()
    assert not (job.folder / "package.json").exists()
    package(job, NEW, "full-new")
    assert list(remove_replaced(job)) == [FULL]


def test_an_image_that_is_made_again_stays(job: Job, engine: FakeEngine) -> None:
    assert run(job, Status.FAILED) == ""
    engine.names["r:full-new"] = NEW
    assert run(job, image=OLD) == "Removed 1 image that newer ones replaced: r:full-new.\n"
    assert FULL in engine.names
    assert run(job, image="sha256:third") == f"Removed 1 image that newer ones replaced: {FULL}.\n"


def test_clean_removes_them_too(job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEngine, "remove_image", lambda fake, name: fake.names.pop(name, None), raising=False)
    run(job, Status.FAILED)
    job.dockerfile.parent.mkdir(parents=True)
    assert f"removed image {FULL}" in list(clean(job.site, images=True, caches=False))
    assert engine.names == {}


def test_it_stays_where_only_package_ran(job: Job, engine: FakeEngine) -> None:
    write_record(job.folder, replace(record("smoke"), inputs={"image": short(key_of(part=OLD))}))
    assert run(job) == ""
    assert engine.names[FULL] == OLD


def test_without_a_record_there_is_nothing_to_remove(job: Job) -> None:
    note_replaced(job, stage("package"))
    (job.folder / "package.json").unlink()
    assert list(remove_replaced(job)) == []
    assert list(remove_replaced(job)) == [], "nor once more"


def test_an_engine_that_refuses_fails_no_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: FakeEngine, _image: str, _names: object) -> bool:
        raise EngineError("The image could not be removed.", remedy="Try 'docker images'.")

    monkeypatch.setattr(FakeEngine, "remove_if_only", refused)
    assert run(job) == (
        "Images that newer ones replaced could not be removed: The image could not be removed.\n"
        "What to do: Try 'docker images'.\n"
    )
