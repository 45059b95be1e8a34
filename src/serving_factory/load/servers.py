"""Starts an image with its limits, waits until it serves, and makes connections to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from serving_factory.docker.engine import Container, ContainerSpec, Engine, Mount
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.errors import EngineError, FactoryError, LoadError, ServerNotReadyError
from serving_factory.load.generator import Send
from serving_factory.load.inputs import SIGNATURE, Input
from serving_factory.smoke.answers import ServerAnswerError, ServerUnavailableError, ServingApiError, Signature
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient
from serving_factory.smoke.server import GRPC_PORT, REST_PORT, fault

MODEL = "model"
GRPC, REST = "gRPC", "REST"
_ENDED = "the container ended"
_POLL = 0.02
_REST_PATIENCE = 5.0  # seconds that REST may open after gRPC


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An image with its limits: one server of a comparison."""

    name: str
    image: str  # what `docker run` takes
    cpus: float | None = None  # CPUs that it may use; None for all
    gpu: GpuAccess | None = None

    def spec(self, model: Path, owner: str) -> ContainerSpec:
        """How it is started with a model's folder."""
        # TensorFlow takes all memory of a GPU otherwise, and another server shall run beside it.
        environment = {"MODEL_NAME": MODEL} | ({"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if self.gpu else {})
        return ContainerSpec(
            image=self.image,
            environment=tuple(environment.items()),
            ports=(GRPC_PORT, REST_PORT),
            mounts=(Mount(model.resolve(), f"/models/{MODEL}"),),
            cpus=self.cpus,
            gpu=self.gpu,
            owner=owner,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A subject that serves."""

    subject: Subject
    container: Container
    signature: Signature
    seconds: float  # from the command to start it until it served
    ports: dict[str, int]  # protocol -> port of this machine

    def fault(self, error: ServingApiError | str) -> LoadError:
        """Make an error of what a request had for an answer."""
        return fault(self.container, LoadError, f"{self.subject.name} gave no usable answer.", why=str(error))

    @contextmanager
    def connections(self, protocol: str, asked: Input, number: int, timeout: float) -> Iterator[list[Send]]:
        """Open connections, each of which sends an input; `timeout` is of an answer, in seconds."""
        address = f"127.0.0.1:{self.ports[protocol]}"
        with ExitStack() as stack:
            sends: list[Send] = []
            for _ in range(number):
                if protocol == GRPC:
                    sends.append(partial(stack.enter_context(GrpcClient(address, timeout=timeout)).send, asked.grpc))
                else:
                    client = stack.enter_context(RestClient(address, timeout=timeout))
                    sends.append(partial(client.send, MODEL, asked.rest))
            yield sends

    def has_rest(self, asked: Input, cancel: Cancel) -> bool:
        """Whether it answers over REST, which releases before 1.8 do not have, and others open after gRPC."""
        deadline = time.monotonic() + _REST_PATIENCE
        while time.monotonic() < deadline:
            with self.connections(REST, asked, 1, timeout=60) as (send,):
                try:
                    send()
                except ServerUnavailableError:
                    cancel.wait(_POLL)
                except ServerAnswerError as error:
                    raise self.fault(error) from error
                else:
                    return True
        return False


@contextmanager
def started(
    engine: Engine, subject: Subject, model: Path, *, owner: str, patience: float, cancel: Cancel
) -> Iterator[Running]:
    """Run a subject for as long as the block lasts; ServerNotReadyError where it does not serve the model."""
    began = time.monotonic()
    with engine.container(subject.spec(model, owner)) as container:
        try:
            ports = {protocol: container.port(port) for protocol, port in ((GRPC, GRPC_PORT), (REST, REST_PORT))}
        except EngineError:
            if container.status() == "running":
                raise
            raise _not_ready(container, subject, _ENDED) from None
        signature = _wait(container, subject, f"127.0.0.1:{ports[GRPC]}", patience, cancel)
        seconds = time.monotonic() - began
        yield Running(subject=subject, container=container, signature=signature, seconds=seconds, ports=ports)


def _wait(container: Container, subject: Subject, address: str, patience: float, cancel: Cancel) -> Signature:
    """Ask for the model's signature until it comes: every release gives it once it serves the model."""
    deadline, last = time.monotonic() + patience, ""
    while time.monotonic() < deadline:
        cancel.check()
        # A new client each time: after a refused connection, one waits a second or more before its next try.
        with GrpcClient(address) as client:
            try:
                found = client.metadata(MODEL).signatures
                if SIGNATURE in found:
                    return found[SIGNATURE]
                raise _not_ready(container, subject, f"it has no signature {SIGNATURE}, but {', '.join(found)}")
            except ServerUnavailableError as error:
                last = str(error)
            except ServerAnswerError as error:
                last = _load_error(client) or str(error)
                if last != str(error):
                    raise _not_ready(container, subject, last) from error
        if container.status() != "running":
            raise _not_ready(container, subject, _ENDED)
        cancel.wait(_POLL)
    raise _not_ready(container, subject, f"not within {patience:g} s; last: {last}")


def _load_error(client: GrpcClient) -> str:
    """Why the model is not loaded and will not be; empty while it may be, or where the release cannot say."""
    try:
        statuses = client.model_status(MODEL)
    except ServingApiError:
        return ""
    return next((one.error for one in statuses if one.error and one.state == "END"), "")


def _not_ready(container: Container, subject: Subject, why: str) -> FactoryError:
    what = f"{subject.name} does not serve the model: {why}."
    remedy = "Read in the log why. The model must be one that this server can load: name another with --model."
    return fault(container, ServerNotReadyError, what, remedy=remedy)
