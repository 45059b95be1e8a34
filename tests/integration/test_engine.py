"""The rooms under `engine` on a real engine, and against a real registry with a password."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving_factory.docker.buildx import TAIL, BuildFailed, BuildRequest, BuildResult, build
from serving_factory.docker.engine import OWNER_LABEL, ContainerSpec, Engine, Mount
from serving_factory.docker.http import Client, Patience
from serving_factory.docker.process import Cancel
from serving_factory.docker.registry import Registry, credentials_for, digest_of
from serving_factory.docker.solve_status import Step
from serving_factory.errors import (
    CancelledError,
    DiskFullError,
    DockerCommandError,
    EngineError,
    EngineLostError,
    EngineUnavailableError,
    RegistryDeniedError,
    RegistryFaultError,
    RegistryUnreachableError,
)
from serving_factory.pipeline.retry import asking_again

from .pipeline import IMAGES
from .registry import FaultyProxy, LocalRegistry, write_docker_config

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "serving-factory/base:bookworm"
LABEL = (OWNER_LABEL, "test")
IMAGE = f"{IMAGES}/engine:1"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.connect()


def request(folder: Path, dockerfile: str, **options: object) -> BuildRequest:
    path = folder / "Dockerfile"
    path.write_text(dockerfile)
    return BuildRequest(dockerfile=path, context=folder, labels=(LABEL,), **options)  # type: ignore[arg-type]


def run(request: BuildRequest) -> tuple[BuildResult, list[Step], str]:
    steps: list[Step] = []
    log = io.StringIO()
    return build(request, on_step=steps.append, log=log), steps, log.getvalue()


class TestBuild:
    def test_files(self, tmp_path: Path) -> None:
        salt = uuid.uuid4().hex
        dockerfile = f"""
            FROM {BASE} AS build
            RUN echo "[1 / 2] Compiling {salt}"; echo two >&2; printf 'made of %s' "$(cat /etc/debian_version)" > /file
            FROM scratch AS files
            COPY --from=build /file /deep/file
            FROM files AS unused
            COPY nothing /
        """
        out = tmp_path / "out"
        required = request(tmp_path, textwrap.dedent(dockerfile), target="files", output=out)
        result, steps, log = run(required)
        assert (out / "deep" / "file").read_text().startswith("made of 12")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["Dockerfile", "out"]
        assert (result.digests, result.steps) == ((), 2)
        compiled = [step for step in steps if step.place == "[build 2/2]"]
        assert [step.kind for step in compiled] == ["started", "log", "log", "done"]
        assert {step.text for step in compiled[1:3]} == {f"[1 / 2] Compiling {salt}", "two"}
        assert f"[build 2/2] [1 / 2] Compiling {salt}\n" in log
        again, _, _ = run(required)
        assert again.cached == again.steps == 2

    def test_image(self, engine: Engine, tmp_path: Path) -> None:
        tag = f"serving-factory-test/engine-image:{uuid.uuid4().hex[:8]}"
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "file").write_text("from the named context")
        dockerfile = r"""
            FROM nowhere.example/base:1@sha256:{digest} AS base
            ARG WORD
            RUN --network=none --mount=type=bind,from=source,target=/source \
                test "$WORD" = 'a word' && test -f /source/file
            FROM scratch
            COPY --from=source file /
        """
        reference = f"nowhere.example/base:1@sha256:{'0' * 64}"
        required = request(
            tmp_path,
            textwrap.dedent(dockerfile).format(digest="0" * 64),
            tags=(tag,),
            build_args=(("WORD", "a word"),),
            contexts=((reference, f"docker-image://{BASE}"), ("source", str(tmp_path / "source"))),
        )
        try:
            result, _, _ = run(required)
            assert result.digests
            image = engine.image_id(*result.digests)
            assert engine.image_id(tag) == image
            assert engine.image_names(f"{OWNER_LABEL}=test")[tag] == image
            assert engine.image_size(tag) == len("from the named context")
        finally:
            engine.remove_image(tag)
        assert engine.image_id(tag) is None

    def test_failing_command(self, tmp_path: Path) -> None:
        # BuildKit reads a step's two streams side by side: only time puts their lines in order.
        lines = "seq 1 80; sleep 0.2; echo 'ERROR: it does not compile' >&2; sleep 0.2; exit 37"
        dockerfile = f"FROM {BASE} AS binary_build\nRUN true\nRUN {lines}\nFROM scratch\nCOPY --from=0 /etc/motd /\n"
        required = request(tmp_path, dockerfile, output=tmp_path / "out")
        with pytest.raises(BuildFailed) as caught:
            run(required)
        assert caught.value.step == f"[binary_build 3/3] RUN {lines}"
        assert caught.value.exit_code == 37
        assert len(caught.value.tail) == TAIL
        assert set(caught.value.tail) >= {"80", "ERROR: it does not compile"}
        assert "Dockerfile:3" in caught.value.text
        assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]

    def test_broken_dockerfile(self, tmp_path: Path) -> None:
        with pytest.raises(BuildFailed) as caught:
            run(request(tmp_path, f"FROM {BASE}\nRUNN true\n"))
        assert "unknown instruction" in caught.value.text

    def test_missing_base_image(self, tmp_path: Path) -> None:
        with pytest.raises(BuildFailed) as caught:
            run(request(tmp_path, "FROM registry.invalid/base:1\n"))
        assert caught.value.step == "[internal] load metadata for registry.invalid/base:1"

    def test_full_file_system_in_a_step_is_the_disk(self, tmp_path: Path) -> None:
        step = "RUN --mount=type=tmpfs,target=/small,size=65536 head -c 1000000 /dev/zero > /small/file"
        with pytest.raises(DiskFullError):
            run(request(tmp_path, f"FROM {BASE}\n{step}\n"))

    def test_engine_that_goes_away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seconds = unique_seconds()
        required = request(tmp_path, slow(seconds), output=tmp_path / "out")
        with EngineTunnel.run() as tunnel:
            monkeypatch.setenv("DOCKER_HOST", tunnel.host)
            with pytest.raises(EngineLostError) as caught:
                build(required, on_step=lambda step: tunnel.cut() if step.text == "begun" else None, log=io.StringIO())
        assert "went away" in caught.value.what
        assert_nothing_left(tmp_path, seconds)

    @pytest.mark.parametrize("variable", ["DOCKER_HOST", "DOCKER_CONTEXT"])
    def test_no_engine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.setenv(variable, "unix:///no/such/socket" if variable == "DOCKER_HOST" else "nowhere")
        with pytest.raises(EngineUnavailableError):
            run(request(tmp_path, "FROM scratch\n"))

    def test_no_buildx(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A docker command that stands alone, without plugins."""
        stand_in = tmp_path / "bin" / "docker"
        stand_in.parent.mkdir()
        stand_in.write_text("#!/bin/sh\necho 'unknown flag: --progress' >&2\nexit 125\n")
        stand_in.chmod(0o755)
        monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
        with pytest.raises(DockerCommandError):
            run(request(tmp_path, "FROM scratch\n"))

    def test_cancelled_from_another_thread(self, tmp_path: Path) -> None:
        seconds = unique_seconds()
        cancel = Cancel()

        def on_step(step: Step) -> None:
            if step.text == "begun":
                cancel.ask()

        required = request(tmp_path, slow(seconds), output=tmp_path / "out")
        with pytest.raises(CancelledError):
            build(required, on_step=on_step, log=io.StringIO(), cancel=cancel)
        assert_nothing_left(tmp_path, seconds)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_ended_factory_leaves_nothing_running(self, tmp_path: Path, number: signal.Signals) -> None:
        """Ctrl-C ends buildx, the step in the engine, and the half output; even kill -9 ends the first two."""
        seconds = unique_seconds()
        required = request(tmp_path, slow(seconds), output=tmp_path / "out")
        program = textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from serving_factory.docker.buildx import BuildRequest, build
            request = BuildRequest(
                dockerfile=Path({str(required.dockerfile)!r}),
                context=Path({str(tmp_path)!r}),
                output=Path({str(required.output)!r}),
            )
            build(request, on_step=lambda step: print(step.text, flush=True), log=open({str(tmp_path / "log")!r}, "w"))
            """
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as factory:
            assert factory.stdout is not None
            while (line := factory.stdout.readline()) != "begun\n":
                assert line
            assert processes(seconds)
            began = time.monotonic()
            factory.send_signal(number)
            _, errors = factory.communicate(timeout=30)
        assert time.monotonic() - began < 10
        if number == signal.SIGINT:
            assert "KeyboardInterrupt" in errors
            assert_nothing_left(tmp_path, seconds)
            assert "begun\n" in (tmp_path / "log").read_text()
            return
        wait_until_gone(seconds, str(tmp_path))
        assert list(tmp_path.glob(".out.partial-*"))
        fixed = request(tmp_path, "FROM scratch\nCOPY Dockerfile /\n", output=tmp_path / "out")
        run(fixed)
        assert not list(tmp_path.glob(".out.partial-*"))


class EngineTunnel:
    """A TCP port that leads to this machine's engine until it is cut: an engine that goes away."""

    def __init__(self, server: socket.socket) -> None:
        self.host = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        self._server = server
        self._open: list[socket.socket] = [server]

    @classmethod
    @contextlib.contextmanager
    def run(cls) -> Iterator[EngineTunnel]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            tunnel = cls(server)
            thread = threading.Thread(target=tunnel._accept)
            thread.start()
            try:
                yield tunnel
            finally:
                tunnel.cut()
                thread.join()

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                client = stack.enter_context(self._server.accept()[0])
                engine = stack.enter_context(socket.socket(socket.AF_UNIX))
                engine.connect("/var/run/docker.sock")
                self._open += [client, engine]
                for pair in ((client, engine), (engine, client)):
                    thread = threading.Thread(target=self._pump, args=pair)
                    thread.start()
                    stack.callback(thread.join)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def unique_seconds() -> str:
    """For `sleep`: its command line is how a step is found among this machine's processes."""
    return f"7{uuid.uuid4().int % 10**8:08d}"


