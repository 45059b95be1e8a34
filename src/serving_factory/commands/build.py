"""`build`, the stages alone, `push`, `demo` and `clean`: what needs an engine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from serving_factory.commands.lock import unpinned_note
from serving_factory.commands.planning import HowToRun, budget_of, name_of, plan_run, site_of
from serving_factory.commands.shared import Asked, Checkout, exit_with, print_json, width, write
from serving_factory.errors import CancelledError, EngineUnavailableError, FactoryError
from serving_factory.output import outcomes, tables
from serving_factory.output.reporter import choose
from serving_factory.output.tables import estimate_line, needs_text
from serving_factory.pipeline.budget import Limits, Schedule, one_by_one, schedule
from serving_factory.pipeline.build_lock import hold_lock, hold_matrix_lock
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, RunEstimate
from serving_factory.pipeline.events import Emit, Event, EventKind, StageName, Status, VariantResult
from serving_factory.pipeline.history import Recorder, disk_of, estimate_run
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.runner import candidates
from serving_factory.pipeline.runner import clean as clean_site
from serving_factory.pipeline.scheduler import run_line
from serving_factory.pipeline.stages import BUILD
from serving_factory.pipeline.stages.compile import COMPILE
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.inspect import INSPECT
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.pipeline.stages.smoke import SMOKE
from serving_factory.recipes.addresses import downloads_of
from serving_factory.recipes.pins import require_locked, unpinned_bases
from serving_factory.recipes.recipe import Recipe, Unbuildable, recipes_for

if TYPE_CHECKING:
    from serving_factory.matrix.matrix import Matrix
    from serving_factory.matrix.variant import Variant
    from serving_factory.output.reporter import Reporter


_AS_USUAL = HowToRun()
_ALONE = {"compile": (COMPILE, EXTRACT), "inspect": (INSPECT,), "package": (PACKAGE,), "smoke": (SMOKE,)}
"""The stages that each of the small tasks runs."""


def build(asked: Asked, *, registry: str, dry_run: bool, json: bool, how: HowToRun) -> None:
    """Take the chosen variants through the whole line; with a registry, to it.

    Raises:
        NotLockedError: what may only start from what is locked would start from something else.
    """
    stages = (*BUILD, *_push_stages()) if registry else BUILD
    if dry_run:
        _print_plan(asked, stages, registry=registry, json=json, how=how)
    else:
        _run(asked, stages, registry=registry, json=json, how=how)


def run_stage(name: str, asked: Asked, *, json: bool, how: HowToRun = _AS_USUAL) -> None:
    """Run one stage of the chosen variants."""
    _run(asked, _ALONE[name], json=json, how=how)


def push(asked: Asked, *, registry: str, json: bool) -> None:
    """Push the chosen variants' images."""
    _run(asked, _push_stages(), registry=registry, json=json)


def demo(checkout: Checkout, *, registry: str, json: bool) -> None:
    """Take the sample through the whole line, and show how to run what came of it."""
    stages = (*BUILD, *_push_stages()) if registry else BUILD
    results = _run(Asked(checkout=checkout, matrix=str(checkout.sample)), stages, registry=registry, json=json)
    if not json:
        write("\n" + outcomes.demo_table(results, models=checkout.models, width=width()))


def clean(asked: Asked, *, images: bool, caches: bool) -> None:
    """Remove what builds of the matrix left."""
    site = site_of(asked)
    with hold_lock(asked.checkout.build), hold_matrix_lock(site.build):
        for line in clean_site(site, images=images, caches=caches):
            write(f"{line}\n")


def _push_stages() -> tuple[Stage, ...]:
    # It brings the Docker SDK, which takes half a second to import: only who pushes waits for it.
    from serving_factory.pipeline.stages.push import PUSH

    return (PUSH,)


def _check_push(recipes: Sequence[Recipe], stages: Sequence[Stage], registry: str) -> None:
    """Refuse what could not be pushed now, not after hours of building."""
    if stages[-1].name is StageName.PUSH:
        from serving_factory.pipeline.stages.push import check_pushable

        for recipe in recipes:
            check_pushable(recipe, registry or None)


def _chosen(asked: Asked, matrix: Matrix, how: HowToRun) -> tuple[Variant, ...]:
    chosen = asked.choose(matrix)
    if how.locked:
        require_locked(chosen, matrix)
    return chosen


