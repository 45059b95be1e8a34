"""The Docker engine, over the docker SDK: containers, images, pushes. Builds go through `buildx`."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import docker
import urllib3.exceptions
from docker.context import ContextAPI
from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import Mount as BindMount

from serving_factory.docker import http as registry_faults
from serving_factory.docker.containers import Container, ContainerSpec, typed, unavailable
from serving_factory.docker.registry import ImageName, Registry, credentials_for
from serving_factory.errors import EngineError, EngineUnavailableError, FactoryError, RegistryDeniedError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


PUSHED = "Pushed"
EXISTING = ("Layer already exists", "Mounted from")
DIGEST = re.compile(r"digest: (?P<digest>sha256:[0-9a-f]{64}) size: (?P<size>\d+)")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push that succeeded left in the registry.

    Args:
        digest: the manifest's, `sha256:...`.
        pushed_layers: how many layers were sent.
        existing_layers: how many the registry had already, or took over from another of its repositories.
        size: of the manifest, in bytes.
    """

    digest: str
    pushed_layers: int
    existing_layers: int
    size: int


def read_push(items: Iterable[Mapping[str, Any]], *, registry: str, on_status: Callable[[str], None]) -> PushResult:
    """Read the whole stream of one push.

    Args:
        items: the stream's decoded items.
        registry: for messages, such as `127.0.0.1:5000`.
        on_status: told how far it is, in a few words, whenever these words change.

    Raises:
        RegistryDeniedError, RegistryUnreachableError, RegistryFaultError, RegistryError: as the stream says.
    """
    layers: dict[str, str] = {}
    sent: dict[str, tuple[int, int]] = {}
    digest, size = "", 0
    told = error = ""
    for item in items:
        detail = item.get("errorDetail") or {}
        error = error or str(detail.get("message") or item.get("error") or "")
        status = str(item.get("status") or "")
        if layer := item.get("id"):
            layers[str(layer)] = status
            progress = item.get("progressDetail") or {}
            if progress.get("total"):
                sent[str(layer)] = (int(progress.get("current") or 0), int(progress["total"]))
            words = status if status.startswith("Retrying") else _words(layers, sent)
            if words != told:
                told = words
                on_status(words)
        if found := DIGEST.search(status):
            digest, size = found["digest"], int(found["size"])
        aux = item.get("aux") or {}
        if aux.get("Digest"):
            digest, size = str(aux["Digest"]), int(aux.get("Size") or size)
    if error:
        raise registry_faults.from_text(registry, error)
    if not digest:
        raise RegistryError(
            f"The engine ended its push to {registry} without naming a digest.",
            remedy="Run the same command again; if it goes on, look at the engine's log.",
        )
    states = layers.values()
    return PushResult(
        digest=digest,
        pushed_layers=sum(state == PUSHED for state in states),
        existing_layers=sum(state.startswith(EXISTING) for state in states),
        size=size,
    )


def _words(layers: Mapping[str, str], sent: Mapping[str, tuple[int, int]]) -> str:
    there = sum(state == PUSHED or state.startswith(EXISTING) for state in layers.values())
    words = f"{there} of {len(layers)} layers there"
    current, total = (sum(pair[index] for pair in sent.values()) for index in (0, 1))
    if total >= MEGABYTE:
        words += f", {min(current, total) // MEGABYTE} of {total // MEGABYTE} MB sent"
    return words


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from serving_factory.docker.registry import Credentials


OWNER_LABEL = "org.serving-factory.owner"
OLDEST_ENGINE = 23  # the first whose own BuildKit is the default builder and takes named contexts
TIMEOUT = 60  # seconds without an answer
PUSH_TIMEOUT = 600  # a registry may think for minutes about a layer of gigabytes, and nothing is told meanwhile
IN_PROGRESS = 409  # HTTP status: the engine removes it already


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine's machine has: CPUs, and memory in bytes."""

    cpus: int
    memory: int