def slow(seconds: str) -> str:
    return f"FROM {BASE}\nRUN echo begun; exec sleep {seconds}\nFROM scratch\nCOPY --from=0 /etc/hostname /\n"


def processes(*words: str) -> list[str]:
    """The command lines of living processes with one of these words; the engine runs on this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if path.parent.name != str(os.getpid()) and any(word in line for word in words):
            lines.append(line)
    return lines


def wait_until_gone(*words: str) -> None:
    deadline = time.monotonic() + 10
    while left := processes(*words):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def assert_nothing_left(folder: Path, seconds: str) -> None:
    wait_until_gone(seconds, str(folder))
    assert {path.name for path in folder.iterdir()} <= {"Dockerfile", "log"}


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Sleeps, ends on SIGTERM, is healthy once /tmp/ok is there, and leads port 8501 to nowhere."""
    dockerfile = f"""
        FROM {BASE}
        HEALTHCHECK --interval=1s --start-period=60s --start-interval=200ms CMD test -e /tmp/ok
        EXPOSE 8500 8501
        ENTRYPOINT ["sh", "-c", "trap 'exit 3' TERM; echo \\"hello $WORD\\"; while :; do sleep 0.1; done"]
    """
    folder = tmp_path_factory.mktemp("image")
    run(request(folder, textwrap.dedent(dockerfile), tags=(IMAGE,)))
    yield IMAGE
    engine.remove_image(IMAGE)


