"""Bazel's caches on a real engine: what a second level finds in them, and what comes and goes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .small_workspace import ALL_ACTIONS, HOST_ACTIONS, LEVEL_ACTIONS, V1, V3, SmallWorkspace


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorkspace]:
    made = SmallWorkspace.make(tmp_path_factory.mktemp("small") / "factory")
    yield made
    made.clear()


@pytest.mark.timeout(1200)
def test_the_caches_from_the_first_build_to_another_machine(small: SmallWorkspace, tmp_path: Path) -> None:
    """In one test, as each part begins with what the one before it left."""
    small.configure()
    first = small.compile(V1)
    assert (first["local_actions"], first["disk_cache_hits"], first["remote_cache_hits"]) == (ALL_ACTIONS, 0, 0)
    assert first["bazel_ran"]
    assert first["cpu_seconds"] > 0
    assert first["peak_memory_bytes"] > 50 * 2**20, "Bazel's Java alone takes that"
    assert 0 < first["critical_path_seconds"] < first["wall_seconds"]

    second_level = small.compile(V3)
    assert second_level["bytes_fetched"] == 0
    assert (second_level["local_actions"], second_level["disk_cache_hits"]) == (LEVEL_ACTIONS, HOST_ACTIONS)

    shown = caches_of(small)
    repository, toolchain = shown
    assert repository["name"] == "repository"
    assert "gcc" in toolchain["toolchain"]
    assert toolchain["files"] > ALL_ACTIONS
    assert toolchain["last_used"].startswith("20")

    file = tmp_path / "caches.tar"
    small.run("cache", "export", str(file)).built()
    assert [path.name for path in tmp_path.iterdir()] == ["caches.tar"]

    _refused(small, file, tmp_path / "broken.tar")

    small.empty_caches()
    assert [(cache["name"], cache["files"]) for cache in caches_of(small)] == [("repository", 0)]
    added = json.loads(small.run("cache", "import", str(file), "--json").built().out)
    assert added["added"]["files"] == sum(cache["files"] for cache in shown) + 1, "and the toolchain's description"
    assert {(cache["name"], cache["bytes"]) for cache in added["caches"]} >= {(toolchain["name"], toolchain["bytes"])}
    again = json.loads(small.run("cache", "import", str(file), "--json").built().out)
    assert again["added"]["files"] == 0, "nothing is taken away, nothing is added twice"

    small.configure(options="--define=round=2")
    assert small.compile(V1)["disk_cache_hits"] == ALL_ACTIONS

    small.configure(options="--define=round=3", more="resources: {cache: 1MiB}\n")
    outcome = small.run("compile", "--variant", V1).built()
    assert "Pruned Bazel's caches to 1MiB: removed" in outcome.out
    assert sum(cache["bytes"] for cache in caches_of(small)) <= 2**20


def caches_of(small: SmallWorkspace) -> list[dict[str, Any]]:
    caches: list[dict[str, Any]] = json.loads(small.run("cache", "show", "--json").built().out)["caches"]
    return caches


def _refused(small: SmallWorkspace, good: Path, bad: Path) -> None:
    """A damaged file changes nothing, and says what is wrong with it."""
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    bad.write_bytes(content)
    assert "sha256" in small.run("cache", "import", str(bad)).told(52)
    bad.write_bytes(content[: len(content) // 2])
    assert "cut off" in small.run("cache", "import", str(bad)).told(52)
    with tarfile.open(bad, "w") as tar:
        tar.add(good, "something")
    assert "was not written by" in small.run("cache", "import", str(bad)).told(52)


def test_a_toolchain_that_is_not_there(small: SmallWorkspace) -> None:
    small.configure()
    assert "no toolchain 0123456789abcdef" in small.run("cache", "prune", "--toolchain", "0123456789abcdef").told(4)
