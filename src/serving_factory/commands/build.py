"""`build`, the stages alone, `push`, `demo` and `clean`: what works in the pipeline."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from invoke.exceptions import Exit

from serving_factory.commands.boundary import exit_with
from serving_factory.commands.keys import signer_of
from serving_factory.commands.plan import Plan, budget_of, plan_run, site_of
from serving_factory.commands.shared import Asked, RunOptions, progress, show, width, write
from serving_factory.errors import CancelledError, EngineUnavailableError, FactoryError, UsageError
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
from serving_factory.output.reporters import RunView, choose
from serving_factory.output.text import cell, count, size, table
from serving_factory.pipeline.adoption import adopt_old_records
from serving_factory.pipeline.budget import Budget, Candidate, Schedule
from serving_factory.pipeline.build_lock import hold_lock, hold_matrix_lock
from serving_factory.pipeline.estimates import Basis, RunEstimate
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult
from serving_factory.pipeline.history import Recorder, disk_of
from serving_factory.pipeline.job import Job, Site, Stage, Use
from serving_factory.pipeline.records import matrix_name
from serving_factory.pipeline.runner import (
    candidates,
    has_work,
    needs_of,
    plan_stages,
    remove_replaced,
)
from serving_factory.pipeline.runner import clean as clean_site
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import DEVEL_STAGES, stage, stages_for
from serving_factory.recipes.addresses import Download, downloads_of
from serving_factory.recipes.pins import require_locked, unpinned_bases
from serving_factory.recipes.recipe import Unbuildable, recipes_for


def build(options: RunOptions) -> None:
    """Take the chosen variants through the pipeline, with a registry to the push; or print the plan."""
    stages = stages_for(registry=bool(options.registry))
    if options.dry_run:
        _print_plan(options, stages)
    else:
        carry_out(_prepared(options, stages))


def run_stage(name: str, options: RunOptions) -> None:
    """Run the stages of a task: mostly one, with those that have no task of their own."""
    together = {
        "compile": ("compile", "extract"),
        "inspect": ("libraries", "inspect"),
        "refresh": ("libraries", "inspect", "package", "smoke"),
    }
    carry_out(_prepared(options, tuple(map(stage, together.get(name, (name,))))))


def push(options: RunOptions) -> None:
    """Push the images of the chosen variants, or their devel images; or print what would be pushed."""
    stages = tuple(map(stage, DEVEL_STAGES if options.devel else ("push",)))
    if options.dry_run:
        _print_pushes(options, stages)
    else:
        carry_out(_prepared(options, stages))


def demo(options: RunOptions) -> None:
    """Take the sample through the pipeline, and print how to run an image of it."""
    results = carry_out(_prepared(options, stages_for(registry=bool(options.registry))))
    if not options.json:
        write("\n" + demo_table(results, models=options.asked.checkout.models, width=width()))


def clean(asked: Asked, *, images: bool, caches: bool) -> None:
    """Remove what builds of the matrix left."""
    site = site_of(asked)
    with hold_lock(asked.checkout.build), hold_matrix_lock(site.build):
        for line in clean_site(site, images=images, caches=caches):
            write(f"{line}\n")


@dataclass(frozen=True, slots=True)
class Run:
    """The jobs of a command, and what they go through."""

    options: RunOptions
    matrix: Matrix
    chosen: tuple[Variant, ...]
    site: Site
    jobs: list[Job]
    unbuildable: tuple[Unbuildable, ...]
    stages: Sequence[Stage[Any]]
    prepare: Callable[[], object] = lambda: None  # what is done first of all, once no other factory works here

    def plan(self, work: Sequence[Candidate], budget: Budget | None) -> Plan:
        """Schedule and estimate what the jobs have to do."""
        limits = self.options.limits(self.matrix.resources)
        return plan_run(self.options.asked, self.jobs, work, limits=limits, budget=budget)


def _prepared(options: RunOptions, stages: Sequence[Stage[Any]]) -> Run:
    """Choose variants; refuse now what could not be done after hours of building."""
    options.policy()
    matrix = options.asked.load()
    options.limits(matrix.resources)
    chosen = options.asked.choose(matrix)
    if options.locked:
        require_locked(chosen, matrix)
    recipes, unbuildable = recipes_for(chosen, matrix)
    signer = None
    if stages[-1].pushes:
        from serving_factory.pipeline.stages.push import check_pushable

        for recipe in recipes:
            check_pushable(recipe, options.registry)
        signer = signer_of(matrix, dry_run=options.dry_run)
    site, gpu, emulate = site_of(options.asked, options.registry, signer), Use(options.gpu), Use(options.emulate)
    if gpu is Use.REQUIRE and not any(variant.cuda for variant in chosen):
        remedy = "choose one, such as --target gpu-optimized"
        raise UsageError("`--gpu require` is for gpu variants, and none is chosen", remedy=remedy)
    jobs = [Job(recipe=recipe, site=site, gpu=gpu, emulate=emulate) for recipe in recipes]
    return Run(options, matrix, chosen, site, jobs, tuple(unbuildable), stages)


def _begin(run: Run) -> tuple[Schedule, RunEstimate]:
    """Take over old records; see whether GPUs, emulator and registry are there; say which variant works when."""
    progress(*(f"Note: {line}" for line in adopt_old_records(run.jobs)))
    if smoke := next((one for one in run.stages if one.name == "smoke"), None):
        from serving_factory.pipeline.stages.smoke import can_emulate, emulator, gpu_access

        for job in run.jobs:
            if job.gpu is Use.REQUIRE and job.recipe.variant.cuda and has_work(smoke, job):
                gpu_access(job)
            if job.emulate is Use.REQUIRE and can_emulate(job) and has_work(smoke, job):
                emulator(job)
    if run.stages[-1].pushes and any(has_work(one, job) for job in run.jobs for one in run.stages[:-1]):
        from serving_factory.pipeline.stages.push import try_pushes

        try_pushes(run.jobs, progress)
    budget = budget_of(run.site, run.stages, memory=run.options.memory)
    # Only compiles are estimated: next to them all else hardly counts.
    plan = run.plan(candidates(run.jobs, run.stages) if budget else (), budget)
    sys.stderr.write(_needs(run, plan.estimate)[1])
    return plan.schedule, plan.estimate


def carry_out(run: Run) -> tuple[VariantResult, ...]:
    """Take jobs through stages, and report; ends with an Exit where any failed."""
    options, stages = run.options, run.stages
    if any(one.compiles for one in stages) and (unpinned := unpinned_bases(run.chosen, run.matrix)):
        progress(
            f"Not pinned: {', '.join(unpinned)}. `./factory lock` pins base images by digest; "
            "`build --locked` refuses those that are not pinned."
        )
    progress(*_licence_notes(run))
    checkout, site = options.asked.checkout, run.site
    with hold_lock(checkout.build), hold_matrix_lock(site.build):
        run.prepare()
        turns, estimate = _begin(run)
        recorder = Recorder(
            checkout.build,
            run.jobs,
            command=shlex.join(sys.argv[1:]),
            matrix=matrix_name(options.asked.file, checkout.root),
            estimate=estimate,
        )
        names = [variant.id for variant in run.chosen]
        view = RunView(variants=names, last_stage=stages[-1].name, estimate=estimate)
        with choose(view, json=options.json, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ) as reporter:

            def emit(event: Event) -> None:
                recorder.handle(event)
                reporter.handle(event)

            refused = [(one.variant.id, one.error) for one in run.unbuildable]
            for id_, error in refused:
                reporter.handle(Event(variant=id_, stage=stages[0].name, kind=EventKind.FAILED, text=str(error)))
            done = PipelineRun(run.jobs, stages, emit, schedule=turns, policy=options.policy()).run()
        if site.lost_engine:
            with suppress(FactoryError):  # the loss is reported already
                site.engine.remove_strays(site.owner)
        failed = (VariantResult(variant=id_, status=Status.FAILED, error=error) for id_, error in refused)
        results = (*done.results, *failed)
        recorder.end(results)
        site.memory.save()
        reporter.summary(results)
        notes = ""
        if not isinstance(done.ended_by, CancelledError):
            notes = _removed(run.jobs, results) + _after(run.jobs, stages, results, run.matrix.resources.cache)
    if recorder.trouble:
        progress(f"Note: {recorder.trouble}")
    (sys.stderr if options.json else sys.stdout).write(notes)
    if stages[-1].pushes and not options.json:
        write(pushed_list(results))
    _end(results, done.ended_by)
    return results


def _licence_notes(run: Run) -> Iterator[str]:
    """NVIDIA's licence wants to be read before CUDA is downloaded."""
    compiles = next((one for one in run.stages if one.compiles), None)
    with_gpu = [(gpu, job) for job in run.jobs if (gpu := job.recipe.toolchain.gpu)]
    for version in dict.fromkeys(gpu.version for gpu, job in with_gpu if compiles and has_work(compiles, job)):
        yield (
            f"CUDA {version} is NVIDIA's: who builds a gpu variant accepts its licence, "
            "https://docs.nvidia.com/cuda/eula/. A copy is in each image, in /usr/share/doc."
        )


