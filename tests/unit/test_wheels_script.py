"""dockerfiles/context/wheels.sh, sourced behind inputs.sh, in a folder that stands for the root."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving_factory.pipeline.failures import Kind, classify
from serving_factory.recipes.recipe import CONTEXT

FILE, CONTENT = "numpy-1.16.6-cp27-cp27mu-manylinux1_x86_64.whl", "a wheel"
SHA256 = hashlib.sha256(CONTENT.encode()).hexdigest()
# Stands for pip: puts the wheel where it is told to, and notes how it was called, and with which certificates.
PYTHON = f"""#!/bin/bash
printf '%s\\n' "${{PIP_CERT:-}}" "$@" >"$FACTORY_TEST_ROOT/called"
while [[ $1 != --dest ]]; do shift; done
printf '%s' {shlex.quote(CONTENT)} >"$2/{FILE}"
"""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    err: str
    got: Path
    called: tuple[str, ...]  # pip's certificates and arguments; empty where it was not called


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("bin", "run/inputs", "run/secrets", "inputs/distdir"):
        (tmp_path / folder).mkdir(parents=True)
    programs = {"python3": PYTHON, "dpkg-query": "#!/bin/sh\necho 'installed 1'\n"}
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def get(root: Path, *, sha256: str = SHA256) -> Ended:
    words = [str(root / "wheels"), FILE, sha256, "numpy==1.16.6", "--implementation=cp", "--platform=manylinux1_x86_64"]
    command = f". {CONTEXT}/inputs.sh\n. {CONTEXT}/wheels.sh\ntrue && get_wheel {shlex.join(words)} && true"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env={"PATH": f"{root}/bin:/usr/bin:/bin", "FACTORY_TEST_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    called = root / "called"
    words = called.read_text().splitlines() if called.exists() else []
    return Ended(done.returncode, done.stderr, root / "wheels" / FILE, tuple(words))


def test_a_wheel_is_asked_of_the_index(root: Path) -> None:
    ended = get(root)
    assert (ended.code, ended.err, ended.got.read_text()) == (0, "", CONTENT)
    assert ended.called[:4] == ("", "-m", "pip", "download")
    assert ended.called[-3:] == ("--implementation=cp", "--platform=manylinux1_x86_64", "numpy==1.16.6")


def test_a_wheel_of_the_distdir_is_not_downloaded(root: Path) -> None:
    (root / "inputs" / "distdir" / FILE).write_text(CONTENT)
    ended = get(root)
    assert (ended.code, ended.called, ended.got.read_text()) == (0, (), CONTENT)


def test_pip_is_given_its_certificates(root: Path) -> None:
    (root / "run" / "secrets" / "pip_ca").write_text("PEM")
    assert get(root).called[0] == str(root / "run" / "secrets" / "pip_ca")


@pytest.mark.parametrize("of_distdir", [True, False])
def test_a_wheel_with_another_checksum_ends_the_build(root: Path, of_distdir: bool) -> None:  # noqa: FBT001
    if of_distdir:
        (root / "inputs" / "distdir" / FILE).write_text(CONTENT)
    ended = get(root, sha256="0" * 64)
    assert ended.code == 1
    failure = classify(f"[cuda_wheels 2/3] {ended.err}", exit_code=1, place="[cuda_wheels 2/3]")
    assert failure.kind is Kind.CHECKSUM
    assert failure.details == {"input": FILE, "found": SHA256, "expected": "0" * 64}


def test_what_pip_cannot_get_ends_the_build(root: Path) -> None:
    said = "ERROR: Could not find a version that satisfies the requirement numpy==1.16.6 (from versions: none)"
    (root / "bin" / "python3").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    ended = get(root)
    assert (ended.code, ended.err) == (1, f"{said}\n")
    assert classify(ended.err, exit_code=1).kind is Kind.FETCH