def spec(image: str, **options: object) -> ContainerSpec:
    return ContainerSpec(image=image, owner="test", **options)  # type: ignore[arg-type]


def until(condition: object, value: object, seconds: float = 10) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while (found := condition()) != value:
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.05)


class TestContainer:
    def test_life(self, engine: Engine, image: str) -> None:
        required = spec(image, ports=(8500, 8501), environment=(("WORD", "world"),))
        with engine.container(required) as container:
            assert container.status() == "running"
            assert container.exit_code() is None
            assert container.port(8500) != container.port(8501)
            assert container.health() == "starting"
            until(container.logs, "hello world\n")
            ran = container.exec(["sh", "-c", "echo out; echo err >&2; echo more; touch /tmp/ok; exit 5"])
            assert ran == (5, "out\nmore\n", "err\n")
            until(container.health, "healthy")
            assert container.stop(10) < 5
            assert (container.status(), container.exit_code()) == ("exited", 3)
        with pytest.raises(EngineError):
            container.status()

    def test_published_on_loopback_only(self, engine: Engine, image: str) -> None:
        with engine.container(spec(image, ports=(8501,))) as container:
            inspected = subprocess.run(
                ["docker", "port", container.id, "8501"], check=True, capture_output=True, text=True
            )
            assert inspected.stdout.splitlines() == [f"127.0.0.1:{container.port(8501)}"]

    def test_port_of_a_dead_container_says_why(self, engine: Engine) -> None:
        required = spec(BASE, command=("sh", "-c", "echo 'Illegal instruction'; exit 78"), ports=(8500,))
        with engine.container(required) as container:
            until(container.exit_code, 78)
            with pytest.raises(EngineError, match="Illegal instruction"):
                container.port(8500)
            with pytest.raises(EngineError):
                container.exec(["true"])

    def test_deaf_container_is_killed_in_time(self, engine: Engine) -> None:
        required = spec(BASE, command=("sleep", "600"))  # as PID 1 it has no handler for SIGTERM
        with engine.container(required) as container:
            seconds = container.stop(1)
            assert 0.9 < seconds < 5
            assert container.exit_code() == 137

    def test_hardening_reaches_the_container(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "model").write_text("half plus two")
        tmp_path.chmod(0o755)
        script = "cat /models/model; id -u; touch /file; touch /models/file; grep CapEff /proc/self/status"
        required = spec(
            BASE,
            entrypoint=("sh", "-c"),
            command=(script,),
            mounts=(Mount(tmp_path, "/models"),),
            read_only=True,
            cap_drop=("ALL",),
            security_opt=("no-new-privileges",),
            user="65532:0",
        )
        with engine.container(required) as container:
            until(container.exit_code, 0)
            assert sorted(container.logs().splitlines()) == [
                "CapEff:\t0000000000000000",
                "half plus two65532",
                "touch: cannot touch '/file': Read-only file system",
                "touch: cannot touch '/models/file': Read-only file system",
            ]

    def test_last_lines_of_the_log(self, engine: Engine) -> None:
        with engine.container(spec(BASE, command=("seq", "1", "100"))) as container:
            until(container.exit_code, 0)
            assert container.logs(tail=2) == "99\n100\n"

    def test_command_without_an_end(self, engine: Engine, image: str) -> None:
        began = time.monotonic()
        with engine.container(spec(image)) as container:
            with pytest.raises(TimeoutError, match="sleep 600"):
                container.exec(["sleep", "600"], timeout=0.5)
            assert time.monotonic() - began < 10

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_removed_on_exception(self, engine: Engine, image: str, error: type[BaseException]) -> None:
        ids = []
        with pytest.raises(error), engine.container(spec(image)) as container:  # noqa: PT012
            ids.append(container.id)
            raise error
        assert not exists(ids[0])

    def test_removed_when_it_cannot_start(self, engine: Engine, image: str) -> None:
        owner = f"test-{uuid.uuid4().hex[:8]}"
        required = ContainerSpec(image=image, entrypoint=("/no/such/program",), owner=owner)
        with pytest.raises(EngineError, match="no such file"), engine.container(required):
            pytest.fail("it never ran")
        assert engine.remove_strays(owner) == 0

    def test_no_such_image(self, engine: Engine) -> None:
        required = spec("serving-factory-test/no-such-image:1")
        with pytest.raises(EngineError, match="Build the image first"), engine.container(required):
            pytest.fail("it never ran")

    def test_strays_of_one_owner(self, engine: Engine, image: str) -> None:
        owner = f"test-{uuid.uuid4().hex[:8]}"
        command = ["docker", "run", "--detach", "--label", f"{OWNER_LABEL}={owner}", image]
        stray = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        assert engine.remove_strays(f"{owner}-other") == 0
        assert engine.remove_strays(owner) == 1
        assert not exists(stray)
        assert engine.remove_strays(owner) == 0


