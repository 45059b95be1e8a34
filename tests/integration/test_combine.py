"""`combine`: one image with all levels, and which of its servers runs on which CPU."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from serving_factory.docker.emulator import find_emulator

from .demo_story import Demo
from .pipeline import MODEL, ROOT, V1, V3, Checkout, docker, wait_until
from .registry import LocalRegistry

LAUNCHER = "/usr/bin/tensorflow_model_server"
HALF_PLUS_TWO = ROOT / MODEL / "models" / "half_plus_two"
SERVE = ("--port=8500", "--model_name=half_plus_two", "--model_base_path=/models/half_plus_two")


def program_of(container: str) -> str:
    """The sha256 of the program that runs below a container's init."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return hashlib.sha256(Path(f"/proc/{child}/exe").read_bytes()).hexdigest()


def is_serving(container: str) -> bool:
    done = subprocess.run(["docker", "exec", container, "/usr/bin/tf_serving_health"], capture_output=True, check=False)
    return done.returncode == 0


def test_one_image_starts_the_server_of_each_cpu(
    whole_checkout: Checkout, local_registry: LocalRegistry, logged_in: Path, demo: Demo
) -> None:
    del logged_in, demo
    checkout = whole_checkout
    outcome = checkout.run(*checkout.line("combine", "--target", "cpu-standard", "--registry", local_registry.host))
    (row,) = outcome.built().events[-1]["images"]
    assert outcome.stages("2.19.1-cpu-all") == dict.fromkeys(("package", "smoke", "push"), "finished")
    servers = {id_: str(checkout.record(id_, "extract")["outputs"]["sha256"]) for id_ in (V1, V3)}
    assert [one["binary_sha256"] for one in row["levels"]] == list(servers.values())
    own = [one["image_size"] for one in row["levels"]]
    assert max(own) < row["size"] < max(own) + 2 * row["levels"][1]["binary_size"], "all but the server is there once"
    again = checkout.run(*checkout.line("combine", "--target", "cpu-optimized", "--registry", local_registry.host))
    assert again.built().stages("2.19.1-cpu-all") == dict.fromkeys(("package", "smoke", "push"), "up_to_date")

    dry = checkout.line("combine", "--target", "cpu-standard", "--registry", local_registry.host, "--dry-run")
    (planned,) = json.loads(checkout.run(*dry).built().out)["images"]
    assert (planned["run"], planned["names"][0]) == ([], f"{local_registry.host}/{row['names'][0]}")

    image, emulator = row["names"][0], find_emulator(ROOT / "build" / ".setup")
    refused = subprocess.run(
        ["docker", "run", "--rm", "--env", "TF_SERVING_CPU_LEVEL=x86-64-v4", image], capture_output=True, check=False
    )
    assert (refused.returncode, b"It has: x86-64, x86-64-v3" in refused.stderr) == (64, True)
    if emulator is None:
        pytest.skip("there is no qemu-x86_64-static on this machine: ./factory setup brings it")
    for cpu, variant, level in (("qemu64", V1, "x86-64"), ("Nehalem", V1, "x86-64"), ("Haswell", V3, "x86-64-v3")):
        name = f"publish-test-{checkout.mark}-{cpu.lower()}"
        mounts = ("--volume", f"{emulator.path}:/qemu:ro", "--volume", f"{HALF_PLUS_TWO}:/models/half_plus_two:ro")
        run = ("run", "--detach", "--init", "--name", name, *mounts, "--entrypoint", "/qemu", image)
        docker(*run, "-cpu", cpu, LAUNCHER, *SERVE)
        try:
            assert wait_until(lambda name=name: is_serving(name))  # type: ignore[misc]
            assert program_of(name) == servers[variant], cpu
            said = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True).stderr
            assert f"the server of level {level} is started, by the CPU" in said
        finally:
            docker("rm", "--force", name)
    # What is chosen, and the CPU has not.
    chosen = ("--rm", "--init", "--volume", f"{emulator.path}:/qemu:ro", "--env", "TF_SERVING_CPU_LEVEL=x86-64-v3")
    done = subprocess.run(
        ["docker", "run", *chosen, "--entrypoint", "/qemu", image, "-cpu", "Nehalem", LAUNCHER],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "lacks: avx avx2 bmi1" in done.stderr) == (78, True)
