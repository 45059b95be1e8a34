"""What a run of the chosen variants would do, who works when, and what it takes: for `--dry-run` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving_factory.commands.shared import Asked
from serving_factory.line.forecast import Outlook
from serving_factory.line.history.outlook import outlook_of
from serving_factory.line.job import Job, Site, Stage
from serving_factory.line.place import build_folder, matrix_name
from serving_factory.line.plan import PlannedVariant, plan_line, planned_candidates
from serving_factory.line.schedule import Budget, Limits, Schedule, one_by_one, schedule
from serving_factory.recipes.recipe import Recipe

__all__ = ["Plan", "name_of", "plan_run", "site_of"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, planned.

    Args:
        variants: what would be done for each.
        budget: what they may use together; None where nothing is to be done, or no engine tells what it has.
        schedule: who works when.
        outlook: what it takes.
    """

    variants: tuple[PlannedVariant, ...]
    budget: Budget | None
    schedule: Schedule
    outlook: Outlook


def site_of(asked: Asked, registry: str = "") -> Site:
    """Where the line of a matrix file runs."""
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    return Site(build=folder, models=asked.checkout.models, registry=registry or None)


def name_of(asked: Asked) -> str:
    """The matrix file, as runs are remembered by."""
    return matrix_name(asked.file, asked.checkout.root)


def plan_run(
    asked: Asked,
    recipes: Sequence[Recipe],
    stages: Sequence[Stage],
    *,
    site: Site,
    limits: Limits,
    ask_budget: Callable[[], Budget | None],
) -> Plan:
    """Plan a run by the records alone.

    Args:
        asked: what the user asks for.
        recipes: of the variants.
        stages: that are to run.
        site: where.
        limits: what the user or the matrix says instead of the budget.
        ask_budget: asks for it; not called where nothing is to be done.
    """
    variants = plan_line([Job(recipe=recipe, site=site) for recipe in recipes], stages)
    work = planned_candidates(variants)
    budget = ask_budget() if work else None
    turns = schedule(work, budget, limits) if budget else one_by_one([one.variant for one in work])
    runs = {one.variant: one.run for one in variants}
    outlook = outlook_of(recipes, runs, turns, asked.checkout.build, matrix=name_of(asked))
    return Plan(variants, budget, turns, outlook)
