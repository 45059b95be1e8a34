"""An engine whose containers can be asked nothing more once the run is to end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.docker.containers import ContainerSpec, Mount
from serving_factory.docker.process import Cancel
from serving_factory.errors import FactoryError, SmokeError
from serving_factory.smoke import checks
from serving_factory.smoke.answers import ServingApiError
from serving_factory.smoke.swap import INPUTS
from serving_factory.smoke.types import (
    CheckResult,
    ContainerEngine,
    Features,
    ModelFolders,
    RunningContainer,
    SmokePlan,
    SmokeReport,
    prepare_models,
)

if TYPE_CHECKING:
    from collections.abc import Callable


_HEALTH_INTERVAL = 1.0
"""Seconds. The image's own is made for months of running, not for someone who waits for the first answer."""


def run_checks(
    engine: ContainerEngine, image: str, *, plan: SmokePlan, emit_check: Callable[[CheckResult], None]
) -> SmokeReport:
    """Run every check on an image; the first that fails ends the run.

    Args:
        engine: the Docker engine; the two containers started through it are removed in every case.
        image: the image's reference or id.
        plan: what is to be checked.
        emit_check: gets each result as soon as it is there.

    Returns:
        The report; when a check failed, `error` holds what it raised. It is not raised here, so that the
        caller can write the report first.
    """
    began = time.monotonic()
    results: list[CheckResult] = []
    skipped: list[tuple[str, str]] = []
    answers: dict[str, tuple[float, ...]] = {}
    error: FactoryError | None = None
    try:
        with ExitStack() as stack:
            bench = _Bench(engine=engine, image=image, plan=plan, stack=stack, answers=answers)
            for check in _CHECKS:
                reason = f"not reached: {results[-1].name} failed" if error else check.missing(plan.features)
                if reason:
                    skipped.append((check.name, reason))
                    continue
                result, error = _run(check, bench)
                results.append(result)
                emit_check(result)
    except FactoryError as fault:
        # Leaving the block removes the containers; an engine that went away says so a second time here.
        error = error or fault
    return SmokeReport(
        variant=plan.variant,
        image=image,
        seconds=time.monotonic() - began,
        checks=tuple(results),
        skipped=tuple(skipped),
        answers=answers,
        error=error,
    )


@dataclass(slots=True, kw_only=True)
class _Bench:
    """What the checks of one run work on; `start` fills in the servers and folders."""

    engine: ContainerEngine
    image: str
    plan: SmokePlan
    stack: ExitStack
    answers: dict[str, tuple[float, ...]]
    servers: dict[str, checks.Server] = field(default_factory=dict)
    folders: ModelFolders | None = None

    @property
    def models(self) -> ModelFolders:
        if self.folders is None:
            raise RuntimeError("the first check prepares the models")
        return self.folders

    @property
    def old_version(self) -> int:
        return self.models.versions[0]


@dataclass(frozen=True, slots=True)
class _Check:
    """One line of the table: `needs` is a feature, `server` the one whose log is its evidence."""

    name: str
    action: Callable[[_Bench], str]
    server: str = "plain"
    needs: str = ""

    def missing(self, features: Features) -> str:
        if not self.needs or getattr(features, self.needs):
            return ""
        return f"the release has no {self.needs.replace('_', ' ')}"


def _run(check: _Check, bench: _Bench) -> tuple[CheckResult, FactoryError | None]:
    began = time.monotonic()
    error: FactoryError | None = None
    text = ""
    try:
        text = _act(check, bench)
    except FactoryError as fault:
        error = fault
    result = CheckResult(
        name=check.name, ok=error is None, seconds=time.monotonic() - began, text=error.what if error else text
    )
    return result, error


def _act(check: _Check, bench: _Bench) -> str:
    try:
        return check.action(bench)
    except ServingApiError as fault:
        what = f"The server gave no answer to the check {check.name}."
        raise bench.servers[check.server].fault(SmokeError, what, why=str(fault)) from fault


def _start(bench: _Bench) -> str:
    """Start both containers at once: the hardened one grows healthy while the other is checked."""
    folder = bench.stack.enter_context(
        tempfile.TemporaryDirectory(prefix="serving-factory-smoke-", dir=bench.plan.scratch)
    )
    bench.folders = prepare_models(bench.plan, Path(folder))
    for name, model, hardened in (
        ("plain", bench.folders.plain, False),
        ("hardened", bench.folders.hardened, True),
    ):
        container = bench.stack.enter_context(bench.engine.container(_spec(bench, model, hardened=hardened)))
        bench.servers[name] = checks.Server(container, bench.plan)
        bench.stack.callback(bench.servers[name].close)
    return "two containers, one of them hardened"


