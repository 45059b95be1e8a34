"""`preflight`: what of the inputs of variants is missing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import CompileError, MissingInputsError, UsageError
from serving_factory.output.text import Column, clean, count, size, table
from serving_factory.pipeline.build_lock import hold_matrix_lock
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.preflight import preflight_document, preflight_folder, run_preflight
from serving_factory.pipeline.records import build_folder
from serving_factory.recipes.recipe import recipes_for

_SHOWN = 8
_NOTES = {"left out": "left out, for the mirror lacks them", "absent": "not there, though the BUILD file names them"}
_MATCHES = {None: "nothing pins it", True: "as pinned", False: "NOT AS PINNED"}


def archives_table(documents: Sequence[Mapping[str, Any]], *, width: int | None = None) -> str:
    """Archives that the vault made, a line each."""
    columns = [Column(name) for name in ("file", "ref", "commit", "folder in it")]
    columns += [Column("size", right=True), Column("sha256"), Column("is it?")]
    rows = [
        (
            str(one["file"]),
            str(one["ref"]),
            str(one["commit"])[:12],
            str(one["folder"]),
            size(one["size"]),
            str(one["sha256"]),
            _MATCHES[one["matches"]],
        )
        for one in documents
    ]
    return table(columns, rows, width=width)


def preflight_page(document: Mapping[str, Any], *, width: int | None = None) -> str:
    """What a preflight of a variant found: what is missing, a line each; what was found, in numbers."""
    missing, unseen = document["missing"], document["unseen"]
    lines = [f"{clean(document['variant'])}: {_there(document['found'])}"]
    if missing:
        columns = [Column(name) for name in ("missing", "file", "sha256", "from", "why")]
        rows = [
            (one["name"], one["file"], one["sha256"] or "", [*one["urls"], ""][0], one["problem"]) for one in missing
        ]
        lines += ["", table(columns, rows, width=width)]
    if document["stopped"]:
        lines.append("These keep Bazel from looking any further: what lies behind them cannot be seen yet.")
    elif missing:
        lines.append("What these need themselves cannot be seen yet.")
    if missing and unseen:
        lines.append(f"WORKSPACE declares {len(unseen)} more that may or may not be needed; --json lists them.")
    lines += _programs(document["programs"])
    lines += [clean(error) for error in document["errors"]]
    if document["unasked"]:
        lines.append(
            "Nothing that is downloaded is missing. Which programs the rules call could not be asked: genrules.log."
        )
    elif not document["failed"] and not document["programs"] and not missing:
        lines.append("Nothing is missing.")
    return "\n".join(lines) + "\n"


def _programs(missing: Sequence[Mapping[str, Any]]) -> list[str]:
    """Programs of the host that rules call and the toolchain lacks, a line each."""
    return [
        f"The toolchain lacks {clean(one['name'])}"
        + (f" (package {one['package']})" if one["package"] else "")
        + f", which {clean(', '.join(one['rules'][:3]))} calls"
        for one in missing
    ]


def filled_page(document: Mapping[str, Any], *, width: int | None = None) -> str:
    """What `vault fill` did for a variant: what came, in numbers; of each input that is left why, and what to do."""
    made, left = document["made"], document["left"]
    results = [one["result"] for one in made]
    told = [f"{results.count(word)} {word}" for word in ("made", "copied", "overridden") if word in results]
    rounds = "1 round" if document["rounds"] == 1 else f"{document['rounds']} rounds"
    lines = [f"{clean(document['variant'])}: {', '.join(told) or 'nothing made'} in {rounds}, {len(left)} left"]
    lines += [
        f"  {clean(one['name'])} from {clean(one['source'])}: {_NOTES.get(word, word)}: {clean(_some(names))}"
        for one in made
        for word, names in one["notes"].items()
    ]
    if left:
        rows = [(one["name"], one["file"], one["why"]) for one in left]
        lines += ["", table([Column("left"), Column("file"), Column("why")], rows, width=width), "Next, for each:"]
        lines += [f"  {clean(one['name'])}: {clean(one['next_step'])}" for one in left]
    elif not document["errors"]:
        lines.append("Nothing is missing.")
    return "\n".join(lines) + "\n"


def override_page(document: Mapping[str, Any]) -> str:
    """What `vault override` made, what of the rule it followed, and what is not there."""
    lines = [f"{clean(document['name'])}: {clean(document['folder'])}"]
    lines += [f"  followed {name}: {clean(effect)}" for name, effect in document["followed"]]
    lines += [f"  NOT followed {name}: {clean(why)}" for name, why in document["not_followed"]]
    if document["left_out"]:
        lines.append(f"  left out, for the mirror lacks them: {clean(_some(document['left_out']))}")
    if document["absent"]:
        lines += [
            f"  the BUILD file names files that these sources lack: {clean(_some(document['absent']))}",
            "  Files that are generated for a release (by ./configure, for one) are in its archive, not in git.",
        ]
    if not document["in_matrix"]:
        lines.append(f"Add to the matrix file: bazel: {{overrides: {{{document['name']}: {document['folder']}}}}}")
    return "\n".join(lines) + "\n"


def packages_page(document: Mapping[str, Any]) -> str:
    """What `vault packages` brought, in a line."""
    wheel = f"; {clean(document['wheel'])}" if document["wheel"] else ""
    return (
        f"{clean(document['variant'])}: {document['packages']} packages in {clean(document['folder'])}, "
        f"{size(document['bytes'])}, {document['new']} of them new{wheel}\n"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _there(found: Sequence[Mapping[str, Any]]) -> str:
    """How many repositories are there, and from where."""
    words = {
        "distdir": "from the distdir",
        "override": "from overrides",
        "cache": "from Bazel's cache",
        "download": "downloaded",
        "local": "without an archive",
    }
    origins = [one["origin"] for one in found]
    told = [f"{origins.count(name)} {word}" for name, word in words.items() if name in origins]
    return f"repositories that are there: {', '.join(told) or 'none'}"


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
    recipes, unbuildable = recipes_for(replace(asked, variants=variants).choose(matrix), matrix)
    if unbuildable:
        raise unbuildable[0].error
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build)
    jobs = [Job(recipe=recipe, site=Site(build=folder, models=asked.checkout.models)) for recipe in recipes]
    with hold_matrix_lock(folder):
        reports = [(job, run_preflight(job, _report)) for job in jobs]
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


def _report(what: str) -> None:
    sys.stderr.write(f"{what}\n")
