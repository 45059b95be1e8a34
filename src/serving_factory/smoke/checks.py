"""What a runtime image has to prove, one function per check, and the table of them.

A check looks at one running server and returns what it saw as a short text; else it raises what is wrong.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from serving_factory.catalogue.libraries import DRIVERS
from serving_factory.docker.process import BY_SIGNAL, exit_text
from serving_factory.errors import (
    CpuLevelError,
    EngineError,
    FactoryError,
    LevelDiffersError,
    LibraryMissingError,
    ServerNotReadyError,
    ServerStopError,
    SmokeError,
    WrongAnswerError,
)
from serving_factory.smoke.answers import ModelMetadata, ServerUnavailableError, ServingApiError, VersionStatus
from serving_factory.smoke.emulate import (
    DEATH_LIMIT,
    SERVER,
    Emulated,
    EmulationPlan,
    emulated,
    lacked_instructions,
)
from serving_factory.smoke.gpu import REPEATS, WAYS, Way
from serving_factory.smoke.server import (
    GRPC_PORT,
    INPUTS,
    MODEL,
    OLD_ANSWER,
    REST_PORT,
    RunningServer,
    Server,
    close_to,
)
from serving_factory.smoke.swap import check_swap

if TYPE_CHECKING:
    from serving_factory.docker.engine import Ran
    from serving_factory.smoke.plan import SmokePlan

BINARY = "/usr/bin/tensorflow_model_server"
HEALTH = "/usr/bin/tf_serving_health"
# A library to preload is looked for by the loader as one to open is, with all that it is linked to. Nothing is run.
_LOOK = 'LD_TRACE_LOADED_OBJECTS=1 LD_PRELOAD="$*" exec /bin/sh'
_FOUND = re.compile(r"^\s*(\S+) => (/|not found)", re.MULTILINE)
CPU_REFUSED = 78
_VERSION_LINE = "TensorFlow ModelServer: "
STOP_LIMIT = 2.0  # seconds
LEAST_UPTIME = 2.5  # seconds that the hardened server is watched at least: one that dies soon must not pass
_KILLED = BY_SIGNAL + signal.SIGKILL
_STOPPED = (0, BY_SIGNAL + signal.SIGTERM)
_POLL = 0.1
_WHOLE_LOG = 10_000  # lines
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `hardened` names the server that it looks at, `needs` what the release must have for it."""

    name: str
    run: Callable[[Server], str]
    hardened: bool = False
    needs: str = ""
    opens: bool = False  # it is for servers that open libraries
    emulated: bool = False  # the server is its own, hardened, and on an emulated CPU
    way: Way | None = None  # the server is its own, hardened, and serves in this way; of gpu images alone


def check_ready(server: RunningServer) -> str:
    """Wait until the model is AVAILABLE; raises CpuLevelError, ServerNotReadyError."""
    began = time.monotonic()
    last = "nothing was asked yet"
    while True:
        if server.exited():
            raise _early_end(server)
        statuses: Sequence[VersionStatus] = ()
        try:
            statuses = _poll_ready(server)
            last = _spell(statuses) or f"no version of {server.model} is known"
        except ServingApiError as fault:
            last = str(fault)
        except EngineError:
            if not server.exited():
                raise
            # It ended after the look above, and its ports with it.
            continue
        seconds = time.monotonic() - began
        if any(item.available for item in statuses):
            return f"available after {seconds:.2f} s"
        if any(item.state == "END" and item.error for item in statuses):
            raise server.fault(ServerNotReadyError, f"The server could not load {server.model}.", why=last)
        if seconds > server.patience:
            raise server.fault(
                ServerNotReadyError,
                f"The server did not become ready within {server.patience:g} s.",
                why=f"Last answer: {last}",
                remedy="Read in the log what the server waits for. Fix that, and run the same command again.",
            )
        time.sleep(_POLL)


def _poll_ready(server: RunningServer) -> Sequence[VersionStatus]:
    """Ask for the status over REST where the release has it, else over gRPC."""
    if server.facts.model_status:
        return server.rest.model_status(server.model)
    statuses = server.grpc.model_status(server.model)
    if isinstance(server, Server) and server.facts.rest and statuses and server.model == MODEL:
        # These releases open REST after gRPC: ready is when both answer.
        server.rest.predict(MODEL, INPUTS)
    return statuses


def _early_end(server: RunningServer) -> FactoryError:
    if server.container.exit_code() == CPU_REFUSED:
        said = " ".join(server.log().split()).removeprefix("tensorflow_model_server: ")
        return CpuLevelError(
            f"The image refuses this machine's CPU: {said}",
            remedy="Run this variant's smoke stage on a machine with that CPU, or build a lower level here.",
        )
    return server.fault(ServerNotReadyError, "The container ended before the server was ready.")


