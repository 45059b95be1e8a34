"""What a build would do, going by the records alone: no engine, no registry, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving_factory.errors import FactoryError
from serving_factory.line.events import StageName
from serving_factory.line.job import Job, Stage
from serving_factory.line.records import read_record
from serving_factory.line.schedule import Candidate
from serving_factory.line.variant_run import is_done
from serving_factory.recipes.keys import key_of
from serving_factory.recipes.recipe import Recipe

__all__ = ["PlannedVariant", "candidates", "plan_line", "planned_candidates", "toolchain_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVariant:
    """What would be done for one variant.

    Args:
        variant: its id.
        run: the stages that would run.
        up_to_date: the stages that would not.
        because: why the first of them would run; empty when none would.
        toolchain: tells its toolchain from others.
        objects: tells its object files from others' of the toolchain, as far as it is known.
    """

    variant: str
    toolchain: str
    objects: str
    run: tuple[StageName, ...]
    up_to_date: tuple[StageName, ...]
    because: str


def plan_line(jobs: Sequence[Job], stages: Sequence[Stage]) -> tuple[PlannedVariant, ...]:
    """Tell which stages would run. The base image is taken to be the recorded one."""
    return tuple(_plan(job, stages) for job in jobs)


def _plan(job: Job, stages: Sequence[Stage]) -> PlannedVariant:
    compiled = read_record(job.folder, StageName.COMPILE)
    if compiled:
        job.site.assume_image(job.recipe.base_image, compiled.outputs.get("base_digest") or None)
    done, because = len(stages), ""
    for index, stage in enumerate(stages):
        if because := _reason(job, stage, compiled=compiled is not None):
            done = index
            break
    names = tuple(stage.name for stage in stages)
    return PlannedVariant(
        variant=job.recipe.variant.id,
        toolchain=toolchain_key(job.recipe),
        objects=_objects(job.recipe),
        run=names[done:],
        up_to_date=names[:done],
        because=because,
    )


def _reason(job: Job, stage: Stage, *, compiled: bool) -> str:
    record = read_record(job.folder, stage.name)
    if record is None or not compiled:
        return f"{stage.name} has not been done"
    if record.key != stage.key(job):
        return f"what decides {stage.name} has changed"
    return ""


def toolchain_key(recipe: Recipe) -> str:
    """Tell a toolchain from others: by its base, packages, Bazel and compiler. Variants of one share Bazel's caches."""
    toolchain = recipe.toolchain
    return key_of(
        base=recipe.base_image,
        packages=toolchain.packages,
        bazel=repr(toolchain.bazel),
        compiler=toolchain.compiler,
    )


def _objects(recipe: Recipe) -> str:
    """Flavours of a level, and releases near each other, compile some of the same in the same way."""
    return " ".join(recipe.variant.all_copts)


def planned_candidates(plan: Sequence[PlannedVariant]) -> tuple[Candidate, ...]:
    """Those of a plan that have something to do."""
    return tuple(
        Candidate(
            variant=one.variant,
            toolchain=one.toolchain,
            objects=one.objects,
            compiles=StageName.COMPILE in one.run,
        )
        for one in plan
        if one.run
    )


def candidates(jobs: Sequence[Job], stages: Sequence[Stage]) -> tuple[Candidate, ...]:
    """All jobs of a run; unlike a plan's, they are looked at with the engine's eyes too."""
    return tuple(
        Candidate(
            variant=job.recipe.variant.id,
            toolchain=toolchain_key(job.recipe),
            objects=_objects(job.recipe),
            compiles=any(stage.name is StageName.COMPILE and _has_work(stage, job) for stage in stages),
        )
        for job in jobs
    )


def _has_work(stage: Stage, job: Job) -> bool:
    try:
        return not is_done(stage, job)
    except FactoryError:  # the stage itself will tell
        return True
