"""The stage `libraries`: what goes along with the binary, from the devel image or from the image's own base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildFailed
from serving_factory.errors import ArtifactError, FactoryError, FetchError, InspectionError, PackageError
from serving_factory.pipeline.events import Event, EventKind
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import libraries as libraries_module
from serving_factory.pipeline.stages import stage
from serving_factory.pipeline.stages.compile import COMPILE
from serving_factory.pipeline.stages.libraries import LIBRARIES

from .fake_compile import FakeDocker

ALL = ("compile", "extract", "libraries", "inspect", "package")
BASE = "debian:trixie-slim"


def run(job: Job) -> tuple[FactoryError | None, list[str]]:
    """Run all stages before the smoke test; the error, and the stages that worked."""
    events: list[Event] = []
    (result,) = PipelineRun([job], [stage(name) for name in ALL], events.append).run().results
    return result.error, [event.stage for event in events if event.kind is EventKind.STARTED]


def test_on_the_compiles_base_its_libraries_are_taken(tmp_path: Path, fake_docker: FakeDocker) -> None:
    job = fake_docker.job(tmp_path)
    assert run(job) == (None, list(ALL))
    assert [request.target for request in fake_docker.requests] == ["artifact", "launcher", None]
    assert "libraries" not in dict(fake_docker.requests[-1].contexts)
    made, compiled = job.record(LIBRARIES).outputs, job.record(COMPILE).outputs
    assert (made.collected, made.rootfs, made.base) == (False, compiled.rootfs, "ubuntu:20.04")


def test_on_another_base_they_are_collected_there(tmp_path: Path, fake_docker: FakeDocker) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "Packages").touch()
    network = {"offline": True, "apt": {"mirror": "packages"}, "base_images": {BASE: "mine:1"}}
    job = fake_docker.job(tmp_path, base=BASE, network=network)
    assert run(job) == (None, list(ALL))
    _, collected, _, packaged = fake_docker.requests
    assert (collected.target, collected.network, collected.output) == ("libraries", "none", job.folder / "libraries")
    assert collected.contexts == (
        ("artifact", str(job.artifact)),
        ("apt", str(tmp_path / "packages")),
        (BASE, "docker-image://mine:1"),
    )
    assert dict(packaged.contexts)["libraries"] == str(job.folder / "libraries")
    assert "apt" not in dict(packaged.contexts), "nothing is installed for the image"
    made = job.record(LIBRARIES).outputs
    assert (made.collected, made.base, made.packages) == (True, "mine:1", ("ca-certificates=1",))
    assert run(fake_docker.job(tmp_path, base=BASE, network=network)) == (None, [])


def test_a_new_base_compiles_and_reads_nothing(tmp_path: Path, fake_docker: FakeDocker) -> None:
    run(fake_docker.job(tmp_path))
    assert run(fake_docker.job(tmp_path, base=BASE))[1] == ["libraries", "inspect", "package"]
    fake_docker.facts["glibc"] = "ldd (Debian GLIBC 2.41-12) 2.41"
    assert run(fake_docker.job(tmp_path, base="debian:forky-slim"))[1] == ["libraries", "inspect", "package"]
    assert [request.target for request in fake_docker.requests].count("artifact") == 1


def test_a_base_with_the_same_libraries_is_not_inspected_again(tmp_path: Path, fake_docker: FakeDocker) -> None:
    run(fake_docker.job(tmp_path, base=BASE))
    assert run(fake_docker.job(tmp_path, base=f"{BASE}@sha256:{'1' * 64}"))[1] == ["libraries", "package"]


def test_a_base_with_an_older_c_library_is_refused_before_there_is_an_image(
    tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fake_docker.job(tmp_path))
    monkeypatch.setattr(
        "serving_factory.inspection.elf.libraries_glibc", lambda _rootfs: ("GLIBC_2.34", "/usr/lib/libm.so.6")
    )
    fake_docker.facts["glibc"] = "ldd (Ubuntu GLIBC 2.23-0ubuntu11) 2.23"
    error, worked = run(fake_docker.job(tmp_path, base="ubuntu:16.04"))
    assert isinstance(error, InspectionError)
    assert "/usr/lib/libm.so.6 needs glibc 2.34, the runtime base has 2.23" in error.why
    assert "image.base" in error.remedy
    assert worked == ["libraries", "inspect"]


@pytest.mark.parametrize(("base", "installs"), [(None, True), ("slim", False)])
def test_packages_of_the_lock_come_by_way_of_the_inputs(
    tmp_path: Path, fake_docker: FakeDocker, *, base: str | None, installs: bool
) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "Packages").touch()
    network = {"apt": {"mirror": "packages"}, "proxies": {"http": "http://p:1"}}
    run(fake_docker.job(tmp_path, base=base, network=network))
    (tmp_path / "matrix.lock").write_text("packages: {'ubuntu:20.04': {libssl1.1: 1.1.1f-2}}\n")
    job = fake_docker.job(tmp_path, base=base, network=network)
    assert run(job) == (None, ["libraries", "inspect", "package"] if base is None else ["libraries", "package"])
    collected, packaged = fake_docker.requests[-2:]
    assert (collected.target, packaged.target) == ("libraries", None)
    assert dict(collected.contexts)["apt"] == str(tmp_path / "packages")
    assert ("apt" in dict(packaged.contexts), "network" in dict(packaged.secrets)) == (installs, installs)
    assert dict(packaged.contexts)["libraries"] == str(job.folder / "libraries")
    assert not (job.folder / ".secrets").exists()


def test_a_file_that_was_lost_or_changed_is_collected_again(tmp_path: Path, fake_docker: FakeDocker) -> None:
    job = fake_docker.job(tmp_path, base=BASE)
    run(job)
    file = job.folder / "libraries" / "rootfs" / "usr" / "lib" / "libm.so.6"
    for spoil in (file.unlink, lambda: file.write_bytes(b"another")):
        spoil()
        assert run(fake_docker.job(tmp_path, base=BASE)) == (None, ["libraries"])
        assert file.read_bytes().startswith(b"\x7fELF")


def test_facts_that_are_missing_are_named(tmp_path: Path, fake_docker: FakeDocker) -> None:
    run(fake_docker.job(tmp_path))
    del fake_docker.facts["glibc"]
    error, _ = run(fake_docker.job(tmp_path, base=BASE))
    assert isinstance(error, ArtifactError)
    assert "libraries/facts/glibc" in error.what


INSTALL = "[runtime_base 2/3] RUN --mount=type=tmpfs,target=/run/inputs /factory/libraries.sh install /inputs/packages"
FAILURES: dict[str, tuple[str, str, type[FactoryError], str]] = {
    "no apt in the base's own words": (
        INSTALL,
        "[runtime_base 2/3] libraries: this base has no dpkg: image.base takes images of Debian and Ubuntu",
        PackageError,
        "this base has no dpkg",
    ),
    "an archive that is older than the lock file": (
        "[runtime_base 3/4] RUN /factory/libraries.sh require libssl3=2",
        "[runtime_base 3/4] libraries: 1 is the newest libssl3 here, and the lock file requires 2",
        PackageError,
        "the lock file requires 2",
    ),
    "no shell": (INSTALL, '[runtime_base 2/3] exec: "/bin/bash": no such file', PackageError, "/bin/bash"),
    "a mirror that is down": (
        INSTALL,
        "[runtime_base 2/3] E: Failed to fetch http://m/x.deb  Could not connect to m:80",
        FetchError,
        "Could not connect",
    ),
    "no such image": (
        f"[context {BASE}] load metadata for {BASE}",
        "ERROR: failed to resolve source metadata for docker.io/library/debian:trixie-slim: not found",
        FetchError,
        "not found",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_says_what_to_do(
    tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    step, line, kind, why = FAILURES[failure]
    job = fake_docker.job(tmp_path, base=BASE)
    COMPILE.run(job, lambda _text: None)
    run(fake_docker.job(tmp_path))

    def fails(_request: object, log: Path, **_more: Callable[..., object]) -> None:
        log.write_text(f"{line}\n", encoding="utf-8")
        raise BuildFailed(step=step, tail=(line,), exit_code=1, text=line)

    monkeypatch.setattr(libraries_module, "logged_build", fails)
    with pytest.raises(kind) as caught:
        LIBRARIES.run(job, lambda _text: None)
    assert why in caught.value.why
    assert BASE in caught.value.what or kind is FetchError
    assert caught.value.remedy
