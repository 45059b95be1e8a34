"""The stages of the pipeline, in their order.

A new stage is a module here that defines a `Stage` by the module's name in capitals, and its name in `STAGES`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_factory.pipeline.records import record_path
from serving_factory.recipes.recipe import key_of, short

if TYPE_CHECKING:
    from serving_factory.pipeline.job import Stage
    from serving_factory.pipeline.records import Record

STAGES = ("compile", "extract", "libraries", "inspect", "package", "smoke", "push")
DEVEL_STAGES = ("devel", "push_devel")  # beside these, of the image to work in; they need what `smoke` has tried
FIRST_WITH_REGISTRY = "push"  # from this one on, a stage runs only where a registry is named


def stage(name: str) -> Stage[Any]:
    """Load a stage. What a run does not need is not imported: `push` alone takes half a second."""
    found: Stage[Any] = getattr(import_module(f"{__name__}.{name}"), name.upper())
    return found


def stages_for(*, registry: bool) -> tuple[Stage[Any], ...]:
    """The stages of a whole build, with or without a registry to push to."""
    names = STAGES if registry else STAGES[: STAGES.index(FIRST_WITH_REGISTRY)]
    return tuple(map(stage, names))


def reached(folder: Path) -> Mapping[str, Record[Any]]:
    """Read the records of the stages that a variant has been through without a gap, in their order."""
    # What lies behind a gap describes an earlier binary or image.
    found: dict[str, Record[Any]] = {}
    for name in STAGES:
        there = os.path.exists(record_path(folder, name))  # noqa: PTH110 - Path.exists raises for a closed folder
        record = stage(name).read(folder) if there else None
        if record is None or not _is_of_image(record, found.get("package")):
            break
        found[name] = record
    return found


def _is_of_image(record: Record[Any], packaged: Record[Any] | None) -> bool:
    """Whether what was tried or pushed is the image that was packaged last; earlier factories did not write it down."""
    if packaged is None or "image" not in record.inputs:
        return True
    return record.inputs["image"] == short(key_of(part=packaged.outputs.image))  # as Stage.digests has it
