"""Runs the checks on two containers of an image, one of them hardened, and reports what they found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from serving_factory.docker.engine import ContainerSpec, Engine, Mount
from serving_factory.docker.process import Cancel
from serving_factory.errors import FactoryError, SmokeError
from serving_factory.smoke.answers import ServingApiError
from serving_factory.smoke.checks import CHECKS, Check
from serving_factory.smoke.plan import SmokePlan, prepare_models
from serving_factory.smoke.report import CheckResult, SmokeReport
from serving_factory.smoke.server import GRPC_PORT, MODEL, REST_PORT, Server


def run_checks(
    engine: Engine, image: str, *, plan: SmokePlan, cancel: Cancel, emit_check: Callable[[CheckResult], None]
) -> SmokeReport:
    """Run every check on an image; the first that fails ends the run. The containers are removed in every case."""
    # What a check raised is the report's `error`, and not raised here, so that the caller can write the report first.
    began = time.monotonic()
    run = _Run(emit_check)
    servers: dict[bool, Server] = {}
    try:
        with ExitStack() as stack:
            run.check("start", lambda: _start(servers, stack, engine, image, plan=plan, cancel=cancel))
            for check in CHECKS:
                if check.needs and not getattr(plan.server, check.needs):
                    run.skipped.append((check.name, f"the release has no {check.needs.replace('_', ' ')}"))
                else:
                    run.check(check.name, partial(_act, check, servers))
    except FactoryError as fault:
        # Leaving the block removes the containers; an engine that went away says so a second time here.
        run.error = run.error or fault
    return SmokeReport(
        variant=plan.variant,
        image=image,
        seconds=time.monotonic() - began,
        checks=tuple(run.results),
        skipped=tuple(run.skipped),
        answers=dict(servers[False].answers) if servers else {},
        error=run.error,
    )


class _Run:
    """The results so far; once a check has failed, the others are skipped."""

    def __init__(self, emit_check: Callable[[CheckResult], None]) -> None:
        self.results: list[CheckResult] = []
        self.skipped: list[tuple[str, str]] = []
        self.error: FactoryError | None = None
        self._emit_check = emit_check

    def check(self, name: str, action: Callable[[], str]) -> None:
        if self.error:
            self.skipped.append((name, f"not reached: {self.results[-1].name} failed"))
            return
        began = time.monotonic()
        try:
            text = action()
        except FactoryError as error:
            self.error, text = error, error.what
        seconds = time.monotonic() - began
        self.results.append(CheckResult(name=name, ok=self.error is None, seconds=seconds, text=text))
        self._emit_check(self.results[-1])


def _start(
    servers: dict[bool, Server], stack: ExitStack, engine: Engine, image: str, *, plan: SmokePlan, cancel: Cancel
) -> str:
    """Start both containers at once: the hardened one grows healthy while the other is checked."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-factory-smoke-", dir=plan.scratch))
    models = prepare_models(plan, Path(folder))
    for hardened, model in ((False, models.plain), (True, models.hardened)):
        cancel.check()
        spec = ContainerSpec(
            image=image,
            environment=(("MODEL_NAME", MODEL),),
            ports=(GRPC_PORT, REST_PORT),
            mounts=(Mount(source=model, target=f"/models/{MODEL}"),),
            read_only=hardened,
            cap_drop=("ALL",) if hardened else (),
            user="12345" if hardened else None,
            security_opt=("no-new-privileges",) if hardened else (),
            health_interval=1.0,  # the image's own is made for months of running, not for a wait for the first answer
            owner=plan.owner,
        )
        servers[hardened] = Server(stack.enter_context(engine.container(spec)), plan, models, cancel)
        stack.callback(servers[hardened].close)
    return "two containers, one of them hardened"


def _act(check: Check, servers: dict[bool, Server]) -> str:
    server = servers[check.hardened]
    try:
        text = check.run(server)
    except ServingApiError as fault:
        server.require_running(check.name)
        what = f"The server gave no answer to the check {check.name}."
        raise server.fault(SmokeError, what, why=str(fault)) from fault
    if not server.stopped:
        server.require_running(check.name)
    return text
