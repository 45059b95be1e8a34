"""Ctrl-C and its kin, as messages."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ending_signals", "told_of_signals"]


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask the process to end; a hang-up is none where it is ignored, which is what nohup is for."""
    hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hang_up)


@contextmanager
def told_of_signals(tell: Callable[[], None]) -> Iterator[None]:
    """Have `tell` called for each signal that asks the process to end, instead of the exception that comes else.

    An exception may land anywhere, in the middle of a lock too; a call of something reentrant (a SimpleQueue's `put`)
    cannot do harm. Outside the main thread, where Python takes no signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: tell()) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
