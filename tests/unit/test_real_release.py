"""What `benchmarks.real_release` runs as bare Bazel: the Dockerfile's own commands, by a `bazel` that tells of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.real_release import actions_done, bare_script

from .matrices import ROOT


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("[1,402 / 2,817] 2 actions, 2 running", 1402),
        ('{"event": "progress", "stage": "compile", "text": "1402/2817 Compiling x.cc; 9s local"}', 1402),
        ('{"event": "progress", "text": "[sources 2/5] COPY --from=source / /source/"}', 0),
        ("INFO: https://example.com/2018/05/x.tgz", 0),
        ("INFO: Analysed target //tensorflow_serving/model_servers:tensorflow_model_server", 0),
    ],
)
def test_actions_are_read_from_both_ways_output(line: str, done: int) -> None:
    assert actions_done(line) == done


def test_the_bare_way_is_the_dockerfiles_without_the_factorys_own(tmp_path: Path) -> None:
    text = (ROOT / "dockerfiles" / "1.9.1" / "cpu.devel.Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name in ("bazel", "apply_patches.sh"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "inputs.sh").write_text("inputs_startup=(--batch) inputs_options=(--distdir=/inputs/distdir)\n")
    script = bare_script(text).replace("/factory/inputs.sh", str(tmp_path / "inputs.sh"))
    script = script.replace("/factory/apply_patches.sh", "apply_patches.sh")
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "COPTS": "--copt=-mavx2", "BAZEL_RESOURCES": "--jobs=2"}
    env |= dict.fromkeys(("BAZEL_STARTUP_OPTIONS", "BAZEL_OPTIONS"), "")
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, check=True)
    fetch, patch, build = (tmp_path / "calls").read_text().splitlines()
    assert " build --nobuild " in fetch
    assert patch.startswith("apply_patches.sh external")
    assert build.startswith("bazel --batch --output_user_root=/factory/bazel build ")
    assert {"-c", "opt", "--copt=-mavx2", "--jobs=2"} < set(build.split())
    assert "disk_cache" not in build
    assert "event" not in build
