"""Waits that end: child processes that are owned from start to end, and calls that may hang."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from serving_factory.docker import keeper
from serving_factory.errors import CancelledError

Result = TypeVar("Result")

POLL = 0.1  # seconds between looks at the cancel flag, the time limit and a child that keeps its output open
CHUNK = 65536
TERM_GRACE = 2.0
REPORT_AFTER, REPORT_EVERY = 5.0, 30.0  # seconds of a wait before the user hears of it


class Cancel:
    """A request to end work; `at_once` means without any grace."""

    def __init__(self) -> None:
        self.asked = self.at_once = False
        self._event = threading.Event()

    def ask(self, *, at_once: bool = False) -> None:
        """Ask the work to end. A later call can only make it more urgent."""
        self.asked, self.at_once = True, self.at_once or at_once
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Sleep; raises CancelledError as soon as the work must end."""
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise CancelledError if the work must end."""
        if self.asked:
            raise CancelledError("The run was cancelled.")


def bounded(
    action: Callable[[], Result],
    *,
    seconds: float,
    cancel: Cancel | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Result:
    """Run a call that may hang, in a daemon thread that is left behind if it does; TimeoutError after `seconds`."""
    # `on_wait` is called with the seconds waited, after 5 s and then every 30 s.
    results: list[Result] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, daemon=True).start()
    began, report_at = time.monotonic(), REPORT_AFTER
    while not ended.wait(POLL):
        if cancel is not None:
            cancel.check()
        waited = time.monotonic() - began
        if waited > seconds:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {seconds:g} s")
        if on_wait is not None and waited >= report_at:
            report_at += REPORT_EVERY
            on_wait(waited)
    if failures:
        raise failures[0]
    return results[0]


BY_SIGNAL = 128  # added to a signal's number, the exit code of what it killed


def exit_text(code: int | None) -> str:
    """Spell an exit code, with the signal that it stands for."""
    names = {BY_SIGNAL + known: f" ({known.name})" for known in signal.Signals}
    return f"exit code {code}{names.get(code, '') if code else ''}"


def run(
    argv: Sequence[str],  # the program, looked up on PATH, and its arguments
    *,
    # gets each line of stdout and stderr, merged, without its line end; undecodable bytes are replaced. An exception
    # from it ends the command and is raised from here
    on_line: Callable[[str], None],
    cwd: Path | None = None,  # the working folder
    env: Mapping[str, str] | None = None,  # the whole environment; None for ours
    timeout: float | None = None,  # seconds that the command may take; TimeoutError after them
    answer_within: float | None = None,  # seconds until its first output
    grace: float = 10.0,  # seconds that it may take to end after SIGINT
    cancel: Cancel | None = None,  # ends the command when asked, from any thread
    stdin: Path | None = None,  # a file for it to read; None for nothing
) -> int:
    """Run a command and hand over its output line by line, in the caller's thread."""
    # The command runs in a session of its own, so a Ctrl-C at the terminal reaches only us. Whatever ends this call
    # early ends the command's whole process group: SIGINT, after `grace` seconds SIGTERM, 2 seconds later SIGKILL. Our
    # own death by SIGKILL kills the group too, and so does the command's end: nothing is left in the background.
    if shutil.which(argv[0], path=None if env is None else env.get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    launcher = [sys.executable, "-I", "-S", str(Path(keeper.__file__)), str(os.getpid())]
    with (
        contextlib.nullcontext(subprocess.DEVNULL) if stdin is None else stdin.open("rb") as given,
        subprocess.Popen(
            [*launcher, *argv],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101  (a pipe was asked for; for the type checker)
        output = _Output(process.stdout)
        limits = _Limits(argv[0], time.monotonic(), timeout, answer_within, cancel)
        try:
            while not output.ended and not _exited(process):
                limits.check(output)
                for line in output.read(POLL):
                    on_line(line)
            for line in output.rest():
                on_line(line)
            while not _exited(process):
                limits.check(output)
                time.sleep(POLL / 10)  # most often its output ends a moment before it does
        except BaseException:
            _stop(process, output, grace, cancel)
            raise
        finally:
            _signal_group(process, signal.SIGKILL)
            output.close()
        code = process.wait()
        return code if code >= 0 else 128 - code


@dataclass(frozen=True, slots=True)
class _Limits:
    program: str
    began: float
    timeout: float | None
    answer_within: float | None
    cancel: Cancel | None

    def check(self, output: _Output) -> None:
        if self.cancel is not None and self.cancel.asked:
            raise CancelledError(f"{self.program} was stopped because the run was cancelled.")
        waited = time.monotonic() - self.began
        if self.timeout is not None and waited > self.timeout:
            raise TimeoutError(errno.ETIMEDOUT, f"{self.program} took longer than {self.timeout:g} s")
        if self.answer_within is not None and output.silent and waited > self.answer_within:
            raise TimeoutError(errno.ETIMEDOUT, f"{self.program} printed nothing within {self.answer_within:g} s")


class _Output:
    """The child's output as lines, read without ever blocking for longer than asked."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._descriptor = stream.fileno()
        self._partial = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(stream, selectors.EVENT_READ)
        self.ended, self.silent = False, True

    def read(self, wait: float) -> list[str]:
        """The lines that are complete after at most `wait` seconds."""
        if self.ended or not self._selector.select(wait):
            return []
        data = os.read(self._descriptor, CHUNK)
        self.ended, self.silent = not data, self.silent and not data
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [_text(line) for line in lines]

    def rest(self) -> list[str]:
        """What is there already; the last line even without its end."""
        lines: list[str] = []
        while not self.ended and self._selector.select(0):
            lines += self.read(0)
        if self._partial:
            lines.append(_text(self._partial))
            self._partial = b""
        return lines

    def close(self) -> None:
        self._selector.close()
        self._stream.close()


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip("\r")


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Does not reap: while the zombie is there, its group's number cannot be given to anyone else."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _stop(process: subprocess.Popen[bytes], output: _Output, grace: float, cancel: Cancel | None) -> None:
    """SIGINT, then SIGTERM; SIGKILL is the caller's."""
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, TERM_GRACE)):
        _signal_group(process, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if cancel is not None and cancel.at_once:
                return
            output.read(POLL)  # its last words must not block it
            if _exited(process):
                if output.ended:
                    return
                deadline = min(deadline, time.monotonic() + TERM_GRACE)  # for what it left in the background
            elif output.ended:
                time.sleep(POLL)
