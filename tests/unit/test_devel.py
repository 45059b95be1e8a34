"""The devel image: what is built, under which names it is pushed, and that nothing is compiled for it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.catalogue.distributions import distributions
from serving_factory.commands.build import _push_row, pushes_table
from serving_factory.docker.buildx import BuildFailed
from serving_factory.errors import ArtifactError, CompileError
from serving_factory.pipeline.events import Status
from serving_factory.pipeline.job import Job, Stage
from serving_factory.pipeline.runner import VariantRun
from serving_factory.pipeline.stages import DEVEL_STAGES, STAGES, devel, stage
from serving_factory.pipeline.stages.compile import BINARY
from serving_factory.pipeline.stages.devel import DEVEL, devel_tags
from serving_factory.pipeline.stages.package import image_tags
from serving_factory.pipeline.stages.push import PUSH
from serving_factory.pipeline.stages.push_devel import PUSH_DEVEL
from serving_factory.recipes.dockerfile import needed, stages

from .fake_compile import IMAGE, FakeDocker
from .matrices import ROOT
from .stage_records import write_records

DOCKERFILES = sorted(ROOT.glob("**/dockerfiles/[0-9]*/*.devel.Dockerfile"))


@pytest.fixture
def job(tmp_path: Path, fake_docker: FakeDocker) -> Job:
    """A variant that was compiled and inspected."""
    job = fake_docker.job(tmp_path)
    result = run(job, "compile", "extract", "libraries", "inspect")
    assert result.status is Status.BUILT, result.error
    fake_docker.requests.clear()
    return job


def run(job: Job, *names: str) -> Any:  # noqa: ANN401 - a result
    one = VariantRun(job, [stage(name) for name in names], lambda _event: None)
    one.run()
    return one.result()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_stage_decides_nothing_of_what_is_compiled(path: Path) -> None:
    """Without it, the keys of the binary and of the launcher are the same."""
    text = path.read_text(encoding="utf-8")
    without, begins, _ = text.partition("# --- devel: ")
    assert begins
    assert list(stages(text)) == [*stages(without), "devel"]
    for target in ("artifact", "launcher", "preflight", "export"):
        assert needed(text, target) == needed(without, target)


def test_the_image_is_made_of_the_artifact_that_was_inspected(job: Job, fake_docker: FakeDocker) -> None:
    result = run(job, "devel")
    assert result.status is Status.BUILT, result.error
    (request,) = fake_docker.requests
    assert (request.target, request.output) == ("devel", None)
    assert ("artifact", str(job.artifact)) in request.contexts, "or the build would compile"
    (full,), aliases = devel_tags(job)
    assert re.fullmatch(r"2\.19\.1-cpu-v3-[0-9a-f]{12}-[0-9a-f]{12}-devel", full)
    assert aliases == ("2.19.1-cpu-v3-devel",)
    assert request.tags == (f"team/serving:{full}", "team/serving:2.19.1-cpu-v3-devel")
    labels = dict(request.labels)
    assert labels["org.opencontainers.image.title"].endswith(", cpu, x86-64-v3, devel")
    assert full.split("-")[-2] == labels["org.serving-factory.package.key"][:12]
    assert result.image == "team/serving:2.19.1-cpu-v3-devel"
    assert run(job, "devel").status is Status.UP_TO_DATE


def test_both_images_of_a_variant_have_names_of_their_own(job: Job) -> None:
    run(job, "package", "devel")
    serving, working = (one.read(job.folder) for one in (stage("package"), DEVEL))
    assert serving
    assert working
    assert not {*serving.outputs.names} & {*working.outputs.names}
    assert image_tags(job)[0] != devel_tags(job)[0]


def test_an_alias_does_not_change_the_image(job: Job) -> None:
    full, key = devel_tags(job)[0], DEVEL.key(job)
    other = replace(job, recipe=replace(job.recipe, devel_aliases=("latest-devel",)))
    assert devel_tags(other) == (full, ("latest-devel",))
    assert DEVEL.key(other) != key, "or the alias would not be given"


def test_a_binary_that_was_changed_goes_into_no_image(job: Job, fake_docker: FakeDocker) -> None:
    (job.artifact / BINARY).write_bytes(b"another")
    with pytest.raises(ArtifactError, match="not the binary that was inspected"):
        DEVEL.run(job, lambda _text: None)
    assert fake_docker.requests == []


def test_a_step_that_fails_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_arguments: object, **_more: object) -> None:
        job.log("devel").write_text("")
        raise BuildFailed(step="[devel 2/5] RUN apt_install", tail=("no pip",), exit_code=1, text="")

    monkeypatch.setattr(devel, "logged_build", failed)
    with pytest.raises(CompileError, match="devel 2/5"):
        DEVEL.run(job, lambda _text: None)


def test_it_is_pushed_once_the_binary_in_it_has_served(tmp_path: Path, job: Job, fake_docker: FakeDocker) -> None:
    run(job, "package", "devel")
    job = fake_docker.job(tmp_path)  # another run, which asks the engine again
    assert "smoke has not run" in str(run(job, "push_devel").error)
    write_records(job.folder, "smoke")
    asked = {one.name: one.inputs(job) for one in (PUSH, PUSH_DEVEL)}
    assert asked["push_devel"]["image"] == IMAGE
    assert asked["push_devel"]["aliases"] == ("2.19.1-cpu-v3-devel",)
    assert asked["push"]["aliases"] == ("2.19.1-cpu-v3",)
    assert PUSH.pushes
    assert PUSH_DEVEL.pushes
    assert [one.name for one in map(stage, DEVEL_STAGES)] == list(DEVEL_STAGES)
    assert not {*DEVEL_STAGES} & {*STAGES}, "no build makes it"


def test_a_dry_run_shows_the_names_of_each_kind_of_image(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {False: (stage("push"),), True: tuple(map(stage, DEVEL_STAGES))}
    (missing,) = [_push_row(job, kinds[True], devel=True)]
    assert missing["missing"] == "package has not run"
    assert missing["run"] == missing["names"] == []
    assert "`./factory build` first: package has not run" in pushes_table([missing])
    assert "Names:" not in pushes_table([missing])

    monkeypatch.setattr(Stage, "reason", lambda one, _job, **_more: "new" if one in kinds[True] + kinds[False] else "")
    rows = {devel: _push_row(job, stages, devel=devel) for devel, stages in kinds.items()}
    assert rows[False]["run"] == ["push"]
    assert rows[True]["run"] == [*DEVEL_STAGES]
    full, aliases = devel_tags(job)
    assert rows[True]["names"] == [f"h:5000/team/serving:{tag}" for tag in (*full, *aliases)]
    assert rows[False]["names"] == [f"h:5000/team/serving:{tag}" for tag in sum(image_tags(job), ())]
    text = pushes_table([rows[True]])
    assert "2.19.1-cpu-v3  devel push_devel" in text
    assert text.endswith("  h:5000/team/serving:2.19.1-cpu-v3-devel\n\nNothing was pushed.\n")


def test_the_summary_is_of_what_was_pushed_now(job: Job) -> None:
    write_records(job.folder, "package", "devel", "smoke", "push", "push_devel")
    for names, pushed in (
        ((*DEVEL_STAGES,), "h:5000/r:full-devel@sha256:work"),
        (("push",), "h:5000/r:full@sha256:pushed"),
    ):
        one = VariantRun(job, [stage(name) for name in names], lambda _event: None)
        assert one.result().facts["pushed"] == [pushed]


@pytest.mark.parametrize("name", distributions())
def test_each_python_has_a_pip(name: str) -> None:
    """Python 2.7's own is gone from later distributions, and Python 3's stands in for it."""
    pips = {version: python.pip for version, python in distributions()[name].pythons.items()}
    own = {version: "python-pip" if version == "2.7" else "python3-pip" for version in pips}
    gone = {"2.7": "python3-pip"} if name in {"ubuntu:20.04", "debian:bullseye"} else {}
    assert pips == own | gone


def test_the_key_covers_what_is_in_it(job: Job) -> None:
    key = DEVEL.key(job)
    changed = job.recipe.devel.replace(
        "      curl \\\n      python3-pip", "      curl \\\n      wget \\\n      python3-pip"
    )
    assert changed != job.recipe.devel
    assert DEVEL.key(replace(job, recipe=replace(job.recipe, devel=changed))) != key
