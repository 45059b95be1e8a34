"""Asking running work to end, from any thread."""

from __future__ import annotations

import threading

from serving_factory.errors import CancelledError

__all__ = ["Cancel"]


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
