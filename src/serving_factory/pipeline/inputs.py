"""The inputs of a build, made ready: folders put together, secrets as files for as long as it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serving_factory.errors import RecipeError
from serving_factory.matrix.settings import has_index
from serving_factory.recipes.inputs import Inputs


def stage_inputs(inputs: Inputs, staged: Path) -> None:
    """Put together the build contexts in folders of their names below `staged`; what was there goes."""
    if inputs.apt and not has_index(inputs.apt):
        raise RecipeError(
            f"there are no packages in {inputs.apt}",
            remedy="`./factory inputs packages VARIANT` fills it, on a machine that reaches a mirror",
        )
    shutil.rmtree(staged, ignore_errors=True)
    if inputs.bazel:
        _link(inputs.bazel, staged / "bazel" / "bazel")
    for name, folder in inputs.overrides:
        shutil.copytree(folder, staged / "overrides" / name, symlinks=True, copy_function=_link)
    for index, folder in enumerate(inputs.patches):
        for file in (*folder.glob("*.patch"), *folder.glob("external/*/*.patch")):
            # They are applied in the order of their names, and those of the first folder come first.
            place = file.relative_to(folder)
            _link(file, staged / "patches" / place.with_name(f"{index:02}-{place.name}"))


def _link(source: Path | str, target: Path | str) -> None:
    """Make a file appear in another place; where it cannot be linked, as across disks, it is copied."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def secrets_of(inputs: Inputs) -> Mapping[str, str]:
    """Read the secrets of a build: id → content."""
    files = (inputs.certificates, inputs.downloader_config)
    return inputs.secrets({file: file.read_text(encoding="utf-8", errors="replace") for file in files if file})


@contextmanager
def secret_files(folder: Path, contents: Mapping[str, str]) -> Iterator[tuple[tuple[str, Path], ...]]:
    """Give secrets (id → content; empty ones are left out) as files for this user alone, removed in the end.

    They lie in a folder of a fixed name below `folder`: what a killed factory left there is removed by the next.
    """
    place = folder / ".secrets"
    shutil.rmtree(place, ignore_errors=True)
    given = {name: place / name for name, text in contents.items() if text}
    if not given:
        yield ()
        return
    folder.mkdir(parents=True, exist_ok=True)
    place.mkdir(mode=0o700)
    try:
        for name, file in given.items():
            file.touch(mode=0o600)
            file.write_text(contents[name], encoding="utf-8")
        yield tuple(given.items())
    finally:
        shutil.rmtree(place)
