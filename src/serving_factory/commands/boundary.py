"""What stands around every command: open standard streams, signals, and errors as messages and exit codes.

It is imported before all that takes time, so it imports next to nothing itself.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from serving_factory.errors import CancelledError, FactoryError, os_error, os_remedy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from invoke.exceptions import Exit


class _Output(io.FileIO):
    """stdout or stderr: the first write that fails is remembered, and what follows it is dropped.

    A run of hours must not die because `| head` has read enough.
    """

    lost: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        if self.lost is None:
            try:
                # None: another process has made the pipe non-blocking, and it is full.
                while (written := super().write(data)) is None:
                    select.select([], [self], [])
            except OSError as error:
                self.lost = error
            else:
                return written
        return memoryview(data).nbytes


_outputs: Final[list[_Output]] = []


def open_streams() -> None:
    """Open /dev/null on each of the descriptors 0 to 2 that is closed, and have failed writes remembered."""
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # noqa: FBT003 - it is the lowest free number
    streams: list[TextIO | None] = [sys.stdin, sys.stdout, sys.stderr]  # None: was closed when Python started
    if streams[0] is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # not under a test that captures it, and not a second time
        sys.stdout = _output(1, streams[1], errors="replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _output(2, streams[2], errors="backslashreplace")


def _output(number: int, before: TextIO | None, *, errors: str) -> TextIO:
    if before is not None:
        before.flush()
    raw = _Output(number, "wb", closefd=False)
    _outputs.append(raw)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors=errors,
        line_buffering=number == 2 or raw.isatty(),  # noqa: PLR2004 - stderr
    )


def lost_output() -> FactoryError | None:
    """The error where output could not be written. A reader that has read enough (EPIPE) is none."""
    sys.stdout.flush()
    sys.stderr.flush()
    for name, output in zip(("standard output", "standard error"), _outputs, strict=False):
        if output.lost is not None and output.lost.errno != errno.EPIPE:
            remedy = f"free some space where {name} is written, or write it elsewhere"
            if output.lost.errno not in {errno.ENOSPC, errno.EDQUOT}:
                remedy = os_remedy(OSError(output.lost.errno, "", name))
            return FactoryError(f"Not all of {name} could be written.", why=str(output.lost.strerror), remedy=remedy)
    return None


@contextmanager
def errors() -> Iterator[None]:
    """Turn signals and the errors that a user can meet into a message and an exit code."""
    from invoke.exceptions import Exit

    cancelled = Exit("Cancelled.", code=CancelledError.exit_code)
    interrupted = False

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ending_signals()}
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.unraisablehook = _unraisable
    try:
        yield
    except FactoryError as error:
        raise exit_with(error) from None
    except OSError as error:
        raise exit_with(os_error(error)) from None
    except (KeyboardInterrupt, Exception) as error:
        # Some libraries wrap a KeyboardInterrupt in an exception of their own.
        if isinstance(error, KeyboardInterrupt) or (interrupted and not isinstance(error, Exit)):
            raise cancelled from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if lost := lost_output():
        raise exit_with(lost)


def _ending_signals() -> list[signal.Signals]:
    """The signals that ask the process to end; a hang-up is none where it is ignored, which is what nohup is for."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def _unraisable(event: sys.UnraisableHookArgs) -> None:
    # A KeyboardInterrupt in a callback, of the import system's for one, is printed and forgotten: let it come again.
    if event.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(event)


def exit_with(error: FactoryError, *, code: int | None = None) -> Exit:
    """An Exit with an error's message, and its exit code or another; GitHub shows the message on the run's page."""
    from invoke.exceptions import Exit

    from serving_factory.output.errors import render_error

    text = render_error(error)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from serving_factory.output.github import annotation

        text += annotation("serving-factory", str(error))
    return Exit(text.rstrip(), code=error.exit_code if code is None else code)
