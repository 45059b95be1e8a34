"""docker/engine.py, against a small HTTP server on loopback that plays an engine."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import json
import socket
import tarfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from serving_factory.docker import engine as engines
from serving_factory.docker import push as pushes
from serving_factory.docker.engine import OWNER_LABEL, ContainerSpec, Engine, Mount
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.docker.registry import Registry, is_insecure
from serving_factory.errors import (
    CancelledError,
    DiskFullError,
    EngineError,
    EngineUnavailableError,
    FactoryError,
    RegistryDeniedError,
    RegistryFaultError,
    RegistryLimitError,
)

from .http_servers import QuietHandler, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC = ContainerSpec(image="an/image:1")
CREATE = "POST /containers/create"
# HTTP status and body; None cuts the connection
Answer = tuple[int, object] | Callable[["Handler"], None] | None


class FakeEngine:
    """Answers by method and path without the API's version; what is not planned is 404."""

    def __init__(self) -> None:
        self.host = ""
        self.asked: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, object]] = {}
        self.answers: dict[str, Answer] = {
            "GET /version": (200, {"Version": "26.1.5+dfsg1", "ApiVersion": "1.45"}),
            "GET /info": (200, {"NCPU": 1, "MemTotal": 1}),
            "GET /images/an/image:1/json": (200, {"Id": "sha256:1", "Size": 7}),
        }


class Handler(QuietHandler):
    """One request to a FakeEngine."""

    fake: FakeEngine

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path.startswith("/v1."):
            path = path[path.index("/", 1) :]
        if path.startswith("/containers/serving-factory-"):
            path = "/containers/NAME"
        asked = f"{self.command} {path}"
        self.fake.asked[asked] += 1
        self.fake.bodies[asked] = json.loads(body) if body else {}
        answer = self.fake.answers.get(asked, (404, {"message": "page not found"}))
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if callable(answer):
            answer(self)
            return
        status, content = answer
        self.reply(status, b"" if content is None else json.dumps(content).encode())

    do_GET = do_POST = do_DELETE = _any  # noqa: N815  (names that http.server looks up)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine()

    class Bound(Handler):
        fake = engine

    with serving(Bound) as server:
        engine.host = f"tcp://127.0.0.1:{server.server_port}"
        for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        yield engine


