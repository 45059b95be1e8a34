"""The logs of a stage: that of its last try, and beside it those of the tries before, until the next run."""

from __future__ import annotations

from itertools import count
from pathlib import Path

__all__ = ["clear_logs", "put_aside"]


def clear_logs(log: Path) -> None:
    """Remove what an earlier run left.

    Args:
        log: the stage's log, `logs/compile.log`.
    """
    for old in (log, *log.parent.glob(f"{log.stem}.try-*.log")):
        old.unlink(missing_ok=True)


def put_aside(log: Path) -> None:
    """Keep the log of the try before, if there was one, as `compile.try-1.log` and so on."""
    if log.exists():
        numbered = (log.with_suffix(f".try-{number}.log") for number in count(1))
        log.rename(next(name for name in numbered if not name.exists()))
