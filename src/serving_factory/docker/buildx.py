"""`docker buildx build`: a request in, a result or a typed error out."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from serving_factory.docker import client, process
from serving_factory.docker.client import FREE_SOME_SPACE, START
from serving_factory.docker.process import Cancel
from serving_factory.docker.solve_status import SolveStatus, Step
from serving_factory.errors import (
    DiskFullError,
    DockerCommandError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
    os_errors_typed,
)

TAIL = 60  # lines of the failing step that an error carries; of Bazel's, half only show that it is at work
FIRST_WORD = 20.0  # seconds in which the engine says that it has begun
BUSY = 120.0  # the same of one that answers questions all the same
PARTIAL = ".partial-"
RUN_EXIT_CODE = re.compile(r"did not complete successfully: exit code: (\d+)")
NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
# An engine that was away for a moment answers again when asked: then only the client's own words are left. A step's
# output is never searched for these.
NO_ENGINE = re.compile(
    r"cannot connect to the docker daemon|error during connect|is the docker daemon running"
    r"|permission denied while trying to connect"
    r"|code = unavailable|error reading from server|transport is closing|client connection lost",
    re.IGNORECASE,
)
NO_BUILDX = re.compile(
    r"unknown flag: --progress|'buildx' is not a docker command|invalid progress mode", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build."""

    dockerfile: Path
    context: Path
    target: str | None = None
    build_args: tuple[tuple[str, str], ...] = ()
    # named contexts, such as `("source", "/src/serving")` or `("ubuntu:20.04", "docker-image://base:bookworm")`
    contexts: tuple[tuple[str, str], ...] = ()
    # ids and files of the secrets that the build's steps may mount; they are in no layer
    secrets: tuple[tuple[str, Path], ...] = ()
    network: Literal["none"] | None = None  # `none` for steps without one; None for the engine's usual one
    labels: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()  # image names with tags
    # folder for the result's files, replaced as a whole on success; None loads an image into the engine
    output: Path | None = None

    def argv(self, *, metadata: Path, output: Path | None = None) -> list[str]:
        """The command line; buildx writes what it built to `metadata`, and files to `output` if given."""
        program, options = (command := self.command(output))[:3], command[3:]
        return [*program, "--progress=rawjson", "--provenance=false", "--metadata-file", str(metadata), *options]

    def command(self, output: Path | None = None) -> list[str]:
        """The command line as a user would type it; the files go to `output` where that is given."""
        argv = ["docker", "buildx", "build", "--file", str(self.dockerfile)]
        if self.target is not None:
            argv += ["--target", self.target]
        for flag, pairs in (
            ("--build-arg", self.build_args),
            ("--build-context", self.contexts),
            ("--label", self.labels),
        ):
            for name, value in pairs:
                argv += [flag, f"{name}={value}"]
        for name, file in self.secrets:
            argv += ["--secret", csv_fields(f"id={name}", f"src={file}")]
        if self.network is not None:
            argv += ["--network", self.network]
        for tag in self.tags:
            argv += ["--tag", tag]
        folder = output or self.output
        argv += ["--load"] if folder is None else ["--output", csv_fields("type=local", f"dest={folder}")]
        return [*argv, str(self.context)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A build that succeeded."""

    # of the loaded image's configuration and of its manifest, `sha256:...`: one of them is its id in the engine, which
    # one the image store decides; empty with an output folder
    digests: tuple[str, ...]
    steps: int  # how many of the Dockerfile's instructions the result needed, without FROM
    cached: int  # how many of these were there already


class BuildFailed(Exception):  # noqa: N818  (an outcome that the stage turns into its own error)
    """The build ran and failed."""

    def __init__(self, *, step: str, tail: tuple[str, ...], exit_code: int, text: str) -> None:
        super().__init__(step or text)
        self.step = step
        self.tail = tail
        self.exit_code = exit_code
        self.text = text

    @property
    def place(self) -> str:
        """The failing step in a few letters, as its lines in the log begin."""
        return Step(name=self.step, kind="error").place


def build(
    request: BuildRequest, *, on_step: Callable[[Step], None], log: TextIO, cancel: Cancel | None = None
) -> BuildResult:
    """Build, with every line in `log`; BuildFailed where the Dockerfile or one of its commands fails."""
    status = SolveStatus(tail=TAIL)

    def handle(steps: list[Step]) -> None:
        for step in steps:
            _write(log, step)
            on_step(step)

    with os_errors_typed(), _scratch(request.output) as (metadata, partial):
        argv = request.argv(metadata=metadata, output=partial)
        try:
            code = _run(argv, lambda line: handle(status.feed(line)), cancel)
        except FileNotFoundError as error:
            raise client.docker_missing(error) from error
        except TimeoutError as error:
            raise client.unavailable(str(error)) from error
        handle(status.end())
        if code != 0:
            client.check_space(metadata.parent)
            raise _failure(status, code)
        digests: tuple[str, ...] = ()
        if partial is not None and request.output is not None:
            _replace(request.output, partial)
        else:
            found = json.loads(metadata.read_text(encoding="utf-8"))
            known = (found.get(f"containerimage.{one}") for one in ("config.digest", "digest"))
            digests = tuple(dict.fromkeys(filter(None, known)))
    return BuildResult(digests=digests, steps=status.steps, cached=status.cached)


def _run(argv: list[str], on_line: Callable[[str], None], cancel: Cancel | None) -> int:
    try:
        return process.run(argv, on_line=on_line, cancel=cancel, answer_within=FIRST_WORD)
    except TimeoutError:
        client.run_docker("version", timeout=client.ANSWER)
    return process.run(argv, on_line=on_line, cancel=cancel, answer_within=BUSY)


def csv_fields(*fields: str) -> str:
    """Join as buildx splits, so that a path may hold commas and quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _write(log: TextIO, step: Step) -> None:
    match step.kind:
        case "log":
            line = f"{step.place} {step.text}" if step.name else step.text
        case "started":
            line = step.name
        case "cached":
            line = f"{step.place} cached"
        case "done":
            line = f"{step.place} done in {step.seconds or 0:.1f} s"
        case "error":
            line = f"{step.place} failed: {step.text}"
    log.write(line + "\n")
    log.flush()


@contextlib.contextmanager
def _scratch(output: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """A path for buildx's metadata, and beside `output` a folder for its files; both are gone in the end."""
    if output is None:
        with tempfile.TemporaryDirectory(prefix="serving-factory-") as scratch:
            yield Path(scratch, "metadata"), None
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{glob.escape(output.name)}{PARTIAL}"
    for stray in output.parent.glob(f"{prefix}*"):  # a factory that was killed left it
        shutil.rmtree(stray, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}{PARTIAL}", dir=output.parent) as scratch:
        files = Path(scratch, "files")
        files.mkdir()
        yield Path(scratch, "metadata"), files


def _replace(output: Path, partial: Path) -> None:
    """Put `partial` in the place of `output`; what was there stays until the new folder is complete."""
    if not os.path.lexists(output):
        partial.rename(output)
        return
    old = partial.with_name("old")  # goes with the scratch folder
    output.rename(old)
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise


def _failure(status: SolveStatus, code: int) -> FactoryError | BuildFailed:
    failed = status.failed
    text = "\n".join(status.stray) or (failed.error if failed else "")
    tail = tuple(failed.tail) if failed else ()
    run = RUN_EXIT_CODE.search(failed.error if failed else "")
    # Where a command failed, the error quotes the command; what happened is in its output.
    if full := [line for line in (text.splitlines() if run is None else tail) if NO_SPACE.search(line)]:
        place = Step(name=failed.name, kind="error").place if run and failed else ""
        return DiskFullError(
            f"A disk is full: the Docker engine's, {f'in {place}' if place else 'or the one that the output goes to'}.",
            why="\n".join(full),
            remedy=f"{FREE_SOME_SPACE}; then run the same command again: finished stages are kept.",
        )
    found = None if run else _client_failure(text, code, begun=status.begun)
    return found or BuildFailed(
        step=failed.name if failed else "", tail=tail, exit_code=int(run.group(1)) if run else code, text=text
    )


def _client_failure(text: str, code: int, *, begun: bool) -> FactoryError | None:
    """What is wrong with the client or the engine, where no command of the Dockerfile failed."""
    if NO_BUILDX.search(text):
        return DockerCommandError(
            "docker has no buildx plugin, or one older than 0.13.",
            why=text,
            remedy="Run './factory setup', which installs it, or install docker-buildx 0.13 or later.",
        )
    lost = NO_ENGINE.search(text)
    try:
        client.check_settings()
        if not begun:
            client.check_writable()
            client.check_builder()
        if not lost:
            client.run_docker("version", timeout=client.ANSWER)
            return None
    except EngineUnavailableError as error:
        if isinstance(error, DockerCommandError) or not begun:
            return error
    if not begun:
        return client.docker_failed(code, text)
    return EngineLostError(
        "The Docker engine went away during the build.",
        why=text,
        remedy="See why it ended, in its own log ('journalctl -u docker'). "
        f"{START}, then run the same command again: finished work is kept.",
    )
