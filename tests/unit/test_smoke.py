"""The smoke checks against fake containers: a good image passes, and each way to be bad ends in its own error."""

from __future__ import annotations

import dataclasses
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, cast

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.docker.engine import Ran
from serving_factory.docker.process import Cancel
from serving_factory.errors import (
    CancelledError,
    CpuLevelError,
    EngineError,
    EngineUnavailableError,
    FactoryError,
    LibraryMissingError,
    ServerNotReadyError,
    ServerStopError,
    SmokeError,
    WrongAnswerError,
)
from serving_factory.pipeline.stages.smoke import SERVER_FACTS
from serving_factory.smoke.checks import BINARY, CHECKS, STOP_LIMIT
from serving_factory.smoke.emulate import INIT
from serving_factory.smoke.gpu import WAYS
from serving_factory.smoke.plan import SmokePlan
from serving_factory.smoke.report import CheckResult, SmokeReport
from serving_factory.smoke.run import run_checks

from .fake_serving import MODEL, NEW, OLD, Behaviour, FakeServing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from serving_factory.docker.engine import ContainerSpec, Engine

VERSION = "TensorFlow ModelServer: 2.19.1-rc0+dev.sha.no_git\nTensorFlow Library: 2.19.1\n"
ALL = ["start", *(check.name for check in CHECKS if not (check.way or check.opens or check.emulated))]


