"""Do it again, if trying again can help."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["retrying"]

Result = TypeVar("Result")

_RANDOM = random.SystemRandom()  # no state of ours, and no two factories in step


def retrying(
    action: Callable[[], Result],
    *,
    transient: tuple[type[Exception], ...],
    on_retry: Callable[[int, float, Exception], None],
    attempts: int = 4,
    first_delay: float = 0.5,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = _RANDOM.random,
) -> Result:
    """Call `action` until it returns, at most `attempts` times, with waits that double in between.

    Args:
        action: what to do.
        transient: the errors after which another attempt can help. All others are raised at once.
        on_retry: told before each wait: the number of the attempt that failed (from 1), the seconds until the
            next one, and the error.
        attempts: how often at most, the first one included.
        first_delay: seconds before the second attempt, before the jitter.
        sleep: waits; an exception from it (a cancelled run) is raised from here.
        jitter: a number from 0 to 1 for each wait, which becomes half to one and a half times as long.

    Raises:
        Exception: the last attempt's error, or the first that is not transient.
    """
    for attempt in range(1, attempts):
        try:
            return action()
        except transient as error:
            delay = first_delay * 2 ** (attempt - 1) * (0.5 + jitter())
            on_retry(attempt, delay, error)
        sleep(delay)
    return action()
