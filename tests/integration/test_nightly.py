"""Every `run:` of the nightly's jobs that plan, build and report, on the sample and a real registry; of a release."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_factory.docker.registry import Registry
from tests.unit.upstream_trees import DEVEL, tree_2_19_1, write_tag

from .pipeline import MATRIX, ROOT, V1, Checkout
from .registry import LocalRegistry

NIGHTLY, RELEASE = (ROOT / ".github" / "workflows" / f"{name}.yml" for name in ("nightly", "release"))
EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")


def job(name: str, file: Path = NIGHTLY) -> dict[str, Any]:
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    found: dict[str, Any] = workflow["jobs"][name]
    return {**found, "env": {**workflow.get("env", {}), **found.get("env", {})}}


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
        shutil.copytree(ROOT / "scripts", checkout.folder / "scripts", dirs_exist_ok=True)

    def run(self, name: str, file: Path = NIGHTLY) -> None:
        """Run every step of a job."""
        described = job(name, file)
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
            assert done.returncode == 0 or step.get("continue-on-error"), f"{step['run']}\n{done.stdout}{done.stderr}"


def test_each_step_of_the_nightly_works_on_the_sample(
    checkout: Checkout, local_registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    tree = tree_2_19_1()
    tree[DEVEL] = tree[DEVEL].replace("ENV BAZEL_VERSION 6.5.0", "ENV BAZEL_VERSION 7.0.0")
    for tag in ("2.19.1", "2.99.0"):
        upstream = write_tag(tmp_path / "upstream", tag, tree)
    values = {
        "vars.MATRIX || 'matrix.yaml'": MATRIX,
        "vars.REGISTRY": local_registry.host,
        "vars.REGISTRY_USER || github.actor": local_registry.username,
        "secrets.REGISTRY_PASSWORD || secrets.GITHUB_TOKEN": local_registry.password,
        "vars.BAZEL_REMOTE_CACHE": "",
        "vars.COSIGN_PUBLIC_KEY": "",
        "secrets.COSIGN_KEY": "planted",
        "secrets.COSIGN_PASSWORD": "",
        "secrets.BAZEL_REMOTE_HEADERS": "",
        "matrix.variant": V1,
        "vars.UPSTREAM || 'https://github.com/tensorflow/serving.git'": str(upstream),
        "github.token": "-",
        "github.server_url": "https://github.com",
        "github.repository": "owner/name",
        "github.run_id": "7",
        "vars.BENCH_ROUNDS || 7": "1",
        "vars.BENCH_SECONDS || 1": "0.1",
    }
    # An index that no other test knows.
    name = f"repository: {checkout.repository}\n"
    checkout.edit(MATRIX, name, f"{name}  indexes: ['nightly-{{release}}{{flavour-suffix}}{{gpu-suffix}}']\n")
    runner = Runner(checkout, values, tmp_path)
    runner.run("plan")
    name, _, matrix = runner.output.read_text(encoding="utf-8").partition("=")
    assert name == "matrix"
    assert V1 in [one["variant"] for one in yaml.safe_load(matrix)["include"]]

    # What the checks find fails none of them. The sample has nothing to lock.
    (checkout.folder / MATRIX.replace(".yaml", ".lock")).write_text("bases: {}\n", encoding="utf-8")
    runner.run("checks")
    runner.run("build")
    (place,) = checkout.record(V1, "push")["outputs"]["places"]
    assert not list(checkout.folder.rglob("cosign.key")), "the secret goes with the job"
    asked = Registry(local_registry.host, credentials=local_registry.credentials)
    index = asked.manifest(checkout.repository, "nightly-2.19.1")
    assert index
    assert {one["digest"] for one in json.loads(index.body)["manifests"]} >= {*place["digests"].values()}
    assert V1 in runner.summary.read_text(encoding="utf-8")
    runner.run("bench")
    measured = runner.summary.read_text(encoding="utf-8").rpartition("answers/s")[2]
    assert [line.split()[:4] for line in measured.splitlines() if line.startswith(V1)] == [
        [V1, protocol, rows, word] for protocol in ("REST", "gRPC") for rows, word in (("1", "row"), ("32", "rows"))
    ]
    assert local_registry.host not in (tmp_path / "docker" / "config.json").read_text(encoding="utf-8")  # logged out
    assert local_registry.password not in runner.summary.read_text(encoding="utf-8")

    # As the job that reports finds it: nothing but what the others have uploaded.
    build = checkout.folder / "build"
    for name in ("checks", "build", "bench"):
        move_artifact(build, tmp_path / "artifacts", name, values)
    shutil.rmtree(build)
    (tmp_path / "artifacts").rename(build)
    runner.run("report")
    page = (checkout.folder / "report.html").read_text(encoding="utf-8")
    assert f"pushed: {V1}" in page
    assert "Numbers" in page
    assert "bench --matrix" in page

    calls = gh_calls(tmp_path, monkeypatch)
    result = job("issue")["steps"][-1]["env"]["RESULT"]
    runner = Runner(checkout, {**values, EXPRESSION.findall(result)[0]: "success"}, tmp_path)
    runner.run("issue")
    issue = calls.read_text(encoding="utf-8")
    assert issue.startswith("issue list ")
    assert (
        "issue create --title The nightly needs attention --body It passed, and its checks found something: " in issue
    )
    assert "lock --matrix" not in issue
    assert f"scripts/nightly_upstream.sh {MATRIX} {upstream}\n\nended with 8:" in issue
    assert "the catalogue has 6.5.0, upstream 7.0.0" in issue
    assert "Upstream has releases that the catalogue does not have (docs/new-release.md): 2.99.0\n" in issue
    refreshed = f"refresh --matrix {MATRIX} --variant {V1} --check\n\nended with "
    assert refreshed not in issue or f"{refreshed}74:" in issue  # as the distribution is on this day


def gh_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the GitHub CLI; give the file that its arguments go into."""
    gh = folder / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\n', encoding="utf-8")
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", str(gh.parent), prepend=":")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    return folder / "calls"