def archive(**files: str) -> Answer:
    """What the engine gives of a path inside a container."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            out.addfile(member, io.BytesIO(text.encode()))

    def answer(handler: Handler) -> None:
        handler.reply(200, tar.getvalue(), X_Docker_Container_Path_Stat=base64.b64encode(b"{}").decode())

    return answer


class TestReadFiles:
    def test_files_are_read_and_nothing_is_run(self, fake: FakeEngine) -> None:
        paths: list[str] = []

        def by_path(handler: Handler) -> None:
            path = parse_qs(urlsplit(handler.path).query)["path"][0]
            paths.append(path)
            if path == "/absent":
                handler.send_error(404)
            else:
                given = archive(**({"c.txt": "c"} if path == "/a/c.txt" else {"d/e": "e", "d/f": "f"}))
                assert callable(given)
                given(handler)

        fake.answers |= {
            CREATE: (201, {"Id": "NAME"}),
            "GET /containers/NAME/json": (200, {"Id": "NAME"}),
            "GET /containers/NAME/archive": by_path,
            "DELETE /containers/NAME": (204, None),
        }
        found = Engine.connect().read_files("an/image:1", "/a/c.txt", "/absent", "/a/d", owner="me")
        assert found == {"/a/c.txt": b"c", "/a/d/e": b"e", "/a/d/f": b"f"}
        assert paths == ["/a/c.txt", "/absent", "/a/d"]
        assert fake.bodies[CREATE]["Labels"] == {OWNER_LABEL: "me"}
        assert fake.asked["POST /containers/NAME/start"] == 0
        assert fake.asked["DELETE /containers/NAME"] == 1

    def test_a_container_that_someone_removes_is_not_an_image_without_files(self, fake: FakeEngine) -> None:
        def gone(handler: Handler) -> None:
            fake.answers["GET /containers/NAME/json"] = (404, {"message": "No such container: NAME"})
            handler.send_error(404)

        fake.answers |= {
            CREATE: (201, {"Id": "NAME"}),
            "GET /containers/NAME/json": (200, {"Id": "NAME"}),
            "GET /containers/NAME/archive": gone,
            "DELETE /containers/NAME": (404, {"message": "No such container: NAME"}),
        }
        with pytest.raises(EngineError, match="No file of an/image:1 could be read"):
            Engine.connect().read_files("an/image:1", "/a", owner="me")

    def test_an_image_that_is_gone(self, fake: FakeEngine) -> None:
        fake.answers |= {CREATE: (404, {"message": "No such image: gone"}), "DELETE /containers/NAME": (204, None)}
        with pytest.raises(EngineError, match="No file of gone could be read"):
            Engine.connect().read_files("gone", "/a", owner="me")


class TestConnect:
    def test_good(self, fake: FakeEngine) -> None:
        assert fake.host
        assert Engine.connect().capacity() == (1, 1)

    def test_only_who_pushes_waits_for_a_second_client(self, fake: FakeEngine) -> None:
        """One question is the SDK's, which asks for the version of the API, and one ours."""
        Engine.connect()
        assert fake.asked == {"GET /version": 2}

    def test_by_context(self, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("DOCKER_HOST")
        write_context(tmp_path, "elsewhere", fake.host)
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
        assert Engine.connect().capacity() == (1, 1)

    @pytest.mark.parametrize("version", ["20.10.24+dfsg1", "22.06.0", "4.9.3", ""])
    def test_too_old(self, fake: FakeEngine, version: str) -> None:
        fake.answers["GET /version"] = (200, {"Version": version, "ApiVersion": "1.41"})
        with pytest.raises(EngineUnavailableError, match=r"23 or later is required") as caught:
            Engine.connect()
        assert version in caught.value.what
        assert "Upgrade" in caught.value.remedy

    def test_an_engine_that_accepts_and_never_answers(self, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "FIRST_ANSWER", 0.3)
        monkeypatch.setattr("serving_factory.docker.process.REPORT_AFTER", 0.1)
        said: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
                Engine.connect(said.append)
        assert "no answer within 0.3 s" in caught.value.why
        assert said == ["waiting for the Docker engine, 0 s so far"]
        assert not fake.asked

    def test_unknown_context(self, monkeypatch: pytest.MonkeyPatch, fake: FakeEngine, tmp_path: Path) -> None:
        """The SDK would take the default engine: another one than buildx does."""
        assert fake.host
        monkeypatch.delenv("DOCKER_HOST")
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
        with pytest.raises(EngineUnavailableError, match=r"nowhere|does not answer"):
            Engine.connect()

    def test_broken_context(self, monkeypatch: pytest.MonkeyPatch, fake: FakeEngine, tmp_path: Path) -> None:
        monkeypatch.delenv("DOCKER_HOST")
        write_context(tmp_path, "broken", fake.host).write_text("{")
        monkeypatch.setenv("DOCKER_CONTEXT", "broken")
        with pytest.raises(EngineUnavailableError):
            Engine.connect()

    @pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "unix:///no/such/socket"])
    def test_nothing_answers(self, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        monkeypatch.setenv("DOCKER_HOST", host)
        assert "./factory setup" in refusal()

    def test_socket_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def connect(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
        monkeypatch.setattr(socket.socket, "connect", connect)
        assert "usermod -aG docker" in refusal()


def refusal() -> str:
    """What is said when no engine can be connected to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves sockets open that did not connect
        try:
            Engine.connect()
        except EngineUnavailableError as error:
            text = str(error)
        gc.collect()
    return text


def write_context(folder: Path, name: str, host: str) -> Path:
    """As `docker context create` does; beside config.json, without which the SDK looks nowhere."""
    (folder / "config.json").write_text("{}")
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))
    return meta


class TestImages:
    def test_known(self, fake: FakeEngine) -> None:
        assert fake.host
        engine = Engine.connect()
        assert engine.image_id("an/image:1") == "sha256:1"
        assert engine.image_size("an/image:1") == 7

    def test_unknown(self, fake: FakeEngine) -> None:
        fake.answers["GET /images/nope/json"] = (404, {"message": "No such image: nope"})
        fake.answers["DELETE /images/nope"] = (404, {"message": "No such image: nope"})
        engine = Engine.connect()
        assert engine.image_id("nope") is None
        assert engine.image_id("nope", "an/image:1") == "sha256:1"
        engine.remove_image("nope")
        with pytest.raises(EngineError, match="no image nope"):
            engine.image_size("nope")

    def test_not_knowing_is_not_absence(self, fake: FakeEngine) -> None:
        engine = Engine.connect()
        fake.answers["GET /images/nope/json"] = (500, {"message": "broken"})
        with pytest.raises(EngineError):
            engine.image_id("nope")
        fake.answers["GET /images/nope/json"] = None
        with pytest.raises(EngineUnavailableError):
            engine.image_id("nope")

    def test_by_label(self, fake: FakeEngine) -> None:
        found = [{"Id": "sha256:1", "RepoTags": ["one:1", "one:2"]}, {"Id": "sha256:2", "RepoTags": None}]
        fake.answers["GET /images/json"] = (200, found)
        assert Engine.connect().image_names("key=value") == {"one:1": "sha256:1", "one:2": "sha256:1"}
        assert fake.asked["GET /images/json"] == 1

    def test_in_use(self, fake: FakeEngine) -> None:
        fake.answers["DELETE /images/an/image:1"] = (409, {"message": "image is being used by running container"})
        with pytest.raises(EngineError, match="could not be removed"):
            Engine.connect().remove_image("an/image:1")

    @pytest.mark.parametrize(
        ("names", "answer", "removed"),
        [([], (200, []), 1), ([], (409, {"message": "used by running container"}), 1), (["one:1"], (200, []), 0)],
    )
    def test_an_image_without_a_name_goes_unless_it_is_used(
        self, fake: FakeEngine, names: list[str], answer: Answer, removed: int
    ) -> None:
        fake.answers["GET /images/sha256:1/json"] = (200, {"Id": "sha256:1", "RepoTags": names})
        fake.answers["DELETE /images/sha256:1"] = answer
        Engine.connect().remove_unnamed("sha256:1")
        assert fake.asked["DELETE /images/sha256:1"] == removed

    @pytest.mark.parametrize(
        ("found", "answer", "removed"),
        [
            (["r:full", "r:alias"], (200, []), True),
            ([], (200, []), True),
            (["r:full", "mine:1"], (200, []), False),
            (["r:full"], (409, {"message": "used by running container"}), False),
            (["r:full"], (404, {"message": "No such image"}), False),
        ],
    )
    def test_an_image_that_was_replaced_goes_unless_it_has_another_name_or_is_used(
        self, fake: FakeEngine, found: list[str], answer: Answer, *, removed: bool
    ) -> None:
        fake.answers["GET /images/sha256:1/json"] = (200, {"Id": "sha256:1", "RepoTags": found})
        for name in ("sha256:1", "r:full", "r:alias"):
            fake.answers[f"DELETE /images/{name}"] = answer
        assert Engine.connect().remove_if_only("sha256:1", ["r:full", "r:alias", "r:third"]) is removed
        asked = [name for name in fake.asked if name.startswith("DELETE")]
        assert asked == ([] if "mine:1" in found else [f"DELETE /images/{name}" for name in found or ["sha256:1"]])
        fake.answers["DELETE /images/sha256:1"] = fake.answers["DELETE /images/r:full"] = (500, {"message": "no"})
        if asked:
            with pytest.raises(EngineError):
                Engine.connect().remove_if_only("sha256:1", ["r:full", "r:alias"])

    def test_capacity(self, fake: FakeEngine) -> None:
        fake.answers["GET /info"] = (200, {"NCPU": 2, "MemTotal": 25_000_000_000})
        assert Engine.connect().capacity() == (2, 25_000_000_000)

    def test_how_it_gives_gpus(self, fake: FakeEngine) -> None:
        assert Engine.connect().gpu() is None
        fake.answers["GET /info"] = (200, {"Runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}})
        assert Engine.connect().gpu() is GpuAccess.RUNTIME


class TestContainer:
    @pytest.mark.parametrize(
        ("answer", "error", "words"),
        [
            ((404, {"message": "No such image: an/image:1"}), EngineError, "Build the image first"),
            ((400, {"message": "invalid mount"}), EngineError, "invalid mount"),
            ((500, {"message": "mkdir /var/lib/docker: no space left on device"}), DiskFullError, "docker system df"),
            (None, EngineUnavailableError, "./factory setup"),
        ],
    )
    def test_cannot_be_created(self, fake: FakeEngine, answer: Answer, error: type[FactoryError], words: str) -> None:
        fake.answers[CREATE] = answer
        with pytest.raises(error) as caught, Engine.connect().container(SPEC):
            pytest.fail("it never ran")
        assert words in str(caught.value)

    def test_removed_when_it_cannot_be_started(self, fake: FakeEngine) -> None:
        fake.answers[CREATE] = (201, {"Id": "c1"})
        fake.answers["GET /containers/c1/json"] = (200, {"Id": "c1"})
        fake.answers["POST /containers/c1/start"] = (500, {"message": "port is already allocated"})
        fake.answers["DELETE /containers/NAME"] = (204, None)
        with pytest.raises(EngineError, match="port is already allocated"), Engine.connect().container(SPEC):
            pytest.fail("it never ran")
        assert fake.asked["DELETE /containers/NAME"] == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_what_happened_inside_is_what_is_reported(self, fake: FakeEngine, error: type[BaseException]) -> None:
        """Even when the engine goes away meanwhile and the container cannot be removed."""
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = None
        with pytest.raises(error), Engine.connect().container(SPEC):
            raise error
        assert fake.asked["DELETE /containers/NAME"] == 1

    @pytest.mark.parametrize(
        "answer", [(204, None), (404, {"message": "No such container"}), (409, {"message": "removal is in progress"})]
    )
    def test_removed_in_the_end(self, fake: FakeEngine, answer: Answer) -> None:
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = answer
        with Engine.connect().container(SPEC) as container:
            assert container.id == "c1"
        assert fake.asked["DELETE /containers/NAME"] == 1

    def test_failed_removal_is_reported(self, fake: FakeEngine) -> None:
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = (500, {"message": "device or resource busy"})
        with pytest.raises(EngineError, match=r"could not be removed(.|\n)*busy"), Engine.connect().container(SPEC):
            pass

    @pytest.mark.parametrize(
        ("access", "request_"),
        [
            (GpuAccess.RUNTIME, {"Driver": "nvidia", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]]}),
            (GpuAccess.CDI, {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=all"], "Capabilities": []}),
        ],
    )
    def test_gpus_are_asked_for_as_the_docker_command_does(
        self, fake: FakeEngine, access: GpuAccess, request_: dict[str, object]
    ) -> None:
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = (204, None)
        with Engine.connect().container(replace(SPEC, gpu=access)):
            pass
        host = fake.bodies[CREATE]["HostConfig"]
        assert isinstance(host, dict)
        assert host["DeviceRequests"] == [{**request_, "Options": {}}]

    def test_no_gpu_is_asked_for_by_default(self, fake: FakeEngine) -> None:
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = (204, None)
        with Engine.connect().container(SPEC):
            pass
        assert not fake.bodies[CREATE]["HostConfig"].get("DeviceRequests")  # type: ignore[attr-defined]

    def test_everything_asked_for_reaches_the_engine(self, fake: FakeEngine, tmp_path: Path) -> None:
        runs(fake)
        fake.answers["DELETE /containers/NAME"] = (204, None)
        spec = ContainerSpec(
            image="an/image:1",
            command=("--flag", "a b"),
            entrypoint=("/bin/server",),
            environment=(("NAME", "value"),),
            ports=(8500, 8501),
            mounts=(Mount(tmp_path, "/models"),),
            read_only=True,
            cap_drop=("ALL",),
            user="65532:0",
            security_opt=("no-new-privileges",),
            owner="test",
        )
        with Engine.connect().container(spec):
            pass
        body = fake.bodies[CREATE]
        host = body["HostConfig"]
        assert isinstance(host, dict)
        assert (body["Cmd"], body["Entrypoint"]) == (["--flag", "a b"], ["/bin/server"])
        assert (body["Env"], body["User"]) == (["NAME=value"], "65532:0")
        assert body["Labels"] == {OWNER_LABEL: "test"}
        assert host["PortBindings"] == {
            f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in (8500, 8501)
        }
        mounts = [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in host["Mounts"]]
        assert mounts == [(str(tmp_path), "/models", True)]
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
        assert host["SecurityOpt"] == ["no-new-privileges"]

    def test_strays(self, fake: FakeEngine) -> None:
        fake.answers["GET /containers/json"] = (200, [{"Id": "serving-factory-1"}, {"Id": "serving-factory-2"}])
        fake.answers["DELETE /containers/NAME"] = (204, None)
        assert Engine.connect().remove_strays("test") == 2
        assert fake.asked["DELETE /containers/NAME"] == 2


def runs(fake: FakeEngine) -> None:
    fake.answers[CREATE] = (201, {"Id": "c1"})
    fake.answers["GET /containers/c1/json"] = (200, {"Id": "c1"})
    fake.answers["POST /containers/c1/start"] = (204, None)


REPOSITORY = "127.0.0.1:1/a"
PUSH = f"POST /images/{REPOSITORY}/push"


class FakeAccess:
    """Stands for `Registry.try_push`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: FactoryError | None = None
        self.asked = 0
        monkeypatch.setattr(Registry, "try_push", self)

    def __call__(self, repository: str) -> None:
        assert repository == "a"
        self.asked += 1
        if self.error:
            raise self.error


@pytest.fixture
def access(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeAccess:
    fake.answers[f"GET /images/{REPOSITORY}:1/json"] = (200, {"Id": "sha256:1"})
    return FakeAccess(monkeypatch)


def push(cancel: Cancel | None = None) -> list[str]:
    """Push, and give what was reported."""
    reported: list[str] = []
    Engine.connect().push(REPOSITORY, "1", on_status=reported.append, cancel=cancel)
    return reported


def streaming(items: list[dict[str, object]], ended: threading.Event) -> Callable[[Handler], None]:
    """An engine that sends these items, and then nothing for as long as its client stays; `ended` when that left."""

    def answer(request: Handler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for item in items:
            line = json.dumps(item).encode() + b"\r\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        request.close_connection = True
        request.connection.settimeout(10)
        if not request.rfile.read(1):
            ended.set()

    return answer


def retry(seconds: int) -> dict[str, object]:
    return {"id": "layer", "status": f"Retrying in {seconds} seconds"}


SENDING: dict[str, object] = {"id": "layer", "status": "Pushing", "progressDetail": {"current": 1, "total": 9_000_000}}


class TestPush:
    def test_nothing_to_push(self, fake: FakeEngine) -> None:
        fake.answers["GET /images/r.example/a:1/json"] = (404, {"message": "No such image"})
        with pytest.raises(EngineError, match=r"no image r\.example/a:1 to push"):
            Engine.connect().push("r.example/a", "1", on_status=lambda _: None)

    def test_engine_that_goes_away(self, fake: FakeEngine, access: FakeAccess) -> None:
        fake.answers[PUSH] = None
        with pytest.raises(EngineUnavailableError):
            push()
        assert not access.asked

    def test_an_upload_that_stalls_ends(
        self, fake: FakeEngine, access: FakeAccess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pushes, "STALLED", 0.3)
        ended = threading.Event()
        fake.answers[PUSH] = streaming([SENDING], ended)
        with pytest.raises(RegistryFaultError, match="stalled") as caught:
            push()
        assert "0 of 1 layers there, 0 of 9 MB sent" in caught.value.why
        assert ended.wait(5), "the engine pushes on for no one"
        assert not access.asked

    def test_a_long_wait_is_reported(
        self, fake: FakeEngine, access: FakeAccess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pushes, "REPORT_EVERY", 0.2)
        monkeypatch.setattr(pushes, "THINKING", 1.0)
        fake.answers[PUSH] = streaming([], threading.Event())
        reported: list[str] = []
        with pytest.raises(RegistryFaultError, match="stalled"):
            Engine.connect().push(REPOSITORY, "1", on_status=reported.append)
        assert any("nothing has moved for" in text for text in reported)
        assert not access.asked

    @pytest.mark.usefixtures("access")
    def test_a_cancelled_push_ends_at_once(self, fake: FakeEngine) -> None:
        ended, cancel = threading.Event(), Cancel()
        fake.answers[PUSH] = streaming([SENDING], ended)
        threading.Timer(0.3, cancel.ask).start()
        began = time.monotonic()
        with pytest.raises(CancelledError):
            push(cancel)
        assert time.monotonic() - began < 2
        assert ended.wait(5)

    def test_the_registry_is_asked_why_the_engine_tries_again(self, fake: FakeEngine, access: FakeAccess) -> None:
        """The engine tries again for 50 s, whatever the registry said, and says nothing of that."""
        access.error = RegistryDeniedError("no")
        ended = threading.Event()
        fake.answers[PUSH] = streaming([retry(5), retry(4)], ended)
        with pytest.raises(RegistryDeniedError, match="no"):
            push()
        assert access.asked == 1
        assert ended.wait(5)

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("received unexpected HTTP status: 503 Service Unavailable", RegistryFaultError),
            ("toomanyrequests: slow down", RegistryLimitError),
            ("denied: the quota is used up", RegistryDeniedError),
            ("no basic auth credentials", RegistryFaultError),  # said after a 5xx, though there are some
        ],
    )
    def test_failure_in_the_stream(
        self, fake: FakeEngine, access: FakeAccess, text: str, error: type[FactoryError]
    ) -> None:
        fake.answers[PUSH] = (200, {"errorDetail": {"message": text}, "error": text})
        with pytest.raises(error, match=r"127\.0\.0\.1:1") as caught:
            push()
        assert type(caught.value) is error
        access.error = RegistryLimitError("the registry itself", retry_after=7)
        with pytest.raises(RegistryLimitError, match="the registry itself") as limit:
            push()
        assert limit.value.retry_after == 7


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("plain.example:5000", True),
        ("docker.io", False),
        ("10.1.2.3:5000", True),
        ("10.1.2.3", True),
        ("11.1.2.3:5000", False),
        ("other.example", False),
    ],
)
def test_the_engine_knows_which_registries_may_go_without_tls(host: str, *, insecure: bool) -> None:
    config = {
        "InsecureRegistryCIDRs": ["127.0.0.0/8", "10.0.0.0/8"],
        "IndexConfigs": {"docker.io": {"Secure": True}, "plain.example:5000": {"Secure": False}},
    }
    assert is_insecure(host, config) is insecure