def _schedule(
    asked: Asked, jobs: Sequence[Job], stages: Sequence[Stage], limits: Limits, site: Site
) -> tuple[Schedule, RunEstimate]:
    """Who works when, and what it takes. Without an engine nobody can: one after the other, as far as they come."""
    budget = budget_of(site, stages)
    if budget is None:
        return one_by_one([job.recipe.variant.id for job in jobs]), NOTHING_TO_DO
    work = candidates(jobs, stages)
    turns = schedule(work, budget, limits)
    # Only compiles are expected: next to them all else hardly counts.
    runs = {one.variant: [stage.name for stage in stages] for one in work if one.compiles}
    recipes = [job.recipe for job in jobs]
    return turns, estimate_run(recipes, runs, turns, asked.checkout.build, matrix=name_of(asked))


def _run(
    asked: Asked, stages: Sequence[Stage], *, registry: str = "", json: bool, how: HowToRun = _AS_USUAL
) -> tuple[VariantResult, ...]:
    policy = how.policy()
    matrix = asked.load()
    limits = how.limits(matrix.resources)
    chosen = _chosen(asked, matrix, how)
    recipes, unbuildable = recipes_for(chosen, matrix)
    if COMPILE in stages and (unpinned := unpinned_bases(chosen, matrix)):
        sys.stderr.write(unpinned_note(unpinned))
    _check_push(recipes, stages, registry)
    site = site_of(asked, registry)
    jobs = [Job(recipe=recipe, site=site) for recipe in recipes]
    with hold_lock(asked.checkout.build), hold_matrix_lock(site.build):
        if SMOKE in stages:
            with suppress(EngineUnavailableError):  # the stage that needs the engine tells of it
                site.strays  # noqa: B018 - looking removes them
        turns, estimate = _schedule(asked, jobs, stages, limits, site)
        recorder = Recorder(
            asked.checkout.build, jobs, command=shlex.join(sys.argv[1:]), matrix=name_of(asked), estimate=estimate
        )
        sys.stderr.write(_needs(jobs, matrix, estimate))
        with _reporter(chosen, stages, estimate, json=json) as reporter:
            for one in unbuildable:
                reporter.handle(_refused(one, stages[0].name))
            emit = _both(recorder.handle, reporter.handle)
            done = run_line(jobs, stages, emit, before=_before(stages), schedule=turns, policy=policy)
        if site.lost_engine:
            with suppress(FactoryError):  # that it was lost is told already
                site.engine.remove_strays(site.owner)
        results = (*done.results, *map(_without_recipe, unbuildable))
        recorder.end(results)
        site.memory.save()
        reporter.summary(results)
        cap = matrix.resources.cache
        told = "" if isinstance(done.ended_by, CancelledError) else _after(jobs, stages, results, cap)
    if recorder.trouble:
        sys.stderr.write(f"Note: {recorder.trouble}\n")
    (sys.stderr if json else sys.stdout).write(told)
    if stages[-1].name is StageName.PUSH and not json:
        write(outcomes.pushed_list(results))
    _end(results, done.ended_by)
    return results


def _needs(jobs: Sequence[Job], matrix: Matrix, estimate: RunEstimate) -> str:
    """What the first builds of a release download and need; empty where no network is used or an earlier run tells."""
    first = {one.variant for one in estimate.variants if one.compiles and one.basis is Basis.ESTIMATE}
    recipes = [job.recipe for job in jobs if job.recipe.variant.id in first]
    downloads = [(one.what, one.shown) for recipe in recipes for one in downloads_of(recipe, matrix.network)]
    if not downloads:
        return ""
    # They take a while, and most runs do not get here.
    from serving_factory.docker.host import engine_facts
    from serving_factory.doctor.probes import free_disk

    disk = sum(map(disk_of, recipes))
    return needs_text(downloads, disk=disk, free=free_disk(engine_facts()), estimate=estimate)


def _reporter(chosen: Sequence[Variant], stages: Sequence[Stage], estimate: RunEstimate, *, json: bool) -> Reporter:
    return choose(
        json=json,
        stdout=sys.stdout,
        stderr=sys.stderr,
        environ=os.environ,
        variants=[variant.id for variant in chosen],
        last_stage=stages[-1].name,
        estimate=estimate,
    )


