"""Writing to stdout and stderr from several threads, where the reader may be gone and the encoding poor."""

from __future__ import annotations

import io
import os
import threading
from typing import TextIO

__all__ = ["Stream", "encoding_of", "is_terminal", "width_of"]


class Stream:
    """A text stream whose writes are whole, flushed, and never stop the work.

    A run of hours must not die because `| head` had enough: after the first failed write (closed pipe, full
    disk, closed file) the rest is dropped.
    """

    def __init__(self, raw: TextIO) -> None:
        self._raw = raw
        self._lock = threading.RLock()
        self._broken = False

    @property
    def width(self) -> int | None:
        """The terminal's width in columns; None where there is no terminal to fit to."""
        return width_of(self._raw) if is_terminal(self._raw) else None

    def write(self, text: str) -> None:
        """Write the text as one piece; what the stream's encoding lacks becomes `?`."""
        encoding = encoding_of(self._raw)
        text = text.encode(encoding, "replace").decode(encoding)
        with self._lock:
            if self._broken:
                return
            try:
                self._raw.write(text)
                self._raw.flush()
            except (OSError, ValueError):
                self._broken = True
                _drop_the_rest(self._raw)


def encoding_of(stream: TextIO) -> str:
    """The encoding's name; UTF-8 for a stream without one (a buffer in memory)."""
    return getattr(stream, "encoding", None) or "utf-8"


def is_terminal(stream: TextIO) -> bool:
    """Whether someone sits at the other end; False for a closed stream."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal behind the stream, None where that cannot be known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, io.UnsupportedOperation):
        return None


def _drop_the_rest(stream: TextIO) -> None:
    # Python flushes stdout once more at its end, complains, and exits with 120 (docs.python.org,
    # library/signal, "Note on SIGPIPE"): give it somewhere to flush to.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, io.UnsupportedOperation):
        return
