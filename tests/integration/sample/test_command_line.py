"""Flags, log lines, and how the server ends."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from .conftest import MODELS, StartServer
from .sample_server import SampleServer, create

MODEL_FLAGS = ["--model_name=half_plus_two", "--model_base_path=/models/half_plus_two"]
KILLED = 137
FEATURES = {
    "SSE3": "pni",
    "SSE4.1": "sse4_1",
    "SSE4.2": "sse4_2",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX512F": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "FMA": "fma",
}
"""What the server calls an instruction set, and what the kernel calls it."""


@pytest.fixture
def finished(
    docker_client: docker.DockerClient, sample_image: str, request: pytest.FixtureRequest
) -> Iterator[Container]:
    """A container of the server with the arguments that the test is parametrized with, after it has ended."""
    container = create(docker_client, sample_image, request.param, MODELS)
    try:
        container.start()
        container.wait(timeout=30)
        container.reload()
        yield container
    finally:
        container.remove(force=True, v=True)


def exit_code(container: Container) -> int:
    return int(container.attrs["State"]["ExitCode"])


@pytest.mark.parametrize("finished", [["--version"]], indirect=True)
def test_version(finished: Container) -> None:
    first, second = finished.logs().decode().splitlines()
    assert re.fullmatch(r"TensorFlow ModelServer: 2\.19\.1-rc0\+dev\.sha\.no_git", first)
    assert second == "TensorFlow Library: 2.19.1"
    assert exit_code(finished) == 0


@pytest.mark.parametrize("finished", [[]], indirect=True)
def test_no_model_is_an_error(finished: Container) -> None:
    assert "Both server_options.model_base_path and server_options.model_config_file" in finished.logs().decode()
    assert exit_code(finished) == 1


@pytest.mark.parametrize("finished", [[*MODEL_FLAGS, "--port=ninety"]], indirect=True)
def test_a_malformed_value_is_an_error(finished: Container) -> None:
    assert "Couldn't interpret value ninety for flag --port" in finished.logs().decode()
    assert exit_code(finished) == 1


@pytest.mark.parametrize("finished", [[*MODEL_FLAGS, "--port=8500", "--rest_api_port=8500"]], indirect=True)
def test_a_taken_port_is_an_error(finished: Container) -> None:
    assert "Failed to start HTTP Server at localhost:8500" in finished.logs().decode()
    assert exit_code(finished) == 1


def test_unknown_flags_are_printed_and_do_not_stop_the_server(start_server: StartServer) -> None:
    server = start_server(MODELS, "half_plus_two", "--no_such_flag=1", "--tensorflow_intra_op_parallelism=2")
    assert "unknown argument: --no_such_flag=1\nusage: " in server.log()
    assert "unknown argument: --tensorflow" not in server.log()
    assert server.predict("half_plus_two", [1.0]) == [2.5]


def test_the_log_tells_both_ports(sample_server: SampleServer) -> None:
    assert "] Running gRPC ModelServer at 0.0.0.0:8500 ...\n" in sample_server.log()
    assert "] Exporting HTTP/REST API at:localhost:8501 ...\n" in sample_server.log()


def test_the_log_names_the_features_that_the_binary_leaves_unused(sample_server: SampleServer) -> None:
    """The image is compiled for x86-64, so all that this CPU has beyond it is unused."""
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())  # type: ignore[index]
    expected = " ".join(name for name, flag in FEATURES.items() if flag in flags)
    line = f"To enable the following instructions: {expected}, in other operations, rebuild TensorFlow with the "
    assert line in sample_server.log()


def test_sigterm_does_not_end_it_as_pid_1(start_server: StartServer) -> None:
    """As upstream's: there is no handler, so `docker stop` waits in vain. The image's init is there for that."""
    container = start_server(MODELS, "half_plus_two").container
    begin = time.monotonic()
    container.stop(timeout=2)
    container.reload()
    assert time.monotonic() - begin >= 2
    assert exit_code(container) == KILLED
