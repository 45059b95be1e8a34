"""One container: what it shall be, and how to ask it things while it runs."""

from __future__ import annotations

import contextlib
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import urllib3.exceptions
from docker.errors import APIError, DockerException, NotFound, StreamParseError

from serving_factory.docker.disk import FREE_SOME_SPACE
from serving_factory.errors import DiskFullError, EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving_factory.errors import FactoryError


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


if TYPE_CHECKING:
    import socket
    from contextlib import AbstractContextManager
    from pathlib import Path

    from docker.api.client import APIClient


POLL = 0.1  # seconds
FRAME = struct.Struct(">BxxxL")  # stream number and length, before each piece of output (Engine API, "attach")
REFUSED = "Look at the container's log above, and at the engine's own."


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, by its absolute path, inside the container."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What to run.

    Args:
        image: name or id.
        command: the arguments; empty for the image's own.
        entrypoint: None for the image's own.
        environment: names and values.
        ports: container ports (TCP), each published on a free port of 127.0.0.1.
        mounts: files and folders of this machine.
        read_only: whether the root file system is.
        cap_drop: capabilities to take away, such as `ALL`.
        user: `uid` or `uid:gid`; None for the image's own.
        security_opt: such as `no-new-privileges`.
        tmpfs: paths of empty file systems in memory.
        memory: limit in bytes.
        network: a network's name, `none` or `host`; None for the engine's bridge.
        health_interval: seconds between two health checks; None for the image's own.
        owner: whose it is, so that `Engine.remove_strays` finds what a killed factory left.
    """

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    user: str | None = None
    security_opt: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    memory: int | None = None
    network: str | None = None
    health_interval: float | None = None
    owner: str = "factory"


class Container:
    """A container that was started; `Engine.container` gives it and removes it."""

    def __init__(self, api: APIClient, container_id: str, name: str) -> None:
        self._api = api
        self.id = container_id
        self.name = name

    def port(self, container_port: int) -> int:
        """Return the port of 127.0.0.1 that leads to a port of the container.

        Raises:
            EngineError: it is not published, or the container has ended.
        """
        published = (self._inspect()["NetworkSettings"].get("Ports") or {}).get(f"{container_port}/tcp")
        if not published:
            raise EngineError(
                f"Port {container_port} of container {self.name} is not published; it is {self.status()}.",
                why=self.logs(),
                remedy=REFUSED,
            )
        return int(published[0]["HostPort"])

    def logs(self, tail: int = 30) -> str:
        """Return the last lines of its output."""
        with self._typed("The log could not be read"):
            data: bytes = self._api.logs(self.id, tail=tail)
        return data.decode("utf-8", errors="replace")

    def status(self) -> str:
        """Return `running`, `exited` and so on, by the engine's words."""
        return str(self._state()["Status"])

    def exit_code(self) -> int | None:
        """Return the exit code; None while it runs."""
        state = self._state()
        return int(state["ExitCode"]) if state["Status"] in {"exited", "dead"} else None

    def started_at(self) -> str:
        """Return when it was started last, by the engine's clock: another text after a restart."""
        return str(self._state()["StartedAt"])

    def health(self) -> str | None:
        """Return what the image's HEALTHCHECK says: `starting`, `healthy`, `unhealthy`; None without one."""
        health = self._state().get("Health")
        return str(health["Status"]) if health else None

    def stop(self, timeout: int) -> float:
        """Send SIGTERM, after `timeout` seconds SIGKILL, as `docker stop` does; return the seconds it took."""
        began = time.monotonic()
        with self._typed("The container could not be stopped"):
            self._api.stop(self.id, timeout=timeout)
        return time.monotonic() - began

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.exit_code()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the container {self.name} still runs after {timeout:g} s")
            time.sleep(POLL)
        return code

    def exec(self, argv: tuple[str, ...] | list[str], *, timeout: float = 60.0) -> tuple[int, str]:
        """Run a command inside and return its exit code and its output, stdout and stderr as they came.

        Raises:
            EngineError: the container does not run.
            TimeoutError: the command takes longer than `timeout` seconds; it ends with the container.
        """
        with self._typed(f"'{argv[0]}' could not be run inside"):
            exec_id = self._api.exec_create(self.id, list(argv))["Id"]
            stream: Any = self._api.exec_start(exec_id, socket=True)
        # The SDK reads without a time limit; the socket under it has one.
        connection: socket.socket = getattr(stream, "_sock", stream)
        try:
            output = _read_frames(connection, time.monotonic() + timeout)
        except TimeoutError as error:
            raise TimeoutError(f"'{' '.join(argv)}' took longer than {timeout:g} s") from error
        finally:
            connection.close()
            stream.close()
        with self._typed(f"'{argv[0]}' could not be asked for its exit code"):
            code = self._api.exec_inspect(exec_id)["ExitCode"]
        return int(code), output.decode("utf-8", errors="replace")

    def _inspect(self) -> dict[str, Any]:
        with self._typed("Nothing could be found out about it"):
            found: dict[str, Any] = self._api.inspect_container(self.id)
        return found

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._inspect()["State"]
        return state

    def _typed(self, what: str) -> AbstractContextManager[None]:
        return typed(f"{what} (container {self.name}).", remedy=REFUSED)


def _read_frames(connection: socket.socket, deadline: float) -> bytes:
    output = b""
    while header := _read(connection, FRAME.size, deadline):
        _, length = FRAME.unpack(header)
        output += _read(connection, length, deadline)
    return output


def _read(connection: socket.socket, length: int, deadline: float) -> bytes:
    """Read exactly `length` bytes, or nothing at the stream's end."""
    data = b""
    while len(data) < length:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(length - len(data))
        if not piece:
            return b""
        data += piece
    return data