def exists(container_id: str) -> bool:
    return subprocess.run(["docker", "inspect", container_id], check=False, capture_output=True).returncode == 0


@pytest.fixture
def pushable(engine: Engine, local_registry: LocalRegistry, tmp_path: Path) -> Iterator[str]:
    """A fresh image of two layers, tagged for a repository of its own; gives the repository's path."""
    path = f"team/engine-{uuid.uuid4().hex[:8]}"
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(100_000))
    tag = f"{local_registry.host}/{path}:1"
    run(request(tmp_path, "FROM scratch\nCOPY one /\nCOPY two /\n", tags=(tag,)))
    yield path
    engine.remove_image(tag)


@pytest.mark.usefixtures("logged_in")
class TestPush:
    def test_digest_and_layers(self, engine: Engine, local_registry: LocalRegistry, pushable: str) -> None:
        repository = f"{local_registry.host}/{pushable}"
        registry = Registry(local_registry.host, credentials=credentials_for(local_registry.host))
        assert registry.manifest_digest(pushable, "1") is None
        told: list[str] = []
        first = engine.push(repository, "1", on_status=told.append)
        assert first.pushed_layers == 2
        assert told[-1].startswith("2 of 2 layers there")
        assert registry.manifest_digest(pushable, "1") == first.digest
        assert registry.manifest_digest(pushable, first.digest) == first.digest

        engine.tag(f"{repository}:1", repository, "2")
        second = engine.push(repository, "2", on_status=told.append)
        engine.remove_image(f"{repository}:2")
        assert (second.digest, second.pushed_layers) == (first.digest, 0)
        assert registry.manifest_digest(pushable, "2") == first.digest

        engine.tag(f"{repository}:1", f"{repository}-copy", "1")
        copy = engine.push(f"{repository}-copy", "1", on_status=told.append)
        engine.remove_image(f"{repository}-copy:1")
        assert copy.pushed_layers == 0

    def test_wrong_password(
        self,
        engine: Engine,
        local_registry: LocalRegistry,
        pushable: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = write_docker_config(tmp_path / "wrong", local_registry, password="wrong")
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        with pytest.raises(RegistryDeniedError):
            engine.push(f"{local_registry.host}/{pushable}", "1", on_status=ignore)
        with pytest.raises(RegistryDeniedError):
            Registry(local_registry.host, credentials=credentials_for(local_registry.host)).manifest_digest(
                pushable, "1"
            )

    def test_no_password(
        self,
        engine: Engine,
        local_registry: LocalRegistry,
        pushable: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "empty"))
        with pytest.raises(RegistryDeniedError) as caught:
            engine.push(f"{local_registry.host}/{pushable}", "1", on_status=ignore)
        assert f"docker login {local_registry.host}" in caught.value.remedy

    def test_unreachable(self, engine: Engine, local_registry: LocalRegistry, pushable: str) -> None:
        engine.tag(f"{local_registry.host}/{pushable}:1", "127.0.0.1:1/team/image", "1")
        try:
            with pytest.raises(RegistryUnreachableError):
                engine.push("127.0.0.1:1/team/image", "1", on_status=ignore)
        finally:
            engine.remove_image("127.0.0.1:1/team/image:1")

    def test_no_such_image(self, engine: Engine, local_registry: LocalRegistry) -> None:
        with pytest.raises(EngineError, match="to push"):
            engine.push(f"{local_registry.host}/team/never-built", "1", on_status=ignore)


