"""What `benchmarks.real_release` runs as bare Bazel, by a `bazel` that records how it is called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.real_release import BARE_SCRIPT, actions_done


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


def test_the_bare_way_has_the_options_of_the_image_and_nothing_of_the_factorys(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("bazel", "apply_patches.sh"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "inputs.sh").touch()
    (tmp_path / "bazel.conf").write_text("target=//:server\nrepository_cache=--experimental_repository_cache\n")
    (tmp_path / "bazelrc").write_text("startup --x\nbuild -c opt\nbuild \n")
    script = BARE_SCRIPT.replace("mkdir -p /cache/repository\n", "").replace(
        "/factory/apply_patches.sh", "apply_patches.sh"
    )
    for name in ("inputs.sh", "bazel.conf", "bazelrc"):
        script = script.replace(f"/factory/{name}", str(tmp_path / name))
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "COPTS": "--copt=-mavx2", "BAZEL_RESOURCES": "--jobs=2"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=env, check=True)
    fetch, patch, build = (tmp_path / "calls").read_text().splitlines()
    assert " build --nobuild " in fetch
    assert "--experimental_repository_cache=/cache/repository --distdir=/inputs/distdir " in fetch
    assert patch.startswith("apply_patches.sh external")
    assert build.startswith("bazel --batch --output_user_root=/factory/bazel --x build ")
    assert {"-c", "opt", "--copt=-mavx2", "--jobs=2", "//:server"} < set(build.split())
    assert "disk_cache" not in build
    assert "event" not in build
