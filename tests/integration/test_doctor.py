"""`invoke doctor` on the real engine."""

from __future__ import annotations

import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from serving_factory.doctor.checks import check_collection
from tests.integration.own_engine import OwnEngine, needs_root
from tests.integration.pipeline import MATRIX, ROOT, Checkout, docker
from tests.integration.registry import write_docker_config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.registry import LocalRegistry

CHECKS = {
    *("engine", "API", "buildx", "image store", "garbage collection", "clock", "GPU", "memory", "disk", "inotify"),
    *("CPU", "emulator", "proxies", "registry login", "downloads", "base images"),
}


def daemon_json() -> str:
    """What the doctor says to put into daemon.json."""
    found = re.search(r"\{.*\}", check_collection(None, held=0, caches=0, planned=0, free=None).remedy)
    assert found
    return found[0]


def test_this_machine_is_fit_for_the_sample(tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json").built()
    found = {check["name"]: check for check in json.loads(outcome.out)["checks"]}
    assert set(found) == CHECKS
    documented = re.findall(r"^\| `(.*?)` \|", (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(documented) == CHECKS | {"place", "GPU driver"}
    assert [name for name, check in found.items() if check["verdict"] == "fail"] == []
    assert "the engine has it" in found["base images"]["found"]
    assert "cores" in found["memory"]["found"]


def test_an_engine_that_is_not_there_fails_the_doctor(tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    outcome = checkout.run("doctor", "--matrix", MATRIX, env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    told = outcome.told(51)
    assert "1 check failed: engine" in told
    assert outcome.out.startswith("fail  engine")


@needs_root
@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            '{"builder": {"gc": {"enabled": false}}}',
            "BuildKit removes nothing by itself; the build cache holds 0.0 GiB",
        ),
        ('{"builder": {"gc": {"enabled": true}}}', "BuildKit keeps up to "),
        (daemon_json(), "BuildKit keeps up to 50.0 GiB; "),
    ],
    ids=["no rules", "the default rules", "as the doctor says"],
)
def test_the_rules_by_which_an_engine_collects_are_judged(tmp_path: Path, settings: str, found: str) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    with OwnEngine.run(settings) as engine:
        outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_HOST": engine.host})
    check = next(one for one in json.loads(outcome.out)["checks"] if one["name"] == "garbage collection")
    assert check["verdict"] == "ok"
    assert check["found"].startswith(found)


def test_a_base_image_that_is_nowhere_and_a_registry_that_refuses_fail_the_doctor(
    tmp_path: Path, local_registry: LocalRegistry
) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    checkout.edit(MATRIX, "serving-factory/base:bookworm", f"{local_registry.host}/nobody/has-this:1")
    config = write_docker_config(tmp_path / "docker", local_registry, local_registry.host)
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_CONFIG": str(config)})
    assert outcome.code == 51, outcome
    found = {check["name"]: check for check in json.loads(outcome.out)["checks"]}
    assert found["base images"]["verdict"] == "fail"
    checkout.edit(MATRIX, checkout.repository, f"{local_registry.host}/team/image")
    config = write_docker_config(tmp_path / "wrong", local_registry, local_registry.host, password="wrong")
    outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_CONFIG": str(config)})
    found = {check["name"]: check for check in json.loads(outcome.out)["checks"]}
    assert found["registry login"]["verdict"] == "fail"


def test_a_base_image_that_only_this_engine_still_has_is_a_warning(
    tmp_path: Path, local_registry: LocalRegistry
) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    config = write_docker_config(tmp_path / "docker", local_registry, local_registry.host)
    there, gone = (f"{local_registry.host}/doctor/{checkout.mark}:{tag}" for tag in ("1", "2"))
    with tarfile.open(tmp_path / "nothing.tar", "w"):
        pass
    try:
        docker("import", str(tmp_path / "nothing.tar"), there)
        docker("--config", str(config), "push", there)
        docker("tag", there, gone)
        for base, verdict, state in ((there, "ok", "has it"), (gone, "warn", "its registry does not")):
            checkout.edit(MATRIX, "serving-factory/base:bookworm", base)
            outcome = checkout.run("doctor", "--matrix", MATRIX, "--json", env={"DOCKER_CONFIG": str(config)})
            found = {check["name"]: check for check in json.loads(outcome.out)["checks"]}["base images"]
            assert (found["verdict"], found["found"].endswith(state)) == (verdict, True), found
            checkout.edit(MATRIX, base, "serving-factory/base:bookworm")
    finally:
        docker("rmi", "--force", there, gone)
