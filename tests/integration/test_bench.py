"""`bench` on the sample's images: one that was slowed on purpose fails its gate; Ctrl-C leaves no container."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.emulator import find_emulator
from serving_factory.errors import CancelledError, LevelSlowerError

from .demo_story import Demo
from .pipeline import MATRIX, ROOT, V1, V3, Checkout, docker

SERVER = "/usr/lib/serving-factory/tensorflow_model_server"
SHORT = ("--rounds", "6", "--seconds", "0.1")


@pytest.fixture
def both(demo: Demo, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the demo's checkout with two levels built."""
    checkout = demo.checkout.copy(tmp_path / "factory", V1, V3)
    yield checkout
    checkout.claim_names(V3)


def slow_down(checkout: Checkout, variant: str, folder: Path) -> str:
    """Give a variant's name to an image whose server an emulator runs; its id."""
    emulator = find_emulator(ROOT / "build" / ".setup")
    if emulator is None:
        pytest.skip("no qemu-x86_64-static: `./factory setup` fetches it on Debian and Ubuntu")
    packaged = checkout.record(variant, "package")["outputs"]
    (folder / "server").write_text(f'#!/bin/sh\nexec /qemu -cpu max {SERVER}.real "$@"\n', encoding="utf-8")
    (folder / "server").chmod(0o755)
    container = docker("create", packaged["image"]).strip()
    docker("cp", f"{container}:{SERVER}", str(folder / "real"))
    for source, target in ((emulator.path, "/qemu"), (folder / "real", f"{SERVER}.real"), (folder / "server", SERVER)):
        docker("cp", str(source), f"{container}:{target}")
    image = docker("commit", container).strip()
    docker("rm", container)
    for tag in packaged["tags"]:
        docker("tag", image, f"{packaged['repository']}:{tag}")
    return image


def test_a_level_that_was_slowed_fails_the_gate(both: Checkout, tmp_path: Path) -> None:
    image = slow_down(both, V3, tmp_path)
    try:
        outcome = both.run("bench", "--matrix", MATRIX, "--json", V3, "--gate", "0.9", *SHORT)
        assert outcome.code == LevelSlowerError.exit_code, outcome
        found = json.loads(outcome.out)["figures"]
        assert [(one["variant"], one["below"]) for one in found] == [(V1, None), (V3, V1)] * 4
        assert {"slower"} <= {one["verdict"] for one in found}
        assert f"{V3}: slower than the level below" in outcome.err
        run = json.loads(both.run("history", "--json").out)["runs"][0]
        recorded = json.loads(both.run("history", str(run["id"]), "--json").out)
        assert [one["variant"] for one in recorded["bench"]] == [V1, V3] * 4
        assert both.containers() == []
    finally:
        both.claim_names(V3)
        docker("rmi", "--force", image)


def test_ctrl_c_leaves_no_container(both: Checkout) -> None:
    with both.start("bench", "--matrix", MATRIX, V3) as running:
        running.wait_for(lambda: len(both.containers()) > 1, "both servers")
        running.send(signal.SIGINT)
        outcome = running.wait(30)
    assert outcome.code == CancelledError.exit_code
    assert "Traceback" not in outcome.err
    assert both.containers() == []
