"""What a compile's record holds of its Bazel run, from files as real Bazels wrote them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest

from serving_factory.docker.solve_status import Step
from serving_factory.pipeline.bazel import read_summary
from serving_factory.pipeline.stages.compile import BazelSteps, read_measures, run_facts

RECORDED = Path(__file__).parent / "recorded"
FETCH = "[fetch 4/4] RUN --mount=type=secret,id=bazelrc /factory/bazel.sh fetch bazel --batch build"
BUILD = "[binary_build 1/3] RUN /factory/bazel.sh build bazel --batch build"
NUMBERS = "bytes_fetched {}\nremote {}\ncpu_microseconds 61500000\npeak_memory_bytes 7000000000\n"


def facts(folder: Path, events: str, *, fetched: int = 7, remote: int = 0) -> Path:
    (folder / "measures").mkdir()
    shutil.copy(RECORDED / events, folder / "bazel-events.json")
    (folder / "measures" / "fetch").write_text(NUMBERS.format(fetched, 0))
    (folder / "measures" / "build").write_text(NUMBERS.format(2, remote))
    return folder


def seen(*steps: Step) -> BazelSteps:
    noted = BazelSteps(lambda: None)
    for step in steps:
        noted.see(step)
    return noted


BOTH_RAN = (Step(name=FETCH, kind="started"), Step(name=BUILD, kind="started"))


@pytest.mark.parametrize("kind", ["done", "cached"])
def test_that_bazel_has_built_is_noted_when_its_step_has_ended_well(kind: Literal["done", "cached"]) -> None:
    reported: list[str] = []
    noted = BazelSteps(lambda: reported.append("built"))
    for step in (Step(name=FETCH, kind=kind), *BOTH_RAN, Step(name=BUILD, kind="log"), Step(name=BUILD, kind="error")):
        noted.see(step)
    assert not reported
    noted.see(Step(name=BUILD, kind=kind))
    assert reported == ["built"]


def test_a_cold_build_as_recorded(tmp_path: Path) -> None:
    reported = run_facts(facts(tmp_path, "bazel-4.2.3-cold.jsonl"), seen(*BOTH_RAN))
    assert reported == {
        "bazel_ran": True,
        "actions": 7,
        "runners": {"internal": 4, "processwrapper-sandbox": 3},
        "local_actions": 3,
        "disk_cache_hits": 0,
        "remote_cache_hits": 0,
        "remote_actions": 0,
        "silent_remote": None,
        "remote_trouble": None,
        "bytes_fetched": 9,
        "wall_seconds": 12.976,
        "critical_path_seconds": 0.8,
        "cpu_seconds": 61.5,
        "peak_memory_bytes": 7_000_000_000,
    }


@pytest.mark.parametrize(("remote", "disk_hits"), [(0, 3), (1, 0)])
def test_before_bazel_5_hits_are_the_remote_caches_where_there_was_one(
    tmp_path: Path, remote: int, disk_hits: int
) -> None:
    reported = run_facts(facts(tmp_path, "bazel-4.2.3-warm.jsonl", remote=remote), seen(*BOTH_RAN))
    assert (reported["disk_cache_hits"], reported["remote_cache_hits"]) == (disk_hits, 3 - disk_hits)
    assert reported["local_actions"] == 0


@pytest.mark.parametrize(
    ("bazel", "actions", "spawned"),
    [
        ("7.7.1", 19, 10),
        ("2.1.0", 7, 3),
        ("0.17.2", 7, 3),  # its event lacks the count, and it is read from what Bazel prints
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_other_bazels_as_recorded(tmp_path: Path, bazel: str, actions: int, spawned: int, warm: bool) -> None:  # noqa: FBT001
    reported = run_facts(facts(tmp_path, f"bazel-{bazel}-{'warm' if warm else 'cold'}.jsonl"), seen(*BOTH_RAN))
    local, hits = (0, spawned) if warm else (spawned, 0)
    assert (reported["local_actions"], reported["disk_cache_hits"]) == (local, hits)
    assert (reported["remote_cache_hits"], reported["actions"]) == (0, actions)
    assert reported["wall_seconds"] is not None
    assert reported["critical_path_seconds"] is not None


def test_what_no_bazel_reports_is_not_known(tmp_path: Path) -> None:
    folder = facts(tmp_path, "bazel-0.17.2-cold.jsonl")
    events = folder / "bazel-events.json"
    lines = events.read_text(encoding="utf-8").splitlines(keepends=True)
    events.write_text("".join(line for line in lines if "total actions" not in line), encoding="utf-8")
    reported = run_facts(folder, seen(*BOTH_RAN))
    assert (reported["actions"], reported["wall_seconds"], reported["local_actions"]) == (None, None, None)


def test_what_an_earlier_run_fetched_does_not_count_again(tmp_path: Path) -> None:
    folder = facts(tmp_path, "bazel-4.2.3-warm.jsonl", fetched=5000)
    cached = Step(name=FETCH, kind="cached")
    assert run_facts(folder, seen(cached, Step(name=BUILD, kind="started")))["bytes_fetched"] == 2
    nothing = run_facts(folder, seen(cached, Step(name=BUILD, kind="cached")))
    assert (nothing["bytes_fetched"], nothing["bazel_ran"]) == (0, False)


def test_a_remote_that_does_not_answer_is_noted() -> None:
    line = Step(name=BUILD, kind="log", text="factory: no remote: cache.example.com:443 does not answer")
    assert seen(line).silent_remote == "cache.example.com:443"
    assert seen(Step(name=BUILD, kind="log", text="INFO: all is well")).silent_remote is None


def logged(*lines: str) -> BazelSteps:
    return seen(*(Step(name=BUILD, kind="log", text=line) for line in lines))


def test_a_remote_that_is_of_no_use_is_noted_with_what_bazel_says_of_it() -> None:
    refused = "WARNING: Failed to query remote execution capabilities: UNAUTHENTICATED: who are you?"
    assert logged("WARNING: Reading from Remote Cache:", refused).remote_trouble == "UNAUTHENTICATED: who are you?"
    seven = "WARNING: Remote Cache: Connection refused (connect failed): /172.17.0.14:8080"  # as 7.7.1 said it
    for trouble in ("WARNING: Reading from Remote Cache:", "WARNING: Writing to Remote Cache:", seven):
        assert logged(trouble).remote_trouble == "some of its answers were errors"
        assert logged(refused, trouble).remote_trouble == "UNAUTHENTICATED: who are you?"
    again = "factory: no remote: Bazel ended with exit code 34, and begins again without it"
    assert logged(again).remote_trouble == "Bazel ended with exit code 34"
    assert logged(refused, again).remote_trouble == "UNAUTHENTICATED: who are you?"
    assert logged(again).silent_remote is None
    assert logged("WARNING: something else", "INFO: Reading from Remote Cache:").remote_trouble is None


def test_what_ran_elsewhere_is_kept_apart_from_what_was_cached_there_and_what_ran_here(tmp_path: Path) -> None:
    folder = facts(tmp_path, "bazel-4.2.3-cold.jsonl", remote=1)
    events = folder / "bazel-events.json"
    text = events.read_text(encoding="utf-8")
    assert text.count("4 internal, 3 processwrapper-sandbox") == 1
    printed = "4 internal, 5 remote, 2 remote cache hit, 1 local"
    events.write_text(text.replace("4 internal, 3 processwrapper-sandbox", printed))
    reported = run_facts(folder, seen(*BOTH_RAN))
    names = ("remote_actions", "remote_cache_hits", "disk_cache_hits", "local_actions")
    assert [reported[name] for name in names] == [5, 2, 0, 1]


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    reported = run_facts(tmp_path, seen(*BOTH_RAN))
    assert {name for name, value in reported.items() if value is not None} == {"bazel_ran"}


def test_measures_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "build"
    file.write_text("bytes_fetched 3\npeak_memory_bytes\nremote x\n\na b c\n")
    assert read_measures(file) == {"bytes_fetched": 3}


def test_a_critical_path_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    text = (RECORDED / "bazel-4.2.3-cold.jsonl").read_text(encoding="utf-8")
    file = tmp_path / "events"
    file.write_text(text.replace('"name":"critical path","contents":"', '"name":"critical path","contents":"?'))
    summary = read_summary(file)
    assert summary is not None
    assert summary.critical_path_seconds is None
