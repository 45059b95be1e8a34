"""An engine with containerd's image store, which newer ones have by default: an image's id is its manifest's digest."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.docker.engine import ContainerSpec, Engine

from .own_engine import BASE, OwnEngine, needs_root
from .pipeline import docker, wait_until
from .registry import IMAGE, PORT, LocalRegistry, write_docker_config

pytestmark = needs_root

PLACE = f"127.0.0.1:{PORT}/team/serving"
# In the network of the engine, where the registry is.
PUSH = f"""
from serving_factory.docker.engine import Engine
engine = Engine.connect()
pushed = [engine.push("{PLACE}", tag, on_status=lambda _: None) for tag in ("first", "second")]
registry = engine.registry("127.0.0.1:{PORT}")
print(*(one.digest for one in pushed), registry.manifest_digest("team/serving", "second"), pushed[1].pushed_layers)
"""


@pytest.fixture
def engine(local_registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """The engine, with the base image and a registry in its network."""
    with OwnEngine.run(json.dumps({"features": {"containerd-snapshotter": True}})) as own:
        own.has_the_base()
        docker("save", "--output", str(own.folder / "registry.tar"), IMAGE)
        docker("--host", own.host, "load", "--input", str(own.folder / "registry.tar"))
        docker("--host", own.host, "run", "--detach", "--network", "host", IMAGE)
        local = LocalRegistry(f"127.0.0.1:{PORT}", local_registry.username, local_registry.password)
        monkeypatch.setenv("DOCKER_HOST", own.host)
        monkeypatch.setenv("DOCKER_CONFIG", str(write_docker_config(tmp_path / "docker", local)))
        yield own


def test_what_is_built_is_run_and_pushed_by_the_id_that_the_engine_gives_it(engine: OwnEngine, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {BASE}\nLABEL a=b\n", encoding="utf-8")
    request = BuildRequest(dockerfile=context / "Dockerfile", context=context, tags=(f"{PLACE}:first",))
    result = build(request, on_step=lambda _: None, log=io.StringIO())
    connected = Engine.connect()
    image = connected.image_id(*result.digests)
    assert image == connected.image_id(f"{PLACE}:first") == result.digests[-1]
    assert len(result.digests) == 2, "or this is the engine's own store"
    with connected.container(ContainerSpec(image=image, command=("true",))) as container:
        assert wait_until(lambda: container.exit_code() == 0)
    connected.tag(image, PLACE, "second")

    answers = engine.inside(sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {PORT}))")
    assert wait_until(lambda: subprocess.run(answers, capture_output=True, check=False).returncode == 0)
    pushed = subprocess.run(engine.inside(sys.executable, "-c", PUSH), capture_output=True, text=True, check=False)
    assert pushed.stdout.split() == [image, image, image, "0"], pushed.stderr
