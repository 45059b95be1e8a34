"""Do it again, if trying again can help."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from serving_factory.errors import RegistryLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST_WAIT", "retrying"]

Result = TypeVar("Result")
Fault = TypeVar("Fault", bound=Exception)

LONGEST_WAIT = 60.0
"""Seconds. Who asks for more is not waited for: that error is raised at once."""

_RANDOM = random.SystemRandom()  # no state of ours, and no two factories in step


def retrying(
    action: Callable[[], Result],
    *,
    transient: tuple[type[Fault], ...],
    on_retry: Callable[[int, float, Fault], None],
    attempts: int = 4,
    first_delay: float = 0.5,
    sleep: Callable[[float], object] = time.sleep,
    jitter: Callable[[], float] = _RANDOM.random,
) -> Result:
    """Call `action` until it returns, at most `attempts` times, with waits that double in between.

    Where a registry's rate limit says how long to wait, that is waited if it is longer.

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
            delay = max(first_delay * 2 ** (attempt - 1) * (0.5 + jitter()), _asked_for(error))
            if delay > LONGEST_WAIT:
                raise
            on_retry(attempt, delay, error)
        sleep(delay)
    return action()


def _asked_for(error: Exception) -> float:
    """The seconds that whoever failed asks to wait."""
    return (error.retry_after or 0.0) if isinstance(error, RegistryLimitError) else 0.0
