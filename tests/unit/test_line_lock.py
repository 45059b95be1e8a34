"""line/lock.py, with a second process that really holds the lock."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving_factory.errors import LockedError
from serving_factory.line.lock import hold_lock

HOLDER = """
import sys
from pathlib import Path
from serving_factory.line.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(build: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(build)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_factory_is_told_who_works_and_since_when(tmp_path: Path) -> None:
    build = tmp_path / "build"
    with holder(build) as other:
        with pytest.raises(LockedError) as caught, hold_lock(build):
            pytest.fail("the lock is held")
        assert caught.value.what == "another factory works in this checkout"
        since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
        assert re.fullmatch(
            rf"process {other.pid} has held the lock since {since}: -c {re.escape(str(build))}", caught.value.why
        )
        other.kill()
        other.wait()
        with hold_lock(build):
            pass


def test_it_is_free_after_use_and_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_lock(tmp_path):
        raise ZeroDivisionError
    with hold_lock(tmp_path), pytest.raises(LockedError), hold_lock(tmp_path):
        pytest.fail("the lock is held")
    with hold_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": 1}', '"x"'])
def test_a_lock_file_that_says_nothing_useful(tmp_path: Path, text: str) -> None:
    with hold_lock(tmp_path):
        (tmp_path / ".lock").write_text(text, encoding="utf-8")
        with pytest.raises(LockedError) as caught, hold_lock(tmp_path):
            pytest.fail("the lock is held")
    assert caught.value.why == "it has only just begun"


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["another process", "this process"])
def test_what_a_dead_process_wrote_holds_nothing_whoever_has_its_number_now(tmp_path: Path, pid: int) -> None:
    """The lock is the kernel's (flock), not the file's text: no number has to be compared with anyone's start time."""
    left = {"pid": pid, "since": "2020-01-01T00:00:00+00:00", "command": "factory build"}
    (tmp_path / ".lock").write_text(json.dumps(left), encoding="utf-8")
    with hold_lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_a_child_that_outlives_its_factory_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The lock's descriptor is not inherited, or a killed factory's docker command would hold it on."""
    start = 'import subprocess\n    child = subprocess.Popen(["sleep", "60"])\n    print(child.pid'
    program = HOLDER.replace('print("held"', start)
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
    try:
        os.kill(child, 0)
        with hold_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
