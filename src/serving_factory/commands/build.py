"""`build`, the stages alone, `push`, `demo` and `clean`: what works in the pipeline."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from invoke.exceptions import Exit

from serving_factory.commands.boundary import exit_with
from serving_factory.commands.plan import Plan, budget_of, plan_run, site_of
from serving_factory.commands.shared import Asked, RunOptions, progress, show, width, write
from serving_factory.errors import CancelledError, EngineUnavailableError, FactoryError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.output.outcomes import (
    ESTIMATE_HEADS,
    demo_table,
    estimate_cells,
    estimate_line,
    needs_text,
    pushed_list,
)
from serving_factory.output.reporters import choose
from serving_factory.output.text import cell, count, size, table
from serving_factory.pipeline.adoption import adopt_old_records
from serving_factory.pipeline.budget import Budget, Schedule, one_by_one, schedule
from serving_factory.pipeline.build_lock import hold_lock, hold_matrix_lock
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, Estimate, RunEstimate
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult
from serving_factory.pipeline.history import Recorder, disk_of, estimate_run
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import matrix_name
from serving_factory.pipeline.runner import candidates, has_work, plan_stages
from serving_factory.pipeline.runner import clean as clean_site
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import stage, stages_for
from serving_factory.recipes.addresses import Download, downloads_of
from serving_factory.recipes.pins import require_locked, unpinned_bases
from serving_factory.recipes.recipe import Recipe, Unbuildable, recipes_for


def build(options: RunOptions) -> None:
    """Take the chosen variants through the pipeline, with a registry to the push; or print the plan."""
    stages = stages_for(registry=bool(options.registry))
    if options.dry_run:
        _print_plan(options, stages)
    else:
        _run(options, stages)


def run_stage(name: str, options: RunOptions) -> None:
    """Run one stage of the chosen variants; a compiled binary's facts are read, too."""
    _run(options, tuple(map(stage, ("compile", "extract") if name == "compile" else (name,))))


def demo(options: RunOptions) -> None:
    """Take the sample through the pipeline, and print how to run an image of it."""
    results = _run(options, stages_for(registry=bool(options.registry)))
    if not options.json:
        write("\n" + demo_table(results, models=options.asked.checkout.models, width=width()))


def clean(asked: Asked, *, images: bool, caches: bool) -> None:
    """Remove what builds of the matrix left."""
    site = site_of(asked)
    with hold_lock(asked.checkout.build), hold_matrix_lock(site.build):
        for line in clean_site(site, images=images, caches=caches):
            write(f"{line}\n")


@dataclass(frozen=True, slots=True)
class _Run:
    options: RunOptions
    matrix: Matrix
    chosen: tuple[Variant, ...]
    site: Site
    jobs: list[Job]
    unbuildable: tuple[Unbuildable, ...]
    stages: Sequence[Stage[Any]]

    @property
    def recipes(self) -> list[Recipe]:
        return [job.recipe for job in self.jobs]

    @property
    def last_stage(self) -> str:
        return self.stages[-1].name


def _prepared(options: RunOptions, stages: Sequence[Stage[Any]]) -> _Run:
    """Choose variants; refuse now what could not be done after hours of building."""
    options.policy()
    matrix = options.asked.load()
    options.limits(matrix.resources)
    chosen = options.asked.choose(matrix)
    if options.locked:
        require_locked(chosen, matrix)
    recipes, unbuildable = recipes_for(chosen, matrix)
    if stages[-1].name == "push":
        from serving_factory.pipeline.stages.push import check_pushable

        for recipe in recipes:
            check_pushable(recipe, options.registry or None)
    site = site_of(options.asked, options.registry)
    jobs = [Job(recipe=recipe, site=site) for recipe in recipes]
    return _Run(options, matrix, chosen, site, jobs, tuple(unbuildable), stages)


def _try_pushes(run: _Run) -> None:
    """Ask the registry whether it would take a push, before work begins that may take hours."""
    before = run.stages[:-1]
    if run.last_stage == "push" and any(has_work(one, job) for job in run.jobs for one in before):
        from serving_factory.pipeline.stages.push import try_pushes

        try_pushes(run.jobs, progress)


