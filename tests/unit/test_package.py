"""pipeline/stages/package.py, where no engine is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from serving_factory.docker.buildx import BuildFailed, BuildRequest, BuildResult
from serving_factory.errors import CancelledError, CompileError, EngineError
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.stages import package
from serving_factory.pipeline.stages.extract import server_version, version_lines

from .fake_compile import FakeDocker


@dataclass(frozen=True, slots=True)
class Ended:
    """A job whose build of an image was ended: what was asked of BuildKit, and which images were to be removed."""

    job: Job
    requests: list[BuildRequest] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def run(self) -> None:
        with pytest.raises(CancelledError):
            package._run(self.job, lambda _text: None)


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    def refused(image: str) -> None:
        made.removed.append(image)
        raise EngineError("it could not be removed")

    def end(request: BuildRequest, *_arguments: object, **_more: object) -> None:
        made.requests.append(request)
        raise CancelledError("The run was cancelled.")

    packaged = {"r:full": "sha256:old", "r:other": "sha256:another"}
    job = SimpleNamespace(  # what of a job is looked at
        recipe=SimpleNamespace(
            images=SimpleNamespace(repository="r"),
            inputs=SimpleNamespace(offline=False),
            runtime_base=SimpleNamespace(contexts=()),
            collects=False,
            upgrades=(),
            runtime="FROM scratch",
        ),
        site=SimpleNamespace(packaged=packaged, engine=SimpleNamespace(remove_unnamed=refused)),
        folder=tmp_path,
        artifact=tmp_path,
        log=lambda _stage: tmp_path / "log",
        cancel=None,
        higher=(),
    )
    made = Ended(cast("Job", job))
    monkeypatch.setattr(package, "must_be_inspected", lambda *_arguments: None)
    monkeypatch.setattr(package, "_facts", lambda *_arguments: {})
    monkeypatch.setattr(package, "_content", lambda _job: {"files": {}})
    monkeypatch.setattr(package, "built_binary", lambda _job: SimpleNamespace(sha256="b"))
    monkeypatch.setattr(package, "_labels", lambda _job: {})
    monkeypatch.setattr(package, "image_tags", lambda _job: (("full",), ()))
    monkeypatch.setattr(package, "built_launcher", lambda *_arguments: tmp_path)
    monkeypatch.setattr(package, "logged_build", end)
    return made


def test_an_alias_does_not_change_the_image(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for aliases in ((), ("latest",)):
        monkeypatch.setattr(package, "image_tags", lambda _job, aliases=aliases: (("full",), aliases))
        keys.append(package.PACKAGE.key(ended.job))
        ended.run()
    one, other = ended.requests
    assert one.tags != other.tags
    assert one.labels == other.labels
    assert keys[0] != keys[1], "or the alias would not be given"


def test_an_image_that_lost_its_names_goes_also_when_the_build_is_ended(ended: Ended) -> None:
    ended.run()
    assert ended.removed == ["sha256:old"]


def test_the_launcher_is_compiled_once_for_each_state_of_its_recipe(
    tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = fake_docker.job(tmp_path)
    first = package.built_launcher(job, print)
    assert package.built_launcher(job, print) == first
    assert [request.target for request in fake_docker.requests] == ["launcher"]
    assert not job.resources.exists(), "the share of the machine belongs to the build that runs Bazel"
    monkeypatch.setattr(package, "decides", lambda *_arguments: {"files": "another"})
    second = package.built_launcher(job, print)
    assert first != second
    assert list(second.parent.iterdir()) == [second]


def test_a_launcher_that_cannot_be_compiled_is_an_error_of_its_step(
    tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_arguments: object, **_more: object) -> None:
        log.parent.mkdir(parents=True)
        log.write_text("")
        raise BuildFailed(step="[launcher_build 3/3] RUN gcc", tail=("launcher.c:1: error",), exit_code=1, text="")

    job = fake_docker.job(tmp_path)
    log = job.log("launcher")
    monkeypatch.setattr(package, "logged_build", failed)
    with pytest.raises(CompileError, match="launcher_build 3/3"):
        package.built_launcher(job, print)


@pytest.mark.parametrize(
    ("printed", "lines", "version"),
    [
        (
            "Unable to register cuDNN factory\nTensorFlow ModelServer: 2.19.1-rc0\nTensorFlow Library: 2.19.1\n",
            ["TensorFlow ModelServer: 2.19.1-rc0", "TensorFlow Library: 2.19.1"],
            "2.19.1-rc0",
        ),
        ("unknown argument: --version\nusage: server\nFlags:\n\t--port=8500\tint32\tport", [], ""),
        (
            "./server: libx.so: cannot open shared object file",
            ["./server: libx.so: cannot open shared object file"],
            "",
        ),
        ("", [], ""),
    ],
)
def test_what_a_server_says_of_its_version(printed: str, lines: list[str], version: str) -> None:
    assert version_lines(printed) == lines
    assert server_version(lines) == version


@pytest.mark.parametrize("built", ["sha256:configuration", "sha256:manifest"])
def test_the_image_is_the_one_that_was_built_also_where_its_name_has_moved(
    fake_docker: FakeDocker, tmp_path: Path, built: str
) -> None:
    job = fake_docker.job(tmp_path)
    name = f"{job.recipe.images.repository}:full"
    fake_docker.engine.names |= {built: built, name: "sha256:of another factory"}
    result = BuildResult(digests=("sha256:configuration", "sha256:manifest"), steps=1, cached=0)
    assert package.packaged(job, result, ("full",), (), binary_sha256="0" * 64).image == built
