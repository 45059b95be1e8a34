"""A container with the sample's server in it, and how to talk to it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

BINARY = "/usr/lib/serving-factory/tensorflow_model_server"  # the server itself: the launcher lies at its usual path
OWNER = {"org.serving-factory.owner": "test"}
GRPC_PORT = "8500/tcp"
REST_PORT = "8501/tcp"
READY = "Exporting HTTP/REST API at:"
START_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What REST answered: the HTTP code and the JSON in the body."""

    code: int
    body: Any


@dataclass(frozen=True)
class SampleServer:
    """A running server, its ports published on 127.0.0.1."""

    container: Container
    grpc_port: int
    rest_port: int

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None)

    def post(self, path: str, body: object, content_type: str = "application/json") -> Answer:
        """Send the body as JSON; text goes as it is."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self._ask("POST", path, text, {"Content-Type": content_type})

    def put(self, path: str) -> Answer:
        return self._ask("PUT", path, "{}")

    def predict(self, model: str, instances: Sequence[object]) -> list[Any]:
        answer = self.post(f"/v1/models/{model}:predict", {"instances": instances})
        assert answer.code == 200, answer
        return list(answer.body["predictions"])

    def states(self, model: str) -> dict[str, str]:
        """Version to state."""
        versions = self.get(f"/v1/models/{model}").body["model_version_status"]
        return {version["version"]: version["state"] for version in versions}

    def wait_for_state(self, model: str, version: str, state: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while self.states(model).get(version) != state:
            assert time.monotonic() < deadline, self.states(model)
            time.sleep(0.1)

    def log(self) -> str:
        return self.container.logs().decode()

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read() or "null"))
        finally:
            connection.close()


def create(
    client: docker.DockerClient,
    image: str,
    arguments: Sequence[str],
    models: Path | None = None,
    entrypoint: str = BINARY,
) -> Container:
    """A container of the server, not started; the models' folder is mounted read-only at /models."""
    volumes = {str(models): {"bind": "/models", "mode": "ro"}} if models else {}
    return client.containers.create(
        image,
        list(arguments),
        entrypoint=[entrypoint],
        init=False,
        labels=OWNER,
        ports={GRPC_PORT: ("127.0.0.1", 0), REST_PORT: ("127.0.0.1", 0)},
        volumes=volumes,
    )


def start(container: Container) -> SampleServer:
    """Start the container, if it is not running yet, and wait until both ports are open."""
    container.start()
    deadline = time.monotonic() + START_SECONDS
    while READY not in container.logs().decode():
        container.reload()
        assert container.status in {"created", "running"}, container.logs().decode()
        assert time.monotonic() < deadline, container.logs().decode()
        time.sleep(0.1)
    container.reload()
    return SampleServer(container, _published(container, GRPC_PORT), _published(container, REST_PORT))


def _published(container: Container, port: str) -> int:
    bindings = container.ports[port]
    assert bindings
    return int(bindings[0]["HostPort"])
