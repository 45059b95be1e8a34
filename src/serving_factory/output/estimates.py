"""What a run will take, what is left of it while it works, and what it took."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving_factory.output.text import cell, count, duration, size
from serving_factory.pipeline.estimates import Estimate, RunEstimate

_COUNTED = re.compile(r"([\d,]+)/([\d,]+)(?: |$)")
_STEP = "["  # begins the name of a Dockerfile's step: after Bazel has counted, the one that follows it
_TELLING_SHARE = 0.05
_STEADY_SECONDS = 60.0
_STEADY_GROWTH = 1.05


def estimate_line(estimate: RunEstimate) -> str:
    """What a run will take: `Estimated: about 28 min 00 s, ...`; empty where it has nothing to do."""
    if not estimate.variants:
        return ""
    if estimate.seconds is None:
        return "Estimated: unknown; no earlier run is like this one.\n"
    basis = "in part from the release's size" if estimate.estimated else "from earlier runs"
    return f"Estimated: about {_figures(estimate)}, {basis}{_unknown(estimate)}.\n"


def actual_line(estimate: RunEstimate, taken: RunEstimate | None) -> str:
    """The estimate and what the run took, a line each; empty where there is nothing to compare."""
    if taken is None:
        return ""
    known = estimate.seconds is not None
    estimated = f"about {_figures(estimate)}{_unknown(estimate)}" if known else "unknown"
    return f"Estimated: {estimated}.\nActual:    {_figures(taken)}.\n"


def _unknown(estimate: RunEstimate) -> str:
    return f"; without {count(estimate.unknown, 'variant')} of unknown size" if estimate.unknown else ""


def _figures(run: RunEstimate) -> str:
    memory, download = ("unknown" if number is None else size(number) for number in (run.memory, run.download))
    time = "time unknown" if run.seconds is None else duration(run.seconds)
    return f"{time}, peak memory {memory}, downloads {download}"


def needs_text(downloads: Sequence[tuple[str, str]], *, disk: int, free: int | None, estimate: RunEstimate) -> str:
    """What a first build of upstream's sources downloads (what, from where) and needs; `free` bytes may be unknown."""
    margin = max(len(what) for what, _ in downloads)
    lines = "".join(f"  {what:<{margin}}  {place}\n" for what, place in dict.fromkeys(downloads))
    needs = [f"{size(disk)} of disk" + (f" ({size(free)} free)" if free is not None else "")]
    needs += [f"{size(estimate.memory)} of memory"] if estimate.memory else []
    needs += [duration(estimate.seconds)] if estimate.seconds else []
    return (
        f"Downloads, where the cache does not have them:\n{lines}"
        f"Needs about {', '.join(needs)}. Ctrl-C stops it; the same command continues it.\n"
    )


ESTIMATE_HEADS = (">time", ">peak memory", ">downloads", "estimated from")


def estimate_cells(estimate: Estimate | None) -> tuple[str, str, str, str]:
    """Time, memory, downloads and their basis, as cells of a table."""
    if estimate is None:
        return ("", "", "", "")
    seconds, memory, download = estimate.seconds, estimate.memory, estimate.download
    return (cell(seconds, duration), cell(memory, size), cell(download, size), estimate.basis.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What Bazel counted so far."""

    done: int  # actions
    total: int  # actions that Bazel knows of; it learns of more while it works
    base: int  # what growth is measured from: the first total, or the latest that had grown by much
    since: float  # the clock when that was
    ended: bool = False


def see(before: Counted | None, text: str, now: float) -> Counted | None:
    """Take in a stage's progress, which begins with `DONE/TOTAL` while Bazel works; None where nothing was counted."""
    match = _COUNTED.match(text)
    if match is None:
        return replace(before, ended=True) if before and text.startswith(_STEP) else before
    done, total = (int(number.replace(",", "")) for number in match.groups())
    steady = (
        before is not None and total <= before.base * _STEADY_GROWTH and total - before.base <= max(1, total - done)
    )
    base, since = (before.base, before.since) if before and steady else (total, now)
    return Counted(done=done, total=total, base=base, since=since)


def remaining(
    counted: Counted | None, *, running: float, expected: float | None, now: float, spent: float = 0.0
) -> float | None:
    """Estimate the seconds that are left of a stage that has run for `running`; None where that is unknown.

    The first actions are the cheap ones, and so are those from a cache: half of them say little, nine tenths say most.
    So what earlier runs took counts first, and the count of actions with the fourth power of the share that is done.
    `expected` seconds are those of all stages, of which the ended ones took `spent`.
    """
    expected = None if expected is None else expected - spent
    if counted and counted.ended:
        return None
    steady = counted is not None and now - counted.since >= _STEADY_SECONDS and counted.total > 0
    share = min(1.0, counted.done / counted.total) if counted and steady else 0.0
    if share < _TELLING_SHARE:
        return expected - running if expected is not None and expected > running else None
    by_actions = running * (1 - share) / share
    if expected is None:
        return by_actions
    weight = share**4
    return weight * by_actions + (1 - weight) * max(expected - running, expected * (1 - share))
