"""`combine`: one image with the binaries of all levels, of which its launcher starts the one for the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving_factory.commands.build import Run, carry_out
from serving_factory.commands.keys import signer_of
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import RunOptions, width, write
from serving_factory.errors import NotBuiltError, PackageError, UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import WHOLE, matrix_error
from serving_factory.matrix.tags import combined_of, tag_findings
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import size, table
from serving_factory.pipeline.events import SCHEMA_VERSION, json_line, utc_now
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import record_path
from serving_factory.pipeline.runner import needs_of, why_not_ready
from serving_factory.pipeline.stages import stage
from serving_factory.pipeline.stages.compile import BINARY
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.libraries import LIBRARIES
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.pipeline.stages.push import PUSH, push_names
from serving_factory.recipes.recipe import combined_recipe, recipes_for


def combine(options: RunOptions) -> None:
    """Make the images with all levels of the chosen variants' builds, try them, and push them where one says where."""
    matrix = options.asked.load()
    if options.registry:
        push_names(matrix.images.repository, options.registry)
    chosen = {one.id for one in options.asked.choose(matrix)}
    site = site_of(options.asked, options.registry, signer_of(matrix) if options.registry else None)
    images = [(tags, _parts(matrix, variants, site)) for variants, tags in _chosen(matrix, chosen).items()]
    _check_built([part for _, parts in images for part in parts])
    jobs = [_combined(parts, tags) for tags, parts in images]
    stages = tuple(map(stage, ("package", "smoke", *(["push"] if options.registry else []))))
    carry_out(Run(options, matrix, tuple(one.recipe.variant for one in jobs), site, jobs, (), stages))
    rows = [_row(job, parts) for job, (_, parts) in zip(jobs, images, strict=True)]
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


def _parts(matrix: Matrix, variants: Sequence[Variant], site: Site) -> list[Job]:
    """The jobs of an image's levels, the lowest first."""
    recipes, unbuildable = recipes_for(variants, matrix)
    if unbuildable:
        raise unbuildable[0].error
    return [Job(recipe=one, site=site) for one in recipes]


def _check_built(parts: Sequence[Job]) -> None:
    """Refuse images of which a level is not built and smoke-tested as an image of its own."""
    if reasons := {one.recipe.variant.id: why for one in parts if (why := why_not_ready(one, PUSH))}:
        raise NotBuiltError(
            f"not all levels are built: {', '.join(reasons)}",
            why="\n".join(f"{id_}: {why}" for id_, why in reasons.items()),
            remedy=f"./factory build {' '.join(f'--variant {id_}' for id_ in reasons)}, with the same --matrix",
        )


def _combined(parts: Sequence[Job], tags: tuple[str, ...]) -> Job:
    """The job of an image with all levels: that of the lowest, whose records and files it has, and more binaries."""
    lowest, *higher = parts
    recipe = combined_recipe(lowest.recipe, tuple(one.recipe.variant.level for one in higher), tags)
    job = Job(recipe=recipe, site=lowest.site, higher=tuple(higher))
    libraries = {one.record(LIBRARIES).outputs.rootfs for one in parts}
    if len(libraries) > 1:
        raise PackageError(
            f"{recipe.variant.id}: the levels have different libraries, and the image has only one of each",
            why="\n".join(f"{one.recipe.variant.id}: {one.record(LIBRARIES).outputs.rootfs}" for one in parts),
            remedy="build all levels again with the same base and packages: ./factory lock, then ./factory build",
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    for needed in needs_of((PACKAGE,)):
        shutil.copy2(record_path(lowest.folder, needed.name), record_path(job.folder, needed.name))
    for name in (BINARY, "artifact", "libraries"):
        link = job.folder / name
        link.unlink(missing_ok=True)
        if (lowest.folder / name).exists():
            link.symlink_to(Path("..") / lowest.folder.name / name)
    return job


def _row(job: Job, parts: Sequence[Job]) -> dict[str, object]:
    """An image with all levels as JSON has it (docs/json.md)."""
    packaged = job.record(PACKAGE).outputs
    levels = [
        {
            "level": one.recipe.variant.level,
            "binary_size": one.record(EXTRACT).outputs.size,
            "binary_sha256": one.record(EXTRACT).outputs.sha256,
            "image_size": one.record(PACKAGE).outputs.size,
        }
        for one in parts
    ]
    return {"variant": job.recipe.variant.id, "names": packaged.names, "size": packaged.size, "levels": levels}


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    """What an image with all levels saves, a line for each level."""
    heads = ("variant", "level", ">binary", ">image of its own", ">image with all levels")
    cells = [
        (row["variant"], one["level"], size(one["binary_size"]), size(one["image_size"]), size(row["size"]))
        for row in rows
        for one in row["levels"]
    ]
    return table(heads, cells, width=width())
