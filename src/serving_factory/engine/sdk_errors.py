"""Turns what the docker SDK raises into what the user can act on. None of it escapes from `engine`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import urllib3.exceptions
from docker.errors import APIError, DockerException, NotFound, StreamParseError

from serving_factory.engine.disk import FREE_SOME_SPACE
from serving_factory.errors import DiskFullError, EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving_factory.errors import FactoryError

__all__ = ["typed", "unavailable"]

# The SDK's own, those of requests (which are OSErrors), and those of urllib3 that a broken stream raises.
SDK_ERRORS = (DockerException, StreamParseError, OSError, urllib3.exceptions.HTTPError)


@contextlib.contextmanager
def typed(what: str, *, remedy: str) -> Iterator[None]:
    """Guard one call of the SDK.

    Args:
        what: what is said if the engine refuses, as a sentence.
        remedy: what to do then.

    Raises:
        EngineUnavailableError: the engine went away.
        DiskFullError: its disk is full.
        EngineError: it refused.
    """
    try:
        yield
    except APIError as error:
        raise _refused(error, what, remedy) from error
    except SDK_ERRORS as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> EngineUnavailableError:
    """The engine does not answer; `error` says how."""
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        remedy = "Let your user use it (as root: usermod -aG docker $USER, then log in again), or run as root."
    else:
        remedy = (
            "Start it ('./factory setup' does), or check where Docker looks for it: DOCKER_HOST, DOCKER_CONTEXT "
            "and 'docker context ls'."
        )
    return EngineUnavailableError("The Docker engine does not answer.", why=str(error), remedy=remedy)


def _refused(error: APIError, what: str, remedy: str) -> FactoryError:
    why = str(error.explanation or error)
    if "no space left on device" in why.lower():
        return DiskFullError(
            "The Docker engine's disk is full.",
            why=why,
            remedy=f"{FREE_SOME_SPACE}; then run the command again.",
        )
    if isinstance(error, NotFound) and "image" in why.lower():
        remedy = "Build the image first: run the same command again without skipping a stage."
    return EngineError(what, why=why, remedy=remedy)
