"""What the Bazel run of a compile did and took, as its record tells it; docs/records.md names the fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving_factory.engine.buildx import Step
from serving_factory.line.bazel_events import read_summary

__all__ = ["BazelSteps", "read_measures", "run_facts"]

_STEP = re.compile(r"/factory/bazel\.sh (fetch|build) ")
_NO_REMOTE = re.compile(r"^factory: no remote: (\S+) does not answer$")
_ANEW = re.compile(r"^factory: no remote: (Bazel ended with exit code \d+)")
_REFUSED = re.compile(r"^(?:WARNING|ERROR): Failed to query remote execution capabilities: (.+)$")
_TROUBLE = re.compile(r"^WARNING: (?:Reading from|Writing to) Remote Cache:")
_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL = "disk cache hit", "remote cache hit", "remote", "internal"


class BazelSteps:
    """Watches a build for the steps that run Bazel.

    A step that BuildKit took from its own cache leaves the files of an earlier run, which must not count again.

    Args:
        on_built: called once Bazel has built; what is left of the compile stage compiles nothing.
    """

    def __init__(self, on_built: Callable[[], None]) -> None:
        self._on_built = on_built
        self.built = False
        self.ran: set[str] = set()
        self.silent_remote: str | None = None
        self.remote_trouble: str | None = None

    def see(self, step: Step) -> None:
        """Note a step's start and end, and that a remote cache or executor did not answer, or was of no use."""
        if step.kind in {"started", "done", "cached"} and (found := _STEP.search(step.name)):
            if step.kind == "started":
                self.ran.add(found[1])
            elif found[1] == "build":
                self.built = True
                self._on_built()
        elif step.kind == "log":
            self._hear(step.text)

    def _hear(self, line: str) -> None:
        if silent := _NO_REMOTE.match(line):
            self.silent_remote = silent[1]
        elif refused := _REFUSED.match(line):
            self.remote_trouble = refused[1]
        elif anew := _ANEW.match(line):
            self.remote_trouble = self.remote_trouble or anew[1]
        elif _TROUBLE.match(line):
            self.remote_trouble = self.remote_trouble or "some of its answers were errors"


def run_facts(facts: Path, steps: BazelSteps) -> Mapping[str, Any]:
    """Gather what is known of the run that made a binary; None where it is not known.

    Args:
        facts: the artifact's folder of that name.
        steps: what was seen of the build.
    """
    summary = read_summary(facts / "bazel-events.json")
    fetch, build = (read_measures(facts / "measures" / name) for name in ("fetch", "build"))
    runners = _runners(summary.runners if summary else {}, remote=bool(build.get("remote")))
    local = {name: n for name, n in runners.items() if name not in {_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL}}
    fetched = [
        measures.get("bytes_fetched") for name, measures in (("fetch", fetch), ("build", build)) if name in steps.ran
    ]
    return {
        "bazel_ran": "build" in steps.ran,
        "actions": summary.executed if summary else None,
        "runners": dict(runners) or None,
        "local_actions": sum(local.values()) if runners else None,
        "disk_cache_hits": runners.get(_DISK_HIT, 0) if runners else None,
        "remote_cache_hits": runners.get(_REMOTE_HIT, 0) if runners else None,
        "remote_actions": runners.get(_REMOTE, 0) if runners else None,
        "silent_remote": steps.silent_remote,
        "remote_trouble": steps.remote_trouble,
        "bytes_fetched": None if None in fetched else sum(size for size in fetched if size is not None),
        "wall_seconds": summary.wall_seconds if summary else None,
        "critical_path_seconds": summary.critical_path_seconds if summary else None,
        "cpu_seconds": build["cpu_microseconds"] / 1_000_000 if "cpu_microseconds" in build else None,
        "peak_memory_bytes": build.get("peak_memory_bytes"),
    }


def read_measures(file: Path) -> Mapping[str, int]:
    """Read what bazel.sh measured of a step: a line `NAME NUMBER` each; nothing where there is no such file."""
    try:
        words = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return {}
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}  # noqa: PLR2004


def _runners(told: Mapping[str, int], *, remote: bool) -> Mapping[str, int]:
    """Name the hits of a disk cache so: before 5, Bazel calls them remote ones, even where there is nothing remote."""
    if remote or _DISK_HIT in told:
        return told
    return {_DISK_HIT if name == _REMOTE_HIT else name: count for name, count in told.items()}
