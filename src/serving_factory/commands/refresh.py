"""`refresh`: which images hold packages that their distribution has fixed since, and these images made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving_factory.commands.build import run_stage
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import RunOptions, progress, show, width, write
from serving_factory.errors import NotBuiltError, OutdatedError
from serving_factory.matrix.lockfile import Lock, base_name, lock_path, lock_text
from serving_factory.matrix.matrix import Matrix
from serving_factory.output.text import count, table
from serving_factory.pipeline.events import SCHEMA_VERSION, json_line, utc_now
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.outdated import Compared, Outdated, compare_images
from serving_factory.pipeline.records import write_atomically
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.recipes.recipe import recipes_for


def refresh(options: RunOptions, *, check: bool) -> None:
    """Compare the chosen variants' images with their distributions; make those again that are outdated."""
    asked, matrix = options.asked, options.asked.load()
    compared = compare_images(_packaged(options, matrix), progress)
    outdated = [one for one in compared if one.outdated]
    lock = locked_with(outdated, matrix.lock)
    document = {"lock": lock_path(asked.file), "images": compared}
    if check:
        show(document, compared_table(compared, width=width()), json=options.json)
    elif options.json:
        write(json_line("compared", {"schema_version": SCHEMA_VERSION, **document}, at=utc_now()))
    else:
        write(compared_table(compared, width=width()))
    if not outdated:
        return
    if check:
        verb = "holds" if len(outdated) == 1 else "hold"
        raise OutdatedError(
            f"{count(len(outdated), 'image')} of {len(compared)} {verb} packages that the distribution has fixed since",
            remedy="run `./factory refresh` with the same options: it compiles nothing",
        )
    if lock != matrix.lock:
        write_atomically(lock_path(asked.file), lock_text(lock, matrix=asked.file.name))
        progress(
            f"Wrote {lock_path(asked.file)}: commit it. `./factory generate --matrix {asked.file}` puts the versions "
            "into the Dockerfiles."
        )
    variants = tuple(one.variant for one in outdated)
    run_stage("refresh", replace(options, asked=replace(asked, target=(), release=(), variant=variants)))


def _packaged(options: RunOptions, matrix: Matrix) -> Sequence[Job]:
    """The jobs of the chosen variants that have an image."""
    recipes, _ = recipes_for(options.asked.choose(matrix), matrix)
    site = site_of(options.asked)
    jobs = [Job(recipe=recipe, site=site) for recipe in recipes]
    found = [job for job in jobs if PACKAGE.read(job.folder)]
    if not found:
        raise NotBuiltError(
            "no image was packaged yet of " + (jobs[0].recipe.variant.id if len(jobs) == 1 else "the chosen variants"),
            remedy="run `./factory build` with the same options",
        )
    if missing := [job.recipe.variant.id for job in jobs if job not in found]:
        progress(f"Note: {count(len(missing), 'variant')} without an image: {', '.join(missing)}")
    return found


def locked_with(outdated: Sequence[Compared], lock: Lock) -> Lock:
    """The lock by which images have the available versions of what is outdated."""
    packages: dict[str, Mapping[str, str]] = dict(lock.packages)
    for image in outdated:
        base = base_name(image.base)
        packages[base] = {**packages.get(base, {}), **{one.package: one.available for one in image.outdated}}
    return replace(lock, packages=packages)


def compared_table(compared: Sequence[Compared], *, width: int | None = None) -> str:
    """A line for each outdated package, and how many images hold any."""
    holders: dict[Outdated, list[str]] = {}
    for image in compared:
        for one in image.outdated:
            holders.setdefault(one, []).append(image.variant)
    cells = [
        (one.package, one.installed, one.available, _fixes(one), _images(variants, len(compared)))
        for one, variants in sorted(holders.items(), key=lambda item: item[0].package)
    ]
    heads = ("package", "installed", "available", "fixes", "images")
    text = f"{table(heads, cells, width=width)}\n" if cells else ""
    outdated = sum(bool(image.outdated) for image in compared)
    text += f"{count(len(compared), 'image')}: "
    text += f"{outdated} to refresh.\n" if outdated else "all packages are as their distribution has them now.\n"
    if unknown := sorted({name for image in compared for name in image.unknown}):
        text += f"Not compared, as no source of the base's packages has them: {', '.join(unknown)}\n"
    return text


def _fixes(one: Outdated) -> str:
    return "no changelog" if one.cves is None else " ".join(one.cves)


def _images(variants: Sequence[str], all_images: int) -> str:
    return "all" if len(variants) == all_images > 1 else " ".join(variants)