def _spec(bench: _Bench, model: Path, *, hardened: bool) -> ContainerSpec:
    plan = bench.plan
    return ContainerSpec(
        image=bench.image,
        environment=(("MODEL_NAME", plan.model_name),),
        ports=(checks.GRPC_PORT, checks.REST_PORT),
        mounts=(Mount(source=model, target=f"/models/{plan.model_name}"),),
        read_only=hardened,
        cap_drop=("ALL",) if hardened else (),
        user="12345" if hardened else None,
        security_opt=("no-new-privileges",) if hardened else (),
        health_interval=_HEALTH_INTERVAL,
        owner=plan.owner,
    )


def _predict_rest(bench: _Bench) -> str:
    bench.answers["REST"] = checks.predict_rest(bench.servers["plain"])
    return _arrow(bench.answers["REST"])


def _predict_grpc(bench: _Bench) -> str:
    bench.answers["gRPC"] = checks.predict_grpc(bench.servers["plain"])
    return _arrow(bench.answers["gRPC"])


def _predict_hardened(bench: _Bench) -> str:
    server = bench.servers["hardened"]
    if bench.plan.features.rest:
        checks.predict_rest(server)
    return _arrow(checks.predict_grpc(server))


def _arrow(answer: tuple[float, ...]) -> str:
    return f"{list(INPUTS)} -> {list(answer)}"


_CHECKS = (
    _Check("start", _start),
    _Check("ready", lambda bench: checks.check_ready(bench.servers["plain"])),
    _Check("predict-rest", _predict_rest, needs="rest"),
    _Check("predict-grpc", _predict_grpc),
    _Check("status", lambda bench: checks.check_status(bench.servers["plain"], bench.old_version)),
    _Check("metadata", lambda bench: checks.check_metadata(bench.servers["plain"], bench.old_version)),
    _Check("version-flag", lambda bench: checks.check_version_flag(bench.servers["plain"]), needs="version_flag"),
    _Check(
        "swap",
        lambda bench: checks.swap_versions(
            bench.servers["plain"], versions=bench.models.versions, place=bench.models.place_next
        ),
    ),
    _Check("stop", lambda bench: checks.check_stop(bench.servers["plain"])),
    _Check("hardened-ready", lambda bench: checks.check_ready(bench.servers["hardened"]), server="hardened"),
    _Check("hardened-predict", _predict_hardened, server="hardened"),
    _Check(
        "health-command",
        lambda bench: checks.check_health_command(bench.servers["hardened"]),
        server="hardened",
    ),
    _Check("healthy", lambda bench: checks.check_healthy(bench.servers["hardened"]), server="hardened"),
    _Check("hardened-stop", lambda bench: checks.check_stop(bench.servers["hardened"]), server="hardened"),
)


class CancellableEngine:
    """Passes everything on to an engine, unless the run is to end.

    The checks ask their containers something several times a second; so a cancelled run leaves them soon, by an
    exception, and the containers are removed on its way out.

    Args:
        engine: the engine.
        cancel: asks for the end.
    """

    def __init__(self, engine: ContainerEngine, cancel: Cancel) -> None:
        self._engine = engine
        self._cancel = cancel

    @contextmanager
    def container(self, spec: ContainerSpec, /) -> Iterator[RunningContainer]:
        """Start a container; removed on leaving.

        Raises:
            CancelledError: the run is to end.
        """
        self._cancel.check()
        with self._engine.container(spec) as container:
            yield _Container(container, self._cancel)


class _Container:
    """A container that raises CancelledError at whatever it is asked, once the run is to end."""

    def __init__(self, container: RunningContainer, cancel: Cancel) -> None:
        self._container = container
        self._cancel = cancel

    def port(self, container_port: int, /) -> int:
        self._cancel.check()
        return self._container.port(container_port)

    def logs(self, tail: int = 30) -> str:
        self._cancel.check()
        return self._container.logs(tail)

    def status(self) -> str:
        self._cancel.check()
        return self._container.status()

    def exit_code(self) -> int | None:
        self._cancel.check()
        return self._container.exit_code()

    def health(self) -> str | None:
        self._cancel.check()
        return self._container.health()

    def stop(self, timeout: int) -> float:
        self._cancel.check()
        return self._container.stop(timeout)

    def exec(self, argv: tuple[str, ...], /) -> tuple[int, str]:
        self._cancel.check()
        return self._container.exec(argv)
