"""Every `run:` of the nightly's jobs that plan, build and report, on the sample and a real registry."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .pipeline import MATRIX, V1, Checkout
from .registry import LocalRegistry

WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "nightly.yml"
EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")


def job(name: str) -> dict[str, Any]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    found: dict[str, Any] = workflow["jobs"][name]
    return {**found, "env": {**workflow["env"], **found.get("env", {})}}


class Runner:
    """Runs a job's steps as GitHub does: bash -e, the environment of workflow, job and step, files for outputs."""

    def __init__(self, checkout: Checkout, values: dict[str, str], folder: Path) -> None:
        self.output = folder / "output"
        self.summary = folder / "summary"
        self._checkout = checkout
        self._values = values
        # What ./factory does once the machine is ready.
        (checkout.folder / "factory").write_text(f'#!/bin/sh\nexec {sys.executable} -m invoke "$@"\n', encoding="utf-8")
        (checkout.folder / "factory").chmod(0o755)

    def run(self, name: str) -> list[str]:
        """Run every step of a job; give what each printed."""
        described = job(name)
        printed = []
        for step in described["steps"]:
            if "run" not in step:
                continue
            given = {**described["env"], **step.get("env", {})}
            given = {key: EXPRESSION.sub(lambda found: self._values[found[1]], text) for key, text in given.items()}
            files = {"GITHUB_OUTPUT": str(self.output), "GITHUB_STEP_SUMMARY": str(self.summary)}
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=self._checkout.folder,
                env={**self._checkout.environment(), **given, **files},
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, f"{step['run']}\n{done.stdout}{done.stderr}"
            printed.append(done.stdout)
        return printed


def test_each_step_of_the_nightly_works_on_the_sample(
    checkout: Checkout, local_registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    values = {
        "vars.MATRIX || 'matrix.yaml'": MATRIX,
        "vars.REGISTRY": local_registry.host,
        "vars.REGISTRY_USER || github.actor": local_registry.username,
        "secrets.REGISTRY_PASSWORD || secrets.GITHUB_TOKEN": local_registry.password,
        "vars.BAZEL_REMOTE_CACHE": "",
        "secrets.BAZEL_REMOTE_HEADERS": "",
        "matrix.variant": V1,
    }
    runner = Runner(checkout, values, tmp_path)
    runner.run("plan")
    name, _, matrix = runner.output.read_text(encoding="utf-8").partition("=")
    assert name == "matrix"
    assert V1 in [one["variant"] for one in yaml.safe_load(matrix)["include"]]

    runner.run("build")
    assert checkout.record(V1, "push")["outputs"]
    assert V1 in runner.summary.read_text(encoding="utf-8")
    assert local_registry.host not in (tmp_path / "docker" / "config.json").read_text(encoding="utf-8")  # logged out
    assert local_registry.password not in runner.summary.read_text(encoding="utf-8")

    # As the job that reports finds it: nothing but what the job that builds has uploaded.
    move_artifact(checkout.folder / "build", tmp_path, values)
    runner.run("report")
    page = (checkout.folder / "report.html").read_text(encoding="utf-8")
    assert f"pushed: {V1}" in page
    assert "Numbers" in page


def move_artifact(build: Path, folder: Path, values: dict[str, str]) -> None:
    """Leave of a build folder what the workflow uploads of it, by its patterns below that."""
    (upload,) = [one for one in job("build")["steps"] if "upload-artifact" in one.get("uses", "")]
    for pattern in EXPRESSION.sub(lambda found: values[found[1]], upload["with"]["path"]).split():
        for found in list(build.glob(pattern.removeprefix("build/"))):
            place = folder / "artifact" / found.relative_to(build)
            place.parent.mkdir(parents=True, exist_ok=True)
            found.rename(place)
    shutil.rmtree(build)
    (folder / "artifact").rename(build)