def move_artifact(build: Path, folder: Path, name: str, values: dict[str, str]) -> None:
    """Move what a job uploads of the build folder, by its patterns below that."""
    (upload,) = [one for one in job(name)["steps"] if "upload-artifact" in one.get("uses", "")]
    for pattern in EXPRESSION.sub(lambda found: values[found[1]], upload["with"]["path"]).split():
        for found in list(build.glob(pattern.removeprefix("build/"))):
            place = folder / found.relative_to(build)
            place.parent.mkdir(parents=True, exist_ok=True)
            found.rename(place)


def test_each_step_of_a_release_works_up_to_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = shutil.which("uv", path=f"{ROOT / 'build' / '.uv' / 'bin'}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("no uv: ./factory fetches it")
    checkout = Checkout.make(tmp_path / "factory")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, checkout.folder)
    place = checkout.folder / "build" / ".uv" / "bin" / "uv"
    place.parent.mkdir(parents=True)
    place.symlink_to(uv)
    gh_calls(tmp_path, monkeypatch)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    Runner(checkout, {"github.ref_name": f"v{version}", "github.token": "-"}, tmp_path).run("release", RELEASE)
    (wheel,) = (checkout.folder / "dist").glob("*.whl")
    calls = (tmp_path / "calls").read_text(encoding="utf-8")
    assert calls.startswith(f"release create v{version} dist/{wheel.name} --repo owner/name ")
    package = checkout.folder / "src" / "serving_factory"
    expected = {one.relative_to(package.parent).as_posix() for one in package.rglob("*.*") if one.suffix != ".pyc"}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())

    (tmp_path / "calls").unlink()
    with pytest.raises(AssertionError, match="grep -qx"):
        Runner(checkout, {"github.ref_name": "v999", "github.token": "-"}, tmp_path).run("release", RELEASE)
    assert not (tmp_path / "calls").exists()
