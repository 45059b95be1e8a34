"""The tables and pages that tasks print: summary, demo, list, plan, explain. Pure, from values to text."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.line.results import Status, VariantResult
from serving_factory.ui.layout import Column, Section, page, table
from serving_factory.ui.text import clean, duration, size

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DroppedRow",
    "ListRow",
    "PlanRow",
    "Section",
    "counts",
    "demo_table",
    "detail",
    "dropped_table",
    "explain_page",
    "fact_text",
    "list_table",
    "plan_table",
    "pushed_list",
    "run_commands",
    "summary_table",
    "with_origin",
]

_BESIDE = 60
"""How long a value may be for its origin to stand beside it."""

_WORDS: Mapping[Status, str] = {
    Status.BUILT: "built",
    Status.UP_TO_DATE: "up to date",
    Status.FAILED: "failed",
    Status.SKIPPED: "skipped",
    Status.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """A variant as `./factory list` shows it.

    Args:
        variant: the id.
        release: the full tag.
        flavour: the flavour.
        level: the level.
        platform: the platform.
        cuda: CUDA's version; empty without.
        capabilities: the compute capabilities, of a gpu variant.
        targets: the targets that select it.
        state: the last stage that has a record in the build folder.
        recipe: whether there is a recipe for it.
    """

    variant: str
    release: str
    flavour: str
    level: str
    platform: str = "linux/amd64"
    cuda: str = ""
    capabilities: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    state: str = ""
    recipe: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A variant that a target asks for and that is not built.

    Args:
        variant: its id.
        target: the target.
        reasons: why, each with where that is said.
    """

    variant: str
    target: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """A variant as a dry run shows it.

    Args:
        variant: the id.
        run: names of the stages that would run, in order.
        up_to_date: names of the stages whose records match.
        because: why the first stage that would run has to.
        lacking: why there is no recipe for it; empty where there is one.
        wave: variants of one wave work at once; None where nothing would run, and where no engine answers.
        jobs: compilers at once.
        memory: bytes.
        after: the variant whose compile fills the caches for this one.
    """

    variant: str
    run: tuple[str, ...] = ()
    up_to_date: tuple[str, ...] = ()
    because: str = ""
    lacking: str = ""
    wave: int | None = None
    jobs: int | None = None
    memory: int | None = None
    after: str = ""


def summary_table(results: Sequence[VariantResult], *, width: int | None = None) -> str:
    """What became of each variant, the built ones first, and a line of counts."""
    if not results:
        return "Nothing to do: no variant was chosen.\n"
    order = list(Status)
    rows = [
        (
            _WORDS[result.status],
            result.variant,
            duration(result.seconds) if result.seconds else "",
            fact_text(result, "binary_size"),
            fact_text(result, "image_size"),
            detail(result),
        )
        for result in sorted(results, key=lambda result: order.index(result.status))
    ]
    columns = (
        Column("result"),
        Column("variant"),
        Column("time", right=True),
        Column("binary", right=True),
        Column("image", right=True),
        Column("image name, or why not"),
    )
    return f"{table(columns, rows, width=width)}\n{counts(results)}\n"


def pushed_list(results: Sequence[VariantResult]) -> str:
    """What registries hold now: a name with its digest in each line."""
    names = [name for result in results if result.error is None for name in _names(result.facts.get("pushed"))]
    return "".join(f"{line}\n" for line in ("", "Pushed:", *(f"  {clean(name)}" for name in names))) if names else ""


def _names(value: object) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else ()


def counts(results: Sequence[VariantResult]) -> str:
    """How many ended how: `3 variants: 2 built, 1 failed.`."""
    found = {status: sum(result.status is status for result in results) for status in Status}
    told = ", ".join(f"{count} {_WORDS[status]}" for status, count in found.items() if count)
    return f"{_variants(len(results))}: {told}."


def detail(result: VariantResult) -> str:
    """The image's name; or the error's first line; or what else stood in the way."""
    if result.error is not None:
        return clean(result.error.what.partition("\n")[0])
    return result.because or result.image or ""


def demo_table(results: Sequence[VariantResult], *, models: Path, width: int | None = None) -> str:
    """What the demo made: sizes, answers, times, image names, and how to run one of the images.

    Args:
        results: one per variant.
        models: absolute path of the folder that holds `half_plus_two`.
        width: columns of the terminal; None for no limit.
    """
    columns = (
        Column("variant"),
        Column("binary", right=True),
        Column("image", right=True),
        Column("REST answer"),
        Column("gRPC answer"),
        Column("time", right=True),
        Column("image name"),
    )
    rows = [
        (
            result.variant,
            fact_text(result, "binary_size"),
            fact_text(result, "image_size"),
            fact_text(result, "rest"),
            fact_text(result, "grpc"),
            _WORDS[result.status] if result.status is not Status.BUILT else duration(result.seconds),
            detail(result),
        )
        for result in results
    ]
    image = next((result.image for result in results if result.image and result.error is None), None)
    text = table(columns, rows, width=width)
    return f"{text}\n{run_commands(image, models=models)}" if image else text