def _run(options: RunOptions, stages: Sequence[Stage[Any]]) -> tuple[VariantResult, ...]:
    run = _prepared(options, stages)
    if any(one.compiles for one in stages) and (unpinned := unpinned_bases(run.chosen, run.matrix)):
        progress(
            f"Not pinned: {', '.join(unpinned)}. `./factory lock` pins base images by digest; "
            "`build --locked` refuses those that are not pinned."
        )
    checkout, site = options.asked.checkout, run.site
    refused = {one.variant.id: one.error for one in run.unbuildable}
    with hold_lock(checkout.build), hold_matrix_lock(site.build):
        progress(*(f"Note: {line}" for line in adopt_old_records(run.jobs)))
        _try_pushes(run)
        turns, estimate = _schedule(run)
        recorder = Recorder(
            checkout.build,
            run.jobs,
            command=shlex.join(sys.argv[1:]),
            matrix=matrix_name(options.asked.file, checkout.root),
            estimate=estimate,
        )
        sys.stderr.write(_needs(run, estimate))
        with choose(
            json=options.json,
            stdout=sys.stdout,
            stderr=sys.stderr,
            environ=os.environ,
            variants=[variant.id for variant in run.chosen],
            last_stage=run.last_stage,
            estimate=estimate,
        ) as reporter:

            def emit(event: Event) -> None:
                recorder.handle(event)
                reporter.handle(event)

            first = stages[0].name
            for id_, error in refused.items():
                reporter.handle(Event(variant=id_, stage=first, kind=EventKind.FAILED, text=str(error)))
            done = PipelineRun(run.jobs, stages, emit, schedule=turns, policy=options.policy()).run()
        if site.lost_engine:
            with suppress(FactoryError):  # the loss is reported already
                site.engine.remove_strays(site.owner)
        failed = (VariantResult(variant=id_, status=Status.FAILED, error=error) for id_, error in refused.items())
        results = (*done.results, *failed)
        recorder.end(results)
        site.memory.save()
        reporter.summary(results)
        notes = ""
        if not isinstance(done.ended_by, CancelledError):
            notes = _after(run.jobs, stages, results, run.matrix.resources.cache)
    if recorder.trouble:
        progress(f"Note: {recorder.trouble}")
    (sys.stderr if options.json else sys.stdout).write(notes)
    if run.last_stage == "push" and not options.json:
        write(pushed_list(results))
    _end(results, done.ended_by)
    return results


def _schedule(run: _Run) -> tuple[Schedule, RunEstimate]:
    """Which variant works when, and what it takes; without an engine one after the other, as far as they come."""
    budget = budget_of(run.site, run.stages, memory=run.options.memory)
    if budget is None:
        return one_by_one([job.recipe.variant.id for job in run.jobs]), NOTHING_TO_DO
    work = candidates(run.jobs, run.stages)
    turns = schedule(work, budget, run.options.limits(run.matrix.resources))
    # Only compiles are estimated: next to them all else hardly counts.
    runs = {one.variant: [each.name for each in run.stages] for one in work if one.compiles}
    checkout = run.options.asked.checkout
    matrix = matrix_name(run.options.asked.file, checkout.root)
    return turns, estimate_run(run.recipes, runs, turns, checkout.build, matrix=matrix)


def _downloads(run: _Run, estimate: RunEstimate) -> tuple[list[Recipe], list[Download]]:
    """The first builds of a release, and what they download; none where an earlier run was measured."""
    first = {one.variant for one in estimate.variants if one.compiles and one.basis is Basis.ESTIMATE}
    recipes = [recipe for recipe in run.recipes if recipe.variant.id in first]
    found = [one for recipe in recipes for one in downloads_of(recipe, run.matrix.network)]
    return recipes, list(dict.fromkeys(found))


def _needs(run: _Run, estimate: RunEstimate) -> str:
    """What the first builds of a release download and need; empty where they use no network."""
    recipes, downloads = _downloads(run, estimate)
    if not downloads:
        return ""
    # They take a while, and most runs do not get here.
    from serving_factory.docker.host import engine_facts
    from serving_factory.doctor.probes import free_disk

    shown = [(one.what, one.shown) for one in downloads]
    return needs_text(shown, disk=sum(map(disk_of, recipes)), free=free_disk(engine_facts()), estimate=estimate)


def _after(jobs: Sequence[Job], stages: Sequence[Stage[Any]], results: Sequence[VariantResult], cap: str | None) -> str:
    """Prune the caches where the run may have filled them, as a failed compile does, too; what there is to print."""
    bases = {job.recipe.variant.id: job.recipe.base_image for job in jobs}
    built = [bases[result.variant] for result in results if result.status is Status.BUILT]
    compiles = any(one.compiles for one in stages)
    others = [bases[result.variant] for result in results if compiles and _may_have_compiled(result)]
    if not (worked := [*built, *others]):  # a built one's base is there to work from
        return ""
    # Only a run that built waits for its import.
    from serving_factory.commands.cache import cap_caches, remote_notes

    return remote_notes(jobs, results) + (cap_caches(worked[0], cap) if cap else "")


def _may_have_compiled(result: VariantResult) -> bool:
    failed = result.error is not None and not isinstance(result.error, EngineUnavailableError)
    return result.seconds > 0 and (failed or result.status is Status.CANCELLED)