def _needs(run: Run, estimate: RunEstimate) -> tuple[list[Download], str]:
    """What the first builds of a release download, and in words; none where an earlier run was measured."""
    first = {one.variant for one in estimate.variants if one.compiles and one.basis is Basis.ESTIMATE}
    recipes = [job.recipe for job in run.jobs if job.recipe.variant.id in first]
    downloads = list(dict.fromkeys(one for recipe in recipes for one in downloads_of(recipe, run.matrix.network)))
    if not downloads:
        return [], ""
    # They take a while, and most runs do not get here.
    from serving_factory.docker.host import engine_facts
    from serving_factory.doctor.probes import free_disk

    shown = [(one.what, one.shown) for one in downloads]
    disk, free = sum(map(disk_of, recipes)), free_disk(engine_facts())
    return downloads, needs_text(shown, disk=disk, free=free, estimate=estimate)


def _removed(jobs: Sequence[Job], results: Sequence[VariantResult]) -> str:
    """Remove the images that runs have replaced by others, and say so: they would pile up under their full tags."""
    passed = {result.variant for result in results if result.status in {Status.BUILT, Status.UP_TO_DATE}}
    try:
        names = [name for job in jobs if job.recipe.variant.id in passed for name in remove_replaced(job)]
    except FactoryError as error:  # what was built is built
        return f"Images that newer ones replaced could not be removed: {error.what}\nWhat to do: {error.remedy}\n"
    return f"Removed {count(len(names), 'image')} that newer ones replaced: {', '.join(names)}.\n" if names else ""


