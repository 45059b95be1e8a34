"""`list`: the variants of the matrix, for people, for machines and for GitHub Actions."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serving_factory.catalogue.releases import releases
from serving_factory.commands.shared import Asked, show, width, write
from serving_factory.errors import UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import count, table
from serving_factory.pipeline.records import last_stage
from serving_factory.pipeline.stages import STAGES
from serving_factory.recipes.toolchain import is_buildable

# GitHub's documentation, "Usage limits" and `jobs.<job_id>.outputs`: jobs of a matrix; bytes of UTF-16 of all outputs.
MAX_JOBS = 256
MAX_SIZE = 1_000_000


def list_variants(asked: Asked, *, json: bool, ids: bool, github: bool) -> None:
    """Print the variants: a table, a JSON document, ids alone, or matrices for GitHub Actions."""
    if json + ids + github > 1:
        raise UsageError("--json, --ids and --github exclude each other", remedy="give one of them")
    matrix = asked.load()
    chosen = asked.choose(matrix)
    if ids:
        write("".join(f"{variant.id}\n" for variant in chosen))
    elif github:
        write(github_matrices(chosen))
    else:
        listed = [{**_axes(one), **_state(one, matrix, asked)} for one in chosen]
        dropped = len(matrix.dropped)
        text = variants_table(listed, dropped=dropped, width=width())
        show({"dropped": dropped, "variants": listed}, text, json=json)


def _axes(variant: Variant) -> dict[str, Any]:
    names = ("flavour", "level", "platform", "cuda")
    axes = {name: getattr(variant, name) for name in names}
    return {"variant": variant.id, "release": variant.release_name, **axes}


def _state(variant: Variant, matrix: Matrix, asked: Asked) -> dict[str, Any]:
    settings, release = matrix.settings_of(variant), releases()[variant.release]
    return {
        "like": variant.release if variant.own_release else None,
        "capabilities": variant.capabilities,
        "targets": matrix.targets_of(variant),
        "last_stage": last_stage(asked.folder / variant.id, STAGES) or None,
        "buildable": is_buildable(variant, release, settings, matrix.lock),
    }


def variants_table(variants: Sequence[Mapping[str, Any]], *, dropped: int = 0, width: int | None = None) -> str:
    """A line for each variant, of the members in docs/json.md."""
    if not variants:
        return "The matrix has no variants.\n"
    axes = ["variant", "release", "flavour", "level", "platform", "cuda"]
    if {one["platform"] for one in variants} == {"linux/amd64"}:
        axes.remove("platform")
    cells = [
        (
            *(one[name] or "" for name in axes),
            ", ".join(one["targets"]),
            one["last_stage"] or "" if one["buildable"] else "cannot be built",
        )
        for one in variants
    ]
    more = f" {dropped} more dropped; `./factory explain --dropped` says why." if dropped else ""
    text = table((*axes, "targets", "last stage"), cells, width=width)
    return f"{text}\n{count(len(variants), 'variant')}.{more}\n"


def github_matrices(variants: Iterable[Variant], *, jobs: int = MAX_JOBS, size: int = MAX_SIZE) -> str:
    """Matrices for GitHub Actions, a line of JSON for each `jobs` variants: `{"include": [...]}` with a job each."""
    entries = [{**_axes(variant), "cuda": variant.cuda or ""} for variant in variants]
    chunks = [entries[start : start + jobs] for start in range(0, len(entries), jobs)]
    lines = "".join(json_module.dumps({"include": chunk}) + "\n" for chunk in chunks)
    bytes_ = len(lines.encode("utf-16-le"))
    if bytes_ > size:
        raise UsageError(
            f"{len(entries):,} variants are {bytes_:,} bytes of JSON in UTF-16; GitHub takes {size:,} from one job",
            remedy="choose fewer with --target or --release, and list the others in another job",
        )
    return lines
