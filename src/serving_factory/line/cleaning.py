"""Taking away what the line left: folders of variants, containers, images, and Bazel's caches in the engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from serving_factory.engine.caches import drop_cache_mounts
from serving_factory.line.events import StageName
from serving_factory.line.job import Site
from serving_factory.line.records import read_record
from serving_factory.recipes.render import CACHES

__all__ = ["clean"]


def clean(site: Site, *, images: bool, caches: bool) -> Iterator[str]:
    """Clean up, and say each thing that was removed.

    Args:
        site: whose build folder, and whose engine.
        images: remove the images that the line packaged, too.
        caches: drop Bazel's caches, too.

    Raises:
        EngineUnavailableError: images or caches were asked for, and no engine answers.
    """
    folders = tuple(_variant_folders(site.build))
    if images:
        yield f"removed {site.strays} stray containers"
        for name in sorted(name for folder in folders for name in _image_names(folder)):
            site.engine.remove_image(name)
            yield f"removed image {name}"
    for folder in (*folders, *site.build.glob("bake")):
        shutil.rmtree(folder)
        yield f"removed {folder}"
    if caches:
        dropped = drop_cache_mounts(CACHES)
        yield from (f"dropped cache {mount.id}, {mount.size}" for mount in dropped.gone)
        yield from (f"kept cache {mount.id}, {mount.size}: a build uses it" for mount in dropped.used)


def _image_names(folder: Path) -> Iterator[str]:
    """The names that a variant's package stage gave to its image; another checkout's images are none of ours."""
    record = read_record(folder, StageName.PACKAGE)
    if record:
        for tag in (*record.outputs["tags"], *record.outputs["aliases"]):
            yield f"{record.outputs['repository']}:{tag}"


def _variant_folders(build: Path) -> Iterator[Path]:
    """The folders in which a recipe was written down: nothing else is ours to delete."""
    yield from sorted(path.parent for path in build.glob("*/recipe") if path.is_dir())