def _after(jobs: Sequence[Job], stages: Sequence[Stage[Any]], results: Sequence[VariantResult], cap: str | None) -> str:
    """Prune the caches where the run may have filled them, as a failed compile does, too; what there is to print."""
    bases = {job.recipe.variant.id: job.recipe.base.image for job in jobs}
    worked = [result for result in results if result.status is Status.BUILT]
    for result in results if any(one.compiles for one in stages) else ():
        failed = result.error is not None and not isinstance(result.error, EngineUnavailableError)
        if result.seconds > 0 and (failed or result.status is Status.CANCELLED):
            worked.append(result)
    if not worked:
        return ""
    # Only a run that built waits for its import.
    from serving_factory.commands.cache import cap_caches, remote_notes

    # A built one's base is there to work from.
    return remote_notes(jobs, results) + (cap_caches(bases[worked[0].variant], cap) if cap else "")


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

Row = Mapping[str, Any]
_MEMBERS = ("variant", "run", "up_to_date", "because", "unbuildable", "wave", "jobs", "memory", "after", "estimate")


def _print_plan(options: RunOptions, stages: Sequence[Stage[Any]]) -> None:
    run = _prepared(options, stages)
    progress(*(f"Note: {line}" for line in adopt_old_records(run.jobs)))
    variants = plan_stages(run.jobs, stages)
    work = [one for one in variants if one.run]
    budget = budget_of(run.site, stages, memory=options.memory) if work else None
    plan = run.plan(work, budget)
    rows = list(_rows(plan, variants))
    rows += [plan_row(variant=one.variant.id, unbuildable=one.error.what) for one in run.unbuildable]
    downloads, needs = _needs(run, plan.estimate) if plan.budget else ([], "")
    document = {
        "machine": plan.budget,
        "estimate": {name: value for name, value in plan.estimate.members().items() if name != "variants"},
        "downloads": [{"what": one.what, "place": one.shown} for one in downloads],
        "variants": rows,
    }
    text = plan_table(rows, plan.budget, width=width()) + estimate_line(plan.estimate) + needs
    show(document, text, json=options.json)


