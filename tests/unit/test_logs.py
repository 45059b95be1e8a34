"""line/logs.py: the logs of a stage's tries."""

from __future__ import annotations

from pathlib import Path

from serving_factory.pipeline.records import clear_logs, put_aside


def test_the_log_of_each_try_is_kept_until_the_next_run(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    for number in (1, 2, 3):
        put_aside(log)
        log.write_text(f"try {number}")
    (tmp_path / "smoke.log").write_text("another stage's")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "compile.try-1.log": "try 1",
        "compile.try-2.log": "try 2",
        "compile.log": "try 3",
        "smoke.log": "another stage's",
    }
    clear_logs(log)
    assert [path.name for path in tmp_path.iterdir()] == ["smoke.log"]
