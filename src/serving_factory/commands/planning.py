"""What a run of the chosen variants would do, who works when, and what it takes: for `--dry-run` and `doctor`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.commands.shared import Asked, bytes_of
from serving_factory.errors import EngineError, EngineUnavailableError, UsageError
from serving_factory.pipeline.budget import Budget, Limits, Schedule, one_by_one, schedule
from serving_factory.pipeline.estimates import RunEstimate
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.history import estimate_run
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import build_folder, matrix_name
from serving_factory.pipeline.runner import PlannedVariant, plan_line, planned_candidates
from serving_factory.pipeline.scheduler import Policy
from serving_factory.recipes.recipe import Recipe

if TYPE_CHECKING:
    from serving_factory.matrix.matrix import Resources
    from serving_factory.pipeline.job import Stage


_ENGINES_STAGES = {StageName.COMPILE, StageName.PACKAGE, StageName.SMOKE}


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToRun:
    """What a user says of how a run is to go, as it was typed; empty where nothing was.

    Args:
        locked: start from nothing that is not locked.
        parallel: how many variants work at once, at most.
        jobs: compilers at once, of each compile.
        memory: of each compile, such as `16GiB`.
        fail_fast: begin with no other variant once one has failed.
        max_minutes: the whole run may take.
        variant_minutes: each variant may take.
    """

    locked: bool = False
    parallel: str = ""
    jobs: str = ""
    memory: str = ""
    fail_fast: bool = False
    max_minutes: str = ""
    variant_minutes: str = ""

    def limits(self, resources: Resources) -> Limits:
        """Give the limits: the user's, else the matrix file's.

        Raises:
            UsageError: an option is no number, or no size.
        """
        memory = self.memory or resources.memory or ""
        return Limits(
            parallel=_whole("parallel", self.parallel),
            jobs=_whole("jobs", self.jobs) or resources.jobs,
            memory=_bytes(memory) if memory else None,
        )

    def policy(self) -> Policy:
        """Give the policy.

        Raises:
            UsageError: an option is no number of minutes.
        """
        return Policy(
            fail_fast=self.fail_fast,
            seconds=_seconds("max-minutes", self.max_minutes),
            variant_seconds=_seconds("variant-minutes", self.variant_minutes),
        )


def budget_of(site: Site, stages: Sequence[Stage]) -> Budget | None:
    """Ask the engine what its machine has; None where none is needed, or none answers."""
    if not _ENGINES_STAGES.intersection(stage.name for stage in stages):
        return None
    try:
        found = site.engine.capacity()
    except (EngineUnavailableError, EngineError):  # the stage that needs the engine tells of it
        return None
    return Budget.of_machine(cpus=found.cpus, memory=found.memory)


def _whole(option: str, text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise UsageError(f"--{option} {text}: this is no number", remedy=f"write a whole number, such as --{option} 4")
    return int(text)


def _bytes(text: str) -> int:
    size = bytes_of(text)
    if not size:
        raise UsageError(f"--memory {text}: this is no size", remedy="write a number and MiB or GiB: --memory 16GiB")
    return size


def _seconds(option: str, text: str) -> float | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]+)?", text) or float(text) == 0:
        raise UsageError(
            f"--{option} {text}: this is no number of minutes", remedy=f"write it like --{option} 90, or 0.5 for 30 s"
        )
    return float(text) * 60


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, planned.

    Args:
        variants: what would be done for each.
        budget: what they may use together; None where nothing is to be done, or no engine tells what it has.
        schedule: who works when.
        estimate: what it takes.
    """

    variants: tuple[PlannedVariant, ...]
    budget: Budget | None
    schedule: Schedule
    estimate: RunEstimate


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
    estimate = estimate_run(recipes, runs, turns, asked.checkout.build, matrix=name_of(asked))
    return Plan(variants, budget, turns, estimate)
