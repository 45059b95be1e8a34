"""What the demo tells its reader to type, typed: upstream's documented commands, word for word."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

from .demo_story import Demo
from .pipeline import V1, VARIANTS, docker

REST_PORT = 8501
READY_WITHIN = 30.0  # seconds
STOPS_WITHIN = 5.0
ANSWER = {"predictions": [2.5, 3.0, 4.5]}
CURL = """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict"""


@pytest.fixture
def free_port() -> None:
    """The documented commands name the port, so it must be free."""
    try:
        socket.create_server(("", REST_PORT)).close()
    except OSError as error:
        pytest.fail(f"port {REST_PORT} is needed for upstream's documented commands, and is taken: {error}")


@pytest.fixture
def told(demo: Demo) -> Iterator[str]:
    """What the demo prints for people. Containers that the test starts are removed."""
    before = demo.checkout.containers(of_all=True)
    yield demo.checkout.run("demo").built().out
    for container in set(demo.checkout.containers(of_all=True)).difference(before):
        docker("rm", "--force", "--volumes", container)


def ask(command: str) -> bytes | None:
    """The answer to a curl command; where there is no curl, to the same request without it."""
    argv = shlex.split(command)
    if shutil.which("curl"):
        done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
        return done.stdout if done.returncode == 0 else None
    body, url = argv[argv.index("-d") + 1], argv[-1]
    try:
        with urllib.request.urlopen(url, body.encode(), timeout=20) as answer:
            return bytes(answer.read())
    except OSError:
        return None


@pytest.mark.usefixtures("free_port")
def test_the_documented_commands_work_word_for_word(demo: Demo, told: str) -> None:
    lines = [line.strip() for line in told.splitlines()]
    models = demo.checkout.folder / "samples" / "model_server" / "models"
    run = (
        f"docker run -p 8501:8501 --mount type=bind,source={models}/half_plus_two,target=/models/half_plus_two"
        f" -e MODEL_NAME=half_plus_two {demo.checkout.repository}:{V1}"
    )
    assert run in lines, told
    assert CURL in lines, told
    with subprocess.Popen(shlex.split(run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            deadline = time.monotonic() + READY_WITHIN
            while (answer := ask(CURL)) is None and time.monotonic() < deadline and server.poll() is None:
                time.sleep(0.2)
            assert answer is not None, "no answer"
            assert json.loads(answer) == ANSWER
            server.send_signal(signal.SIGINT)  # Ctrl-C
            server.wait(STOPS_WITHIN)
        finally:
            server.kill()


def test_the_demo_ends_with_a_table(told: str) -> None:
    table = told[told.rindex("REST answer") :]
    assert table.count("2.5, 3.0, 4.5") == 2 * len(VARIANTS)
    assert table.count("iB  ") == 2 * len(VARIANTS)
