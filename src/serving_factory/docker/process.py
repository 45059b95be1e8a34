"""One child process, owned from start to end: its whole group goes when we go."""

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
from pathlib import Path
from typing import IO, TYPE_CHECKING

from serving_factory.docker import keeper
from serving_factory.errors import CancelledError


class Cancel:
    """A wish that work may end: asked for once, it is to end soon; asked for `at_once`, without any grace."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = threading.Event()

    def ask(self, *, at_once: bool = False) -> None:
        """Ask the work to end. A later call can only make it more urgent."""
        if at_once:
            self._at_once.set()
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether the work is to end."""
        return self._asked.is_set()

    @property
    def at_once(self) -> bool:
        """Whether nothing is to be waited for."""
        return self._at_once.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, in place of `time.sleep`.

        Raises:
            CancelledError: the work is to end; raised at once, not at the end of the wait.
        """
        self._asked.wait(seconds)
        self.check()

    def check(self) -> None:
        """Go on only if nobody wants the work to end.

        Raises:
            CancelledError: the work is to end.
        """
        if self.asked:
            raise CancelledError("The run was cancelled.")


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


POLL = 0.1  # seconds between looks at the cancel flag, the time limit and a child that keeps its output open
CHUNK = 65536
TERM_GRACE = 2.0


def run(
    argv: Sequence[str],
    *,
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    grace: float = 10.0,
    cancel: Cancel | None = None,
    stdin: Path | None = None,
) -> int:
    """Run a command and hand over its output line by line, in the caller's thread.

    The command runs in a session of its own, so a Ctrl-C at the terminal reaches only us. Whatever ends this
    call early ends the command's whole process group: SIGINT, after `grace` seconds SIGTERM, 2 seconds later
    SIGKILL. Our own death by SIGKILL kills the group too. What the command leaves behind in the background is
    killed with its end.

    Args:
        argv: the program, looked up on PATH, and its arguments.
        on_line: gets each line of stdout and stderr, merged, without its line end; undecodable bytes are
            replaced. An exception from it ends the command and is raised from here.
        cwd: the command's working folder.
        env: the command's whole environment; None for ours.
        timeout: seconds that the command may take.
        grace: seconds that it may take to end after SIGINT.
        cancel: ends the command when asked, from any thread; asked to end at once, without grace. (KeyboardInterrupt
            reaches the main thread only.)
        stdin: a file for it to read; None for nothing.

    Returns:
        The exit code; 128 plus the signal's number where a signal ended the command.

    Raises:
        FileNotFoundError: no such program.
        TimeoutError: `timeout` is over.
        CancelledError: `cancel` was asked for.
    """
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
        assert process.stdout is not None  # noqa: S101  (a pipe was asked for; this tells the type checker)
        output = _Output(process.stdout)
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            while not output.ended and not _exited(process):
                _check(argv, timeout, deadline, cancel)
                _hand_over(output.read(POLL), on_line)
            _hand_over(output.rest(), on_line)
            while not _exited(process):
                _check(argv, timeout, deadline, cancel)
                time.sleep(POLL / 10)  # most often its output ends a moment before it does
        except BaseException:
            _stop(process, output, grace, cancel)
            raise
        finally:
            _signal_group(process, signal.SIGKILL)
            output.close()
        code = process.wait()
        return code if code >= 0 else 128 - code


class _Output:
    """The child's output as lines, read without ever blocking for longer than asked."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._descriptor = stream.fileno()
        self._partial = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(stream, selectors.EVENT_READ)
        self.ended = False

    def read(self, wait: float) -> list[str]:
        """Return the lines that are complete after at most `wait` seconds."""
        if self.ended or not self._selector.select(wait):
            return []
        data = os.read(self._descriptor, CHUNK)
        self.ended = not data
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [_text(line) for line in lines]

    def rest(self) -> list[str]:
        """Return what is there already, and the last line even without its end."""
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


def _hand_over(lines: Sequence[str], on_line: Callable[[str], None]) -> None:
    for line in lines:
        on_line(line)


def _check(argv: Sequence[str], timeout: float | None, deadline: float | None, cancel: Cancel | None) -> None:
    if cancel is not None and cancel.asked:
        raise CancelledError(f"{argv[0]} was stopped because the run was cancelled.")
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError(errno.ETIMEDOUT, f"{argv[0]} took longer than {timeout:g} s")


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Say without reaping: while the zombie is there, its group's number cannot be given to anyone else."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _stop(process: subprocess.Popen[bytes], output: _Output, grace: float, cancel: Cancel | None) -> None:
    """Ask, ask firmly, and leave the rest to the caller's SIGKILL."""
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