def _end(results: Sequence[VariantResult], ended_by: FactoryError | None) -> None:
    """Exit as the run deserves; its variants' errors are printed already.

    A failure decides the exit code of a run that a time limit ended, for it needs work; Ctrl-C needs no other reason.
    """
    failed = next((result.error for result in results if result.error), None)
    if isinstance(ended_by, CancelledError):
        raise Exit(code=ended_by.exit_code)
    if failed:
        raise exit_with(ended_by, code=failed.exit_code) if ended_by else Exit(code=failed.exit_code)
    if ended_by:
        raise ended_by


# --- the plan ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """A variant of a plan (docs/json.md); without an engine there are no wave, jobs and memory."""

    variant: str
    run: tuple[str, ...] = ()
    up_to_date: tuple[str, ...] = ()
    because: str | None = None
    unbuildable: str | None = None
    wave: int | None = None
    jobs: int | None = None
    memory: int | None = None
    after: str | None = None
    estimate: Estimate | None = None


def _print_plan(options: RunOptions, stages: Sequence[Stage[Any]]) -> None:
    run = _prepared(options, stages)
    progress(*(f"Note: {line}" for line in adopt_old_records(run.jobs)))
    variants = plan_stages(run.jobs, stages)
    budget = budget_of(run.site, stages, memory=options.memory) if any(one.run for one in variants) else None
    plan = plan_run(options.asked, run.recipes, variants, options.limits(run.matrix.resources), budget)
    rows = _rows(plan, run.unbuildable)
    needs = _needs(run, plan.estimate) if plan.budget else ""
    machine = {"cpus": plan.budget.cpus, "memory": plan.budget.memory} if plan.budget else None
    downloads = [{"what": one.what, "place": one.shown} for one in _downloads(run, plan.estimate)[1]]
    document = {
        "machine": machine,
        "estimate": {name: getattr(plan.estimate, name) for name in ("seconds", "memory", "download", "estimated")},
        "downloads": downloads if plan.budget else [],
        "variants": [asdict(row) for row in rows],
    }
    text = plan_table(rows, plan.budget, width=width()) + estimate_line(plan.estimate) + needs
    show(document, text, json=options.json)


def _rows(plan: Plan, unbuildable: Sequence[Unbuildable]) -> list[PlannedRow]:
    """In the order in which the variants would begin."""
    turns = {turn.variant: turn for turn in plan.schedule.turns} if plan.budget else {}
    estimates = {one.variant: one for one in plan.estimate.variants}
    order = {id_: index for index, id_ in enumerate(turns)}
    rows = []
    for one in sorted(plan.variants, key=lambda one: order.get(one.variant, len(order))):
        id_, because, estimate = one.variant, one.because or None, estimates.get(one.variant)
        row = PlannedRow(variant=id_, run=one.run, up_to_date=one.up_to_date, because=because, estimate=estimate)
        if turn := turns.get(id_):
            share = turn.share
            row = replace(row, wave=turn.wave, jobs=share.jobs or None, memory=share.memory, after=turn.after or None)
        rows.append(row)
    return rows + [PlannedRow(variant=one.variant.id, unbuildable=one.error.what) for one in unbuildable]


def plan_table(rows: Sequence[PlannedRow], budget: Budget | None = None, *, width: int | None = None) -> str:
    """A line for each variant, and what the engine's machine has."""
    if not rows:
        return "Nothing to do: no variant is chosen.\n"
    heads = (">wave", "variant", "would run", "up to date", ">jobs", ">memory", "because", *ESTIMATE_HEADS)
    cells = [
        (
            cell(row.wave),
            row.variant,
            " ".join(row.run) or "nothing",
            " ".join(row.up_to_date),
            cell(row.jobs),
            cell(row.memory, size),
            row.unbuildable or "; ".join(filter(None, (row.because, row.after and f"after {row.after}"))),
            *estimate_cells(row.estimate),
        )
        for row in rows
    ]
    work, unbuildable = sum(bool(row.run) for row in rows), sum(bool(row.unbuildable) for row in rows)
    counts = f"{work} to build, {len(rows) - work - unbuildable} up to date"
    counts += f", {unbuildable} cannot be built" if unbuildable else ""
    end = f"{count(len(rows), 'variant')}: {counts}. Nothing was run.\n"
    if budget:
        end += f"The engine's machine has {budget.cpus} CPUs and {size(budget.memory)} of memory for builds; "
        end += "the variants of a wave compile at the same time.\n"
    elif work:
        end += "No Docker engine answers: waves, jobs and memory depend on its machine.\n"
    return f"{table(heads, cells, width=width)}\n{end}"
