"""`invoke doctor` on the real engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.line import MATRIX, Checkout
from tests.integration.registry import write_docker_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.registry import LocalRegistry

CHECKS = {
    "engine",
    "API",
    "buildx",
    "image store",
    "garbage collection",
    "clock",
    "GPU",
    "memory",
    "disk",
    "inotify",
    "CPU",
    "proxies",
    "registry login",
    "base images",
}


def test_this_machine_is_fit_for_the_sample(tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json").built()
    found = {check["name"]: check for check in json.loads(outcome.out)}
    assert set(found) == CHECKS
    assert [name for name, check in found.items() if check["verdict"] == "fail"] == []
    assert "the engine has it" in found["base images"]["found"]
    assert "cores" in found["memory"]["found"]


def test_an_engine_that_is_not_there_fails_the_doctor(tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    outcome = checkout.run("doctor", "--matrix", MATRIX, env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    told = outcome.told(51)
    assert "1 check failed: engine" in told
    assert outcome.out.startswith("fail  engine")


def test_a_base_image_that_is_nowhere_and_a_registry_that_refuses_fail_the_doctor(
    tmp_path: Path, local_registry: LocalRegistry
) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    checkout.edit(MATRIX, "serving-factory/base:bookworm", f"{local_registry.host}/nobody/has-this:1")
    config = write_docker_config(tmp_path / "docker", local_registry, local_registry.host)
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_CONFIG": str(config)})
    assert outcome.code == 51, outcome
    found = {check["name"]: check for check in json.loads(outcome.out)}
    assert found["base images"]["verdict"] == "fail"
    checkout.edit(MATRIX, checkout.repository, f"{local_registry.host}/team/image")
    config = write_docker_config(tmp_path / "wrong", local_registry, local_registry.host, password="wrong")
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_CONFIG": str(config)})
    found = {check["name"]: check for check in json.loads(outcome.out)}
    assert found["registry login"]["verdict"] == "fail"
