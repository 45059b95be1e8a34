"""The workflows: their linters, with a planted fault for each, and the script that keeps the nightly's issue."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
ZIZMOR = ("zizmor", "--offline", "--no-progress", "--quiet")
ACTIONLINT = ("actionlint", "-no-color")
SCHEMA = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
URL = "https://example.com/run/1"


def passes(command: tuple[str, ...], *files: Path) -> bool:
    programs = Path(sys.executable).parent
    path = f"{programs}:{os.environ['PATH']}"  # actionlint looks there for shellcheck
    line = [str(programs / command[0]), *command[1:], *map(str, files)]
    done = subprocess.run(line, env={**os.environ, "PATH": path}, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


@pytest.fixture
def nightly(tmp_path: Path) -> Path:
    copy = tmp_path / ".github" / "workflows" / "nightly.yml"
    copy.parent.mkdir(parents=True)
    shutil.copy(WORKFLOWS / "nightly.yml", copy)
    return copy


def plant(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_zizmor_finds_a_planted_fault(nightly: Path) -> None:
    assert passes(ZIZMOR, nightly)
    plant(nightly, 'scripts/nightly_issue.sh "$RESULT"', "scripts/nightly_issue.sh ${{ github.head_ref }}")
    assert not passes(ZIZMOR, nightly)


def test_actionlint_passes_the_workflows() -> None:
    assert passes(ACTIONLINT, *WORKFLOWS.glob("*.yml"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("needs.plan.outputs.matrix", "needs.plan.outputs.matrices"),
        ('docker logout "$REGISTRY"', "docker logout $REGISTRY"),  # shellcheck's, which it asks
    ],
    ids=["an output that no job has", "a line of shell"],
)
def test_actionlint_finds_a_planted_fault(nightly: Path, old: str, new: str) -> None:
    plant(nightly, old, new)
    assert not passes(ACTIONLINT, nightly)


def test_the_schema_finds_a_planted_fault(nightly: Path) -> None:
    assert passes(SCHEMA, nightly)
    plant(nightly, "runs-on: ubuntu-24.04", "run-on: ubuntu-24.04")
    assert not passes(SCHEMA, nightly)


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_jobs_have_a_time_limit_and_actions_are_commits(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [name for name, job in workflow["jobs"].items() if "timeout-minutes" not in job] == []
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_a_push_is_never_cancelled() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text(encoding="utf-8"))
    assert workflow["concurrency"]["cancel-in-progress"] is False


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the GitHub CLI: it lists what is in the file `issues`, and notes its arguments."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2" != "issue list" ] || {{ cat {tmp_path}/issues; exit; }}\necho "$*" >>{tmp_path}/calls\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "issues").touch()
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    return tmp_path


@pytest.mark.parametrize(
    ("result", "open_issue", "call"),
    [
        ("failure", "", "issue create"),
        ("failure", "7\n", "issue comment 7"),
        ("success", "7\n", "issue close 7"),
        ("success", "", ""),
        ("cancelled", "7\n", ""),
    ],
)
def test_one_issue_is_open_while_the_nightly_fails(gh: Path, result: str, open_issue: str, call: str) -> None:
    (gh / "issues").write_text(open_issue, encoding="utf-8")
    subprocess.run([ROOT / "scripts" / "nightly_issue.sh", result, URL], check=True, capture_output=True, timeout=30)
    calls = (gh / "calls").read_text(encoding="utf-8")
    assert calls.startswith(call)
    assert len(calls.splitlines()) == bool(call)
    assert (URL in calls) == bool(call)
