"""The Docker engine, over the docker SDK: images, containers, pushes. Builds go through `buildx`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import struct
import tarfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

import docker
import urllib3.exceptions
from docker.api.client import APIClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError
from docker.types import DeviceRequest
from docker.types import Mount as BindMount

from serving_factory.docker.client import FIRST_ANSWER, FREE_SOME_SPACE, check_settings, unavailable
from serving_factory.docker.host import GpuAccess, gpu_access
from serving_factory.docker.http import Client, Patience
from serving_factory.docker.process import Cancel, bounded
from serving_factory.docker.push import THINKING, PushResult, Stream, read_push
from serving_factory.docker.registry import ImageName, Memory, Registry, credentials_for, is_insecure
from serving_factory.errors import DiskFullError, EngineError, EngineUnavailableError, cleaned_up

# The SDK's own, those of requests (which are OSErrors), and those of urllib3 that a broken stream raises.
SDK_ERRORS = (DockerException, StreamParseError, OSError, urllib3.exceptions.HTTPError)
OWNER_LABEL = "org.serving-factory.owner"
OLDEST_ENGINE = 23  # the first whose own BuildKit is the default builder and takes named contexts
TIMEOUT = 60  # seconds without an answer
FRAME = struct.Struct(">BxxxL")  # stream number and length, before each piece of output (Engine API, "attach")
_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def typed(what: str, *, remedy: str) -> Iterator[None]:
    """Guard one call of the SDK; `what` and `remedy` are those of a refusal."""
    try:
        yield
    except APIError as error:
        why = str(error.explanation or error)
        if "no space left on device" in why.lower():
            again = f"{FREE_SOME_SPACE}; then run the command again."
            raise DiskFullError("The Docker engine's disk is full.", why=why, remedy=again) from error
        if isinstance(error, NotFound) and "image" in why.lower():
            remedy = "Build the image first: run the same command again without skipping a stage."
        raise EngineError(what, why=why, remedy=remedy) from error
    except SDK_ERRORS as error:
        raise unavailable(str(error), permission=isinstance(error, PermissionError)) from error


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, by its absolute path, read-only inside a container."""

    source: Path
    target: str


