"""pipeline/build_lock.py, with a second process that really holds the lock."""

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

from serving_factory.errors import FactoryError, LockedError, os_errors_typed
from serving_factory.pipeline.build_lock import hold_lock

from .stage_records import OBSTACLES

UNSEEN = "which process that is cannot be seen from here: it has just begun, or runs in another container"
HOLDER = """
import sys
from pathlib import Path
from serving_factory.pipeline.build_lock import hold_lock
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


def test_a_second_factory_hears_who_works_and_since_when(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, obstacle: str) -> None:
    place = tmp_path / ".lock"
    OBSTACLES[obstacle](place)
    if obstacle == "a link to nothing":
        with hold_lock(tmp_path):
            assert place.is_file()
        return
    with pytest.raises(FactoryError) as caught, os_errors_typed(), hold_lock(tmp_path):
        pytest.fail("there is no lock")
    assert str(place) in caught.value.what
    assert caught.value.remedy


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
    assert caught.value.why == UNSEEN


def written_by(pid: int, changed: dict[str, object] | None = None) -> str:
    """What a factory in that process would have written."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    since = "2020-01-01T00:00:00+00:00"
    reported = {"pid": pid, "started": int(started), "boot": boot, "since": since, "command": "factory build"}
    return json.dumps(reported | (changed or {}))


def test_what_a_killed_factory_wrote_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.kill()
        # Not waited for: a zombie still has its number and its start time, as it has under a PID 1 that reaps none.
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["pid"] == other.pid
        with hold_lock(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["pid"] == os.getpid()


@pytest.mark.parametrize(
    "changed",
    [{"started": 1}, {"boot": "00000000-0000-0000-0000-000000000000"}, {"pid": 2**22 + 1}],
    ids=["another process has its number now", "before the last boot", "no process has its number"],
)
def test_a_process_is_known_by_its_start_not_by_its_number_alone(tmp_path: Path, changed: dict[str, object]) -> None:
    with subprocess.Popen(["sleep", "60"]) as alive:
        try:
            (tmp_path / ".lock").write_text(written_by(alive.pid, changed), encoding="utf-8")
            with hold_lock(tmp_path):
                assert json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["pid"] == os.getpid()
        finally:
            alive.kill()


def test_a_live_holder_is_refused_by_its_start_where_the_kernel_knows_nothing_of_its_lock(tmp_path: Path) -> None:
    """As on a network file system that two mounts of one machine share without their locks."""
    with subprocess.Popen(["sleep", "60"]) as alive:
        try:
            written = written_by(alive.pid)
            (tmp_path / ".lock").write_text(written, encoding="utf-8")
            with pytest.raises(LockedError) as caught, hold_lock(tmp_path):
                pytest.fail("that process lives")
            assert caught.value.why == (
                f"process {alive.pid} has held the lock since 2020-01-01T00:00:00+00:00: factory build"
            )
            assert (tmp_path / ".lock").read_text(encoding="utf-8") == written
        finally:
            alive.kill()


def test_a_lock_that_was_given_back_names_no_process(tmp_path: Path) -> None:
    with hold_lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == ""


def test_of_a_dead_holder_nothing_is_reported_while_another_has_the_kernels_lock(tmp_path: Path) -> None:
    """The other one has just taken it, and not yet written who it is."""
    with hold_lock(tmp_path):
        (tmp_path / ".lock").write_text(written_by(os.getpid(), {"started": 1}), encoding="utf-8")
        with pytest.raises(LockedError) as caught, hold_lock(tmp_path):
            pytest.fail("the lock is held")
    assert caught.value.why == UNSEEN


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


def test_a_system_without_proc_has_the_kernels_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.pipeline.build_lock._BOOT", tmp_path / "absent")
    monkeypatch.setattr("serving_factory.pipeline.build_lock._started", lambda _pid: None)
    with hold_lock(tmp_path), pytest.raises(LockedError), hold_lock(tmp_path):
        pytest.fail("the lock is held")
