"""A small thread that gives a sign of life now and then."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Heartbeat"]


class Heartbeat:
    """Calls `beat` every `seconds` from `start` to `stop`; a daemon, so it never keeps a process alive."""

    def __init__(self, beat: Callable[[], None], *, seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start; once."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for a beat under way; harmless when not started or stopped already."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self._beat()
