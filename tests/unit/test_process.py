"""docker/process.py, with real small children of sh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from serving_factory.docker import process
from serving_factory.docker.process import Cancel
from serving_factory.errors import CancelledError


def alive(pid: int) -> bool:
    """A zombie that no one reaped is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def ignore(_line: str) -> None:
    """Output that no test looks at."""


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


class StoppedError(Exception):
    """Raised in the middle of a command."""


def test_lines_come_merged_and_in_order() -> None:
    lines: list[str] = []
    code = process.run(shell("echo one; echo two >&2; echo; printf 'no end'"), on_line=lines.append)
    assert (code, lines) == (0, ["one", "two", "", "no end"])


def test_carriage_returns_and_broken_bytes_do_no_harm() -> None:
    lines: list[str] = []
    process.run(shell(r"printf 'a\r\nb\377c\303\244\n'"), on_line=lines.append)
    assert lines == ["a", "b\N{REPLACEMENT CHARACTER}cä"]


def test_long_output_is_complete() -> None:
    lines: list[str] = []
    process.run(shell("seq 1 50000"), on_line=lines.append)
    assert lines == [str(number) for number in range(1, 50001)]


def test_exit_code_of_the_command() -> None:
    assert process.run(shell("exit 37"), on_line=ignore) == 37


def test_exit_code_of_a_command_ended_by_a_signal() -> None:
    assert process.run(shell("kill -TERM $$"), on_line=ignore) == 128 + signal.SIGTERM


def test_working_folder_and_environment(tmp_path: Path) -> None:
    lines: list[str] = []
    environment = {"PATH": os.environ["PATH"], "WORD": "hello"}
    process.run(shell('pwd; echo "$WORD"; env | wc -l'), on_line=lines.append, cwd=tmp_path, env=environment)
    assert lines[:2] == [str(tmp_path), "hello"]
    assert int(lines[2]) <= 5  # ours, and what sh itself adds


def test_missing_program() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        process.run(["no-such-program"], on_line=ignore)


def test_missing_program_on_the_path_that_is_given() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["sh"], on_line=ignore, env={"PATH": "/nonexistent"})


def test_timeout() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.1 s"):
        process.run(["sleep", "60"], on_line=ignore, timeout=0.1)
    assert time.monotonic() - began < 3


def test_timeout_of_a_command_that_closed_its_output() -> None:
    with pytest.raises(TimeoutError):
        process.run(shell("exec >&- 2>&-; sleep 60"), on_line=ignore, timeout=0.1)


@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
def test_whole_group_is_ended_by_an_exception(error: type[BaseException]) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 2:
            raise error

    with pytest.raises(error):
        process.run(shell("sleep 60 & echo $!; echo $$; wait"), on_line=on_line, grace=0.5)
    assert len(pids) == 2
    for pid in pids:
        wait_until_dead(pid)


def test_signals_come_in_order() -> None:
    """SIGINT first; a command that ends on it is not sent more, and what it still says does not block it."""
    script = "trap 'seq 1 100000; exit 5' INT; trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    began = time.monotonic()
    with pytest.raises(StoppedError):
        process.run(shell(script), on_line=raise_stop, grace=30)
    assert time.monotonic() - began < 10


def test_deaf_command_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pidfile = tmp_path / "pid"
    script = f"trap '' INT TERM; echo $$ >{pidfile}; echo ready; while :; do sleep 0.05; done"
    monkeypatch.setattr(process, "TERM_GRACE", 0.3)
    began = time.monotonic()
    with pytest.raises(StoppedError):
        process.run(shell(script), on_line=raise_stop, grace=0.1)
    assert 0.4 < time.monotonic() - began < 8
    wait_until_dead(int(pidfile.read_text()))


def raise_stop(_line: str) -> None:
    raise StoppedError


def test_background_process_does_not_outlive_its_command() -> None:
    lines: list[str] = []
    began = time.monotonic()
    assert process.run(shell("sleep 60 & echo $!"), on_line=lines.append) == 0
    assert time.monotonic() - began < 5
    wait_until_dead(int(lines[0]))


def test_cancelled_from_another_thread() -> None:
    cancel = Cancel()
    timer = threading.Timer(0.1, cancel.ask)
    timer.start()
    with pytest.raises(CancelledError):
        process.run(["sleep", "60"], on_line=ignore, cancel=cancel)
    timer.join()


def test_asked_to_end_at_once_there_is_no_grace() -> None:
    cancel = Cancel()
    timers = [threading.Timer(0.1, cancel.ask), threading.Timer(0.2, cancel.ask, kwargs={"at_once": True})]
    for timer in timers:
        timer.start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        process.run(shell("trap '' INT TERM; while :; do sleep 0.1; done"), on_line=ignore, cancel=cancel)
    assert time.monotonic() - began < 3
    for timer in timers:
        timer.join()


def test_command_in_a_worker_thread_is_not_ended_by_another_thread() -> None:
    """The kernel's parent death signal is about the starting thread: it must be the one that waits."""
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(process.run(shell("sleep 0.5"), on_line=ignore)))
    worker.start()
    threading.Thread(target=ignore, args=("",)).start()
    worker.join()
    assert codes == [0]


def test_everything_dies_with_a_killed_factory() -> None:
    program = textwrap.dedent(
        """
        from serving_factory.docker import process
        process.run(["sh", "-c", "echo $$; sleep 60 & echo $!; wait"], on_line=lambda line: print(line, flush=True))
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as factory:
        assert factory.stdout is not None
        pids = [int(factory.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        factory.kill()
    for pid in pids:
        wait_until_dead(pid)


def test_keeper_refuses_when_its_parent_died_first(tmp_path: Path) -> None:
    """The race: the factory is killed before the keeper could ask to be signalled."""
    trace = tmp_path / "trace"
    keeper = Path(process.__file__).with_name("keeper.py")
    someone_else = "1" if os.getpid() != 1 else "2"
    argv = [sys.executable, "-I", "-S", str(keeper), someone_else, "touch", str(trace)]
    finished = subprocess.run(argv, check=False, start_new_session=True)
    assert finished.returncode == 137
    assert not trace.exists()


def test_keeper_says_why_a_program_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    lines: list[str] = []
    assert process.run([str(program)], on_line=lines.append) == 126
    assert "No such file" in lines[0]


def test_a_command_that_says_nothing_in_time_ends() -> None:
    with pytest.raises(TimeoutError, match=r"printed nothing within 0\.2 s"):
        process.run(["sleep", "60"], on_line=lambda _: None, answer_within=0.2)
    assert process.run(["sh", "-c", "echo; sleep 1.2"], on_line=lambda _: None, answer_within=1.0) == 0


def test_a_call_that_hangs_is_left_behind() -> None:
    never, cancel = threading.Event(), Cancel()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        process.bounded(never.wait, seconds=0.2)
    threading.Timer(0.1, cancel.ask).start()
    with pytest.raises(CancelledError):
        process.bounded(never.wait, seconds=60, cancel=cancel)
    never.set()
    assert process.bounded(lambda: 7, seconds=1) == 7
    with pytest.raises(ZeroDivisionError):
        process.bounded(lambda: 1 // 0, seconds=1)
