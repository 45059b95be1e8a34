"""scripts/gpu_smoke.py on the sample's image as `docker export` writes it: without a GPU, its CPU half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving_factory.errors import GpuMissingError

from .pipeline import ROOT, docker


def test_an_exported_image_serves_without_docker(sample_image: str, tmp_path: Path) -> None:
    container = docker("create", sample_image).strip()
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
    assert "gpu-hidden" in done.stdout
    assert "No GPU computed" in done.stderr
    assert "Successfully loaded servable version" in (tmp_path / "gpu-hidden.log").read_text(encoding="utf-8")
