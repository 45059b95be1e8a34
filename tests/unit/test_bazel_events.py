"""What Bazel reports: as recorded from Bazel 4.2.3, and in the shape of later ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving_factory.pipeline.bazel import BazelProgress, is_progress, read_summary

PRINTED = (
    "Target //tensorflow_serving/model_servers:tensorflow_model_server up-to-date:\n"
    "  /factory/bazel-bin/tensorflow_serving/model_servers/tensorflow_model_server\n"
    "INFO: Elapsed time: 63.497s, Critical Path: 28.57s\n"
    "INFO: 65 processes: 39 remote cache hit, 7 internal, 19 processwrapper-sandbox.\n"
    "INFO: Build completed successfully, 65 total actions\n"
)
OLD_METRICS = {"actionSummary": {"actionsCreated": "403", "actionsExecuted": "65"}}
FINISHED = {
    "id": {"buildFinished": {}},
    "children": [{"buildToolLogs": {}}, {"buildMetrics": {}}],
    "finished": {"overallSuccess": True, "exitCode": {"name": "SUCCESS"}},
}


def event_file(folder: Path, *events: object) -> Path:
    path = folder / "bazel-events.json"
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return path


def printed(text: str) -> dict[str, object]:
    return {"id": {"progress": {"opaqueCount": 3}}, "progress": {"stderr": text}}


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        (
            "[23 / 59] Compiling main.cc; 1s processwrapper-sandbox",
            "23/59 Compiling main.cc; 1s processwrapper-sandbox",
        ),
        ("[1,234 / 20,000] 2 actions", "1,234/20,000 2 actions"),
        ("[65 / 65]", "65/65"),
        ("INFO: Found 1 target...", None),
        (
            "[output clipped, log limit 2MiB reached]",
            "still at work; BuildKit shows no more of it until it ends (log limit 2MiB reached)",
        ),
        ("[output clipped, log limit 200KiB/s reached]", None),
    ],
)
def test_progress_is_reported_shortly(line: str, reported: str | None) -> None:
    assert BazelProgress().see(line) == reported


def test_with_cursor_control_the_oldest_action_is_reported() -> None:
    progress = BazelProgress()
    lines = [
        "[1 / 3] 2 actions running",
        "    Compiling a/b.cc; 95s processwrapper-sandbox",
        "    Compiling c.cc; 8s processwrapper-sandbox",
        "[2 / 3] 2 actions, 0 running",
        "    [-----] Executing genrule //:g0",
        "[2 / 3] Linking server; 12s local",
    ]
    assert [reported for line in lines if (reported := progress.see(line))] == [
        "1/3 2 actions running",
        "1/3 Compiling a/b.cc; 95s processwrapper-sandbox",
        "2/3 2 actions, 0 running",
        "2/3 Linking server; 12s local",
    ]
    assert all(map(is_progress, lines))
    assert not any(map(is_progress, ["a.cc:3:1: error: wrong", "    5 | int x;", "INFO: Found 1 target..."]))


def test_numbers_are_read_behind_cursor_movements(tmp_path: Path) -> None:
    text = (
        "[7 / 7] checking\n\r\x1b[1A\x1b[KINFO: Elapsed time: 4.5s, Critical Path: 1s\n"
        "\x1b[1A\x1b[KINFO: Build completed successfully, 1,234 total actions\n"
    )
    metrics: dict[str, object] = {"id": {"buildMetrics": {}}, "buildMetrics": {"actionSummary": {}}}
    summary = read_summary(event_file(tmp_path, metrics, printed(text)))
    assert summary is not None
    assert (summary.executed, summary.wall_seconds) == (1234, 4.5)


def test_before_bazel_5_the_runners_are_read_from_what_bazel_prints(tmp_path: Path) -> None:
    metrics = {"id": {"buildMetrics": {}}, "buildMetrics": OLD_METRICS}
    summary = read_summary(event_file(tmp_path, FINISHED, metrics, printed(PRINTED), {"id": {"buildToolLogs": {}}}))
    assert summary is not None
    assert summary.executed == 65
    assert summary.runners == {"remote cache hit": 39, "internal": 7, "processwrapper-sandbox": 19}


def test_a_later_bazel_has_the_runners_in_its_event(tmp_path: Path) -> None:
    runners = [{"name": "total", "count": 3}, {"name": "disk cache hit", "count": 2}, {"name": "internal", "count": 1}]
    summary = {"actionsExecuted": "3", "runnerCount": runners}
    metrics = {"id": {"buildMetrics": {}}, "buildMetrics": {"actionSummary": summary}}
    found = read_summary(event_file(tmp_path, printed(PRINTED), FINISHED, metrics))
    assert found is not None
    assert found.runners == {"disk cache hit": 2, "internal": 1}


def test_one_process_is_in_the_singular(tmp_path: Path) -> None:
    metrics = {"id": {"buildMetrics": {}}, "buildMetrics": OLD_METRICS}
    found = read_summary(event_file(tmp_path, metrics, printed("INFO: 1 process: 1 internal.\n")))
    assert found is not None
    assert found.runners == {"internal": 1}


def test_a_build_that_failed_early_has_no_summary(tmp_path: Path) -> None:
    assert read_summary(event_file(tmp_path, FINISHED)) is None
    assert read_summary(tmp_path / "no such file") is None


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_of_an_event_file_that_was_cut_off_what_was_printed_counts(tmp_path: Path, cut: int) -> None:
    metrics = {"id": {"buildMetrics": {}}, "buildMetrics": OLD_METRICS}
    for before in ((FINISHED, printed(PRINTED)), (FINISHED,)):
        path = event_file(tmp_path, *before, metrics)
        path.write_text(path.read_text(encoding="utf-8").rstrip()[:-cut], encoding="utf-8")
        summary = read_summary(path)
        assert (summary and summary.executed) == (65 if len(before) == 2 else None)


def test_a_runner_of_nothing_has_no_count(tmp_path: Path) -> None:
    runners = [{"name": "total", "count": 3}, {"name": "local", "count": 3}, {"name": "worker"}]
    metrics = {"actionSummary": {"actionsExecuted": "3", "runnerCount": runners}}
    summary = read_summary(event_file(tmp_path, {"id": {"buildMetrics": {}}, "buildMetrics": metrics}))
    assert summary is not None
    assert summary.runners == {"local": 3, "worker": 0}


def test_a_cut_off_line_before_the_metrics_is_passed_over(tmp_path: Path) -> None:
    path = event_file(tmp_path, {"id": {"buildMetrics": {}}, "buildMetrics": OLD_METRICS})
    path.write_text(path.read_text(encoding="utf-8") + '{"progress": {"std\n', encoding="utf-8")
    summary = read_summary(path)
    assert summary is not None
    assert (summary.executed, summary.runners) == (65, {})