@dataclass(kw_only=True)
class Script:
    """What one fake container does."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    log: str = "a line of the server's log"
    exits_with: int | None = None
    exits_at_port: int = 0
    version: tuple[int, str, str] = (0, VERSION, "")
    health_command: tuple[int, str] = (0, "AVAILABLE")
    loader: str = ""
    launcher: tuple[int, str] = (78, "this image is made for CPUs of level x86-64-v3")
    lower: tuple[int, str] | None = (132, "")  # how the server ends on an emulated CPU of the level below; None: never
    exec_hangs: bool = False
    health: str | None = "healthy"
    stop_seconds: float = 0.3
    stop_code: int = 143


def way_of(spec: ContainerSpec) -> str | None:
    """The way that a container serves in, by its environment; `emulated` where it is on an emulated CPU."""
    if spec.entrypoint == (INIT,):
        return "emulated"
    given = dict(spec.environment).items()
    return next((way.check for way in reversed(WAYS) if way.environment.items() <= given), None)


class FakeContainer:
    def __init__(self, script: Script, server: FakeServing, spec: ContainerSpec) -> None:
        self.script = script
        self.server = server
        self.spec = spec
        self.files = {one.target: one.source.read_text() for one in spec.mounts if one.target == "/proc/cpuinfo"}
        self.modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in _tree(spec.mounts[0].source)}
        self.restarts = 0
        self.commands: list[tuple[str, ...]] = []
        self._code = script.exits_with
        self._asked_health = 0

    def die(self, code: int) -> None:
        self._code = code

    def port(self, container_port: int) -> int:
        if self.script.exits_at_port:
            self._code = self.script.exits_at_port
            raise EngineError("Port 8501 is not published")
        return {8500: self.server.grpc_port, 8501: self.server.rest_port}[container_port]

    def logs(self, tail: int = 30) -> str:
        return "\n".join(self.script.log.splitlines()[-tail:])

    def status(self) -> str:
        return "running" if self._code is None else "exited"

    def exit_code(self) -> int | None:
        return self._code

    def started_at(self) -> str:
        return f"2026-01-31T12:00:0{self.restarts}Z"

    def health(self) -> str | None:
        self._asked_health += 1
        return "starting" if self.script.health and self._asked_health == 1 else self.script.health

    def stop(self, timeout: int) -> float:
        assert timeout > STOP_LIMIT
        self._code = self.script.stop_code
        return self.script.stop_seconds

    def exec(self, argv: tuple[str, ...], *, timeout: float = 60.0) -> Ran:
        assert timeout > 0
        if self.script.exec_hangs:
            raise TimeoutError(f"'{' '.join(argv)}' took longer than 60 s")
        if way_of(self.spec) == "emulated":
            return self._exec_emulated(argv)
        if argv[1:] == ("--version",):
            return Ran(*self.script.version)
        return Ran(0, self.script.loader, "") if argv[0] == "sh" else Ran(*self.script.health_command, "")

    def _exec_emulated(self, argv: tuple[str, ...]) -> Ran:
        self.commands.append(argv)
        if self._code is not None:
            raise EngineError("Nothing could be run inside.", why="the container is not running")
        if argv[0] == BINARY:
            return Ran(*self.script.launcher, "")
        if self.script.lower is None:
            raise TimeoutError("it took longer than 60 s")
        return Ran(self.script.lower[0], "", self.script.lower[1])


class FakeEngine:
    """Starts the first container by one script, the second by the other, and those that serve in a way by its own."""

    def __init__(self, plain: Script, hardened: Script, ways: Mapping[str, Script] | None = None) -> None:
        self.scripts: dict[str | None, list[Script]] = {name: [script] for name, script in (ways or {}).items()}
        self.scripts[None] = [plain, hardened]
        self.containers: list[FakeContainer] = []
        self.refuses_gpus = ""
        self.removed = 0
        self.fails_at_removal = False

    @contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[FakeContainer]:
        if spec.gpu and self.refuses_gpus:
            raise EngineError("No container of image:tag could be started.", why=self.refuses_gpus)
        script = self.scripts[way_of(spec)].pop(0)
        model = dict(spec.environment)["MODEL_NAME"]
        with FakeServing(spec.mounts[0].source, script.behaviour, model=model) as server:
            self.containers.append(FakeContainer(script, server, spec))
            try:
                yield self.containers[-1]
            finally:
                self.removed += 1
        if self.fails_at_removal:
            raise EngineUnavailableError("The Docker engine does not answer.")


def _tree(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmokePlan:
    monkeypatch.setattr("serving_factory.smoke.checks._POLL", 0.01)
    monkeypatch.setattr("serving_factory.smoke.checks.LEAST_UPTIME", 0.0)
    monkeypatch.setattr("serving_factory.smoke.swap._POLL", 0.002)
    monkeypatch.setattr("serving_factory.smoke.swap._REQUESTS_AFTER", 2)
    for model, version in ((MODEL, OLD), (f"{MODEL}_next", NEW)):
        folder = tmp_path / model / f"{version:08}"
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"model")
        (folder / "saved_model.pb").chmod(0o600)
        folder.chmod(0o700)
    (tmp_path / "scratch").mkdir()
    return SmokePlan(
        variant="2.19.1-cpu-v3",
        model=tmp_path / MODEL,
        next_model=tmp_path / f"{MODEL}_next",
        reported_version="2.19.1",
        ready_timeout=0.3,
        health_timeout=0.3,
        swap_timeout=1.0,
        server=releases()["2.19.1"].server,
        scratch=tmp_path / "scratch",
        owner="test",
    )


def smoke(
    plan: SmokePlan,
    plain: Script | None = None,
    hardened: Script | None = None,
    *,
    after: Callable[[str, FakeEngine], None] = lambda _check, _engine: None,
    cancel: Cancel | None = None,
    engine: FakeEngine | None = None,
) -> tuple[SmokeReport, FakeEngine]:
    """Run the checks; `after` is called with the name of each check that has ended."""
    engine = engine or FakeEngine(plain or Script(), hardened or Script())
    emitted: list[CheckResult] = []

    def emit(result: CheckResult) -> None:
        emitted.append(result)
        after(result.name, engine)

    report = run_checks(cast("Engine", engine), "image:tag", plan=plan, cancel=cancel or Cancel(), emit_check=emit)
    assert report.checks == tuple(emitted)
    assert engine.removed == len(engine.containers)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("swap")] == []
    for container in engine.containers:
        assert not container.spec.mounts[0].source.exists()
    return report, engine


def failed(report: SmokeReport, check: str, error: type[FactoryError]) -> FactoryError:
    """The report of a run that this check ended, with this error; give the error."""
    assert [item.name for item in report.checks if not item.ok] == [check]
    assert report.checks[-1].name == check
    assert {name for name, _ in report.skipped} == set(ALL) - {item.name for item in report.checks}
    assert all(reason == f"not reached: {check} failed" for _, reason in report.skipped)
    assert type(report.error) is error
    assert report.checks[-1].text == report.error.what
    return report.error


def test_a_good_image_passes_every_check(plan: SmokePlan) -> None:
    report, _ = smoke(plan)
    assert report.error is None, report.error
    assert [item.name for item in report.checks] == ALL
    assert report.skipped == ()
    assert report.answers == {"REST": (2.5, 3.0, 4.5), "gRPC": (2.5, 3.0, 4.5)}
    texts = {item.name: item.text for item in report.checks}
    assert texts["predict-grpc"] == "[1.0, 2.0, 5.0] -> [2.5, 3.0, 4.5]"
    assert texts["status"] == "version 123 AVAILABLE over gRPC and REST"
    assert texts["version-flag"] == "2.19.1-rc0+dev.sha.no_git"
    assert texts["swap"].startswith("answers: REST ")
    assert texts["stop"] == "stopped in 0.30 s, exit code 143"


OPENED = ("libcudart.so.12", "libcublas.so.12")
LOADED = """\
\tlinux-vdso.so.1 (0x00007ffe2b5f2000)
\tlibcudart.so.12 => /lib/x86_64-linux-gnu/libcudart.so.12 (0x00007f6ac2a00000)
\tlibcublas.so.12 => /lib/x86_64-linux-gnu/libcublas.so.12 (0x00007f6abc000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6ac281f000)
\tlibcublasLt.so.12 => /lib/x86_64-linux-gnu/libcublasLt.so.12 (0x00007f6a9a000000)
\tlibcuda.so.1 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f6ac2c9c000)
"""


def test_the_loader_finds_what_the_server_opens_without_a_gpu(plan: SmokePlan) -> None:
    report, _ = smoke(dataclasses.replace(plan, opened=OPENED), Script(loader=LOADED))
    assert report.error is None, report.error
    assert {item.name: item.text for item in report.checks}["libraries"] == "the loader finds all 2"


REFUSED = "ERROR: ld.so: object 'libcudart.so.12' from LD_PRELOAD cannot be preloaded (cannot open …): ignored.\n"


@pytest.mark.parametrize(
    ("loader", "missing"),
    [
        (REFUSED + LOADED.replace("libcudart.so.12 =>", "libcudart.so.13 =>"), "libcudart.so.12"),
        (LOADED.replace("=> /lib/x86_64-linux-gnu/libcublasLt.so.12", "=> not found"), "libcublasLt.so.12"),
        ("sh: 1: not found", "libcudart.so.12, libcublas.so.12"),
    ],
)
def test_a_library_that_the_loader_does_not_find_is_named(plan: SmokePlan, loader: str, missing: str) -> None:
    report, _ = smoke(dataclasses.replace(plan, opened=OPENED), Script(loader=loader))
    error = report.error
    assert isinstance(error, LibraryMissingError)
    assert error.what == f"The image lacks libraries that the server opens while it runs: {missing}."
    assert loader.strip() in error.why


def test_how_the_containers_are_started(plan: SmokePlan) -> None:
    _, engine = smoke(plan)
    plain, hardened = (container.spec for container in engine.containers)
    assert plain.environment == (("MODEL_NAME", MODEL),)
    assert set(plain.ports) == {8500, 8501}
    assert plain.mounts[0].target == f"/models/{MODEL}"
    assert plain.owner == "test"
    assert not plain.read_only
    assert hardened.mounts[0].source != plain.mounts[0].source
    assert dataclasses.replace(hardened, mounts=plain.mounts) == dataclasses.replace(
        plain,
        read_only=True,
        cap_drop=("ALL",),
        user="12345",
        security_opt=("no-new-privileges",),
        entrypoint=("/usr/bin/tensorflow_model_server",),
        command=(
            "--port=8500",
            "--rest_api_port=8501",
            f"--model_name={MODEL}",
            f"--model_base_path=/models/{MODEL}",
        ),
    )


def test_models_are_readable_by_every_user_whatever_the_umask(plan: SmokePlan) -> None:
    before = os.umask(0o077)
    try:
        _, engine = smoke(plan)
    finally:
        os.umask(before)
    for container in engine.containers:
        assert set(container.modes.values()) == {0o755, 0o644}
        assert container.modes["saved_model.pb"] == 0o644


@pytest.mark.parametrize(
    ("tag", "skipped", "rest"),
    [
        ("1.7.1", {"predict-rest": "rest", "version-flag": "version flag"}, set()),
        ("1.9.1", {"version-flag": "version flag"}, {":predict"}),
        ("1.11.1", {}, {":predict"}),
        ("1.12.0", {}, {":predict", "", "/metadata"}),
    ],
)
def test_an_old_release_is_asked_only_what_it_can(
    plan: SmokePlan, tag: str, skipped: dict[str, str], rest: set[str]
) -> None:
    report, engine = smoke(dataclasses.replace(plan, server=releases()[tag].server))
    assert report.error is None, report.error
    assert dict(report.skipped) == {check: f"the release has no {missing}" for check, missing in skipped.items()}
    assert set(report.answers) == {"gRPC", *(["REST"] if rest else [])}
    asked = {path for path, _ in engine.containers[0].server.requests if path.startswith("/")}
    assert asked == {f"/v1/models/{MODEL}{path}" for path in rest}
    assert ("--rest_api_port=8501" in engine.containers[1].spec.command) == bool(rest)


def test_never_ready(plan: SmokePlan) -> None:
    log = "\n".join(f"line {number}" for number in range(1, 41))
    report, _ = smoke(plan, Script(behaviour=Behaviour(available=False), log=log))
    error = failed(report, "ready", ServerNotReadyError)
    assert error.what == "The server did not become ready within 0.3 s."
    assert "version 123 LOADING" in error.why
    assert "line 10\n" not in error.why
    assert "line 11\n" in error.why
    assert error.why.endswith("line 40")


def test_model_does_not_load(plan: SmokePlan) -> None:
    behaviour = Behaviour(load_error="Op type not registered 'Conv2D'")
    report, _ = smoke(dataclasses.replace(plan, ready_timeout=30), Script(behaviour=behaviour))
    error = failed(report, "ready", ServerNotReadyError)
    assert "version 123 END (NOT_FOUND: Op type not registered 'Conv2D')" in error.why


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(exits_with=1, log="cannot open shared object"), "exit code 1."),
        (Script(exits_with=132), "exit code 132 (SIGILL)."),
        (Script(exits_at_port=127), "exit code 127."),
    ],
)
def test_exits_early(plan: SmokePlan, script: Script, said: str) -> None:
    report, _ = smoke(dataclasses.replace(plan, ready_timeout=30), script)
    error = failed(report, "ready", ServerNotReadyError)
    assert error.what == "The container ended before the server was ready."
    assert said in error.why
    assert script.log in error.why


@pytest.mark.parametrize("how", ["exits_with", "exits_at_port"])
def test_cpu_refused(plan: SmokePlan, how: str) -> None:
    sentence = "This image needs avx2, which this CPU lacks. Use the tag 2.19.1 instead."
    script = Script(log=f"tensorflow_model_server: {sentence}\n")
    setattr(script, how, 78)
    report, _ = smoke(plan, script)
    error = failed(report, "ready", CpuLevelError)
    assert error.what == f"The image refuses this machine's CPU: {sentence}"


@pytest.mark.parametrize(("protocol", "check"), [("REST", "predict-rest"), ("gRPC", "predict-grpc")])
def test_wrong_answer(plan: SmokePlan, protocol: str, check: str) -> None:
    report, _ = smoke(plan, Script(behaviour=Behaviour(wrong_protocol=protocol)))
    error = failed(report, check, WrongAnswerError)
    assert error.what == f"The server answered half_plus_two wrongly over {protocol}."
    assert "Sent [1.0, 2.0, 5.0], got [3.5, 4.0, 5.5], expected [2.5, 3.0, 4.5]." in error.why
    assert "a line of the server's log" in error.why


def test_wrong_metadata(plan: SmokePlan) -> None:
    report, _ = smoke(plan, Script(behaviour=Behaviour(signature="other")))
    assert "no signature serving_default" in failed(report, "metadata", WrongAnswerError).what
    report, _ = smoke(plan, Script(behaviour=Behaviour(reported_version=7)))
    assert "version 7 instead of 123" in failed(report, "metadata", WrongAnswerError).what


@pytest.mark.parametrize(
    ("version", "error", "said"),
    [
        ((0, "TensorFlow ModelServer: 2.19.0\n", ""), WrongAnswerError, "not release 2.19.1"),
        ((0, "TensorFlow ModelServer: 2.19.10\n", ""), WrongAnswerError, "not release 2.19.1"),
        ((0, "", VERSION), WrongAnswerError, "not release 2.19.1"),
        ((127, "", "no such file"), SmokeError, "exit code 127"),
    ],
)
def test_wrong_version(plan: SmokePlan, version: tuple[int, str, str], error: type[FactoryError], said: str) -> None:
    report, _ = smoke(plan, Script(version=version))
    assert said in failed(report, "version-flag", error).what


@pytest.mark.parametrize(
    "version",
    [
        (0, VERSION, "Unable to register cuDNN factory: Attempting to register factory for plugin cuDNN\n"),
        (0, f"libops.so: TensorFlow ModelServer: 0.0 loads it\nMKL is here\n{VERSION}", ""),
    ],
)
def test_what_libraries_print_when_they_are_loaded_is_no_version(
    plan: SmokePlan, version: tuple[int, str, str]
) -> None:
    report, _ = smoke(plan, Script(version=version))
    assert report.error is None
    (text,) = (check.text for check in report.checks if check.name == "version-flag")
    assert text == "2.19.1-rc0+dev.sha.no_git"


def test_a_command_inside_hangs(plan: SmokePlan) -> None:
    report, _ = smoke(plan, Script(exec_hangs=True))
    assert "took longer than 60 s" in failed(report, "version-flag", SmokeError).why


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_a_request_fails_during_the_swap(plan: SmokePlan, protocol: str) -> None:
    report, _ = smoke(plan, Script(behaviour=Behaviour(fails_in_swap=protocol)))
    error = failed(report, "swap", SmokeError)
    assert error.what == f"While the model's version was swapped, a {protocol} request failed."
    assert "Servable not found for request" in error.why
    assert "a line of the server's log" in error.why


def test_a_connection_is_cut_during_the_swap(plan: SmokePlan) -> None:
    report, _ = smoke(plan, Script(behaviour=Behaviour(drops_connections=True)))
    assert "cut a connection in use" in failed(report, "swap", SmokeError).why


def test_a_wrong_answer_during_the_swap(plan: SmokePlan) -> None:
    report, _ = smoke(plan, Script(behaviour=Behaviour(added={OLD: 2.0, NEW: 9.0})))
    error = failed(report, "swap", WrongAnswerError)
    assert "got [9.5, 10.0, 11.5], expected [2.5, 3.0, 4.5] (old) or [3.5, 4.0, 5.5] (new)" in error.why


def test_the_new_version_never_answers(plan: SmokePlan) -> None:
    report, _ = smoke(dataclasses.replace(plan, swap_timeout=0.3), Script(behaviour=Behaviour(takes_new_version=False)))
    assert "Version 124 was placed beside 123" in failed(report, "swap", SmokeError).what


def test_the_old_version_never_ends(plan: SmokePlan) -> None:
    report, _ = smoke(dataclasses.replace(plan, swap_timeout=0.3), Script(behaviour=Behaviour(ends_old_version=False)))
    error = failed(report, "swap", SmokeError)
    assert "version 123 is still loaded" in error.what
    assert "version 123 AVAILABLE" in error.why


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(stop_seconds=2.4), "took 2.40 s to stop; the limit is 2 s."),
        (Script(stop_seconds=3.1, stop_code=137), "took 3.10 s to stop and had to be killed; the limit is 2 s."),
    ],
)
def test_slow_stop(plan: SmokePlan, script: Script, said: str) -> None:
    report, _ = smoke(plan, script)
    assert said in failed(report, "stop", ServerStopError).what
    report, _ = smoke(plan, hardened=script)
    assert said in failed(report, "hardened-stop", ServerStopError).what


@pytest.mark.parametrize(
    ("health", "said"), [("unhealthy", "but unhealthy"), ("starting", "but starting"), (None, "no health check")]
)
def test_not_healthy(plan: SmokePlan, health: str | None, said: str) -> None:
    report, _ = smoke(plan, hardened=Script(health=health))
    assert said in failed(report, "healthy", SmokeError).what


def test_health_command_fails(plan: SmokePlan) -> None:
    report, _ = smoke(plan, hardened=Script(health_command=(1, "LOADING")))
    error = failed(report, "health-command", SmokeError)
    assert "/usr/bin/tf_serving_health says: LOADING" in error.why


def test_hardened_server_does_not_start(plan: SmokePlan) -> None:
    report, _ = smoke(plan, hardened=Script(exits_with=1, log="mkdir: read-only file system"))
    assert "read-only file system" in failed(report, "hardened-ready", ServerNotReadyError).why


@pytest.mark.parametrize(
    ("before", "caught", "code"),
    [(*pair, code) for pair, code in zip([*pairwise(ALL[1:9]), *pairwise(ALL[9:])], cycle((0, 1, 139, 143)))],
)
def test_a_server_that_ends_by_itself_fails_the_next_check(
    plan: SmokePlan, before: str, caught: str, code: int
) -> None:
    def end(check: str, engine: FakeEngine) -> None:
        if check == before:
            engine.containers[ALL.index(caught) > ALL.index("stop")].die(code)

    report, _ = smoke(plan, after=end)
    error = failed(report, caught, SmokeError)
    assert "ended by itself" in error.what
    assert f"exit code {code}" in error.why
    assert "a line of the server's log" in error.why


def test_a_healthy_server_that_dies_soon_is_noticed(plan: SmokePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.smoke.checks.LEAST_UPTIME", 60.0)

    def end_soon(check: str, engine: FakeEngine) -> None:
        if check == "health-command":
            threading.Timer(0.1, engine.containers[1].die, (139,)).start()

    report, _ = smoke(plan, after=end_soon)
    assert "exit code 139" in failed(report, "healthy", SmokeError).why


def test_a_server_that_stops_answering_is_known_by_its_end(plan: SmokePlan) -> None:
    def end(check: str, engine: FakeEngine) -> None:
        if check == "status":
            engine.containers[0].server.stop()
            engine.containers[0].die(139)

    report, _ = smoke(plan, after=end)
    assert "exit code 139 (SIGSEGV)" in failed(report, "metadata", SmokeError).why


def test_a_container_that_was_restarted_is_named(plan: SmokePlan) -> None:
    def restart(check: str, engine: FakeEngine) -> None:
        if check == "ready":
            engine.containers[1].restarts = 1

    report, _ = smoke(plan, after=restart)
    error = failed(report, "hardened-ready", SmokeError)
    assert "restarted" in error.what
    assert "12:00:01" in error.why


@pytest.mark.parametrize("code", [1, 134, 139])
def test_a_server_that_crashes_when_asked_to_stop_is_named(plan: SmokePlan, code: int) -> None:
    for check, scripts in {
        "stop": (Script(stop_code=code), None),
        "hardened-stop": (None, Script(stop_code=code)),
    }.items():
        report, _ = smoke(plan, *scripts)
        assert f"exit code {code}" in failed(report, check, ServerStopError).what


def test_a_cancelled_run_leaves_the_checks(plan: SmokePlan) -> None:
    cancel = Cancel()
    waiting = Script(behaviour=Behaviour(available=False))
    report, _ = smoke(
        dataclasses.replace(plan, ready_timeout=30), waiting, after=lambda *_: cancel.ask(), cancel=cancel
    )
    failed(report, "ready", CancelledError)


def test_missing_model(plan: SmokePlan, tmp_path: Path) -> None:
    report, engine = smoke(dataclasses.replace(plan, model=tmp_path / "nowhere"))
    assert "holds no version of a model" in failed(report, "start", SmokeError).what
    assert engine.containers == []
    report, _ = smoke(dataclasses.replace(plan, next_model=plan.model))
    assert "higher number" in failed(report, "start", SmokeError).what


def test_engine_goes_away_at_the_end(plan: SmokePlan) -> None:
    def leave(_check: str, engine: FakeEngine) -> None:
        engine.fails_at_removal = True

    report, _ = smoke(plan, Script(exits_with=1), after=leave)
    assert isinstance(report.error, ServerNotReadyError), "what failed first is what is reported"
    report, _ = smoke(plan, after=leave)
    assert isinstance(report.error, EngineUnavailableError)
    assert all(item.ok for item in report.checks)


def test_interrupt_removes_the_containers(plan: SmokePlan) -> None:
    engines: list[FakeEngine] = []

    def interrupt(check: str, engine: FakeEngine) -> None:
        if check == "predict-rest":
            engines.append(engine)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smoke(plan, after=interrupt)
    assert engines[0].removed == 2


def test_what_checks_need_to_know_of_a_release_is_in_the_stages_key() -> None:
    assert {check.needs for check in CHECKS if check.needs} <= set(SERVER_FACTS)
