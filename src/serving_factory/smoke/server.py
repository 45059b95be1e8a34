"""One running server: its container, its clients, and the errors that quote its log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

from serving_factory.catalogue.facts import ServerFacts
from serving_factory.docker.engine import Container
from serving_factory.docker.process import Cancel, exit_text
from serving_factory.errors import FactoryError, SmokeError
from serving_factory.smoke.answers import ANSWER_WITHIN
from serving_factory.smoke.emulate import PATIENCE, Emulated
from serving_factory.smoke.gpu import HALF_PLUS_TWO, HALF_PLUS_TWO_ANSWER, Trial, Way
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.plan import ModelFolders, SmokePlan
from serving_factory.smoke.rest_client import RestClient

GRPC_PORT = 8500
REST_PORT = 8501
MODEL = HALF_PLUS_TWO.model
INPUTS = tuple(number for (number,) in HALF_PLUS_TWO.rows)
OLD_ANSWER = HALF_PLUS_TWO_ANSWER
NEW_ANSWER = (3.5, 4.0, 5.5)

_LOG_LINES = 30
_TOLERANCE = 1e-6
_REMEDY = "Run the image by hand and ask it the same; fix what is at fault, and run the same command again."
_ErrorT = TypeVar("_ErrorT", bound=FactoryError)


class RunningServer:
    """One running container with clients to it, made when first used."""

    def __init__(
        self,
        container: Container,
        cancel: Cancel,
        *,
        facts: ServerFacts,
        model: str,
        patience: float,
        health_timeout: float,
        answer_within: float = ANSWER_WITHIN,
    ) -> None:
        self.facts = facts
        """What the release's server can do."""
        self.model = model
        self.patience = patience
        """The seconds from start to AVAILABLE, and for a first answer."""
        self.health_timeout = health_timeout
        """The seconds that Docker may take to call it healthy."""
        self.stopped = False
        """Whether the container was asked to end."""
        self.cancel = cancel
        self._container = container
        self._answer_within = answer_within
        self._started_at = container.started_at()
        self._began = time.monotonic()

    @property
    def container(self) -> Container:
        """The container; CancelledError once the run is to end. Checks ask for it all the time, and so end soon."""
        self.cancel.check()
        return self._container

    @cached_property
    def rest(self) -> RestClient:
        """A REST client on the published port."""
        return RestClient(self.address(REST_PORT), timeout=self._answer_within)

    @cached_property
    def grpc(self) -> GrpcClient:
        """A gRPC client on the published port."""
        return GrpcClient(self.address(GRPC_PORT), timeout=self._answer_within)

    def address(self, port: int) -> str:
        """Return where the container's port is published, as `host:port`."""
        return f"127.0.0.1:{self.container.port(port)}"

    def close(self) -> None:
        """Close the clients; the container is its owner's to end."""
        for name in ("rest", "grpc"):
            if client := self.__dict__.pop(name, None):
                client.close()

    def uptime(self) -> float:
        """Return the seconds since the container was started."""
        return time.monotonic() - self._began

    def exited(self) -> bool:
        """Whether the container has ended."""
        return self.container.status() in {"exited", "dead", "removing"}

    def require_running(self, during: str) -> None:
        """Check that the container did not end or restart by itself; SmokeError if it did."""
        if self.exited():
            raise self.fault(SmokeError, f"The server ended by itself during the check {during}.")
        if self.container.started_at() != self._started_at:
            raise self.fault(
                SmokeError,
                f"The container was restarted during the check {during}.",
                why=f"Started first at {self._started_at}, and again at {self.container.started_at()}.",
            )

    def log(self, lines: int = _LOG_LINES) -> str:
        """Return the last lines of the container's log."""
        return "\n".join(self.container.logs(lines).rstrip().splitlines()[-lines:])

    def fault(self, kind: type[_ErrorT], what: str, *, why: str = "", remedy: str = "") -> _ErrorT:
        """Make an error whose evidence ends with the container's log."""
        return fault(self.container, kind, what, why=why, remedy=remedy)


def fault(container: Container, kind: type[_ErrorT], what: str, *, why: str = "", remedy: str = "") -> _ErrorT:
    """Make an error whose evidence ends with a container's log."""
    lines = "\n".join(f"  {line}" for line in container.logs(_LOG_LINES).rstrip().splitlines()[-_LOG_LINES:])
    code = container.exit_code()
    ended = "" if code is None else f"The container has ended: {exit_text(code)}."
    parts = [why, ended, f"Last lines of the container's log:\n{lines or '  (empty)'}"]
    return kind(what, why="\n".join(part for part in parts if part), remedy=remedy or _REMEDY)


class Server(RunningServer):
    """A server of a variant's image, with the models of a smoke plan."""

    def __init__(
        self,
        container: Container,
        plan: SmokePlan,
        models: ModelFolders,
        cancel: Cancel,
        *,
        trial: Trial,
        way: Way | None = None,
        on_emulated: bool = False,
    ) -> None:
        super().__init__(
            container,
            cancel,
            facts=plan.server,
            model=trial.question(way).model if way else MODEL,
            patience=way.patience if way else PATIENCE if on_emulated else plan.ready_timeout,
            health_timeout=plan.health_timeout,
        )
        self.plan = plan
        self.models = models
        self.trial = trial
        """What the ways to serve on a GPU have shown so far."""
        self.answers: dict[str, tuple[float, ...]] = {}
        """The predictions for `INPUTS` by protocol, `REST` and `gRPC`, where asked."""
        self.emulated: Emulated | None = None
        """What the image did on emulated CPUs, once it was tried there."""


def close_to(got: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether the numbers agree to float32's precision."""
    return len(got) == len(expected) and all(
        abs(value - target) <= _TOLERANCE * abs(target) for value, target in zip(got, expected, strict=True)
    )
