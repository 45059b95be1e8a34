"""GPUs that an engine gives to containers: one with a CDI file, whose GPU is a variable of the environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from serving_factory.docker.engine import Container, ContainerSpec, Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.errors import EngineError, GpuUnusedError

from .demo_story import Demo
from .own_engine import BASE, OwnEngine, needs_root
from .pipeline import GPU_V3, Checkout, Running, docker, wait_until

pytestmark = needs_root
ALL = {"name": "all", "containerEdits": {"env": ["GIVEN=a-gpu"]}}
SPEC = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [ALL]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that knows a GPU by a CDI file: version 26 asks for `experimental` as well."""
    folder = tmp_path_factory.mktemp("cdi")
    (folder / "nvidia.json").write_text(json.dumps(SPEC), encoding="utf-8")
    settings = {"experimental": True, "features": {"cdi": True}, "cdi-spec-dirs": [str(folder)]}
    with OwnEngine.run(json.dumps(settings)) as own:
        own.has_the_base()
        yield own


def has_ended(container: Container) -> bool:
    return container.exit_code() is not None


def test_a_container_is_given_the_devices_of_a_cdi_file(engine: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    connected = Engine.connect()
    assert connected.gpu() is GpuAccess.CDI
    for gpu, given in ((GpuAccess.CDI, True), (None, False)):
        with connected.container(ContainerSpec(image=BASE, command=("env",), gpu=gpu)) as container:
            assert wait_until(partial(has_ended, container))
            assert ("GIVEN=a-gpu" in container.logs()) == given


def test_an_engine_without_nvidias_runtime_refuses(engine: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    spec = ContainerSpec(image=BASE, command=("env",), gpu=GpuAccess.RUNTIME)
    with pytest.raises(EngineError, match=r'could not select device driver "nvidia"'), Engine.connect().container(spec):
        pytest.fail("it never ran")


def test_a_server_that_is_given_a_gpu_without_a_driver_is_found_out(
    engine: OwnEngine, demo: Demo, tmp_path: Path
) -> None:
    """Nothing of the sample is played: it looks for a driver, finds none, computes on the CPU, and says so."""
    packaged = demo.checkout.record(GPU_V3, "package")["outputs"]
    names = [f"{packaged['repository']}:{tag}" for tag in (*packaged["tags"], *packaged["aliases"])]
    docker("save", "--output", str(tmp_path / "image.tar"), *names)
    docker("--host", engine.host, "load", "--input", str(tmp_path / "image.tar"))
    subprocess.run(engine.inside("ip", "link", "set", "lo", "up"), check=True)
    checkout = demo.checkout
    smoke = [sys.executable, "-m", "invoke", *checkout.line("smoke", "--variant", GPU_V3, "--gpu", "require")]
    environment = checkout.environment({"DOCKER_HOST": engine.host})
    before = checkout.record_file(GPU_V3, "smoke").read_text(encoding="utf-8")
    try:
        with Running(engine.inside(*smoke), cwd=checkout.folder, env=environment) as running:
            error = running.wait().error(GpuUnusedError.exit_code, "GpuUnusedError", GPU_V3)
    finally:
        checkout.record_file(GPU_V3, "smoke").write_text(before, encoding="utf-8")
    assert error["what"] == "The server was given a GPU, and computed on the CPU."
    assert "failed call to cuInit" in error["why"]


def test_the_doctor_says_how_gpus_are_given(engine: OwnEngine, tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    outcome = checkout.run("doctor", "--target", "gpu-optimized", "--json", env={"DOCKER_HOST": engine.host})
    found = next(one for one in json.loads(outcome.out)["checks"] if one["name"] == "GPU")
    assert found["verdict"] == "ok"
    assert "--device nvidia.com/gpu=all" in found["found"]
