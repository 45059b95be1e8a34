"""An engine that goes away under a stage, and comes back: what the stage was at is done once more."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from serving_factory.errors import DockerCommandError, EngineLostError, EngineUnavailableError, RegistryLimitError
from serving_factory.pipeline.job import Job, Outputs

if TYPE_CHECKING:
    from collections.abc import Callable


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


_PATIENCE = 60.0
"""Seconds in which a restarted engine is back; dockerd itself takes a few, its containers and an upgrade more."""

_LOOK = 1.0

_ANSWER = 5.0
"""Seconds in which one that is back answers."""


def with_engine_back(stage: Callable[[], Outputs], job: Job) -> Outputs:
    """Run a stage, and once more where the engine that this run began with has gone away, and is back within a minute.

    Raises:
        EngineLostError: it did not come back, or went away again.
    """
    try:
        return stage()
    except EngineUnavailableError as error:
        if isinstance(error, DockerCommandError) or not job.site.knows_engine:
            raise
        job.site.lost_engine = True
        job.report_retry(f"{_clause(error)}; once more when it is back, which is waited for up to {_PATIENCE:.0f} s")
        _await_engine(job, error)
    try:
        return stage()
    except DockerCommandError:
        raise
    except EngineUnavailableError as again:
        raise EngineLostError(f"{_clause(again)}, for the second time.", why=again.why, remedy=again.remedy) from again


def _clause(error: EngineUnavailableError) -> str:
    return error.what.rstrip(".")


def _await_engine(job: Job, lost: EngineUnavailableError) -> None:
    # Only who has lost an engine waits for the import.
    from serving_factory.docker.host import run_docker

    patience_ends = time.monotonic() + _PATIENCE
    while True:
        job.cancel.wait(_LOOK)
        try:
            run_docker("version", timeout=_ANSWER)
        except EngineUnavailableError as error:
            if time.monotonic() > patience_ends:
                raise EngineLostError(
                    f"{_clause(lost)}, and was not back after {_PATIENCE:.0f} s.",
                    why=error.why,
                    remedy=lost.remedy,
                    gone=True,
                ) from lost
        else:
            return
