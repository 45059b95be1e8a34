"""Runs the checks on containers of an image, hardened ones among them, and reports what they found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from serving_factory.docker.engine import ContainerSpec, Engine, Mount
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.errors import EngineError, FactoryError, GpuMissingError, SmokeError
from serving_factory.smoke.answers import ServingApiError
from serving_factory.smoke.checks import BINARY, CHECKS, Check, server_flags
from serving_factory.smoke.emulate import CPUINFO, EMULATOR, INIT, SERVER, Emulated, emulated, write_cpuinfo
from serving_factory.smoke.gpu import OnGpu, Trial, Way
from serving_factory.smoke.plan import ModelFolders, SmokePlan, prepare_models
from serving_factory.smoke.report import CheckResult, SmokeReport
from serving_factory.smoke.server import GRPC_PORT, MODEL, REST_PORT, RunningServer, Server

_ServerT = TypeVar("_ServerT", bound=RunningServer)


def run_checks(
    engine: Engine,
    image: str,
    *,
    plan: SmokePlan,
    cancel: Cancel,
    emit_check: Callable[[CheckResult], None],
    emit_note: Callable[[str], None] = lambda _text: None,
) -> SmokeReport:
    """Run every check on an image; the first that fails ends the run. The containers are removed in every case."""
    # What a check raised is the report's `error`, and not raised here, so that the caller can write the report first.
    began = time.monotonic()
    run, subject = _Run(emit_check), _Subject(engine, image, plan, cancel)
    servers: dict[bool, Server] = {}
    try:
        with ExitStack() as stack:
            run.check("start", lambda: _start(servers, stack, subject))
            for check in CHECKS:
                if not _concerns(check, plan):
                    continue
                if reason := _why_skipped(check, subject):
                    run.skipped.append((check.name, reason))
                elif check.emulated:
                    run.check(check.name, partial(_serve, check, subject))
                elif check.way:
                    if check.way.note and not run.error:
                        emit_note(f"{check.name}: {check.way.note}")
                    run.check(check.name, partial(_serve, check, subject))
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
        gpu=subject.on_gpu(),
        emulated=subject.emulated,
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


class _Subject:
    """The image, and how servers of it are started; `models` and `folder` are set at the start."""

    models: ModelFolders
    folder: Path
    emulated: Emulated | None = None

    def __init__(self, engine: Engine, image: str, plan: SmokePlan, cancel: Cancel) -> None:
        self.plan = plan
        self.trial = Trial(code=plan.gpu.code if plan.gpu else (), library=bool(plan.gpu and plan.gpu.library))
        self._engine = engine
        self._image = image
        self._cancel = cancel

    @contextmanager
    def server(self, *, hardened: bool, way: Way | None = None, on_emulated: bool = False) -> Iterator[Server]:
        """Run a server for as long as the block lasts, on a GPU where the way says so, or on an emulated CPU."""
        self._cancel.check()
        plan, models = self.plan, self.models
        model = self.trial.question(way).model if way else MODEL
        environment = {"MODEL_NAME": model, **(way.environment if way else {})}
        access = plan.gpu.access if plan.gpu and way and way.on_gpu else None
        if (plan.gpu or plan.no_gpu) and not access:
            # An engine whose default runtime is NVIDIA's gives GPUs to all whose environment does not say `void`.
            environment["NVIDIA_VISIBLE_DEVICES"] = "void"
        folder = models.on_gpu[model] if way else models.hardened if hardened else models.plain
        # What an image promises must hold without its entrypoint script too: the hardened server has none.
        bare = hardened and not way
        entrypoint, command = ((BINARY,), server_flags(plan)) if bare else (None, ())
        if on_emulated and plan.emulation:
            # The init, and not the launcher, which would start the server on this machine's own CPU.
            entrypoint, command = (INIT,), emulated(plan.emulation.cpu, SERVER, *command)
        spec = ContainerSpec(
            image=self._image,
            entrypoint=entrypoint,
            command=command,
            environment=tuple(environment.items()),
            ports=(GRPC_PORT, REST_PORT),
            mounts=(Mount(folder, f"/models/{model}"), *(self._emulation() if on_emulated else ())),
            read_only=hardened,
            cap_drop=("ALL",) if hardened else (),
            user="12345" if hardened else None,
            security_opt=("no-new-privileges",) if hardened else (),
            gpu=access,
            health_interval=1.0,  # the image's own is made for months of running, not for a wait for the first answer
            owner=plan.owner,
        )
        with ExitStack() as stack:
            try:
                container = stack.enter_context(self._engine.container(spec))
            except EngineError as error:
                if access:
                    raise _refusal(error, access) from error
                raise
            server = Server(container, plan, models, self._cancel, trial=self.trial, way=way, on_emulated=on_emulated)
            stack.callback(server.close)
            yield server

    def _emulation(self) -> tuple[Mount, ...]:
        plan = self.plan.emulation
        if plan is None:
            return ()
        return Mount(plan.emulator.path, EMULATOR), Mount(write_cpuinfo(plan, self.folder), CPUINFO)

    def on_gpu(self) -> OnGpu | None:
        """What it did on a GPU; None where it computed on none."""
        gpu, plan = self.trial.gpu, self.plan.gpu
        if gpu is None or plan is None:
            return None
        return OnGpu(gpu.name, gpu.capability, plan.access.value, plan.driver, tuple(self.trial.served))


def _refusal(error: EngineError, access: GpuAccess) -> GpuMissingError:
    return GpuMissingError(
        "The engine says that it can give containers a GPU, and could not.",
        why="\n".join(filter(None, (error.what, error.why))),
        remedy=f"Try it: docker run --rm {access} IMAGE. `--gpu never` tries the image without a GPU.",
    )


def _concerns(check: Check, plan: SmokePlan) -> bool:
    """Whether a check is for such an image at all."""
    if check.way:
        return bool(plan.gpu or plan.no_gpu)
    if check.emulated:
        return bool(plan.emulation or plan.no_emulation)
    return not check.opens or bool(plan.opened)


def _why_skipped(check: Check, subject: _Subject) -> str:
    """Why a check says nothing of this image; empty if it does."""
    if check.emulated:
        return subject.plan.no_emulation
    if check.way:
        return subject.plan.no_gpu or subject.trial.why_not(check.way)
    if check.needs and not getattr(subject.plan.server, check.needs):
        return f"the release has no {check.needs.replace('_', ' ')}"
    return ""


def _start(servers: dict[bool, Server], stack: ExitStack, subject: _Subject) -> str:
    """Start both containers at once: the hardened one grows healthy while the other is checked."""
    scratch = subject.plan.scratch
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-factory-smoke-", dir=scratch))
    subject.folder = Path(folder)
    subject.models = prepare_models(subject.plan, subject.folder)
    for hardened in (False, True):
        servers[hardened] = stack.enter_context(subject.server(hardened=hardened))
    return "two containers, one of them hardened and without the entrypoint script"


def _serve(check: Check, subject: _Subject) -> str:
    """Run a check on a server of its own."""
    with subject.server(hardened=True, way=check.way, on_emulated=check.emulated) as server:
        text = look(check.name, check.run, server)
        subject.emulated = server.emulated or subject.emulated
        return text


def _act(check: Check, servers: dict[bool, Server]) -> str:
    return look(check.name, check.run, servers[check.hardened])


def look(name: str, run: Callable[[_ServerT], str], server: _ServerT) -> str:
    """Run a check on a server, which must not have ended by then; no answer becomes a SmokeError."""
    try:
        text = run(server)
    except ServingApiError as fault:
        server.require_running(name)
        what = f"The server gave no answer to the check {name}."
        raise server.fault(SmokeError, what, why=str(fault)) from fault
    if not server.stopped:
        server.require_running(name)
    return text
