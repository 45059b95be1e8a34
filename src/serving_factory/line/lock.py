"""One factory at a time in one checkout. The kernel drops the lock when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serving_factory.errors import LockedError

__all__ = ["hold_lock"]


@contextmanager
def hold_lock(build: Path) -> Iterator[None]:
    """Hold the checkout's lock.

    Raises:
        LockedError: another process holds it; the message says which, and since when.
    """
    build.mkdir(parents=True, exist_ok=True)
    with (build / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(
                "another factory works in this checkout",
                why=_holder(file.read()),
                remedy="wait until it ends, or end it with Ctrl-C there; the same command then goes on",
            ) from None
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "since": since, "command": " ".join(sys.argv)}))
        file.flush()
        yield


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} has held the lock since {holder['since']}: {holder['command']}"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "it has only just begun"
