"""Containers as a user starts them by hand: run, wait for a line, stop, look at how they ended."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LABEL = "org.serving-factory.owner=test"
STOPS_WITHIN = 2.0


def docker(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], input=text, capture_output=True, text=True, timeout=500, check=False)
    assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def run(image: str, *arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Runs a container to its end."""
    return docker("run", "--rm", "--label", LABEL, *options, image, *arguments, check=False)


@contextmanager
def container(image: str, *arguments: str, options: Sequence[str] = ()) -> Iterator[str]:
    """Starts a container; gives its id, and removes it whatever happens."""
    name = docker("run", "--detach", "--label", LABEL, *options, image, *arguments).stdout.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def wait_for(container_id: str, text: str) -> None:
    for _ in range(200):
        if text in docker("logs", container_id).stdout:
            return
        time.sleep(0.05)
    pytest.fail(f"{text!r} never came:\n{docker('logs', container_id)}")


def exit_code(container_id: str) -> int:
    return int(docker("wait", container_id).stdout)


def stop(container_id: str, *, grace: int = 10) -> float:
    """Stops a container as `docker stop` does; gives the seconds that it took."""
    start = time.monotonic()
    docker("stop", "--time", str(grace), container_id)
    return time.monotonic() - start
