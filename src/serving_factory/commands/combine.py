"""`combine`: one image with the binaries of all levels, of which its launcher starts the one for the CPU."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving_factory.commands.build import Run, carry_out
from serving_factory.commands.images import build_command
from serving_factory.commands.keys import signer_of
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import Asked, RunOptions, show, width, write
from serving_factory.errors import NotBuiltError, PackageError, UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import WHOLE, matrix_error
from serving_factory.matrix.tags import combined_of, tag_findings
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import size, table
from serving_factory.pipeline.events import SCHEMA_VERSION, json_line, utc_now
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import record_path
from serving_factory.pipeline.runner import needs_of, plan_stages, why_not_ready
from serving_factory.pipeline.stages import stage
from serving_factory.pipeline.stages.compile import BINARY
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.libraries import LIBRARIES
from serving_factory.pipeline.stages.package import PACKAGE, image_tags
from serving_factory.pipeline.stages.push import PUSH, push_names
from serving_factory.recipes.recipe import combined_recipe, recipes_for


def combine(options: RunOptions) -> None:
    """Make the images with all levels of the chosen variants' builds, try them, and push them where one says where."""
    matrix = options.asked.load()
    if options.registry:
        push_names(matrix.images.repository, options.registry)
    chosen = {one.id for one in options.asked.choose(matrix)}
    signer = signer_of(matrix, dry_run=options.dry_run) if options.registry else None
    site = site_of(options.asked, options.registry, signer)
    stages = tuple(map(stage, ("package", "smoke", *(["push"] if options.registry else []))))
    images = [(_combined(parts, tags), parts) for tags, parts in _parts(matrix, chosen, site)]
    if options.dry_run:
        rows = [_planned(options.asked, job, parts, stages) for job, parts in images]
        names = [f"  {name}" for row in rows for name in row["names"]]
        listed = "".join(f"{line}\n" for line in ("", "Names:", *names))
        show({"images": rows}, f"{_text(rows)}{listed}\nNothing was built or pushed.\n", json=options.json)
        return

    def prepare() -> None:
        for job, parts in images:
            _check_built(options.asked, job, parts)
            _give_records(job, parts[0])

    jobs = [job for job, _ in images]
    carry_out(Run(options, matrix, tuple(one.recipe.variant for one in jobs), site, jobs, (), stages, prepare))
    rows = [_row(job, parts) for job, parts in images]
    if options.json:
        write(json_line("combined", {"schema_version": SCHEMA_VERSION, "images": rows}, at=utc_now()))
    else:
        write("\n" + _text(rows))


def _chosen(matrix: Matrix, chosen: set[str]) -> Mapping[tuple[Variant, ...], tuple[str, ...]]:
    """The variants of each image that has any of the chosen ones, with its aliases."""
    problems = tag_findings(matrix.document, matrix.images, matrix.candidates, WHOLE, used={"combined"})
    if located := [matrix.document.located(one) for one in problems]:
        raise matrix_error(matrix.file, located)
    combined = combined_of(matrix.images, matrix.candidates)
    if found := {all_: tags for all_, tags in combined.items() if not {one.id for one in all_}.isdisjoint(chosen)}:
        return found
    raise UsageError(
        "none of the chosen variants belongs to an image with several levels",
        why="it is made of the cpu or mkl variants of a release, where the matrix file has more than one level of them",
        remedy="choose others with --target, --release or --variant, or give a target more levels",
    )


def _parts(matrix: Matrix, chosen: set[str], site: Site) -> Iterator[tuple[tuple[str, ...], list[Job]]]:
    """Of each image its aliases, and the jobs of its levels, the lowest first."""
    for variants, tags in _chosen(matrix, chosen).items():
        recipes, unbuildable = recipes_for(variants, matrix)
        if unbuildable:
            raise unbuildable[0].error
        yield tags, [Job(recipe=one, site=site) for one in recipes]


