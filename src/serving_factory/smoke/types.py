"""The model folders that a smoke run serves: copies of its own, readable by every user of a container."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from serving_factory.errors import SmokeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from serving_factory.docker.containers import ContainerSpec
    from serving_factory.errors import FactoryError


class RunningContainer(Protocol):
    """What the checks use of `engine.docker.Container`."""

    def port(self, container_port: int, /) -> int:
        """The port of 127.0.0.1 that a container's port is published on."""

    def logs(self, tail: int = 30) -> str:
        """The last lines of its output."""

    def status(self) -> str:
        """`running`, `exited` and so on."""

    def exit_code(self) -> int | None:
        """Its exit code, None while it runs."""

    def health(self) -> str | None:
        """`starting`, `healthy`, `unhealthy`; None when the image has no health check."""

    def stop(self, timeout: int) -> float:
        """Stop it as `docker stop` does; seconds it took."""

    def exec(self, argv: tuple[str, ...], /) -> tuple[int, str]:
        """Run a command in it; exit code and output."""


class ContainerEngine(Protocol):
    """What the checks use of `engine.docker.Engine`."""

    def container(self, spec: ContainerSpec, /) -> AbstractContextManager[RunningContainer]:
        """Start a container; removed on leaving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the release's server can do, as far as a check depends on it.

    Args:
        rest: `--rest_api_port` exists (1.8.0 and later).
        model_status: REST answers `GET /v1/models/NAME` and `/metadata` (1.12.0 and later).
        version_flag: `--version` exists (1.10.0 and later).
    """

    rest: bool = True
    model_status: bool = True
    version_flag: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokePlan:
    """How one image is to be checked.

    Args:
        variant: the variant's id, for the report.
        model: folder with one version folder, a half_plus_two (y = 0.5 x + 2).
        next_model: folder with one higher version folder, y = 0.5 x + 3: what the swap brings in.
        reported_version: what `--version` must begin with, such as `2.19.1`.
        scratch: an existing folder for copies of the models, which containers mount; None for the system's own.
        model_name: the name it is served under.
        features: what the release can do.
        health_command: the image's health check, run by hand once so that its own words are seen.
        owner: owner label of the containers started.
        ready_timeout: seconds from start to AVAILABLE.
        health_timeout: seconds from the other checks' end to Docker's "healthy".
        swap_timeout: seconds from a version's appearance to its answers, and again to the old version's end.
        stop_limit: seconds that `docker stop` may take.
    """

    variant: str
    model: Path
    next_model: Path
    reported_version: str
    scratch: Path | None = None
    model_name: str = "half_plus_two"
    features: Features = field(default_factory=Features)
    health_command: tuple[str, ...] = ("/usr/bin/tf_serving_health.sh",)
    owner: str = "factory"
    ready_timeout: float = 60.0
    health_timeout: float = 60.0
    swap_timeout: float = 15.0
    stop_limit: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check that ran: whether it held, how long it took, and what was seen or what failed."""

    name: str
    ok: bool
    seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeReport:
    """What a smoke run found; complete whether or not a check failed.

    Args:
        variant: the variant's id.
        image: the image that was run.
        seconds: how long the whole run took.
        checks: the checks that ran, in their order; only the last can have failed.
        skipped: the checks that did not run, by name, with the reason.
        answers: the predictions for [1.0, 2.0, 5.0] by protocol, `REST` and `gRPC`, where asked.
        error: what the failing check raised; the caller raises it after writing its files.
    """

    variant: str
    image: str
    seconds: float
    checks: tuple[CheckResult, ...]
    skipped: tuple[tuple[str, str], ...]
    answers: Mapping[str, tuple[float, ...]]
    error: FactoryError | None = None


if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolders:
    """Where the copies lie.

    Args:
        plain: served by the first container; the swap changes it.
        hardened: served by the second container.
        waiting: the next version, complete, on the same file system and out of the server's sight.
        versions: numbers of the old and the next version.
    """

    plain: Path
    hardened: Path
    waiting: Path
    versions: tuple[int, int]

    def place_next(self) -> None:
        """Let the next version appear beside the old one; a rename, so that no half of it is ever seen."""
        self.waiting.rename(self.plain / self.waiting.name)


def prepare_models(plan: SmokePlan, folder: Path) -> ModelFolders:
    """Copy the plan's models under `folder`.

    Raises:
        SmokeError: a model is missing, or its next version is not the higher one.
    """
    old, new = _version_folder(plan.model), _version_folder(plan.next_model)
    if int(new.name) <= int(old.name):
        raise SmokeError(f"The next version, {new}, has no higher number than {old}.")
    plain, hardened, waiting = folder / "plain", folder / "hardened", folder / "waiting" / new.name
    for source, target in ((old, plain / old.name), (old, hardened / old.name), (new, waiting)):
        shutil.copytree(source, target)
    _open_to_all(folder)
    return ModelFolders(plain=plain, hardened=hardened, waiting=waiting, versions=(int(old.name), int(new.name)))


def _version_folder(model: Path) -> Path:
    versions = [path for path in model.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise SmokeError(
            f"{model} holds no version of a model.",
            remedy="Give a folder with a numbered folder in it, such as half_plus_two/00000123.",
        )
    return max(versions, key=lambda path: int(path.name))


def _open_to_all(folder: Path) -> None:
    """Whatever the umask: the server in the container is another user, and neither owner nor group."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