def check_libraries(server: Server) -> str:
    """Have the image's loader look for what the server opens while it runs; raises LibraryMissingError."""
    ran = _inside(server, "sh", "-c", _LOOK, "sh", *server.plan.opened)
    output = f"{ran.out}{ran.err}"
    looked_for = dict(_FOUND.findall(output))
    missing = [soname for soname in server.plan.opened if soname not in looked_for]
    missing += [soname for soname, where in looked_for.items() if where != "/" and not soname.startswith(DRIVERS)]
    if missing:
        raise server.fault(
            LibraryMissingError,
            f"The image lacks libraries that the server opens while it runs: {', '.join(missing)}.",
            why=f"Its loader says:\n{output.strip()}",
            remedy="Add them to the runtime image: catalogue/data/opened_libraries.yaml says which are looked for.",
        )
    return f"the loader finds all {len(server.plan.opened)}"


def check_predict(server: Server, *protocols: str) -> str:
    """Predict over these protocols, else over each that the release has; WrongAnswerError when y is not 0.5 x + 2."""
    got: Sequence[float] = ()
    for protocol in protocols or (("REST", "gRPC") if server.plan.server.rest else ("gRPC",)):
        got = (server.rest if protocol == "REST" else server.grpc).predict(MODEL, INPUTS)
        if not close_to(got, OLD_ANSWER):
            raise server.fault(
                WrongAnswerError,
                f"The server answered {MODEL} wrongly over {protocol}.",
                why=f"Sent {list(INPUTS)}, got {got}, expected {list(OLD_ANSWER)}.",
            )
        server.answers[protocol] = tuple(got)
    return f"{list(INPUTS)} -> {got}"


def check_status(server: Server) -> str:
    """Compare the model's status over both protocols: the old version, AVAILABLE, no error."""
    version = server.models.versions[0]
    answers = {"gRPC": server.grpc.model_status(MODEL)}
    if server.plan.server.model_status:
        answers["REST"] = server.rest.model_status(MODEL)
    for protocol, statuses in answers.items():
        if not any(item.version == version and item.available for item in statuses):
            raise server.fault(
                WrongAnswerError,
                f"The model's status over {protocol} is not version {version} AVAILABLE.",
                why=f"Got: {_spell(statuses) or 'no version'}.",
            )
    return f"version {version} AVAILABLE over {' and '.join(answers)}"


def check_metadata(server: Server) -> str:
    """Compare the model's metadata over both protocols: the signature serving_default, x to y, as floats."""
    answers = {"gRPC": server.grpc.metadata(MODEL)}
    if server.plan.server.model_status:
        answers["REST"] = server.rest.metadata(MODEL)
    for protocol, metadata in answers.items():
        problem = _metadata_problem(metadata, server.models.versions[0])
        if problem:
            raise server.fault(
                WrongAnswerError, f"The model's metadata over {protocol} is wrong: {problem}.", why=f"Got: {metadata}"
            )
    return f"serving_default x -> y over {' and '.join(answers)}"


def _metadata_problem(metadata: ModelMetadata, version: int) -> str:
    if metadata.version != version:
        return f"version {metadata.version} instead of {version}"
    signature = metadata.signatures.get("serving_default")
    if signature is None:
        return "no signature serving_default"
    wrong = [
        name for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")) if tensors.get(name) != "DT_FLOAT"
    ]
    return f"serving_default has no {wrong[0]} of type DT_FLOAT" if wrong else ""


def check_version_flag(server: Server) -> str:
    """Run the binary inside the container with --version, and compare that with the release."""
    expected = server.plan.reported_version
    ran = _inside(server, BINARY, "--version")
    if ran.code != 0:
        why = f"{ran.out}{ran.err}".strip()
        raise server.fault(SmokeError, f"{BINARY} --version ended with exit code {ran.code}.", why=why)
    # Libraries may print lines of their own when they are loaded, TensorFlow's on stderr and others anywhere.
    lines = [line.partition(_VERSION_LINE) for line in ran.out.splitlines()]
    reported = next((rest.strip() for before, found, rest in lines if found and not before), "")
    # 2.19.1 is not the beginning of 2.19.10.
    if not reported.startswith(expected) or (expected and reported.removeprefix(expected)[:1].isdigit()):
        raise server.fault(
            WrongAnswerError,
            f"The server in the image is not release {expected}.",
            why=f"{BINARY} --version says: {ran.out.strip() or '(nothing)'}",
            remedy="Compile the variant again; its sources are not those of its release.",
        )
    return reported


