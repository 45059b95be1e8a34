"""Taking away what the line left: folders of variants, containers, images, and Bazel's caches in the engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from serving_factory.engine.caches import drop_cache_mounts
from serving_factory.line.job import VARIANT_LABEL, Site

__all__ = ["clean"]

_CACHE_PREFIX = "serving-factory-bazel"


def clean(site: Site, *, images: bool, caches: bool) -> Iterator[str]:
    """Clean up, and say each thing that was removed.

    Args:
        site: whose build folder, and whose engine.
        images: remove the images that the line packaged, too.
        caches: drop Bazel's caches, too.

    Raises:
        EngineUnavailableError: images or caches were asked for, and no engine answers.
    """
    for folder in _variant_folders(site.build):
        shutil.rmtree(folder)
        yield f"removed {folder}"
    if images:
        yield f"removed {site.strays} stray containers"
        for image in sorted(site.engine.image_ids(VARIANT_LABEL)):
            site.engine.remove_image(image)
            yield f"removed image {image}"
    if caches:
        yield from (f"dropped cache {mount.id}, {mount.size}" for mount in drop_cache_mounts(_CACHE_PREFIX))


def _variant_folders(build: Path) -> Iterator[Path]:
    """The folders in which a recipe was written down: nothing else is ours to delete."""
    yield from sorted(path.parent for path in build.glob("*/recipe") if path.is_dir())
