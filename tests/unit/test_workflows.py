"""The workflows: their linters, with a planted fault for each, and the script that keeps the nightly's issue."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .upstream_trees import write_tag

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


def step(job: str, name: str) -> str:
    """What a step of the nightly runs."""
    steps = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text(encoding="utf-8"))["jobs"][job]["steps"]
    return next(str(one["run"]) for one in steps if name in {one.get("name"), one.get("id")})


def run_step(folder: Path, script: str, **environment: str) -> int:
    given = {**os.environ, "MATRIX": "matrices/a.yaml", **environment}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=given, check=False, timeout=20).returncode


def test_the_key_lies_beside_the_matrix_file_for_as_long_as_the_job_runs(tmp_path: Path) -> None:
    """There `signing.key` is looked for; and a runner of one's own keeps files."""
    key, script = tmp_path / "matrices" / "cosign.key", step("build", "The key that signs, where the matrix has one")
    key.parent.mkdir()
    assert run_step(tmp_path, script, COSIGN_KEY="") == 0
    assert not key.exists()
    assert run_step(tmp_path, script, COSIGN_KEY="planted") == 0
    assert (key.read_text(encoding="utf-8"), stat.filemode(key.stat().st_mode)) == ("planted", "-rw-------")
    run_step(tmp_path, step("build", "Log out, and remove the key"), REGISTRY="r.invalid", DOCKER_CONFIG=str(tmp_path))
    assert not key.exists()


def test_a_matrix_that_cannot_be_listed_fails_the_plan(tmp_path: Path) -> None:
    (tmp_path / "factory").write_text("#!/bin/sh\nexit 2\n", encoding="utf-8")
    (tmp_path / "factory").chmod(0o755)
    assert run_step(tmp_path, step("plan", "list"), GITHUB_OUTPUT=str(tmp_path / "output")) == 2


def test_only_what_signs_may_ask_for_a_token_that_says_who_it_is() -> None:
    for path in WORKFLOWS.glob("*.yml"):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        asking = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
        assert asking == (["build"] if path.name == "nightly.yml" else [])


def test_a_push_is_never_cancelled() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text(encoding="utf-8"))
    assert workflow["concurrency"]["cancel-in-progress"] is False


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the GitHub CLI: it lists what is in the file `issues`, and notes its arguments."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2" != "issue list" ] || {{ cat {tmp_path}/issues; exit; }}\n'
        f'[ "$1 $2" != "issue view" ] || {{ cat {tmp_path}/last; exit; }}\necho "$*" >>{tmp_path}/calls\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "issues").touch()
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    return tmp_path


def check(gh: Path, place: str, command: str) -> subprocess.CompletedProcess[str]:
    line = [str(ROOT / "scripts" / "nightly_check.sh"), str(gh / "checks" / place), "sh", "-c", command]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=30)


def report(gh: Path, result: str) -> str:
    (gh / "calls").write_text("", encoding="utf-8")
    line = [str(ROOT / "scripts" / "nightly_issue.sh"), result, URL, str(gh / "checks")]
    subprocess.run(line, check=True, capture_output=True, timeout=30)
    return (gh / "calls").read_text(encoding="utf-8")


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
    calls = report(gh, result)
    assert calls.startswith(call)
    assert len(calls.splitlines()) == bool(call)
    assert (URL in calls) == bool(call)


def test_what_the_checks_find_goes_into_the_issue_and_fails_nothing(gh: Path) -> None:
    assert check(gh, "upstream/lock.md", "echo all is well").stdout == "all is well\n"
    check(gh, "2.19.1-cpu-v3/refresh.md", "echo Error: two packages >&2; exit 74")
    check(gh, "upstream/catalogue.md", "seq 1000; exit 8")
    assert not (gh / "checks" / "upstream" / "lock.md").exists()

    calls = report(gh, "success")
    assert calls.startswith(
        f"issue create --title The nightly needs attention --body It passed, and its checks found something: {URL}\n"
    )
    for text in ("ended with 74:\n\n~~~~\nError: two packages\n~~~~", "ended with 8:\n\n~~~~\n971\n", "\n1000\n~~~~"):
        assert text in calls
    assert report(gh, "failure").startswith(
        f"issue create --title The nightly needs attention --body It failed: {URL}\n"
    )
    assert "two packages" in report(gh, "failure")
    assert report(gh, "cancelled") == ""

    # The same the next night adds nothing; a failure does, and so does another finding.
    (gh / "issues").write_text("7\n", encoding="utf-8")
    (gh / "last").write_text(calls, encoding="utf-8")
    assert report(gh, "success") == ""
    assert report(gh, "failure").startswith("issue comment 7 --body It failed")
    check(gh, "upstream/catalogue.md", "echo another; exit 8")
    assert report(gh, "success").startswith("issue comment 7 --body It passed, and its checks found something")

    # What a check no longer finds is gone, and with the last of it the issue.
    check(gh, "upstream/catalogue.md", "true")
    check(gh, "2.19.1-cpu-v3/refresh.md", "true")
    assert report(gh, "success").startswith("issue close 7 ")


def test_findings_longer_than_an_issue_may_be_are_cut(gh: Path) -> None:
    for number in range(30):
        check(gh, f"{number}/refresh.md", "for i in $(seq 40); do printf '%0300d\\n' $i; done; exit 74")
    assert 50_000 < len(report(gh, "success")) < 65_536


def test_upstreams_tags_are_compared_with_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "factory").write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        """"list --matrix own.yaml --json") echo '{"variants": [{"release": "own", "like": "2.0.0"}, """
        """{"release": "1.5.0", "like": null}]}' ;;\n"""
        """"catalogue --json") echo '{"releases": [{"release": "1.5.0"}, {"release": "2.0.0"}]}' ;;\n"""
        '*) echo "$1 $2 $3 $(cat "$4/version")"; [ ! -e differs ] || exit 8 ;;\n'
        "esac\n",
        encoding="utf-8",
    )
    (tmp_path / "factory").chmod(0o755)
    upstream = tmp_path / "upstream"
    for tag in ("1.4.0", "1.5.0", "2.0.0", "2.1.0-rc1"):
        write_tag(upstream, tag, {"version": tag})

    def run() -> tuple[int, str]:
        line = [str(ROOT / "scripts" / "nightly_upstream.sh"), "own.yaml", str(upstream)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
        return done.returncode, done.stdout + done.stderr

    agreed = "catalogue 1.5.0 --check-upstream 1.5.0\ncatalogue 2.0.0 --check-upstream 2.0.0\n"
    assert run() == (0, agreed)
    for tag in ("1.5.1", "2.10.0"):
        write_tag(upstream, tag, {"version": tag})
    new = "Upstream has releases that the catalogue does not have (docs/new-release.md): 1.5.1 2.10.0\n"
    assert run() == (8, agreed + new)
    subprocess.run(["git", "-C", upstream, "tag", "--delete", *("1.5.1", "2.10.0")], check=True, capture_output=True)
    (tmp_path / "differs").touch()
    assert run() == (8, agreed)
    (tmp_path / "differs").unlink()
    subprocess.run(["git", "-C", upstream, "tag", "--delete", "1.5.0"], check=True, capture_output=True)
    code, text = run()
    assert (code, "Upstream has no tag 1.5.0 any more." in text) == (8, True)
