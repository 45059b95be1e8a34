"""How long a running stage still takes: from Bazel's count of actions, and from earlier runs."""

from __future__ import annotations

import re

__all__ = ["remaining"]

_COUNTED = re.compile(r"([\d,]+)/([\d,]+)(?: |$)")
_TELLING_SHARE = 0.05
_TELLING_SECONDS = 60.0
"""Before so much of it is done, the actions say nothing of the rest: analysis and cache hits come first."""


def remaining(text: str, *, running: float, foretold: float | None) -> float | None:
    """Estimate the seconds that are left; None where nothing tells.

    Of both, each counts for as much as it knows: at the beginning earlier runs, towards the end the actions.

    Args:
        text: the stage's progress, which begins with `DONE/TOTAL` while Bazel works.
        running: seconds that it has run for.
        foretold: seconds that it was expected to take; None where nothing was.
    """
    by_history = foretold - running if foretold is not None and foretold > running else None
    match = _COUNTED.match(text)
    done, total = (int(number.replace(",", "")) for number in match.groups()) if match else (0, 0)
    share = min(1.0, done / total) if total else 0.0
    if share < _TELLING_SHARE or running < _TELLING_SECONDS:
        return by_history
    by_actions = running * (1 - share) / share
    return by_actions if by_history is None else share * by_actions + (1 - share) * by_history
