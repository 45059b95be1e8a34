"""An engine that goes away under a stage, and comes back: what the stage was at is done once more."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving_factory.errors import DockerCommandError, EngineLostError, EngineUnavailableError
from serving_factory.line.job import Job, Outputs

__all__ = ["with_engine_back"]

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
        job.tell_retry(f"{_clause(error)}; once more when it is back, which is waited for up to {_PATIENCE:.0f} s")
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
    from serving_factory.engine.about import run_docker  # noqa: PLC0415

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
