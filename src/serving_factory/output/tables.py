"""The tables and pages of what a matrix has, and of what a build would do: list, explain, plan. Values in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.output.text import Column, Section, count, duration, page, size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_factory.pipeline.estimates import Estimate, RunEstimate


def estimate_line(estimate: RunEstimate) -> str:
    """What a run will take: `Estimated: about 28 min 00 s, ...`; empty where it has nothing to do."""
    if not estimate.variants:
        return ""
    if estimate.seconds is None:
        return "Estimated: unknown; no earlier run is like this one.\n"
    basis = "in part from the release's size" if estimate.estimated else "from earlier runs"
    unknown = f"; without {count(estimate.unknown, 'variant')} of unknown size" if estimate.unknown else ""
    return f"Estimated: about {_figures(estimate)}, {basis}{unknown}.\n"


def needs_text(downloads: Sequence[tuple[str, str]], *, disk: int, free: int | None, estimate: RunEstimate) -> str:
    """What a first build of upstream's sources downloads (what, from where) and needs; `free` bytes may be unknown."""
    if not downloads:
        return ""
    margin = max(len(what) for what, _ in downloads)
    lines = [f"  {what:<{margin}}  {place}" for what, place in dict.fromkeys(downloads)]
    needs = [f"{size(disk)} of disk" + (f" ({size(free)} free)" if free is not None else "")]
    needs += [f"{size(estimate.memory)} of memory"] if estimate.memory else []
    needs += [duration(estimate.seconds)] if estimate.seconds else []
    return (
        "Downloads, for what is not here yet:\n"
        + "".join(f"{line}\n" for line in lines)
        + f"Needs about {', '.join(needs)}. Ctrl-C ends it; the same command goes on later.\n"
    )


def actual_line(estimate: RunEstimate, taken: RunEstimate | None) -> str:
    """The estimate and what the run took, a line each; empty where there is nothing to compare."""
    if taken is None:
        return ""
    estimated = "unknown" if estimate.seconds is None else f"about {_figures(estimate)}"
    if estimate.seconds is not None and estimate.unknown:
        estimated += f"; without {count(estimate.unknown, 'variant')} of unknown size"
    return f"Estimated: {estimated}.\nActual:    {_figures(taken)}.\n"


def _figures(run: RunEstimate) -> str:
    time = "time unknown" if run.seconds is None else duration(run.seconds)
    return f"{time}, peak memory {_size(run.memory)}, downloads {_size(run.download)}"


def _size(number: int | None) -> str:
    return "unknown" if number is None else size(number)


def estimate_cells(estimate: Estimate | None) -> tuple[str, str, str, str]:
    """Time, memory, downloads and what they go by, as cells of a table."""
    if estimate is None:
        return ("", "", "", "")
    return (
        "" if estimate.seconds is None else duration(estimate.seconds),
        "" if estimate.memory is None else size(estimate.memory),
        "" if estimate.download is None else size(estimate.download),
        estimate.basis.value,
    )


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
        unbuildable: why there is no recipe for it; empty where there is one.
        wave: variants of one wave compile at once; None where nothing would run, and where no engine answers.
        jobs: compilers at once; None where nothing is compiled.
        memory: bytes.
        after: the variant whose Bazel fills the caches for this one.
        estimate: what it will take; None where there is nothing to do.
    """

    variant: str
    run: tuple[str, ...] = ()
    up_to_date: tuple[str, ...] = ()
    because: str = ""
    unbuildable: str = ""
    wave: int | None = None
    jobs: int | None = None
    memory: int | None = None
    after: str = ""
    estimate: Estimate | None = None


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
        Column("estimated from"),
    ]
    cells = [
        (
            "" if row.wave is None else str(row.wave),
            row.variant,
            " ".join(row.run) or "nothing",
            " ".join(row.up_to_date),
            "" if row.jobs is None else str(row.jobs),
            "" if row.memory is None else _gib(row.memory),
            row.unbuildable or (f"{row.because}; after {row.after}" if row.after else row.because),
            *estimate_cells(row.estimate),
        )
        for row in rows
    ]
    work, unbuildable = sum(bool(row.run) for row in rows), sum(bool(row.unbuildable) for row in rows)
    told = f"{count(len(rows), 'variant')}: {work} to work on, {len(rows) - work - unbuildable} up to date"
    told += f", {unbuildable} that cannot be built. Nothing was run." if unbuildable else ". Nothing was run."
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
