"""`preflight`: what of the inputs of variants is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import CompileError, MissingInputsError, UsageError
from serving_factory.line.job import Job, Site
from serving_factory.line.lock import hold_matrix_lock
from serving_factory.line.place import build_folder
from serving_factory.line.preflight import preflight_document, preflight_folder, run_preflight
from serving_factory.recipes.recipe import recipes_for
from serving_factory.ui.doors import preflight_page
from serving_factory.ui.text import count

__all__ = ["preflight"]


def preflight(asked: Asked, variants: Sequence[str], *, json: bool) -> None:
    """Ask of each variant what is missing, and print what there is to know.

    Args:
        asked: the matrix.
        variants: ids.
        json: print JSON.

    Raises:
        UsageError: no variant is named.
        RecipeError, BazelTooOldError: one of them cannot be built as the matrix has it.
        MissingInputsError: an input or a program is missing.
        CompileError: the analysis failed, and nothing is missing; or it did not come to one.
    """
    if not variants:
        raise UsageError("preflight needs a variant's id", remedy="`./factory list --ids` prints them")
    matrix = asked.load()
    recipes, lacking = recipes_for(replace(asked, variants=variants).choose(matrix), matrix)
    if lacking:
        raise lacking[0].error
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    jobs = [Job(recipe=recipe, site=Site(build=folder, models=asked.checkout.models)) for recipe in recipes]
    with hold_matrix_lock(folder):
        reports = [(job, run_preflight(job, _tell)) for job in jobs]
    documents = [preflight_document(job, report) for job, report in reports]
    if json:
        print_json(documents)
    else:
        write("\n".join(preflight_page(document, width=width()) for document in documents))
    names = {one.name for _, report in reports for one in report.missing}
    programs = {one.name for _, report in reports for one in report.programs}
    if names or programs:
        told = [count(len(found), noun) for found, noun in ((names, "input"), (programs, "program")) if found]
        raise MissingInputsError(
            f"{' and '.join(told)} missing",
            why="\n".join(f"{job.recipe.variant.id}: {preflight_folder(job) / 'report.json'}" for job, _ in reports),
            remedy="put archives into bazel.distdir, or folders in their place at bazel.overrides (`./factory vault` "
            "does it), and the packages of programs at toolchain.packages; then ask again",
        )
    for job, report in reports:
        if report.failed:
            raise CompileError(
                f"{job.recipe.variant.id}: Bazel's analysis fails, and not for want of an input",
                why="\n".join(report.errors),
                remedy=f"see {preflight_folder(job) / 'bazel.log'}",
            )


def _tell(what: str) -> None:
    sys.stderr.write(f"{what}\n")
