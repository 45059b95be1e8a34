"""scripts/gpu_smoke.py on the sample's gpu image as `docker export` writes it: without a GPU, its CPU half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving_factory.errors import GpuMissingError

from .demo_story import Demo
from .pipeline import GPU_V3, ROOT, docker


def test_an_exported_image_serves_without_docker(demo: Demo, tmp_path: Path) -> None:
    container = docker("create", demo.checkout.record(GPU_V3, "package")["outputs"]["image"]).strip()
    try:
        docker("export", "--output", str(tmp_path / "image.tar"), container)
    finally:
        docker("rm", container)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "gpu_smoke.py"),
        str(tmp_path / "image.tar"),
        "--logs",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == GpuMissingError.exit_code, done.stderr
    assert done.stdout.startswith(f"{GPU_V3}, driver unknown\ngpu-hidden ")
    assert "No GPU computed" in done.stderr
    assert "failed call to cuInit" in (tmp_path / "gpu-hidden.log").read_text(encoding="utf-8")
