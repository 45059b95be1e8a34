"""A gpu image on a real GPU. The first test needs no Docker: GPU_IMAGE is what `docker export` wrote (docs/gpu.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serving_factory.smoke.gpu import WAYS

ROOT = Path(__file__).parents[2]
SAMPLE = ("--matrix", "samples/matrix.yaml", "--target", "gpu-optimized")

pytestmark = pytest.mark.gpu


@pytest.mark.skipif("GPU_IMAGE" not in os.environ, reason="GPU_IMAGE names no image")
def test_an_image_computes_on_the_gpu_of_this_machine(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "gpu_smoke.py"
    command = [sys.executable, str(script), os.environ["GPU_IMAGE"], "--logs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)  # the figures, with -s or -rP
    assert done.returncode == 0
    assert "computed rightly" in done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {way.check for way in WAYS}


@pytest.mark.skipif(shutil.which("docker") is None, reason="this machine has no Docker")
def test_the_samples_image_is_smoke_tested_on_the_gpu() -> None:
    build = [sys.executable, "-m", "invoke", "build", *SAMPLE, "--gpu", "require"]
    subprocess.run(build, cwd=ROOT, check=True)
    (record,) = (ROOT / "build" / "samples").glob("*-gpu-*-v3/smoke.json")
    found = json.loads(record.read_text(encoding="utf-8"))["outputs"]["gpu"]
    sys.stdout.write(json.dumps(found, indent=2))
    assert {one["way"] for one in found["served"]} == {way.check for way in WAYS}
