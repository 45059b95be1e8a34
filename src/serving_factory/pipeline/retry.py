"""Second attempts of requests that may work later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from serving_factory.errors import DownloadFaultError, FactoryError, RegistryFaultError, RegistryLimitError

Result = TypeVar("Result")
Fault = TypeVar("Fault", bound=FactoryError)
LONGEST_WAIT = 60.0  # seconds. An error that asks for a longer wait is raised at once.
DEADLINE = 90.0  # seconds after which a server that keeps failing is asked no more
_SERVERS = (RegistryFaultError, DownloadFaultError)
_FIRST_DELAY_OF_LIMIT = 5.0
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
    """Call `action` until it returns, at most `attempts` times; raise the last error, or the first not transient."""
    # Waits double, each made half to one and a half times as long by `jitter` (0 to 1); a server's Retry-After takes
    # the place of a shorter one. `on_retry` gets the number of the attempt that failed, the wait in seconds, the error.
    began = time.monotonic()
    for attempt in range(1, attempts):
        try:
            return action()
        except transient as error:
            # A rate limit that says nothing of when it ends is not over in a second.
            unknown = isinstance(error, RegistryLimitError) and error.retry_after is None
            delay = (_FIRST_DELAY_OF_LIMIT if unknown else first_delay) * 2 ** (attempt - 1) * (0.5 + jitter())
            if isinstance(error, _SERVERS):
                delay = max(delay, error.retry_after or 0.0)
                if delay > LONGEST_WAIT or time.monotonic() - began + delay > DEADLINE:
                    raise
            on_retry(attempt, delay, error)
        sleep(delay)
    return action()


def asking_again(
    question: Callable[[], Result], report: Callable[[str], object], *, sleep: Callable[[float], object] = time.sleep
) -> Result:
    """Ask a server; again, and with a sentence to `report`, while it fails in a way that may be over soon."""

    def on_retry(attempt: int, delay: float, error: FactoryError) -> None:
        report(f"attempt {attempt} failed ({error.what.rstrip('.')}); again in {delay:.1f} s")

    return retrying(question, transient=_SERVERS, on_retry=on_retry, sleep=sleep)
