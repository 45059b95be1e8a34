"""Remote execution that is real: BuildGrid, and a worker that runs each action in a container of the toolchain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .build_grid import BuildGrid
from .pipeline import docker
from .small_workspace import ALL_ACTIONS, HOST_ACTIONS, LEVEL_ACTIONS, MATRIX_FILE, V1, SmallWorkspace

PLATFORM = "--remote_default_exec_properties=OSFamily=linux"
"""The worker says of itself that it is this."""
HOW = ("remote_actions", "remote_cache_hits", "disk_cache_hits", "local_actions")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorkspace]:
    made = SmallWorkspace.make(tmp_path_factory.mktemp("small") / "factory")
    yield made
    made.clear()


def counts(record: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(record[name] for name in HOW)


@pytest.mark.buildgrid
@pytest.mark.timeout(1800)
def test_actions_run_elsewhere(small: SmallWorkspace, build_grid_python: Path, tmp_path: Path) -> None:
    """In one test, as each part begins with what the one before it left."""
    small.configure(options=PLATFORM)
    here = small.compile()
    assert counts(here) == (0, 0, 0, ALL_ACTIONS)
    (folder,) = small.checkout.folder.glob("build/matrix-*")
    image = small.checkout.toolchain_image(folder / V1)
    toolchain = docker("run", "--rm", "--network", "none", image, "cat", "/factory/toolchain-id").strip()

    grid_folder = tmp_path / "grid"
    with (
        BuildGrid.run(build_grid_python, grid_folder, toolchain) as grid,
        grid.worker(image) as told,
    ):
        there = f"{PLATFORM}, --define=round={{}}"
        small.configure(options=there.format(1), remote=grid.matrix("executor"))
        elsewhere = small.compile()
        assert counts(elsewhere) == (ALL_ACTIONS, 0, 0, 0), (grid_folder / "worker.errors").read_text()
        assert elsewhere["runners"]["remote"] == ALL_ACTIONS
        ran = [line.split() for line in told.read_text().splitlines()]
        assert [code for code, _ in ran] == ["0"] * ALL_ACTIONS
        assert Path(ran[-1][1]).name == "tensorflow_model_server"
        assert elsewhere["binary_sha256"] == here["binary_sha256"], "it is the same compiler that ran"

        small.configure(options=there.format(2), remote=grid.matrix("executor"))
        assert counts(small.compile()) == (0, ALL_ACTIONS, 0, 0), "what was run there is known there"

        small.configure(options=there.format(3), remote=grid.matrix("executor", actor="stranger"))
        refused = small.run("compile", "--variant", V1).built()
        assert refused.out.count("Built with trouble from remote execution (UNAUTHENTICATED") == 1
        assert counts(small.record()) == (0, 0, 0, ALL_ACTIONS), "this Bazel went on alone"
        (folder,) = small.checkout.folder.glob("build/matrix-*")
        assert [file for file in folder.rglob("*") if file.is_file() and b"stranger" in file.read_bytes()] == []

        tls = grid.matrix("executor").replace("grpc://", "grpcs://")
        small.configure(options=there.format(4), remote=tls)
        crashed = small.run("compile", "--variant", V1).built()
        assert crashed.out.count("Built with trouble from remote execution (Bazel ended with exit code 37)") == 1
        assert counts(small.record()) == (0, 0, ALL_ACTIONS, 0), "Debian's Bazel has no TLS for gRPC"

        small.configure(copts="-DOTHER=1", options=PLATFORM, remote=grid.matrix("executor"))
        arguments = ("compile", "--matrix", MATRIX_FILE, "--variant", V1)
        with small.checkout.start(*arguments) as running:
            running.wait_for(lambda: len(told.read_text().splitlines()) > ALL_ACTIONS, "a first action that ran there")
            grid.process.kill()
            left = running.wait().built()
        assert left.out.count(f"Built in part without remote execution, as {grid.address} does not answer") == 1
        remotely, hits, _, locally = counts(small.record())
        assert (remotely + locally, hits) == (LEVEL_ACTIONS, HOST_ACTIONS)
        assert locally >= 1, "the link, at least"

    small.configure(copts="-DOTHER=2", options=PLATFORM, remote=grid.matrix("executor"))
    dead = small.run("compile", "--variant", V1).built()
    assert dead.out.count(f"Built without remote execution, as {grid.address} does not answer") == 1
    assert counts(small.record()) == (0, 0, HOST_ACTIONS, LEVEL_ACTIONS), "the disk cache takes its place"
