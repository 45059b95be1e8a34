"""What a smoke run is to check, and the models that it serves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.facts import ServerFacts
from serving_factory.docker.host import GpuAccess
from serving_factory.errors import SmokeError
from serving_factory.smoke.emulate import EmulationPlan
from serving_factory.smoke.gpu import DENSE, HALF_PLUS_TWO


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """How to check one gpu image on a GPU."""

    access: GpuAccess  # how the engine gives it
    driver: str | None  # this machine's; None where it is not known
    model: Path  # folder of the model `dense`
    code: tuple[str, ...]  # the binary's device code, `sm_80` and `compute_90`
    library: bool  # whether cuBLAS computes MatMul, and not the server's own device code


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokePlan:
    """How to check one image."""

    variant: str  # the variant's id, for the report
    model: Path  # folder with one version folder, a half_plus_two (y = 0.5 x + 2)
    next_model: Path  # folder with one higher version folder, y = 0.5 x + 3: what the swap brings in
    reported_version: str  # what `--version` must begin with, such as `2.19.1`
    server: ServerFacts  # what the release's server can do
    scratch: Path  # an existing folder for copies of the models, which containers mount
    owner: str  # owner label of the containers started
    opened: tuple[str, ...] = ()  # the sonames that the server opens while it runs
    gpu: GpuPlan | None = None  # None where the image is not to be tried on a GPU
    no_gpu: str = ""  # why not; empty where it is no gpu image
    emulation: EmulationPlan | None = None  # None where the image is not to be tried on emulated CPUs
    no_emulation: str = ""  # why not
    ready_timeout: float = 60.0  # seconds from start to AVAILABLE
    health_timeout: float = 60.0  # seconds from the other checks' end to Docker's "healthy"
    swap_timeout: float = 15.0  # seconds from a version's appearance to its answers, and again to the old version's end


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolders:
    """Copies of the models, readable by every user of a container."""

    plain: Path  # served by the first container; the swap changes it
    hardened: Path  # served by the second container
    waiting: Path  # the next version, complete, on the same file system and out of the server's sight
    on_gpu: Mapping[str, Path]  # name -> folder, of the models that are served on a GPU
    versions: tuple[int, int]  # numbers of the old and the next version


def prepare_models(plan: SmokePlan, folder: Path) -> ModelFolders:
    """Copy the plan's models under `folder`; raises SmokeError."""
    old, new = _version_folder(plan.model), _version_folder(plan.next_model)
    if int(new.name) <= int(old.name):
        raise SmokeError(f"The next version, {new}, must have a higher number than {old}.")
    plain, hardened, waiting = folder / "plain", folder / "hardened", folder / "waiting" / new.name
    copies = [(old, plain / old.name), (old, hardened / old.name), (new, waiting)]
    on_gpu = {HALF_PLUS_TWO.model: hardened}
    if plan.gpu:
        on_gpu[DENSE.model] = folder / DENSE.model
        copies.append((plan.gpu.model, on_gpu[DENSE.model]))
    for source, target in copies:
        shutil.copytree(source, target)
    # Whatever the umask: the server in the container is another user, and neither owner nor group.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    versions = int(old.name), int(new.name)
    return ModelFolders(plain=plain, hardened=hardened, waiting=waiting, versions=versions, on_gpu=on_gpu)


def _version_folder(model: Path) -> Path:
    versions = [path for path in model.glob("*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise SmokeError(
            f"{model} holds no version of a model.",
            remedy="Give a folder with a numbered folder in it, such as half_plus_two/00000123.",
        )
    return max(versions, key=lambda path: int(path.name))
