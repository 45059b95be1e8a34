"""The runtime image's health check, on servers that a launcher has started and a small HTTP server."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from .http_servers import QuietHandler, serving
from .launchers import PATIENCE, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture
def world() -> World:
    return World()


def status(*states: str, error: str = "") -> str:
    details = {"error_code": "OK", "error_message": error}
    versions = [{"version": str(number), "state": state, "status": details} for number, state in enumerate(states)]
    return json.dumps({"model_version_status": versions}, indent=1)


@contextmanager
def rest_server(answers: Mapping[str, str], *, delay: float = 0) -> Iterator[int]:
    """A server that knows a few paths; gives its port."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            time.sleep(delay)
            known = answers.get(self.path)
            self.reply(200 if known is not None else 404, (known or '{"error": "not found"}').encode())

    with serving(Handler) as server:
        yield server.server_port


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
def test_a_model_is_ready_when_a_version_is_available(world: World, states: list[str], *, ready: bool) -> None:
    with rest_server({"/v1/models/half_plus_two": status(*states)}) as port:
        flags = ["--port=1", "--rest_api_port=9", "--model_name=half_plus_two", f"--rest_api_port={port}"]
        with world.running(*flags):
            code, said = world.health()
    assert code == (0 if ready else 1)
    assert said == (
        "half_plus_two is AVAILABLE"
        if ready
        else f"no version of half_plus_two is AVAILABLE: {', '.join(states) or 'HTTP/1.0 200 OK'}"
    )


def test_the_states_and_the_error_of_a_model_that_is_not_ready_are_printed(world: World) -> None:
    error = "Op type not registered 'Sigmoid', \"quoted\""
    with (
        rest_server({"/v1/models/m": status("LOADING", "END", error=error)}) as port,
        world.running(f"--rest_api_port={port}", "--model_name=m"),
    ):
        said = f"no version of m is AVAILABLE: LOADING, END: {json.dumps(error)[1:-1]}"
        assert world.health() == (1, said)


@pytest.mark.parametrize("name", ["my model", "a+b", "50%", "modèle é", "模型", "a/b?c#d", "A-z.0_9~", "default"])
def test_any_name_of_a_model_is_asked_for(world: World, name: str) -> None:
    flags = [f"--model_name={name}"] if name != "default" else []
    with (
        rest_server({f"/v1/models/{quote(name, safe='')}": status("AVAILABLE")}) as port,
        world.running(f"--rest_api_port={port}", *flags),
    ):
        assert world.health() == (0, f"{name} is AVAILABLE")


def test_a_model_that_the_server_does_not_know_is_not_ready(world: World) -> None:
    with (
        rest_server({"/v1/models/other": status("AVAILABLE")}) as port,
        world.running(f"--rest_api_port={port}", "--model_name=m"),
    ):
        assert world.health() == (1, "no version of m is AVAILABLE: HTTP/1.0 404 Not Found")


def test_with_a_configuration_file_an_answering_port_is_enough(world: World) -> None:
    with (
        rest_server({}) as port,
        world.running(f"--rest_api_port={port}", "--model_name=m", "--model_config_file=/models/models.config"),
    ):
        assert world.health() == (0, f"the REST port, {port}, answers")


def test_with_an_old_server_an_answering_port_is_enough(world: World) -> None:
    world.facts(MODEL_STATUS="no")
    with rest_server({}) as port, world.running(f"--rest_api_port={port}", "--model_name=m"):
        assert world.health() == (0, f"the REST port, {port}, answers")


def test_without_rest_an_open_grpc_port_is_enough(world: World) -> None:
    with silent_server() as port, world.running(f"--port={port}", "--model_name=m"):
        assert world.health() == (0, f"the gRPC port, {port}, is open")
    with world.running(f"--port={port}", "--model_name=m"):
        assert world.health() == (1, f"nothing answers on the gRPC port, {port}")


def test_a_server_is_found_whatever_its_name_and_only_while_it_runs(world: World) -> None:
    assert world.health() == (1, "the server is not running")
    with rest_server({"/v1/models/m": status("AVAILABLE")}) as port:
        with world.running(f"--rest_api_port={port}", "--model_name=m"):
            assert world.health()[0] == 0
        assert world.health() == (1, "the server is not running")


def test_a_question_to_the_server_is_no_server(world: World) -> None:
    with world.running("--version"):
        assert world.health() == (1, "the server is not running")


def test_of_two_servers_the_first_counts(world: World) -> None:
    with (
        rest_server({"/v1/models/m": status("AVAILABLE")}) as port,
        world.running(f"--rest_api_port={port}", "--model_name=m") as first,
        world.running(f"--rest_api_port={port}", "--model_name=other") as second,
    ):
        assert world.health() == ((0, "m is AVAILABLE") if first < second else (1, "no version of other is AVAILABLE"))


def test_a_closed_port_is_not_ready(world: World) -> None:
    with silent_server() as port:
        pass
    with world.running(f"--rest_api_port={port}", "--model_name=m"):
        assert world.health() == (1, f"nothing answers on the REST port, {port}")


def test_what_is_no_http_server_is_reported(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            listener.accept()[0].close()

        answering = threading.Thread(target=hang_up)
        answering.start()
        with world.running(f"--rest_api_port={port}", "--model_name=m"):
            assert world.health() == (1, f"what answers on port {port} is no HTTP server")
        answering.join()


def test_a_server_that_hangs_is_not_waited_for(world: World) -> None:
    with silent_server() as port, world.running(f"--rest_api_port={port}", "--model_name=m"):
        start = time.monotonic()
        assert world.health() == (1, f"the server does not answer within {PATIENCE} seconds")
    assert PATIENCE <= time.monotonic() - start < PATIENCE + 2


def test_an_answer_without_an_end_is_not_waited_for(world: World) -> None:
    """The status may come in parts; a server that stops in the middle is as good as silent."""
    with (
        rest_server({"/v1/models/m": status("AVAILABLE")}, delay=PATIENCE + 0.5) as port,
        world.running(f"--rest_api_port={port}", "--model_name=m"),
    ):
        assert world.health()[0] == 1
