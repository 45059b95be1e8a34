"""What a runtime image has to prove, one function per check.

A check looks at one running server and returns what it saw as a short text; else it raises what is wrong.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, TypeVar

from serving_factory.errors import (
    CpuLevelError,
    EngineError,
    FactoryError,
    ServerNotReadyError,
    ServerStopError,
    SmokeError,
    WrongAnswerError,
)
from serving_factory.smoke.answers import ModelState, ServingApiError
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient
from serving_factory.smoke.swap import INPUTS, OLD_ANSWER, close_to, swap_under_load

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving_factory.smoke.answers import ModelMetadata, VersionStatus
    from serving_factory.smoke.types import RunningContainer, SmokePlan


GRPC_PORT = 8500
REST_PORT = 8501
BINARY = "/usr/bin/tensorflow_model_server"
CPU_REFUSED = 78
LOG_LINES = 30

_POLL = 0.1
_BY_SIGNAL = 128
_KILLED = _BY_SIGNAL + signal.SIGKILL
_REMEDY = "Run the image by hand and ask it the same; fix what is at fault, and run the same command again."
_ErrorT = TypeVar("_ErrorT", bound=FactoryError)


class Server:
    """One running container with clients to it, made when first used."""

    def __init__(self, container: RunningContainer, plan: SmokePlan) -> None:
        self.container = container
        self.plan = plan
        self._rest: RestClient | None = None
        self._grpc: GrpcClient | None = None

    @property
    def model(self) -> str:
        """The name of the model served."""
        return self.plan.model_name

    @property
    def rest(self) -> RestClient:
        """A REST client on the published port."""
        if self._rest is None:
            self._rest = RestClient(self.address(REST_PORT))
        return self._rest

    @property
    def grpc(self) -> GrpcClient:
        """A gRPC client on the published port."""
        if self._grpc is None:
            self._grpc = GrpcClient(self.address(GRPC_PORT))
        return self._grpc

    def address(self, port: int) -> str:
        """Say where the container's port is published, as `host:port`."""
        return f"127.0.0.1:{self.container.port(port)}"

    def close(self) -> None:
        """Close the clients; the container is its owner's to end."""
        for client in (self._rest, self._grpc):
            if client is not None:
                client.close()
        self._rest = self._grpc = None

    def fault(self, kind: type[_ErrorT], what: str, *, why: str = "", remedy: str = "") -> _ErrorT:
        """Make an error whose evidence ends with the container's log."""
        parts = [why, self._end(), f"Last lines of the container's log:\n{self._log()}"]
        return kind(what, why="\n".join(part for part in parts if part), remedy=remedy or _REMEDY)

    def exited(self) -> bool:
        """Say whether the container has ended."""
        return self.container.status() in {"exited", "dead", "removing"}

    def _log(self) -> str:
        lines = self.container.logs(LOG_LINES).rstrip().splitlines()[-LOG_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (empty)"

    def _end(self) -> str:
        if not self.exited():
            return ""
        code = self.container.exit_code()
        names = {_BY_SIGNAL + known: f" ({known.name})" for known in signal.Signals}
        return f"The container has ended with exit code {code}{names.get(code, '') if code else ''}."


def check_ready(server: Server) -> str:
    """Wait until the model is AVAILABLE.

    Raises:
        CpuLevelError: the entrypoint refused this machine's CPU (exit code 78).
        ServerNotReadyError: the container ended, the model failed to load, or time ran out.
    """
    began = time.monotonic()
    last = "nothing was asked yet"
    while True:
        if server.exited():
            raise _early_end(server)
        try:
            statuses = _poll_ready(server)
            last = _describe(statuses) or f"no version of {server.model} is known"
        except ServingApiError as fault:
            statuses = []
            last = str(fault)
        except EngineError:
            if not server.exited():
                raise
            # It ended after the look above, and its ports with it.
            continue
        seconds = time.monotonic() - began
        if any(item.state is ModelState.AVAILABLE for item in statuses):
            return f"available after {seconds:.2f} s"
        if any(item.state is ModelState.END and item.error_code != "OK" for item in statuses):
            raise server.fault(ServerNotReadyError, f"The server could not load {server.model}.", why=last)
        if seconds > server.plan.ready_timeout:
            raise server.fault(
                ServerNotReadyError,
                f"The server did not become ready within {server.plan.ready_timeout:g} s.",
                why=f"Last answer: {last}",
                remedy="Read the log: it tells what the server waits for. Fix that, and run the same command again.",
            )
        time.sleep(_POLL)


def predict_rest(server: Server) -> tuple[float, ...]:
    """Predict over REST; WrongAnswerError when y is not 0.5 x + 2."""
    return _expect(server, "REST", server.rest.predict(server.model, INPUTS))


def predict_grpc(server: Server) -> tuple[float, ...]:
    """Predict over gRPC; WrongAnswerError when y is not 0.5 x + 2."""
    return _expect(server, "gRPC", server.grpc.predict(server.model, INPUTS))


def check_status(server: Server, version: int) -> str:
    """Compare the model's status over both protocols: this version, AVAILABLE, no error."""
    answers = {"gRPC": server.grpc.model_status(server.model)}
    if server.plan.features.model_status:
        answers["REST"] = server.rest.model_status(server.model)
    for protocol, statuses in answers.items():
        good = [item for item in statuses if item.version == version and item.state is ModelState.AVAILABLE]
        if not good or good[0].error_code != "OK":
            raise server.fault(
                WrongAnswerError,
                f"The model's status over {protocol} is not version {version} AVAILABLE.",
                why=f"Got: {_describe(statuses) or 'no version'}.",
            )
    return f"version {version} AVAILABLE over {' and '.join(sorted(answers, reverse=True))}"


def check_metadata(server: Server, version: int) -> str:
    """Compare the model's metadata over both protocols: the signature serving_default, x to y, as floats."""
    answers = {"gRPC": server.grpc.metadata(server.model)}
    if server.plan.features.model_status:
        answers["REST"] = server.rest.metadata(server.model)
    for protocol, metadata in answers.items():
        problem = _metadata_problem(metadata, version)
        if problem:
            raise server.fault(
                WrongAnswerError,
                f"The model's metadata over {protocol} is wrong: {problem}.",
                why=f"Got: {metadata}",
            )
    return f"serving_default x -> y over {' and '.join(sorted(answers, reverse=True))}"


def check_version_flag(server: Server) -> str:
    """Ask the binary inside the container for its version and compare it with the release."""
    required = server.plan.reported_version
    code, output = _inside(server, (BINARY, "--version"))
    first = output.strip().splitlines()[0] if output.strip() else ""
    if code != 0:
        raise server.fault(SmokeError, f"{BINARY} --version ended with exit code {code}.", why=output.strip())
    _, _, reported = first.partition("ModelServer:")
    reported = reported.strip()
    rest = reported.removeprefix(required)
    if not reported.startswith(required) or rest[:1].isdigit():
        raise server.fault(
            WrongAnswerError,
            f"The server in the image is not release {required}.",
            why=f"{BINARY} --version says: {first or '(nothing)'}",
            remedy="Compile the variant again; its sources are not those of its release.",
        )
    return reported


def swap_versions(server: Server, *, versions: tuple[int, int], place: Callable[[], None]) -> str:
    """Swap the model's version under load; see `swap`."""
    rest = server.address(REST_PORT) if server.plan.features.rest else None
    try:
        return swap_under_load(
            model=server.model,
            versions=versions,
            addresses=(rest, server.address(GRPC_PORT)),
            place=place,
            status=lambda: server.grpc.model_status(server.model),
            limit=server.plan.swap_timeout,
        )
    except FactoryError as error:
        raise server.fault(type(error), error.what, why=error.why, remedy=error.remedy) from error


def check_health_command(server: Server) -> str:
    """Run the image's health check by hand, so that its own words are seen when it fails."""
    code, output = _inside(server, server.plan.health_command)
    if code != 0:
        raise server.fault(
            SmokeError,
            f"The image's health check failed with exit code {code} although the server answers.",
            why=f"{' '.join(server.plan.health_command)} says: {output.strip() or '(nothing)'}",
        )
    return output.strip() or "exit code 0"


def check_healthy(server: Server) -> str:
    """Wait until Docker calls the container healthy."""
    began = time.monotonic()
    while True:
        health = server.container.health()
        seconds = time.monotonic() - began
        if health == "healthy":
            return f"healthy after another {seconds:.2f} s"
        if health is None:
            raise server.fault(SmokeError, "The image has no health check.", remedy="Package the variant again.")
        if health == "unhealthy" or server.exited() or seconds > server.plan.health_timeout:
            raise server.fault(
                SmokeError,
                f"Docker does not call the container healthy, but {health}, after {seconds:.1f} s.",
                remedy="Run the image by hand: `docker inspect CONTAINER` shows what its health check printed.",
            )
        time.sleep(_POLL)


def check_stop(server: Server) -> str:
    """Stop the container as `docker stop` does; ServerStopError when it is slow or had to be killed."""
    limit = server.plan.stop_limit
    server.close()
    seconds = server.container.stop(timeout=int(limit) + 1)
    code = server.container.exit_code()
    if seconds >= limit or code == _KILLED:
        killed = " and had to be killed" if code == _KILLED else ""
        raise server.fault(
            ServerStopError,
            f"The container took {seconds:.2f} s to stop{killed}; the limit is {limit:g} s.",
            remedy="The init must pass SIGTERM on to the server, and be process 1 of the image.",
        )
    return f"stopped in {seconds:.2f} s, exit code {code}"


def _inside(server: Server, argv: tuple[str, ...]) -> tuple[int, str]:
    try:
        return server.container.exec(argv)
    except TimeoutError as error:
        raise server.fault(SmokeError, "A command inside the container did not end.", why=str(error)) from error


def _poll_ready(server: Server) -> list[VersionStatus]:
    """Ask for the status over REST where the release has it, else over gRPC."""
    if server.plan.features.model_status:
        return server.rest.model_status(server.model)
    statuses = server.grpc.model_status(server.model)
    if server.plan.features.rest and statuses:
        # These releases open REST after gRPC: ready is when both answer.
        server.rest.predict(server.model, INPUTS)
    return statuses


def _early_end(server: Server) -> FactoryError:
    if server.container.exit_code() == CPU_REFUSED:
        said = " ".join(server.container.logs(LOG_LINES).split()).removeprefix("tf_serving_entrypoint: ")
        return CpuLevelError(
            f"The image refuses this machine's CPU: {said}",
            remedy="Run this variant's smoke stage on a machine with that CPU, or build a lower level here.",
        )
    return server.fault(ServerNotReadyError, "The container ended before the server was ready.")


def _expect(server: Server, protocol: str, got: list[float]) -> tuple[float, ...]:
    if not close_to(got, OLD_ANSWER):
        raise server.fault(
            WrongAnswerError,
            f"The server answered {server.model} wrongly over {protocol}.",
            why=f"Sent {list(INPUTS)}, got {got}, expected {list(OLD_ANSWER)}.",
        )
    return tuple(got)


def _metadata_problem(metadata: ModelMetadata, version: int) -> str:
    if metadata.version != version:
        return f"version {metadata.version} instead of {version}"
    signature = metadata.signatures.get("serving_default")
    if signature is None:
        return "no signature serving_default"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        if name not in tensors or tensors[name].dtype != "DT_FLOAT":
            return f"serving_default has no {name} of type DT_FLOAT"
    return ""


def _describe(statuses: list[VersionStatus]) -> str:
    return ", ".join(
        f"version {item.version} {item.state}"
        + (f" ({item.error_code}: {item.error_message})" if item.error_code != "OK" else "")
        for item in statuses
    )
