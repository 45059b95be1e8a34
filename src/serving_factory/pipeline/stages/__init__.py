"""The stages of the pipeline, in their order.

A new stage is a module here that defines a `Stage` by the module's name in capitals, and its name in `STAGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_factory.pipeline.records import without_gap

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
    return without_gap(folder, STAGES, lambda name: stage(name).read(folder))
