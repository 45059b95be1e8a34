"""Remote caches that are real: nginx over HTTP, BuildGrid over gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .build_grid import BuildGrid
from .pipeline import LABEL, docker, found_in, saved
from .small_workspace import (
    ALL_ACTIONS,
    HOST_ACTIONS,
    LEVEL_ACTIONS,
    MATRIX_FILE,
    SERVER_FILE,
    STARTUP_OPTION,
    V1,
    V3,
    SmallWorkspace,
)
from .tiny import slow
from .web_dav import WebDav

SECRET = "planted-5c1e77"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorkspace]:
    made = SmallWorkspace.make(tmp_path_factory.mktemp("small") / "factory")
    yield made
    made.clear()


@pytest.fixture(scope="module")
def web_dav() -> Iterator[WebDav]:
    with WebDav.run() as server:
        yield server


def puts(requests: list[str]) -> int:
    return sum(line.startswith("PUT 201 ") for line in requests)


def toolchain_of(small: SmallWorkspace) -> str:
    """The id of the one toolchain that was used."""
    *_, toolchain = json.loads(small.run("cache", "show", "--json").built().out)["caches"]
    name: str = toolchain["name"]
    return name


def devel_image(small: SmallWorkspace, options: str) -> str:
    """The image that the last build's binary was made in: all its steps are in BuildKit's cache."""
    (folder,) = small.checkout.folder.glob("build/matrix-*")
    name = f"{small.checkout.repository}:devel"
    argv = ["buildx", "build", "--target", "binary_build", "--load", "--tag", name]
    argv += ["--label", f"{LABEL}={small.checkout.mark}"]  # so that it goes with the checkout
    argv += ["--build-context", f"source={small.checkout.folder / 'source'}"]
    argv += ["--build-context", "debian:bookworm=docker-image://serving-factory/base:bookworm"]
    argv += ["--build-arg", "COPTS=", "--build-arg", f"BAZEL_OPTIONS={small.mark_option} {options}"]
    argv += ["--build-arg", f"BAZEL_STARTUP_OPTIONS={STARTUP_OPTION}"]
    recipe = folder / V1 / "recipe"
    argv += ["--build-arg", f"BAZEL_RESOURCES={(recipe / 'resources').read_text()}"]
    argv += ["--file", str(recipe / "devel.Dockerfile")]
    docker(*argv, str(small.checkout.folder / "dockerfiles" / "context"), seconds=300)
    return name


@pytest.mark.timeout(1800)
def test_a_cache_over_http(small: SmallWorkspace, web_dav: WebDav) -> None:
    """In one test, as each part begins with what the one before it left."""
    there = f"cache: '{web_dav.url}', headers: {{x-planted: {SECRET}}}"
    small.configure(options="--define=round=1", remote=f"{there}, upload: true")
    first = small.compile()
    assert (first["local_actions"], first["remote_cache_hits"]) == (ALL_ACTIONS, 0)
    requests = web_dav.requests()
    uploaded = puts(requests)
    assert uploaded >= ALL_ACTIONS
    assert all(f"header={SECRET}" in line for line in requests), "each request has the header"
    place = f"/bazel/{toolchain_of(small)}/"
    assert all(line.split()[2].startswith(place) for line in requests), "each toolchain has a folder of its own"
    image = devel_image(small, "--define=round=1")
    events = next(small.checkout.folder.glob("build/matrix-*/*/artifact/facts/bazel-events.json"))
    (invocation,) = set(re.findall(r"Invocation ID: (\S{36})", events.read_text(encoding="utf-8")))
    needles = {"invocation": invocation.encode(), "secret": SECRET.encode()}
    assert found_in(saved(image), needles) == {"invocation"}, "it is the image of this very build"
    files = (path.read_bytes() for path in small.checkout.folder.glob("build/matrix-*/**/*") if path.is_file())
    assert found_in(files, needles) == {"invocation"}

    small.empty_caches()
    small.configure(options="--define=round=2", remote=there)
    second = small.compile(CI="")
    assert (second["local_actions"], second["remote_cache_hits"]) == (0, ALL_ACTIONS)

    small.configure(copts="-DOTHER=1", remote=there)
    third = small.compile()
    assert third["local_actions"] == LEVEL_ACTIONS
    assert puts(web_dav.requests()) == uploaded, "read-only uploads nothing"

    small.configure(copts="-DOTHER=2", remote=there)
    in_ci = small.compile(CI="true")
    assert in_ci["local_actions"] == LEVEL_ACTIONS
    assert puts(web_dav.requests()) > uploaded

    small.configure(copts="-DOTHER=3", remote=there)
    with (
        small.checkout.edited(SERVER_FILE, "int main", f"{slow()}int main"),
        small.checkout.start("compile", "--matrix", MATRIX_FILE, "--json", "--variant", V1) as running,
    ):
        running.wait_for(lambda: " Compiling " in running.printed()[0], "the server's compile")
        web_dav.stop()
        left = running.wait().built()
    assert left.err.count(f"Built in part without the remote cache, as {web_dav.host}:8080 does not answer") == 1
    assert small.record()["local_actions"] == LEVEL_ACTIONS

    small.configure(copts="-DOTHER=1", options="--define=round=3", remote=there)
    outcome = small.run("compile").built()
    assert outcome.out.count("Built without the remote cache, as") == 1
    kept, dead = small.record(V1), small.record(V3)
    assert kept["disk_cache_hits"] == ALL_ACTIONS, "what was not uploaded is kept on disk"
    assert dead["silent_remote"] == f"{web_dav.host}:8080"
    assert (dead["local_actions"], dead["disk_cache_hits"]) == (LEVEL_ACTIONS, HOST_ACTIONS)


@pytest.mark.buildgrid
@pytest.mark.timeout(1800)
def test_a_cache_over_grpc(small: SmallWorkspace, build_grid_python: Path, tmp_path: Path) -> None:
    small.configure(options="--define=round=1")
    small.compile()
    with BuildGrid.run(build_grid_python, tmp_path / "grid", toolchain_of(small)) as grid:
        small.empty_caches()
        small.configure(options="--define=round=4", remote=f"{grid.matrix('cache')}, upload: true")
        assert small.compile()["local_actions"] == ALL_ACTIONS
        small.empty_caches()
        small.configure(options="--define=round=5", remote=grid.matrix("cache"))
        second = small.compile()
    assert (second["local_actions"], second["remote_cache_hits"]) == (0, ALL_ACTIONS)