def _combined(parts: Sequence[Job], tags: tuple[str, ...]) -> Job:
    """The job of an image with all levels: that of the lowest, whose records and files it has, and more binaries."""
    lowest, *higher = parts
    recipe = combined_recipe(lowest.recipe, tuple(one.recipe.variant.level for one in higher), tags)
    return Job(recipe=recipe, site=lowest.site, higher=tuple(higher))


def _check_built(asked: Asked, job: Job, parts: Sequence[Job]) -> None:
    """Refuse an image of which a level is not built and smoke-tested as an image of its own, or has other libraries."""
    if reasons := {one.recipe.variant.id: why for one in parts if (why := why_not_ready(one, PUSH))}:
        raise NotBuiltError(
            f"not all levels are built: {', '.join(reasons)}",
            why="\n".join(f"{id_}: {why}" for id_, why in reasons.items()),
            remedy=build_command(asked, *reasons),
        )
    libraries = {one.recipe.variant.id: one.record(LIBRARIES).outputs.rootfs for one in parts}
    if len(set(libraries.values())) > 1:
        raise PackageError(
            f"{job.recipe.variant.id}: the levels have different libraries, and the image has only one of each",
            why="\n".join(f"{id_}: {rootfs}" for id_, rootfs in libraries.items()),
            remedy="build all levels again with the same base and packages: ./factory lock, then ./factory build",
        )


def _give_records(job: Job, lowest: Job) -> None:
    """Give the job of an image with all levels what its lowest level has."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for needed in needs_of((PACKAGE,)):
        shutil.copy2(record_path(lowest.folder, needed.name), record_path(job.folder, needed.name))
    for name in (BINARY, "artifact", "libraries"):
        link = job.folder / name
        link.unlink(missing_ok=True)
        if (lowest.folder / name).exists():
            link.symlink_to(os.path.relpath(lowest.folder / name, job.folder))


def _planned(asked: Asked, job: Job, parts: Sequence[Job], stages: Sequence[Stage[Any]]) -> dict[str, Any]:
    """What would be made, as JSON has it (docs/json.md); nothing is written where a build would look for it."""
    _check_built(asked, job, parts)
    site = job.site
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Site(
            build=Path(folder),
            models=site.models,
            programs=site.programs,
            registries=site.registries,
            signer=site.signer,
            connect=lambda: site.engine,
        )
        trial = replace(job, site=elsewhere)
        _give_records(trial, parts[0])
        for one in stages:
            with suppress(FileNotFoundError):
                shutil.copy2(record_path(job.folder, one.name), record_path(trial.folder, one.name))
        (plan,) = plan_stages([trial], stages)
        full, aliases = image_tags(trial)
    repository = job.recipe.images.repository
    places = push_names(repository, site.registries) if site.registries else (repository,)
    return {
        "variant": job.recipe.variant.id,
        "run": plan.run,
        "names": [f"{place}:{tag}" for place in places for tag in (*full, *aliases)],
        "size": parts[0].record(PACKAGE).outputs.size + sum(one.record(EXTRACT).outputs.size for one in parts[1:]),
        "levels": _levels(parts),
    }


def _row(job: Job, parts: Sequence[Job]) -> dict[str, Any]:
    """An image with all levels as JSON has it (docs/json.md)."""
    packaged = job.record(PACKAGE).outputs
    names, levels = packaged.names, _levels(parts)
    return {"variant": job.recipe.variant.id, "names": names, "size": packaged.size, "levels": levels}


def _levels(parts: Sequence[Job]) -> list[dict[str, object]]:
    return [
        {
            "level": one.recipe.variant.level,
            "binary_size": one.record(EXTRACT).outputs.size,
            "binary_sha256": one.record(EXTRACT).outputs.sha256,
            "image_size": one.record(PACKAGE).outputs.size,
        }
        for one in parts
    ]


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What an image with all levels saves, a line for each level."""
    heads = ("variant", "level", ">binary", ">image of its own", ">image with all levels")
    cells = [
        (row["variant"], one["level"], size(one["binary_size"]), size(one["image_size"]), size(row["size"]))
        for row in rows
        for one in row["levels"]
    ]
    return table(heads, cells, width=width())