def run_commands(image: str, *, models: Path) -> str:
    """How to run an image with half_plus_two and ask it, word for word as upstream documents it."""
    source = str(models / "half_plus_two")
    mount = io.StringIO()
    # docker reads --mount as one line of CSV: a comma or a quote in the path needs CSV's own quotes
    csv.writer(mount, lineterminator="").writerow(["type=bind", f"source={source}", "target=/models/half_plus_two"])
    run = shlex.join(
        [
            "docker",
            "run",
            "-p",
            "8501:8501",
            "--mount",
            mount.getvalue(),
            "-e",
            "MODEL_NAME=half_plus_two",
            image,
        ]
    )
    ask = """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict"""
    return f"Run one of them:\n\n  {run}\n\nand ask it, from another terminal:\n\n  {ask}\n"


def list_table(rows: Sequence[ListRow], *, dropped: int = 0, width: int | None = None) -> str:
    """The matrix's variants, a line each.

    Args:
        rows: the variants.
        dropped: how many the targets ask for beside these, that are not built.
        width: columns of the terminal; None for no limit.
    """
    if not rows:
        return "The matrix has no variants.\n"
    columns = [
        Column(name) for name in ("variant", "release", "flavour", "level", "platform", "cuda", "targets", "state")
    ]
    usual = {row.platform for row in rows} == {"linux/amd64"}
    cells = [
        (
            row.variant,
            row.release,
            row.flavour,
            row.level,
            "" if usual else row.platform,
            row.cuda,
            ", ".join(row.targets),
            row.state if row.recipe else "no recipe yet",
        )
        for row in rows
    ]
    more = f" {dropped} more are dropped: `./factory explain --dropped` tells why." if dropped else ""
    return f"{table(columns, cells, width=width)}\n{_variants(len(rows))}.{more}\n"


def dropped_table(rows: Sequence[DroppedRow], *, width: int | None = None) -> str:
    """What is not built, a line for each reason."""
    if not rows:
        return "Nothing is dropped: every variant that a target asks for is built.\n"
    columns = [Column(name) for name in ("variant", "target", "why", "who says so")]
    cells = [
        (*(("", "") if index else (row.variant, row.target)), reason, who)
        for row in rows
        for index, (reason, who) in enumerate(row.reasons)
    ]
    return f"{table(columns, cells, width=width)}\n{_variants(len(rows))} dropped.\n"


def plan_table(rows: Sequence[PlanRow], *, machine: tuple[int, int] | None = None, width: int | None = None) -> str:
    """What a build would do, a line per variant, in the order in which they would begin.

    Args:
        rows: the variants.
        machine: CPUs and bytes of memory that the engine's machine has for it; None where nobody knows.
        width: columns of the terminal; None for no limit.
    """
    if not rows:
        return "Nothing to do: no variant was chosen.\n"
    columns = [
        Column("wave", right=True),
        *(Column(name) for name in ("variant", "would run", "up to date")),
        *(Column(name, right=True) for name in ("jobs", "memory")),
        Column("because"),
    ]
    cells = [
        (
            "" if row.wave is None else str(row.wave),
            row.variant,
            " ".join(row.run) or "nothing",
            " ".join(row.up_to_date),
            "" if row.jobs is None else str(row.jobs),
            "" if row.memory is None else _gib(row.memory),
            row.lacking or (f"{row.because}; after {row.after}" if row.after else row.because),
        )
        for row in rows
    ]
    work, lacking = sum(bool(row.run) for row in rows), sum(bool(row.lacking) for row in rows)
    told = f"{_variants(len(rows))}: {work} to work on, {len(rows) - work - lacking} up to date"
    told += f", {lacking} without a recipe. Nothing was run." if lacking else ". Nothing was run."
    if machine:
        told += f"\nThe engine's machine has {machine[0]} CPUs and {_gib(machine[1])} for them; a wave works at once."
    elif work:
        told += "\nNo engine answers: how many would work at once, and with how much, depends on its machine."
    return f"{table(columns, cells, width=width)}\n{told}\n"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def with_origin(value: str, origin: str) -> str:
    """A value, and where it comes from: beside it, or below where there is no room."""
    if not origin:
        return value
    gap = "\n" if "\n" in value or len(value) > _BESIDE else "  "
    return f"{value}{gap}({origin})"


def explain_page(title: str, sections: Sequence[Section]) -> str:
    """All about one variant: a title, then sections of names and values."""
    return page(title, sections)


def fact_text(result: VariantResult, name: str) -> str:
    """A fact as a cell: bytes as MiB, numbers joined by commas, what is absent as nothing."""
    value = result.facts.get(name)
    if value is None:
        return ""
    if name.endswith("_size") and isinstance(value, int):
        return size(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(item) for item in value)
    return str(value)


def _variants(count: int) -> str:
    return "1 variant" if count == 1 else f"{count} variants"
