"""The model folders that a smoke run serves: copies of its own, readable by every user of a container."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.errors import SmokeError

if TYPE_CHECKING:
    from pathlib import Path

    from serving_factory.line.smoke.types import SmokePlan

__all__ = ["ModelFolders", "prepare_models"]


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