def _print_pushes(options: RunOptions, stages: Sequence[Stage[Any]]) -> None:
    run = _prepared(options, stages)
    progress(*(f"Note: {line}" for line in adopt_old_records(run.jobs)))
    rows = [_push_row(job, stages, devel=options.devel) for job in run.jobs]
    show({"variants": rows}, pushes_table(rows, width=width()), json=options.json)


def _push_row(job: Job, stages: Sequence[Stage[Any]], *, devel: bool) -> Row:
    from serving_factory.pipeline.stages.devel import devel_tags
    from serving_factory.pipeline.stages.package import image_tags
    from serving_factory.pipeline.stages.push import push_names

    (plan,) = plan_stages([job], stages)
    missing = next((why for one in needs_of(stages) if (why := one.reason(job, look=False))), None)
    names: list[str] = []
    if not missing:
        full, aliases = (devel_tags if devel else image_tags)(job)
        places = push_names(job.recipe.images.repository, job.site.registries)
        names = [f"{place}:{tag}" for place in places for tag in (*full, *aliases)]
    return {"variant": plan.variant, "run": [] if missing else list(plan.run), "missing": missing, "names": names}


def pushes_table(rows: Sequence[Row], *, width: int | None = None) -> str:
    """A line for each variant, and the names that its image would get, or has."""
    cells = [
        (
            row["variant"],
            " ".join(row["run"]) or "nothing",
            f"`./factory build` first: {row['missing']}" if row["missing"] else "",
        )
        for row in rows
    ]
    names = [f"  {name}" for row in rows for name in row["names"]]
    listed = "".join(f"{line}\n" for line in ("", "Names:", *names)) if names else ""
    return f"{table(('variant', 'would run', 'because'), cells, width=width)}{listed}\nNothing was pushed.\n"


def plan_row(**known: object) -> Row:
    """A variant of a plan (docs/json.md); without an engine there are no wave, jobs and memory."""
    return {**dict.fromkeys(_MEMBERS), "run": (), "up_to_date": (), **known}


def _rows(plan: Plan, variants: Sequence[Candidate]) -> Iterator[Row]:
    """In the order in which the variants would begin."""
    turns = {turn.variant: turn for turn in plan.schedule.turns} if plan.budget else {}
    estimates = {one.variant: one for one in plan.estimate.variants}
    order = {id_: index for index, id_ in enumerate(turns)}
    for one in sorted(variants, key=lambda one: order.get(one.variant, len(order))):
        row: dict[str, object] = {"variant": one.variant, "run": one.run, "up_to_date": one.up_to_date}
        row |= {"because": one.because or None, "estimate": estimates.get(one.variant)}
        if turn := turns.get(one.variant):
            share, after = turn.share, turn.after or None
            row |= {"wave": turn.wave, "jobs": share.jobs or None, "memory": share.memory, "after": after}
        yield plan_row(**row)


def plan_table(rows: Sequence[Row], budget: Budget | None = None, *, width: int | None = None) -> str:
    """A line for each variant, and what the engine's machine has."""
    if not rows:
        return "Nothing to do: no variant is chosen.\n"
    heads = (">wave", "variant", "would run", "up to date", ">jobs", ">memory", "because", *ESTIMATE_HEADS)
    cells = [
        (
            cell(row["wave"]),
            row["variant"],
            " ".join(row["run"]) or "nothing",
            " ".join(row["up_to_date"]),
            cell(row["jobs"]),
            cell(row["memory"], size),
            row["unbuildable"] or "; ".join(filter(None, (row["because"], row["after"] and f"after {row['after']}"))),
            *estimate_cells(row["estimate"]),
        )
        for row in rows
    ]
    work, unbuildable = (sum(bool(row[name]) for row in rows) for name in ("run", "unbuildable"))
    counts = f"{work} to build, {len(rows) - work - unbuildable} up to date"
    counts += f", {unbuildable} cannot be built" if unbuildable else ""
    end = f"{count(len(rows), 'variant')}: {counts}. Nothing was run.\n"
    if budget:
        end += f"The engine's machine has {budget.cpus} CPUs and {size(budget.memory)} of memory for builds; "
        end += "the variants of a wave compile at the same time.\n"
    elif work:
        end += "No Docker engine answers: waves, jobs and memory depend on its machine.\n"
    return f"{table(heads, cells, width=width)}\n{end}"
