"""The sample's server in a container, its APIs, and models made for a test.

The image comes from the session fixture `sample_image`: the sample compiled for x86-64, under any name.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import docker
import grpc
import pytest
from docker.models.containers import Container

from .sample_server import SampleServer, create, start
from .serving_protos import ServingProtos

WORKSPACE = Path(__file__).parents[3] / "samples" / "model_server"
MODELS = WORKSPACE / "models"

StartServer = Callable[..., SampleServer]
CreateServer = Callable[..., Container]


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def create_server(docker_client: docker.DockerClient, sample_image: str) -> Iterator[CreateServer]:
    """Makes containers of one model folder: create_server(folder, name, extra_flag, ...); all are removed after it."""
    with ExitStack() as stack:

        def make(models: Path, name: str, *flags: str) -> Container:
            arguments = [f"--model_name={name}", f"--model_base_path=/models/{name}", "--rest_api_port=8501", *flags]
            container = create(docker_client, sample_image, arguments, models)
            stack.callback(container.remove, force=True, v=True)
            return container

        yield make


@pytest.fixture
def start_server(create_server: CreateServer) -> StartServer:
    """Starts such containers and waits until their ports are open."""
    return lambda *arguments: start(create_server(*arguments))


@pytest.fixture(scope="session")
def sample_server(docker_client: docker.DockerClient, sample_image: str) -> Iterator[SampleServer]:
    """One server with half_plus_two, shared by all tests that change nothing."""
    arguments = ["--model_name=half_plus_two", "--model_base_path=/models/half_plus_two", "--rest_api_port=8501"]
    container = create(docker_client, sample_image, arguments, MODELS)
    try:
        yield start(container)
    finally:
        container.remove(force=True, v=True)


@pytest.fixture(scope="session")
def protos(tmp_path_factory: pytest.TempPathFactory) -> ServingProtos:
    """The sample's own messages, compiled from its .proto files."""
    return ServingProtos.compile(WORKSPACE, tmp_path_factory.mktemp("protos"))


@pytest.fixture
def channel(sample_server: SampleServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{sample_server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="session")
def write_models() -> ModuleType:
    """The script that writes the sample's models: tests make theirs with its functions."""
    spec = importlib.util.spec_from_file_location("write_models", MODELS / "write_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def models_folder(tmp_path: Path) -> Path:
    """An empty folder that a server under any user may read."""
    folder = tmp_path / "models"
    folder.mkdir()
    folder.chmod(0o755)
    return folder
