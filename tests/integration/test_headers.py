"""The command in a Dockerfile's header, as someone pastes it in the root of the repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_golden_dockerfiles import DISTINCT

from .pipeline import ROOT, Checkout, docker

SAMPLE = "samples/dockerfiles/2.19.1/cpu.{}.Dockerfile"
IMAGE = "serving-factory/sample:2.19.1-cpu"


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Checkout]:
    made = Checkout.make(tmp_path / "factory")
    yield made
    subprocess.run(["docker", "image", "rm", IMAGE], check=False, capture_output=True)
    made.clear()


@pytest.mark.timeout(1200)
def test_the_commands_in_the_samples_headers_build_its_image(copy: Checkout) -> None:
    for kind in ("devel", "runtime"):
        text = (copy.folder / SAMPLE.format(kind)).read_text(encoding="utf-8")
        (command,) = re.findall(r"^#   (docker .*)$", text, re.MULTILINE)
        done = subprocess.run(["sh", "-c", command], cwd=copy.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "TensorFlow ModelServer" in docker("run", "--rm", IMAGE, "--version")


def test_without_sources_the_build_says_what_is_missing(copy: Checkout) -> None:
    """A context that is not given is an empty stage, and no image of that name is looked for."""
    words = ["--target=artifact", "--build-context", "debian:bookworm=docker-image://serving-factory/base:bookworm"]
    words += ["--file", SAMPLE.format("devel"), "dockerfiles/context"]
    done = subprocess.run(
        ["docker", "buildx", "build", *words], cwd=copy.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "there are no sources: give them with --build-context source=FOLDER" in done.stderr
    assert "library/source" not in done.stderr


def test_buildkit_finds_no_fault_in_any_dockerfile() -> None:
    if "--check" not in docker("buildx", "build", "--help"):
        pytest.skip("this buildx has no --check")
    for path in DISTINCT:
        docker("buildx", "build", "--check", "--file", str(path), str(ROOT / "dockerfiles" / "context"))
