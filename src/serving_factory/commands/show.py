"""`list` and `explain`: what the matrix gives, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from serving_factory.catalogue.releases import releases
from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import FactoryError, RecipeError, UnknownNameError, UsageError
from serving_factory.matrix.matrix import CATALOGUE, Matrix, origin
from serving_factory.matrix.variant import Variant
from serving_factory.output import tables
from serving_factory.output.text import Section
from serving_factory.pipeline.records import build_folder, last_stage
from serving_factory.recipes.toolchain import is_buildable

MAX_JOBS = 256
"""The most jobs that one matrix may make (GitHub's documentation, "Usage limits")."""

MAX_SIZE = 1_000_000
"""Bytes of UTF-16: a job's outputs are 1 MB at most, all together (GitHub's documentation, `jobs.<job_id>.outputs`)."""


def github_matrices(variants: Iterable[Variant], *, jobs: int = MAX_JOBS, size: int = MAX_SIZE) -> str:
    """Write variants as matrices, each of which GitHub takes.

    Args:
        variants: one job each, in order.
        jobs: the most jobs of a matrix.
        size: the most bytes of all matrices, in UTF-16.

    Returns:
        A line of JSON for each matrix, `{"include": [...]}` with an object of texts for each job: one line wherever all
        jobs fit into one matrix.

    Raises:
        UsageError: a job of GitHub's could not hand so much to another one.
    """
    entries = [_job(variant) for variant in variants]
    chunks = [entries[start : start + jobs] for start in range(0, len(entries), jobs)]
    lines = "".join(json.dumps({"include": chunk}) + "\n" for chunk in chunks)
    bytes_ = len(lines.encode("utf-16-le"))
    if bytes_ > size:
        raise UsageError(
            f"{len(entries):,} variants are {bytes_:,} bytes of JSON in UTF-16, and GitHub takes {size:,} from one job",
            remedy="ask for fewer, with --target or --release, and list the others in another job",
        )
    return lines


def _job(variant: Variant) -> dict[str, str]:
    return {
        "variant": variant.id,
        "release": variant.release,
        "flavour": variant.flavour.value,
        "level": variant.level.value,
        "platform": variant.platform.value,
        "cuda": variant.cuda or "",
    }


def list_variants(asked: Asked, *, json: bool, ids: bool, github: bool) -> None:
    """Print the variants: a table, or one of three forms for machines.

    Raises:
        UsageError: more than one of these forms is asked for.
    """
    if json + ids + github > 1:
        raise UsageError("--json, --ids and --github are three forms of the same", remedy="ask for one of them")
    matrix = asked.load()
    chosen = asked.choose(matrix)
    if ids:
        write("".join(f"{variant.id}\n" for variant in chosen))
    elif github:
        write(github_matrices(chosen))
    else:
        folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
        rows = [_row(variant, matrix, folder) for variant in chosen]
        if json:
            print_json([asdict(row) for row in rows])
        else:
            write(tables.list_table(rows, dropped=len(matrix.dropped), width=width()))


def _row(variant: Variant, matrix: Matrix, folder: Path) -> tables.ListRow:
    return tables.ListRow(
        variant=variant.id,
        release=variant.release,
        flavour=variant.flavour.value,
        level=variant.level.value,
        platform=variant.platform.value,
        cuda=variant.cuda or "",
        capabilities=variant.capabilities,
        targets=matrix.targets_of(variant),
        state=last_stage(folder / variant.id),
        recipe=is_buildable(variant, releases()[variant.release], matrix.settings_of(variant.release), matrix.lock),
    )


def explain_variant(asked: Asked, id_: str, *, json: bool) -> None:
    """Print everything that decides one variant, and where each value comes from.

    Raises:
        UsageError: no id is given.
        UnknownNameError: the matrix has no such variant.
    """
    if not id_:
        raise UsageError("explain needs a variant's id, or --dropped", remedy="take one of `./factory list --ids`")
    # Recipes are rendered here, which takes a while to import: `list` does without.
    from serving_factory.recipes.explain import explain, explain_matrix, explain_upstream
    from serving_factory.recipes.recipe import recipe_for, recipes_for

    matrix = asked.load()
    (variant,) = replace(asked, variants=(id_,)).choose(matrix)
    file_from = "command line, --matrix" if asked.matrix else "default"
    sections = explain_matrix(variant, matrix, file_from=file_from)
    _, unbuildable = recipes_for((variant,), matrix)
    sections += tuple(("Cannot be built", _reasons(one.error)) for one in unbuildable)
    try:
        recipe = recipe_for(variant, matrix)
    except RecipeError:
        sections += explain_upstream(variant, matrix)
    else:
        folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build) / variant.id
        sections += explain(recipe, matrix, context=folder / "recipe" / "devel")
    if json:
        values = {title: {name: value for name, value, _ in entries} for title, entries in sections}
        origins = {title: {name: told for name, _, told in entries if told} for title, entries in sections}
        print_json({**values, "origins": {title: told for title, told in origins.items() if told}})
    else:
        page = [
            Section(title, tuple((name, tables.with_origin(value, told)) for name, value, told in entries))
            for title, entries in sections
        ]
        write(tables.explain_page(variant.id, page))


def _reasons(error: FactoryError) -> tuple[tuple[str, str, str], ...]:
    parts = (("what", error.what), ("why", error.why), ("what to do", error.remedy))
    return tuple((name, text, "") for name, text in parts if text)


def explain_dropped(asked: Asked, id_: str, *, json: bool) -> None:
    """Print what targets ask for and is not built, and why.

    Args:
        asked: which matrix.
        id_: the one variant to tell of; empty for all.
        json: print JSON.

    Raises:
        UnknownNameError: the variant is not dropped.
    """
    matrix = asked.load()
    rows = [
        tables.DroppedRow(
            variant=dropped.candidate.variant.id,
            target=dropped.candidate.target,
            reasons=tuple(
                (reason.text, origin(matrix, reason.rule.path) if reason.rule else CATALOGUE)
                for reason in dropped.reasons
            ),
        )
        for dropped in matrix.dropped
        if id_ in {"", dropped.candidate.variant.id}
    ]
    if id_ and not rows:
        raise UnknownNameError(
            f"no target's {id_} is dropped",
            remedy="`./factory explain --dropped` lists all that is, `list` what is built",
        )
    if json:
        print_json(
            [
                {
                    "variant": row.variant,
                    "target": row.target,
                    "reasons": [{"reason": reason, "from": told} for reason, told in row.reasons],
                }
                for row in rows
            ]
        )
    else:
        write(tables.dropped_table(rows, width=width()))
