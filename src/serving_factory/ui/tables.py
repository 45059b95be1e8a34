"""The tables and pages of what a matrix has, and of what a build would do: list, explain, plan. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.ui.forecasts import forecast_cells
from serving_factory.ui.layout import Column, Section, page, table
from serving_factory.ui.text import count

if TYPE_CHECKING:
    from serving_factory.line.forecast import Forecast

__all__ = [
    "DroppedRow",
    "ListRow",
    "PlanRow",
    "Section",
    "dropped_table",
    "explain_page",
    "list_table",
    "plan_table",
    "with_origin",
]

_BESIDE = 60
"""How long a value may be for its origin to stand beside it."""


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
        wave: variants of one wave compile at once; None where nothing would run, and where no engine answers.
        jobs: compilers at once; None where nothing is compiled.
        memory: bytes.
        after: the variant whose Bazel fills the caches for this one.
        forecast: what it will take; None where there is nothing to do.
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
    forecast: Forecast | None = None


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
            row.state if row.recipe else "cannot be built",
        )
        for row in rows
    ]
    more = f" {dropped} more are dropped: `./factory explain --dropped` tells why." if dropped else ""
    return f"{table(columns, cells, width=width)}\n{count(len(rows), 'variant')}.{more}\n"


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
    return f"{table(columns, cells, width=width)}\n{count(len(rows), 'variant')} dropped.\n"


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
        *(Column(name, right=True) for name in ("time", "peak memory", "downloads")),
        Column("foretold from"),
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
            *forecast_cells(row.forecast),
        )
        for row in rows
    ]
    work, lacking = sum(bool(row.run) for row in rows), sum(bool(row.lacking) for row in rows)
    told = f"{count(len(rows), 'variant')}: {work} to work on, {len(rows) - work - lacking} up to date"
    told += f", {lacking} that cannot be built. Nothing was run." if lacking else ". Nothing was run."
    if machine:
        told += f"\nThe engine's machine has {machine[0]} CPUs, {_gib(machine[1])} for them; a wave compiles at once."
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