def _both(first: Emit, second: Emit) -> Emit:
    def emit(event: Event) -> None:
        first(event)
        second(event)

    return emit


def _after(jobs: Sequence[Job], stages: Sequence[Stage], results: Sequence[VariantResult], cap: str | None) -> str:
    """What a run that worked on anything leaves to be done, and to be said; a failed compile fills the caches too."""
    bases = {job.recipe.variant.id: job.recipe.base_image for job in jobs}
    built = [bases[result.variant] for result in results if result.status is Status.BUILT]
    others = [bases[result.variant] for result in results if COMPILE in stages and _may_have_compiled(result)]
    if not (worked := [*built, *others]):  # a built one's base is there to work from
        return ""
    # Only who has built waits for its import.
    from serving_factory.commands.cache import cap_caches, remote_notes

    return remote_notes(jobs, results) + (cap_caches(worked[0], cap) if cap else "")


def _may_have_compiled(result: VariantResult) -> bool:
    """Whether a variant that was not built may have left something in Bazel's caches."""
    failed = result.error is not None and not isinstance(result.error, EngineUnavailableError)
    return result.seconds > 0 and (failed or result.status is Status.CANCELLED)


def _without_recipe(unbuildable: Unbuildable) -> VariantResult:
    return VariantResult(variant=unbuildable.variant.id, status=Status.FAILED, error=unbuildable.error)


def _refused(unbuildable: Unbuildable, stage: StageName) -> Event:
    return Event(variant=unbuildable.variant.id, stage=stage, kind=EventKind.FAILED, text=str(unbuildable.error))


def _end(results: Sequence[VariantResult], ended_by: FactoryError | None) -> None:
    """Exit as the run deserves; its variants' errors are printed already.

    Who presses Ctrl-C knows that. Who reads the exit code of a night that a time limit ended has to learn of a failure
    first: nothing may be wrong with what there was no time for.
    """
    failed = next((result.error for result in results if result.error), None)
    if isinstance(ended_by, CancelledError):
        raise Exit(code=ended_by.exit_code)
    if failed:
        raise exit_with(ended_by, code=failed.exit_code) if ended_by else Exit(code=failed.exit_code)
    if ended_by:
        raise ended_by


def _before(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of the line before these."""
    return BUILD[: BUILD.index(stages[0])] if stages[0] in BUILD else BUILD


def _print_plan(asked: Asked, stages: Sequence[Stage], *, registry: str, json: bool, how: HowToRun) -> None:
    how.policy()  # what makes no sense is told by a dry run too
    matrix = asked.load()
    limits = how.limits(matrix.resources)
    recipes, unbuildable = recipes_for(_chosen(asked, matrix, how), matrix)
    _check_push(recipes, stages, registry)
    site = site_of(asked, registry)
    plan = plan_run(asked, recipes, stages, site=site, limits=limits, ask_budget=lambda: budget_of(site, stages))
    turns = {turn.variant: turn for turn in plan.schedule.turns} if plan.budget else {}
    estimates = {one.variant: one for one in plan.estimate.variants}
    rows = [
        tables.PlanRow(
            variant=one.variant,
            run=tuple(map(str, one.run)),
            up_to_date=tuple(map(str, one.up_to_date)),
            because=one.because,
            estimate=estimates.get(one.variant),
            wave=turns[one.variant].wave if one.variant in turns else None,
            jobs=turns[one.variant].share.jobs or None if one.variant in turns else None,
            memory=turns[one.variant].share.memory if one.variant in turns else None,
            after=turns[one.variant].after if one.variant in turns else "",
        )
        for one in sorted(
            plan.variants, key=lambda one: list(turns).index(one.variant) if one.variant in turns else len(turns)
        )
    ]
    rows += [tables.PlanRow(variant=one.variant.id, unbuildable=one.error.what) for one in unbuildable]
    if json:
        print_json([asdict(row) for row in rows])
    else:
        machine = (plan.budget.cpus, plan.budget.memory) if plan.budget else None
        jobs = [Job(recipe=recipe, site=site) for recipe in recipes]
        needs = _needs(jobs, matrix, plan.estimate) if plan.budget else ""
        write(tables.plan_table(rows, machine=machine, width=width()) + estimate_line(plan.estimate) + needs)
