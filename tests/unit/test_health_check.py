"""The runtime image's health check, on the processes of a made-up container and a small HTTP server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEALTH = Path(__file__).parents[2] / "dockerfiles" / "context" / "tf_serving_health.sh"


class Probe:
    """The health check, with the processes of a made-up container."""

    def __init__(self, root: Path) -> None:
        self.facts = root / "image.env"
        self.proc = root / "proc"
        self.script = root / "health.sh"
        text = HEALTH.read_text()
        for path, ours in {
            "=/usr/share/serving-factory/image.env": f"={self.facts}",
            "=/proc": f"={self.proc}",
        }.items():
            assert text.count(path) == 1, path
            text = text.replace(path, ours)
        self.script.write_text(text)
        self.facts.write_text("LEVEL=x86-64\n")
        self.process(1, "/usr/bin/tf_serving_init", "/usr/bin/tf_serving_entrypoint.sh")

    def process(self, pid: int, *arguments: str) -> None:
        folder = self.proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))

    def server(self, *arguments: str) -> None:
        self.process(7, "/usr/bin/tensorflow_model_server", *arguments)

    def run(self, path: str | None = None) -> tuple[int, str]:
        shell = shutil.which("sh")
        assert shell is not None
        done = subprocess.run(
            [shell, str(self.script)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "PATH": os.environ["PATH"] if path is None else path},
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.strip()


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    return Probe(tmp_path)


def status(*states: str, error: str = "") -> str:
    details = {"error_code": "OK", "error_message": error}
    versions = [{"version": str(number), "state": state, "status": details} for number, state in enumerate(states)]
    return json.dumps({"model_version_status": versions}, indent=1)


@contextmanager
def rest_server(answers: Mapping[str, str], *, delay: float = 0) -> Iterator[int]:
    """A server that knows a few paths; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            known = answers.get(self.path)
            self.send_response(200 if known is not None else 404)
            self.end_headers()
            self.wfile.write((known or '{"error": "not found"}').encode())

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        (["AVAILABLE"], True),
        (["END", "AVAILABLE"], True),
        (["LOADING"], False),
        (["END"], False),
        (["NOT_AVAILABLE"], False),
        ([], False),
    ],
)
def test_a_model_is_ready_when_a_version_is_available(probe: Probe, states: list[str], *, ready: bool) -> None:
    with rest_server({"/v1/models/half_plus_two": status(*states)}) as port:
        probe.server("--port=1", "--rest_api_port=9", "--model_name=half_plus_two", f"--rest_api_port={port}")
        code, said = probe.run()
    assert code == (0 if ready else 1)
    assert said == (
        "half_plus_two is AVAILABLE"
        if ready
        else f"no version of half_plus_two is AVAILABLE: {', '.join(states) or 'HTTP/1.0 200 OK'}"
    )


def test_the_states_and_the_error_of_a_model_that_is_not_ready_are_printed(probe: Probe) -> None:
    error = "Op type not registered 'Sigmoid', \"quoted\""
    with rest_server({"/v1/models/m": status("LOADING", "END", error=error)}) as port:
        probe.server(f"--rest_api_port={port}", "--model_name=m")
        said = f"no version of m is AVAILABLE: LOADING, END: {json.dumps(error)[1:-1]}"
        assert probe.run() == (1, said)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("name", ["my model", "a+b", "50%", "modèle é", "模型", "a/b?c#d", "A-z.0_9~"])
def test_any_name_of_a_model_is_asked_for(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, name: str, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    with rest_server({f"/v1/models/{quote(name, safe='')}": status("AVAILABLE")}) as port:
        probe.server(f"--rest_api_port={port}", f"--model_name={name}")
        assert probe.run() == (0, f"{name} is AVAILABLE")


def test_a_model_that_the_server_does_not_know_is_not_ready(probe: Probe) -> None:
    with rest_server({"/v1/models/other": status("AVAILABLE")}) as port:
        probe.server(f"--rest_api_port={port}", "--model_name=m")
        assert probe.run() == (1, "no version of m is AVAILABLE: HTTP/1.0 404 Not Found")


def test_with_a_configuration_file_an_answering_port_is_enough(probe: Probe) -> None:
    with rest_server({}) as port:
        probe.server(f"--rest_api_port={port}", "--model_name=m", "--model_config_file=/models/models.config")
        assert probe.run() == (0, f"the REST port, {port}, answers")


def test_with_an_old_server_an_answering_port_is_enough(probe: Probe) -> None:
    probe.facts.write_text("MODEL_STATUS=no\n")
    with rest_server({}) as port:
        probe.server(f"--rest_api_port={port}", "--model_name=m")
        assert probe.run() == (0, f"the REST port, {port}, answers")


def test_without_rest_an_open_grpc_port_is_enough(probe: Probe) -> None:
    with silent_server() as port:
        probe.server(f"--port={port}", "--model_name=m")
        assert probe.run() == (0, f"the gRPC port, {port}, is open")
    assert probe.run() == (1, f"nothing answers on the gRPC port, {port}")


def test_a_server_under_an_interpreter_is_found(probe: Probe) -> None:
    with rest_server({"/v1/models/m": status("AVAILABLE")}) as port:
        server = ["/usr/bin/tensorflow_model_server", f"--rest_api_port={port}", "--model_name=m"]
        probe.process(7, "/usr/bin/qemu-x86_64-static", *server)
        assert probe.run()[0] == 0


def test_no_server_is_not_ready(probe: Probe) -> None:
    assert probe.run() == (1, "the server is not running")


def test_a_closed_port_is_not_ready(probe: Probe) -> None:
    with silent_server() as port:
        pass
    probe.server(f"--rest_api_port={port}", "--model_name=m")
    assert probe.run() == (1, f"nothing answers on the REST port, {port}")


def test_a_server_that_hangs_is_not_waited_for(probe: Probe) -> None:
    with silent_server() as port:
        probe.server(f"--rest_api_port={port}", "--model_name=m")
        text = probe.script.read_text()
        assert text.count("timeout 3 bash") == 1
        probe.script.write_text(text.replace("timeout 3 bash", "timeout 0.2 bash"))
        start = time.monotonic()
        assert probe.run() == (1, "the server does not answer within 3 seconds")
    assert time.monotonic() - start < 3


def test_an_image_without_bash_is_reported(probe: Probe, tmp_path: Path) -> None:
    assert probe.run(path=str(tmp_path)) == (1, "the health check needs bash, and this image has none")