def check_health_command(server: Server) -> str:
    """Run the image's health check by hand, so that its own words are seen when it fails."""
    ran = _inside(server, HEALTH)
    output = f"{ran.out}{ran.err}".strip()
    if ran.code != 0:
        raise server.fault(
            SmokeError,
            f"The image's health check failed with exit code {ran.code} although the server answers.",
            why=f"{HEALTH} says: {output or '(nothing)'}",
        )
    return output or "exit code 0"


def check_healthy(server: RunningServer) -> str:
    """Wait until Docker calls the container healthy, and until it has run for a while."""
    began = time.monotonic()
    while True:
        health = server.container.health()
        seconds = time.monotonic() - began
        if health == "healthy" and server.uptime() >= LEAST_UPTIME:
            return f"healthy, and running for {server.uptime():.1f} s"
        if health is None:
            raise server.fault(SmokeError, "The image has no health check.", remedy="Package the variant again.")
        server.require_running("healthy")
        if health == "unhealthy" or (health != "healthy" and seconds > server.health_timeout):
            raise server.fault(
                SmokeError,
                f"Docker does not call the container healthy, but {health}, after {seconds:.1f} s.",
                remedy="Run the image by hand: `docker inspect CONTAINER` shows what its health check printed.",
            )
        time.sleep(_POLL)


def check_stop(server: RunningServer) -> str:
    """Stop the container as `docker stop` does; raises SmokeError, ServerStopError."""
    server.require_running("stop")
    server.close()
    server.stopped = True
    seconds = server.container.stop(timeout=int(STOP_LIMIT) + 1)
    code = server.container.exit_code()
    if seconds >= STOP_LIMIT or code == _KILLED:
        killed = " and had to be killed" if code == _KILLED else ""
        raise server.fault(
            ServerStopError,
            f"The container took {seconds:.2f} s to stop{killed}; the limit is {STOP_LIMIT:g} s.",
            remedy="The init must pass SIGTERM on to the server, and be process 1 of the image.",
        )
    if code not in _STOPPED:
        raise server.fault(
            ServerStopError,
            f"Asked to stop, the server ended with {exit_text(code)}; "
            f"expected {' or '.join(map(exit_text, _STOPPED))}.",
            remedy="Read in the log how the server ended: it crashed at, or just before, its end.",
        )
    return f"stopped in {seconds:.2f} s, exit code {code}"


def check_emulated(server: Server) -> str:
    """Serve on an emulated CPU of exactly the image's level; refuse, and then die, on one of the level below."""
    plan = server.plan.emulation
    if plan is None:
        return ""
    # What ends at once goes first: meanwhile the emulated server starts.
    ended = _end_on_lower(server, plan) if plan.lower else None
    ready = _serve_emulated(server, plan) if plan.cpu else None
    server.emulated = Emulated(
        qemu=plan.emulator.version,
        cpu=plan.cpu or None,
        ready=ready,
        lower_cpu=plan.lower_cpu or None,
        ended=ended,
    )
    seen = f"not served on {plan.level}: {plan.no_cpu}" if ready is None else f"served on {plan.level} after {ready} s"
    if ended is not None:
        seen += f"; on {plan.lower} refused with {CPU_REFUSED}, and without the launcher ended with {exit_text(ended)}"
    return seen


def _end_on_lower(server: Server, plan: EmulationPlan) -> int | None:
    """Have launcher and server end on a CPU of the level below; the server's exit code."""
    try:
        _refuse_lower(server, plan)
        return _die_lower(server, plan)
    except EngineError:
        # Nothing can be run in a container that has ended, and of what that died is found out next.
        if server.exited() and plan.cpu:
            return None
        raise


def _serve_emulated(server: Server, plan: EmulationPlan) -> float:
    """Have it answer on the CPU of its level; the seconds until it was ready. Raises LevelDiffersError."""
    where = f"On an emulated CPU of exactly {plan.level} (qemu {plan.emulator.version}, -cpu {plan.cpu})"
    try:
        check_ready(server)
        ready = round(server.uptime(), 2)
        check_predict(server)
    except (FactoryError, ServingApiError) as error:
        if server.exited() and lacked_instructions(server.container.exit_code(), server.log()):
            raise server.fault(
                LevelDiffersError,
                f"{where} the server died of an instruction that this level does not have.",
                remedy="Find the flag that lets the code above the level, as for `inspect`'s rule level-kept: look "
                "in the compile log for -march and -m flags. Then compile the variant again.",
            ) from error
        if isinstance(error, FactoryError):
            raise type(error)(f"{where}: {error.what}", why=error.why, remedy=error.remedy) from error
        raise
    return ready