class Engine:
    """A Docker engine that answers and is new enough; `Engine.connect` gives it."""

    def __init__(self, client: docker.DockerClient, version: str) -> None:
        self._api = client.api
        self._containers = client.containers
        self._images = client.images
        self._version = version

    @classmethod
    def connect(cls) -> Self:
        """Find the engine as the docker command does: DOCKER_HOST, DOCKER_CONTEXT, the current context.

        Raises:
            EngineUnavailableError: it does not answer, or is older than 23.
        """
        try:
            context_found = bool(os.environ.get("DOCKER_HOST") or ContextAPI.kwargs_from_context())
            client = docker.from_env(timeout=TIMEOUT)
            version = str(client.version().get("Version", ""))
        except Exception as error:
            raise unavailable(error) from error
        if not context_found:  # the SDK goes on with the default engine, the docker command does not
            raise EngineUnavailableError(
                f"There is no Docker context '{os.environ.get('DOCKER_CONTEXT') or 'in use'}'.",
                remedy="Choose one that 'docker context ls' shows, or name the engine in DOCKER_HOST.",
            )
        major = re.match(r"\d+", version)
        if major is None or int(major.group()) < OLDEST_ENGINE:
            raise EngineUnavailableError(
                f"The Docker engine is version {version or 'unknown'}; {OLDEST_ENGINE} or later is needed.",
                remedy="Upgrade Docker, then run './factory setup'.",
            )
        return cls(client, version)

    @cached_property
    def _push_api(self) -> docker.APIClient:
        return docker.from_env(timeout=PUSH_TIMEOUT).api

    def version(self) -> str:
        """Return the engine's version, such as `26.1.5`."""
        return self._version

    def capacity(self) -> Capacity:
        """Return what the engine's machine has. It need not be this machine."""
        with typed("The engine does not tell about its machine.", remedy="Try 'docker info'."):
            info = self._api.info()
        return Capacity(cpus=int(info["NCPU"]), memory=int(info["MemTotal"]))

    def image_id(self, reference: str) -> str | None:
        """Return an image's id, `sha256:...`; None if the engine has no such image."""
        with typed(f"The engine does not tell about the image {reference}.", remedy="Try 'docker images'."):
            try:
                return str(self._images.get(reference).id)
            except ImageNotFound:
                return None

    def has_registry(self, reference: str) -> bool:
        """Say whether the engine knows a registry's digest of an image: it was pulled or pushed.

        With containerd's image store it knows one of every image.

        Raises:
            EngineError: no such image.
        """
        with typed(f"The engine has no image {reference}.", remedy="Build it first."):
            return bool(self._images.get(reference).attrs.get("RepoDigests"))

    def image_size(self, reference: str) -> int:
        """Return an image's size in bytes, all layers together, as `docker images` shows it.

        Raises:
            EngineError: no such image.
        """
        with typed(f"The engine has no image {reference}.", remedy="Build it first."):
            return int(self._images.get(reference).attrs["Size"])

    def image_names(self, label: str) -> Mapping[str, str]:
        """Return the names, `repository:tag`, of all images with a label, each with the image's id. One question.

        Args:
            label: given as `name` or `name=value`.
        """
        with typed("The images could not be listed.", remedy="Try 'docker images'."):
            found = self._api.images(filters={"label": label})
        return {str(name): str(image["Id"]) for image in found for name in image["RepoTags"] or ()}

    @contextlib.contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[Container]:
        """Run a container for as long as the block lasts; it is removed by force however the block ends.

        Raises:
            EngineError: no such image, or it cannot be started.
        """
        name = f"serving-factory-{uuid.uuid4().hex[:12]}"  # known before it exists: an interrupt finds it
        try:
            with typed(f"No container of {spec.image} could be started.", remedy="Try it: docker run."):
                started = self._containers.create(spec.image, **_options(spec, name))
                started.start()
            yield Container(self._api, str(started.id), name)
        except BaseException:
            with contextlib.suppress(FactoryError):  # what happened first is what counts
                self._remove_container(name)
            raise
        self._remove_container(name)

    def remove_strays(self, owner: str) -> int:
        """Remove the containers that an owner's killed processes left; return how many there were."""
        with typed("The containers could not be listed.", remedy="Try 'docker ps'."):
            found = self._api.containers(all=True, filters={"label": f"{OWNER_LABEL}={owner}"})
        for container in found:
            self._remove_container(str(container["Id"]))
        return len(found)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image another name.

        Raises:
            EngineError: no such image, or no valid name.
        """
        with typed(f"{image} could not be tagged {repository}:{tag}.", remedy="Build it first."):
            self._api.tag(image, repository, tag)

    def remove_image(self, reference: str) -> None:
        """Take an image's name away, and with its last name the image. No error if there is none.

        Raises:
            EngineError: a container uses it.
        """
        with typed(f"The image {reference} could not be removed.", remedy="Try 'docker ps -a': who uses it?"):
            try:
                self._api.remove_image(reference)
            except ImageNotFound:
                return

    def remove_unnamed(self, image: str) -> None:
        """Remove an image that has no name any more; one that has, or that a container uses, stays.

        Args:
            image: its id.
        """
        with typed(f"The image {image} could not be removed.", remedy="Try 'docker images'."):
            try:
                if not self._images.get(image).tags:
                    self._api.remove_image(image)
            except ImageNotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise

    def push(self, repository: str, tag: str, *, on_status: Callable[[str], None]) -> PushResult:
        """Push one tag, once, with the credentials in Docker's own configuration.

        Args:
            repository: such as `127.0.0.1:5000/team/image`.
            tag: which tag of it.
            on_status: told how far it is, in a few words.

        Raises:
            RegistryDeniedError, RegistryUnreachableError, RegistryError: the push cannot work.
            RegistryFaultError: another attempt may work.
            EngineError: there is no such image.
        """
        reference = f"{repository}:{tag}"
        if self.image_id(reference) is None:
            raise EngineError(f"The engine has no image {reference} to push.", remedy="Build and tag it first.")
        registry = ImageName.parse(repository).registry
        credentials = credentials_for(registry)
        with typed(f"{reference} could not be pushed.", remedy=f"Try it: docker push {reference}"):
            try:
                items = self._push_api.push(
                    repository, tag=tag, stream=True, decode=True, auth_config=_auth(registry, credentials)
                )
                return read_push(items, registry=registry, on_status=on_status)
            except urllib3.exceptions.ReadTimeoutError as error:
                why = f"Nothing was heard from the push for {PUSH_TIMEOUT} s."
                raise registry_faults.fault(registry, why) from error
            except RegistryDeniedError as error:
                # After a 5xx to its first question the engine goes on without the credentials it has.
                if not Registry(registry, credentials=credentials).takes_password():
                    raise
                raise registry_faults.fault(registry, f"{error.why} (though name and password are right)") from error

    def _remove_container(self, name: str) -> None:
        with typed(f"The container {name} could not be removed.", remedy=f"Try it: docker rm -f {name}"):
            try:
                self._api.remove_container(name, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != IN_PROGRESS:
                    raise


def _options(spec: ContainerSpec, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "command": list(spec.command) or None,
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint),
        "environment": dict(spec.environment),
        "ports": {f"{port}/tcp": ("127.0.0.1", None) for port in spec.ports},
        "mounts": [
            BindMount(target=mount.target, source=str(mount.source), type="bind", read_only=mount.read_only)
            for mount in spec.mounts
        ],
        "read_only": spec.read_only,
        "cap_drop": list(spec.cap_drop),
        "user": spec.user,
        "security_opt": list(spec.security_opt),
        "tmpfs": dict.fromkeys(spec.tmpfs, ""),
        "mem_limit": spec.memory,
        "network": spec.network,
        "healthcheck": {"interval": int(spec.health_interval * 1e9)} if spec.health_interval else None,
        "labels": {OWNER_LABEL: spec.owner},
        "detach": True,
    }


def _auth(registry: str, credentials: Credentials | None) -> dict[str, str]:
    if credentials is None:
        return {}
    if credentials.identity_token:
        return {"identitytoken": credentials.identity_token, "serveraddress": registry}
    return {
        "username": credentials.username,
        "password": credentials.password,
        "serveraddress": registry,
    }
