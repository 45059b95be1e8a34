"""Ctrl-C and its kin, as messages."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["told_of_signals"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def told_of_signals(tell: Callable[[], None]) -> Iterator[None]:
    """Have `tell` called for each signal that asks the process to end, instead of the exception that comes else.

    An exception may land anywhere, in the middle of a lock too; a call of something reentrant (a SimpleQueue's `put`)
    cannot do harm. Outside the main thread, where Python takes no signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: tell()) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
