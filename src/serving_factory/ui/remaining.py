"""How long a running stage still takes: from Bazel's count of actions, and from earlier runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["Counted", "remaining", "see"]

_COUNTED = re.compile(r"([\d,]+)/([\d,]+)(?: |$)")
_STEP = "["
"""How a step of the Dockerfile is announced: after Bazel has counted, the one that follows it."""
_TELLING_SHARE = 0.05
_STEADY_SECONDS = 60.0
_STEADY_GROWTH = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What Bazel counted so far.

    Args:
        done: actions.
        total: that it knows of; it learns of more while it works.
        base: the total that growth is measured from: the first, or the latest that had grown by more than a twentieth
            or by more than was left to do.
        since: when that was, seconds of a clock.
        ended: whether Bazel has come to its end.
    """

    done: int
    total: int
    base: int
    since: float
    ended: bool = False


def see(before: Counted | None, text: str, now: float) -> Counted | None:
    """Take in a stage's progress, which begins with `DONE/TOTAL` while Bazel works; None where nothing was counted."""
    match = _COUNTED.match(text)
    if match is None:
        return replace(before, ended=True) if before and text.startswith(_STEP) else before
    done, total = (int(number.replace(",", "")) for number in match.groups())
    steady = (
        before is not None and total <= before.base * _STEADY_GROWTH and total - before.base <= max(1, total - done)
    )
    base, since = (before.base, before.since) if before and steady else (total, now)
    return Counted(done=done, total=total, base=base, since=since)


def remaining(counted: Counted | None, *, running: float, foretold: float | None, now: float) -> float | None:
    """Estimate the seconds that are left; None where nothing tells.

    The first actions are the cheap ones, and so are those from a cache: half of them say little, nine tenths say most.
    So what earlier runs say counts first, and the count of actions with the fourth power of the share that is done.

    Args:
        counted: what Bazel counted.
        running: seconds that the stage has run for.
        foretold: seconds that it was expected to take; None where nothing was.
        now: seconds of the clock.
    """
    if counted and counted.ended:
        return None
    steady = counted is not None and now - counted.since >= _STEADY_SECONDS and counted.total > 0
    share = min(1.0, counted.done / counted.total) if counted and steady else 0.0
    if share < _TELLING_SHARE:
        return foretold - running if foretold is not None and foretold > running else None
    by_actions = running * (1 - share) / share
    if foretold is None:
        return by_actions
    weight = share**4
    return weight * by_actions + (1 - weight) * max(foretold - running, foretold * (1 - share))