def _refuse_lower(server: Server, plan: EmulationPlan) -> None:
    """Have the launcher see a CPU of the level below, by the /proc/cpuinfo that this container was given."""
    ran = _inside(server, BINARY, "--version")
    if ran.code != CPU_REFUSED:
        raise server.fault(
            SmokeError,
            f"The launcher does not refuse a CPU of {plan.lower}: it ended with {exit_text(ran.code)}, "
            f"expected {CPU_REFUSED}.",
            why=f"{ran.out}{ran.err}".strip(),
            remedy="CPU_FLAGS in the image's /usr/share/serving-factory/image.env is what it asks for. Package again.",
        )


def _die_lower(server: Server, plan: EmulationPlan) -> int:
    """Start the server itself on the CPU of the level below, which it must not survive; its exit code."""
    command = emulated(plan.lower_cpu, SERVER, *server_flags(server.plan, free_ports=True))
    where = f"on an emulated CPU of {plan.lower} (qemu {plan.emulator.version}, -cpu {plan.lower_cpu})"
    remedy = (
        "See that the level's --copt flags reached the compiler (bazel build --subcommands), as for `inspect`'s rule "
        "level-used. `--emulate never` leaves this check out."
    )
    try:
        ran = server.container.exec(command, timeout=DEATH_LIMIT)
    except TimeoutError as error:
        what = f"The server of {plan.level} still ran after {DEATH_LIMIT:g} s {where}: it must die there."
        raise server.fault(LevelDiffersError, what, remedy=remedy) from error
    if not lacked_instructions(ran.code, f"{ran.out}{ran.err}"):
        what = f"The server of {plan.level} ended with {exit_text(ran.code)} {where}, and not of a missing instruction."
        raise server.fault(LevelDiffersError, what, why=f"{ran.out}{ran.err}".strip(), remedy=remedy)
    return ran.code


def server_flags(plan: SmokePlan, *, free_ports: bool = False) -> tuple[str, ...]:
    """The flags of a server without the entrypoint script; a second one in its container needs free ports."""
    grpc, rest = (port + 10 * free_ports for port in (GRPC_PORT, REST_PORT))
    rest_flag = (f"--rest_api_port={rest}",) if plan.server.rest else ()
    return (f"--port={grpc}", *rest_flag, f"--model_name={MODEL}", f"--model_base_path=/models/{MODEL}")


def check_way(way: Way, server: Server) -> str:
    """Ask over gRPC what a way is asked; raises as `Trial.verify`, with the container's log."""
    trial, question = server.trial, server.trial.question(way)
    check_ready(server)
    ready = server.uptime()
    answer, first = first_answer(server, lambda: server.grpc.predict_rows(question.model, question.rows))
    began = time.monotonic()
    for _ in range(REPEATS):
        server.grpc.predict_rows(question.model, question.rows)
    later = (time.monotonic() - began) / REPEATS
    try:
        served = trial.verify(way, server.log(_WHOLE_LOG), answer, seconds=(ready, first, later))
    except FactoryError as error:
        raise server.fault(type(error), error.what, why=error.why, remedy=error.remedy) from error
    return f"{trial.gpu}: {served}" if trial.gpu else str(served)


def first_answer(server: RunningServer, ask: Callable[[], _Answer]) -> tuple[_Answer, float]:
    """Ask until the answer comes, and give the seconds: meanwhile a driver may translate for a long time."""
    began = time.monotonic()
    while True:
        try:
            return ask(), time.monotonic() - began
        except ServerUnavailableError:
            server.require_running("first answer")
            if time.monotonic() - began > server.patience:
                raise
            time.sleep(_POLL)


def _inside(server: Server, *argv: str) -> Ran:
    try:
        return server.container.exec(argv)
    except TimeoutError as error:
        raise server.fault(SmokeError, "A command inside the container did not end.", why=str(error)) from error


def _spell(statuses: Sequence[VersionStatus]) -> str:
    return ", ".join(map(str, statuses))


# In their order, after the check `start`, which starts the containers
CHECKS = (
    Check("ready", check_ready),
    Check("libraries", check_libraries, opens=True),
    Check("predict-rest", lambda server: check_predict(server, "REST"), needs="rest"),
    Check("predict-grpc", lambda server: check_predict(server, "gRPC")),
    Check("status", check_status),
    Check("metadata", check_metadata),
    Check("version-flag", check_version_flag, needs="version_flag"),
    Check("swap", check_swap),
    Check("stop", check_stop),
    # Here the hardened server grows old enough meanwhile
    Check("emulated", check_emulated, emulated=True),
    Check("hardened-ready", check_ready, hardened=True),
    Check("hardened-predict", check_predict, hardened=True),
    Check("health-command", check_health_command, hardened=True),
    Check("healthy", check_healthy, hardened=True),
    Check("hardened-stop", check_stop, hardened=True),
    # One server after the other, for TensorFlow takes all memory of a GPU
    *(Check(way.check, partial(check_way, way), way=way) for way in WAYS),
)
