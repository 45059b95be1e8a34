"""Which image a variant has, by its records; what stands for an image on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_factory.commands.shared import Asked, progress
from serving_factory.docker.http import Client, Patience
from serving_factory.docker.registry import Registry, credentials_for
from serving_factory.errors import NotBuiltError, UnknownNameError
from serving_factory.matrix.problems import nearest
from serving_factory.pipeline.records import Record
from serving_factory.pipeline.stages import reached
from serving_factory.pipeline.stages.package import Packaged
from serving_factory.pipeline.stages.push import Pushed


@dataclass(frozen=True, slots=True)
class Image:
    """An image and where it is."""

    name: str  # what `docker run` takes
    published: bool  # whether a registry holds it, and `name` has its digest; else this machine's engine alone


def recorded_image(folder: Path) -> Image | None:
    """Read which image the records in a variant's folder name; None where none has passed its smoke test."""
    records = reached(folder)
    if "smoke" not in records:
        return None
    packaged: Packaged = records["package"].outputs
    if push := records.get("push"):
        pushed: Pushed = push.outputs
        return Image(pushed.places[0].image, published=True)
    return Image(packaged.names[0], published=False)


def named_image(asked: Asked, word: str, variants: Collection[str]) -> Image | None:
    """The image of a variant that is named by its id; None where the word is an image's own name.

    Raises:
        NotBuiltError: the variant has no image.
        UnknownNameError: it is neither.
    """
    if word in variants:
        image = recorded_image(asked.folder / word)
        if image is None:
            raise NotBuiltError(f"{word} has no image that passed its smoke test", remedy=build_command(asked, word))
        return image
    if not set(word) & set("/:@"):
        near = nearest(word, variants)
        raise UnknownNameError(
            f"{word} is no variant of {asked.file}" + (f"; did you mean {near!r}?" if near else ""),
            remedy="`./factory list` shows variants; other images are named with their tag: serving:2.19.1",
        )
    return None


def registry_alone(host: str) -> Registry:
    """A registry, asked with the credentials of `docker login` and without an engine."""
    return Registry(host, credentials=credentials_for(host), client=Client(patience=Patience(report=progress)))


def build_command(asked: Asked, *variants: str) -> str:
    """The command that builds variants of the matrix that was asked for."""
    return f"./factory build {chosen_words(asked, *variants)}"


def chosen_words(asked: Asked, *variants: str) -> str:
    """The options that choose variants of the matrix that was asked for."""
    matrix = ("--matrix", asked.matrix) if asked.matrix else ()
    return shlex.join([*matrix, *(word for variant in variants for word in ("--variant", variant))])


def image_names(records: Mapping[str, Record[Any]]) -> frozenset[str]:
    """All names that stay with a variant's image: its full tag in the engine, and its digest in each registry."""
    if "package" not in records:
        return frozenset()
    pushed = records["push"].outputs.places if "push" in records else ()
    digests = {f"{place.name}@{digest}" for place in pushed for digest in place.digests.values()}
    return frozenset({records["package"].outputs.names[0], *digests})
