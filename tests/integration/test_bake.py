"""`bake-file`: what docker buildx bake makes of it is what the line makes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from .demo_story import Demo
from .pipeline import V1, VARIANTS, docker

NAME = "2_19_1-cpu-v1"


def bake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "buildx", "bake", *arguments], cwd=folder, capture_output=True, text=True, timeout=570, check=False
    )


def test_bake_makes_the_binary_that_the_line_makes(demo: Demo, tmp_path: Path) -> None:
    checkout = demo.checkout.copy(tmp_path / "factory", V1)
    assert checkout.run("bake-file", "--matrix", "samples/matrix.yaml").code == 0
    printed = bake(checkout.folder, "--print")
    assert printed.returncode == 0, printed.stderr
    targets = json.loads(printed.stdout)["group"]["default"]["targets"]
    assert sorted(targets) == sorted(variant.replace(".", "_") for variant in VARIANTS)

    done = bake(checkout.folder, f"{NAME}-artifact", NAME)
    assert done.returncode == 0, done.stderr
    binary = checkout.folder / "build" / "samples" / "bake" / V1 / "artifact" / "tensorflow_model_server"
    found = hashlib.sha256(binary.read_bytes()).hexdigest()
    assert found == checkout.record(V1, "compile")["outputs"]["binary_sha256"]

    image = f"{checkout.repository}:baked-{V1}"
    try:
        assert "TensorFlow ModelServer" in docker("run", "--rm", image, "--version")
        labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
        assert labels["org.serving-factory.variant"] == V1
        assert "org.serving-factory.binary.sha256" not in labels
    finally:
        docker("rmi", image)
    assert checkout.run("clean", "--matrix", "samples/matrix.yaml").code == 0
    assert not binary.exists()


def test_a_cache_is_asked_for_by_a_variable(demo: Demo, tmp_path: Path) -> None:
    checkout = demo.checkout.copy(tmp_path / "factory", V1)
    assert checkout.run("bake-file", "--matrix", "samples/matrix.yaml", "--variant", V1).code == 0
    plain = json.loads(bake(checkout.folder, "--print").stdout)["target"]
    assert not any("cache" in key for target in plain.values() for key in target)
    done = subprocess.run(
        ["docker", "buildx", "bake", "--print"],
        cwd=checkout.folder,
        env=checkout.environment({"CACHE": "registry.example.com/cache"}),
        capture_output=True,
        text=True,
        check=True,
    )
    fetch = json.loads(done.stdout)["target"]["2_19_1-cpu-fetch"]
    assert fetch["cache-from"] == ["type=registry,ref=registry.example.com/cache:2_19_1-cpu-fetch"]
    assert fetch["cache-to"] == ["type=registry,ref=registry.example.com/cache:2_19_1-cpu-fetch,mode=max"]