# What the docker command sends for `--gpus all`, and for a device of a CDI file
_GPU_REQUESTS = {
    GpuAccess.RUNTIME: DeviceRequest(driver="nvidia", count=-1, capabilities=[["gpu"]]),
    GpuAccess.CDI: DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"]),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What to run; empty and None stand for the image's or the engine's own."""

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()  # TCP ports, each published on a free port of 127.0.0.1
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()  # capabilities to take away, such as `ALL`
    user: str | None = None  # `uid` or `uid:gid`
    security_opt: tuple[str, ...] = ()
    gpu: GpuAccess | None = None  # gives it all GPUs, in this way
    cpus: float | None = None  # the CPU time that it may take, in CPUs
    health_interval: float | None = None  # seconds between two health checks
    owner: str = "factory"  # marks it, so that `Engine.remove_strays` finds what a killed factory left

    def options(self, name: str) -> dict[str, Any]:
        """The SDK's arguments beside the image."""
        return {
            "name": name,
            "command": list(self.command) or None,
            "entrypoint": None if self.entrypoint is None else list(self.entrypoint),
            "environment": dict(self.environment),
            "ports": {f"{port}/tcp": ("127.0.0.1", None) for port in self.ports},
            "mounts": [BindMount(one.target, str(one.source), "bind", read_only=True) for one in self.mounts],
            "read_only": self.read_only,
            "cap_drop": list(self.cap_drop),
            "user": self.user,
            "security_opt": list(self.security_opt),
            "nano_cpus": int(self.cpus * 1e9) if self.cpus else None,
            "device_requests": [_GPU_REQUESTS[self.gpu]] if self.gpu else None,
            "healthcheck": {"interval": int(self.health_interval * 1e9)} if self.health_interval else None,
            "labels": {OWNER_LABEL: self.owner},
            "detach": True,
        }


class Engine:
    """A Docker engine that answers and is new enough; `Engine.connect` gives it."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._api = client.api
        self._containers = client.containers
        self._images = client.images
        self._registries: defaultdict[str, Memory] = defaultdict(Memory)

    @classmethod
    def connect(cls, report: Callable[[str], object] = lambda _text: None) -> Self:
        """Find the engine as the docker command does: DOCKER_HOST, DOCKER_CONTEXT, the current context."""
        check_settings()

        def on_wait(seconds: float) -> None:
            report(f"waiting for the Docker engine, {seconds:.0f} s so far")

        try:
            client, version = bounded(_connect, seconds=FIRST_ANSWER, on_wait=on_wait)
        except Exception as error:
            raise unavailable(str(error), permission=isinstance(error, PermissionError)) from error
        major = re.match(r"\d+", version)
        if major is None or int(major.group()) < OLDEST_ENGINE:
            raise EngineUnavailableError(
                f"The Docker engine is version {version or 'unknown'}; {OLDEST_ENGINE} or later is required.",
                remedy="Upgrade Docker, then run './factory setup'.",
            )
        return cls(client)

    def capacity(self) -> tuple[int, int]:
        """What the engine's machine has, which need not be this machine: CPUs, and memory in bytes."""
        return int(self._info["NCPU"]), int(self._info["MemTotal"])

    def gpu(self) -> GpuAccess | None:
        """How it gives a container GPUs; None where it can give none."""
        return gpu_access(self._info)

    @cached_property
    def _info(self) -> dict[str, Any]:
        with typed("The engine gives no information about itself.", remedy="Try 'docker info'."):
            info: dict[str, Any] = self._api.info()
        return info

    def image_id(self, *references: str) -> str | None:
        """The id, `sha256:...`, of the first of these images that the engine has; None if it has none of them."""
        for reference in references:
            with (
                typed(f"The engine could not look for the image {reference}.", remedy="Try 'docker images'."),
                contextlib.suppress(ImageNotFound),
            ):
                return str(self._images.get(reference).id)
        return None

    def has_registry(self, reference: str) -> bool:
        """Whether the engine knows a registry's digest of an image: it was pulled or pushed."""
        # With containerd's image store it knows one of every image.
        return bool(self._attributes(reference).get("RepoDigests"))

    def image_size(self, reference: str) -> int:
        """An image's size in bytes, all layers together, as `docker images` shows it."""
        return int(self._attributes(reference)["Size"])

    def image_created(self, reference: str) -> int:
        """When an image was made, by its configuration: seconds since 1970."""
        text = str(self._attributes(reference)["Created"])
        return max(0, int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()))  # it ends in a fraction and Z

    def image_environment(self, reference: str) -> Mapping[str, str]:
        """The variables that an image sets."""
        pairs = (one.partition("=") for one in self._attributes(reference)["Config"].get("Env") or ())
        return {name: value for name, _, value in pairs}

    def image_labels(self, reference: str) -> Mapping[str, str]:
        """An image's labels."""
        return dict(self._attributes(reference)["Config"].get("Labels") or {})

    def _attributes(self, reference: str) -> Mapping[str, Any]:
        with typed(f"The engine has no image {reference}.", remedy="Build it first."):
            found: Mapping[str, Any] = self._images.get(reference).attrs
        return found

    def image_names(self, label: str) -> Mapping[str, str]:
        """The names of all images with a label (`name` or `name=value`), each with the image's id."""
        with typed("The images could not be listed.", remedy="Try 'docker images'."):
            found = self._api.images(filters={"label": label})
        return {str(name): str(image["Id"]) for image in found for name in image["RepoTags"] or ()}

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image another name."""
        with typed(f"{image} could not be tagged {repository}:{tag}.", remedy="Build it first."):
            self._api.tag(image, repository, tag)

    def remove_image(self, reference: str) -> None:
        """Take an image's name away, and with its last name the image. No error if there is none."""
        with (
            typed(f"The image {reference} could not be removed.", remedy="See what uses it: 'docker ps -a'."),
            contextlib.suppress(ImageNotFound),
        ):
            self._api.remove_image(reference)

    def remove_if_only(self, image: str, names: Collection[str]) -> bool:
        """Remove an image that has no other names than these, unless a container uses it; give whether it did."""
        with typed(f"The image {image} could not be removed.", remedy="Try 'docker images'."):
            try:
                found = self._images.get(image).tags
                if not {*found} <= {*names}:
                    return False
                for name in found or [image]:  # with its last name the image goes
                    self._api.remove_image(name)
            except ImageNotFound:
                return False
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                return False
        return True

    def remove_unnamed(self, image: str) -> None:
        """Remove an image by its id if it has no name any more and no container uses it."""
        with typed(f"The image {image} could not be removed.", remedy="Try 'docker images'."):
            try:
                if not self._images.get(image).tags:
                    self._api.remove_image(image)
            except ImageNotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise

    @contextlib.contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[Container]:
        """Run a container for as long as the block lasts; it is removed by force however the block ends."""
        name = f"serving-factory-{uuid.uuid4().hex[:12]}"  # known before it exists: an interrupt finds it
        with cleaned_up(lambda: self._remove_container(name)):
            with typed(f"No container of {spec.image} could be started.", remedy="Try it: docker run."):
                started = self._containers.create(spec.image, **spec.options(name))
                started.start()
            yield Container(self._api, str(started.id), name)

    def read_files(self, image: str, *paths: str, owner: str) -> Mapping[str, bytes]:
        """The files of an image at paths, and those in folders at paths; one that it lacks has none. Nothing is run."""
        name = f"serving-factory-{uuid.uuid4().hex[:12]}"
        found: dict[str, bytes] = {}
        with (
            cleaned_up(lambda: self._remove_container(name)),
            typed(f"No file of {image} could be read.", remedy="Try it: docker create."),
        ):
            made = self._containers.create(image, ["none"], name=name, labels={OWNER_LABEL: owner})
            for path in paths:
                try:
                    chunks, _ = self._api.get_archive(str(made.id), path)
                    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                        files = ((member.name, archive.extractfile(member)) for member in archive if member.isreg())
                        found |= {str(PurePosixPath(path).parent / inner): file.read() for inner, file in files if file}
                except NotFound:
                    made.reload()  # raises where it is the container that is gone: another factory took it for a stray
        return found

    def remove_strays(self, owner: str) -> int:
        """Remove the containers that an owner's killed processes left; return how many there were."""
        with typed("The containers could not be listed.", remedy="Try 'docker ps'."):
            found = self._api.containers(all=True, filters={"label": f"{OWNER_LABEL}={owner}"})
        for container in found:
            self._remove_container(str(container["Id"]))
        return len(found)

    def _remove_container(self, name: str) -> None:
        with typed(f"The container {name} could not be removed.", remedy=f"Try it: docker rm -f {name}"):
            try:
                self._api.remove_container(name, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:  # the engine removes it already
                    raise

    def registry(
        self, host: str, *, cancel: Cancel | None = None, report: Callable[[str], object] | None = None
    ) -> Registry:
        """A registry, asked with Docker's credentials, and without trusted TLS where the engine would go without."""
        return Registry(
            host,
            credentials=credentials_for(host),
            insecure=is_insecure(host, self._info.get("RegistryConfig") or {}),
            client=Client(patience=Patience(cancel=cancel, report=report)),
            memory=self._registries[host],
        )

    def push(
        self,
        repository: str,
        tag: str,
        *,
        on_status: Callable[[str], None],
        on_retry: Callable[[str], None] = lambda _: None,
        cancel: Cancel | None = None,
    ) -> PushResult:
        """Push one tag, once, with the credentials in Docker's own configuration."""
        reference = f"{repository}:{tag}"
        if self.image_id(reference) is None:
            raise EngineError(f"The engine has no image {reference} to push.", remedy="Build and tag it first.")
        host = ImageName.parse(repository).registry
        registry = self.registry(host, cancel=cancel, report=on_status)
        found, auth = credentials_for(host), {}
        if found and found.identity_token:
            auth = {"identitytoken": found.identity_token, "serveraddress": host}
        elif found:
            auth = {"username": found.username, "password": found.password, "serveraddress": host}
        with typed(f"{reference} could not be pushed.", remedy=f"Try it: docker push {reference}"):
            api = docker.from_env(timeout=int(THINKING) + TIMEOUT).api
            stream, ask = Stream(api, repository, tag, auth), partial(registry.try_push, repository.partition("/")[2])
            try:
                items = stream.watched(host, on_status, cancel)
                return read_push(items, registry=host, on_status=on_status, on_retry=on_retry, ask=ask)
            finally:
                stream.close()


def _connect() -> tuple[docker.DockerClient, str]:
    if not os.environ.get("DOCKER_HOST"):
        ContextAPI.kwargs_from_context()  # raises what from_env would not
    client = docker.from_env(timeout=TIMEOUT)
    return client, str(client.version().get("Version", ""))


class Ran(NamedTuple):
    """How a command inside a container ended, and what it printed."""

    code: int
    out: str
    err: str


class Container:
    """A container that was started; `Engine.container` gives it and removes it."""

    def __init__(self, api: APIClient, container_id: str, name: str) -> None:
        self._api = api
        self.id = container_id
        self.name = name

    def port(self, container_port: int) -> int:
        """The port of 127.0.0.1 that leads to a port of the container."""
        published = (self._inspect()["NetworkSettings"].get("Ports") or {}).get(f"{container_port}/tcp")
        if not published:
            raise EngineError(
                f"Port {container_port} of container {self.name} is not published; it is {self.status()}.",
                why=self.logs(),
                remedy="Look at the container's log above, and at the engine's own.",
            )
        return int(published[0]["HostPort"])

    def logs(self, tail: int = 30) -> str:
        """The last lines of its output."""
        with self._typed("The log could not be read"):
            data: bytes = self._api.logs(self.id, tail=tail)
        return data.decode("utf-8", errors="replace")

    def status(self) -> str:
        """`running`, `exited` and so on, in the engine's words."""
        return str(self._inspect()["State"]["Status"])

    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        state = self._inspect()["State"]
        return int(state["ExitCode"]) if state["Status"] in {"exited", "dead"} else None

    def started_at(self) -> str:
        """When it was started last, by the engine's clock: another text after a restart."""
        return str(self._inspect()["State"]["StartedAt"])

    def health(self) -> str | None:
        """What the image's HEALTHCHECK says: `starting`, `healthy`, `unhealthy`; None without one."""
        health = self._inspect()["State"].get("Health")
        return str(health["Status"]) if health else None

    def stop(self, timeout: int) -> float:
        """Send SIGTERM, after `timeout` seconds SIGKILL, as `docker stop` does; return the seconds it took."""
        began = time.monotonic()
        with self._typed("The container could not be stopped"):
            self._api.stop(self.id, timeout=timeout)
        return time.monotonic() - began

    def exec(self, argv: Sequence[str], *, timeout: float = 60.0) -> Ran:
        """Run a command inside."""
        with self._typed(f"'{argv[0]}' could not be run inside"):
            exec_id = self._api.exec_create(self.id, list(argv))["Id"]
            stream: Any = self._api.exec_start(exec_id, socket=True)
        # The SDK reads without a time limit; the socket under it has one.
        connection: socket.socket = getattr(stream, "_sock", stream)
        deadline, output = time.monotonic() + timeout, {_STDOUT: b"", _STDERR: b""}
        try:
            while header := _read(connection, FRAME.size, deadline):
                number, length = FRAME.unpack(header)
                output[number] += _read(connection, length, deadline)
        except TimeoutError as error:
            raise TimeoutError(f"'{' '.join(argv)}' took longer than {timeout:g} s") from error
        finally:
            connection.close()
            stream.close()
        with self._typed(f"The exit code of '{argv[0]}' could not be read"):
            code = self._api.exec_inspect(exec_id)["ExitCode"]
        out, err = (output[number].decode("utf-8", errors="replace") for number in (_STDOUT, _STDERR))
        return Ran(int(code), out, err)

    def _inspect(self) -> dict[str, Any]:
        with self._typed("Its state could not be read"):
            found: dict[str, Any] = self._api.inspect_container(self.id)
        return found

    def _typed(self, what: str) -> AbstractContextManager[None]:
        return typed(f"{what} (container {self.name}).", remedy="Look at its log above, and at the engine's own.")


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