def ignore(_text: str) -> None:
    """Say that no test looks at."""


@pytest.fixture
def behind_proxy(
    engine: Engine, local_registry: LocalRegistry, faulty_proxy: FaultyProxy, pushable: str
) -> Iterator[str]:
    """The image under a name that leads through the proxy; gives that name."""
    repository = f"{faulty_proxy.host}/{pushable}"
    engine.tag(f"{local_registry.host}/{pushable}:1", repository, "1")
    yield repository
    engine.remove_image(f"{repository}:1")


@pytest.mark.usefixtures("logged_in")
class TestPushWithFaults:
    """The engine retries the upload of a layer by itself, 5 s later, and nothing else."""

    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_two_faults_and_success(
        self, engine: Engine, faulty_proxy: FaultyProxy, behind_proxy: str, status: int
    ) -> None:
        faulty_proxy.fail(times=2, method="PUT", path="/manifests/", status=status)
        retries: list[str] = []
        result = asking_again(lambda: engine.push(behind_proxy, "1", on_status=ignore), retries.append)
        assert [text.partition(" failed")[0] for text in retries] == ["attempt 1", "attempt 2"]
        assert faulty_proxy.count("PUT", "/manifests/") == 3
        assert faulty_proxy.count("PATCH", "/blobs/uploads/") == 3  # two layers and the configuration: nothing twice
        registry = Registry(faulty_proxy.host, credentials=credentials_for(faulty_proxy.host))
        assert registry.manifest_digest(behind_proxy.partition("/")[2], "1") == result.digest

    @pytest.mark.parametrize(("method", "path"), [("PUT", "/manifests/"), ("GET", "/v2/$")])
    def test_cut_connections(
        self, engine: Engine, faulty_proxy: FaultyProxy, behind_proxy: str, method: str, path: str
    ) -> None:
        faulty_proxy.fail(times=9, method=method, path=path, cut=True)
        with pytest.raises(RegistryFaultError):
            engine.push(behind_proxy, "1", on_status=ignore)

    def test_engine_that_forgets_the_password_after_a_fault(
        self, engine: Engine, faulty_proxy: FaultyProxy, behind_proxy: str
    ) -> None:
        """It says "authentication required" after a 503 to its first question, and would name the wrong culprit."""
        faulty_proxy.fail(method="GET", path="/v2/$", status=503)
        with pytest.raises(RegistryFaultError, match="accepts the credentials"):
            engine.push(behind_proxy, "1", on_status=ignore)
        assert engine.push(behind_proxy, "1", on_status=ignore).pushed_layers == 2

    def test_the_engine_retries_layers_by_itself(
        self, engine: Engine, faulty_proxy: FaultyProxy, behind_proxy: str
    ) -> None:
        faulty_proxy.fail(times=2, method="POST", path="/blobs/uploads/", status=500)
        told: list[str] = []
        result = engine.push(behind_proxy, "1", on_status=told.append)
        assert result.pushed_layers == 2
        assert any(text.startswith("Retrying in") for text in told)

    def test_an_upload_that_is_cut_in_the_middle(
        self, engine: Engine, local_registry: LocalRegistry, faulty_proxy: FaultyProxy, behind_proxy: str
    ) -> None:
        """The engine's, of a layer, and ours, of a signature or an SBOM: both are sent again, and whole."""
        path = behind_proxy.partition("/")[2]
        cut = [faulty_proxy.fail(method="PATCH", path="/blobs/uploads/", half=5000)]
        result = engine.push(behind_proxy, "1", on_status=ignore)
        asked = Registry(local_registry.host, credentials=local_registry.credentials)
        assert asked.manifest_digest(path, "1") == result.digest
        registry = Registry(faulty_proxy.host, credentials=local_registry.credentials)
        content = os.urandom(100_000)
        cut.append(faulty_proxy.fail(method="PUT", path="/blobs/uploads/", half=5000))
        with pytest.raises(RegistryFaultError):
            registry.put_blob(path, content)
        assert [fault.times for fault in cut] == [0, 0]
        assert asked.small_blob(path, digest_of(content)) is None
        assert asked.small_blob(path, registry.put_blob(path, content)) == content

    def test_a_rate_limit_is_waited_for_as_long_as_it_says(
        self, engine: Engine, faulty_proxy: FaultyProxy, behind_proxy: str
    ) -> None:
        """What the engine says of it has no Retry-After: so the registry itself is asked."""
        engine.push(behind_proxy, "1", on_status=ignore)  # it asks for no upload again
        for method, path in (("PUT", "/manifests/"), ("POST", "/blobs/uploads/")):
            faulty_proxy.fail(status=429, method=method, path=path, retry_after="29")
        waits: list[float] = []
        asking_again(lambda: engine.push(behind_proxy, "1", on_status=ignore), ignore, sleep=waits.append)
        assert waits == [29.0]

    def test_manifest_question(self, faulty_proxy: FaultyProxy) -> None:
        registry = Registry(
            faulty_proxy.host,
            credentials=credentials_for(faulty_proxy.host),
            client=Client(patience=Patience(each=0.5)),
        )
        registry.try_push("team/nothing")
        for fault in ({"status": 503}, {"cut": True}, {"delay": 1.0}):
            faulty_proxy.fail(method="HEAD", path="/manifests/", **fault)
            with pytest.raises(RegistryFaultError):
                registry.manifest_digest("team/nothing", "1")
        assert registry.manifest_digest("team/nothing", "1") is None


def test_proxy_passes_everything_on(local_registry: LocalRegistry, faulty_proxy: FaultyProxy) -> None:
    connection = http.client.HTTPConnection(faulty_proxy.host, timeout=5)
    connection.request("GET", "/v2/")
    answer = connection.getresponse()
    assert answer.status == http.HTTPStatus.UNAUTHORIZED
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    connection.close()
    assert faulty_proxy.requests == [("GET", "/v2/")]
    assert faulty_proxy.upstream == local_registry.host
