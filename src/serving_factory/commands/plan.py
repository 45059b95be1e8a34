"""What commands that work on variants share: options, jobs, and the plan of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from serving_factory.commands.keys import signer_of
from serving_factory.commands.shared import Asked, progress
from serving_factory.errors import EngineError, EngineUnavailableError, UsageError
from serving_factory.output.text import size
from serving_factory.pipeline.budget import Budget, Candidate, Limits, Schedule, one_by_one, schedule
from serving_factory.pipeline.estimates import RunEstimate
from serving_factory.pipeline.history import estimate_run
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import matrix_name
from serving_factory.recipes.recipe import recipes_for

if TYPE_CHECKING:
    from serving_factory.proofs.signatures import Signer


def site_of(asked: Asked, registries: Sequence[str] = (), signer: Signer | None = None) -> Site:
    """Where the pipeline of a matrix file works."""
    checkout = asked.checkout
    return Site(
        build=asked.folder,
        models=checkout.models,
        programs=checkout.programs,
        registries=registries,
        signer=signer,
        report=progress,
    )


def jobs_of(asked: Asked, variants: Sequence[str], *, sign: bool = False) -> list[Job]:
    """The jobs of these variants, with what signs where that is asked for; the error of one that cannot be built."""
    matrix = asked.load()
    recipes, unbuildable = recipes_for(replace(asked, variant=tuple(variants)).choose(matrix), matrix)
    if unbuildable:
        raise unbuildable[0].error
    site = site_of(asked, signer=signer_of(matrix) if sign else None)
    return [Job(recipe=recipe, site=site) for recipe in recipes]


def budget_of(site: Site, stages: Sequence[Stage[Any]], *, memory: int | None = None) -> Budget | None:
    """What the engine's machine has; None where no stage needs an engine, or none answers.

    Raises:
        UsageError: `memory`, the user's for each compile, is more than that.
    """
    if not any(stage.engine for stage in stages):
        return None
    try:
        cpus, memory_bytes = site.engine.capacity()
    except (EngineUnavailableError, EngineError):  # the stage that needs the engine reports it
        return None
    budget = Budget.of_machine(cpus=cpus, memory=memory_bytes)
    if memory and memory > budget.memory:
        raise UsageError(
            f"`--memory` must be at most {size(budget.memory)}, got {size(memory)}",
            why="This is what the engine's machine has for compiles.",
            remedy="leave it out, or write less",
        )
    return budget


@dataclass(frozen=True, slots=True)
class Plan:
    """Which variant works when, and what it takes; no budget where nothing is to be done, or no engine answers."""

    budget: Budget | None
    schedule: Schedule
    estimate: RunEstimate


def plan_run(
    asked: Asked,
    jobs: Sequence[Job],
    work: Sequence[Candidate],
    *,
    limits: Limits,
    budget: Budget | None,
) -> Plan:
    """Schedule work, and estimate what it takes; without a budget one variant waits for another."""
    budget = budget if work else None
    turns = schedule(work, budget, limits) if budget else one_by_one([job.recipe.variant.id for job in jobs])
    runs = {one.variant: one.run for one in work}
    matrix = matrix_name(asked.file, asked.checkout.root)
    estimate = estimate_run([job.recipe for job in jobs], runs, turns, asked.checkout.build, matrix=matrix)
    return Plan(budget, turns, estimate)
