"""A forecast in words, before the work and after it. Pure, from values to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_factory.ui.text import count, duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_factory.line.forecast import Forecast, Outlook, Total

__all__ = ["forecast_cells", "forecast_line", "needs_text", "truth_line"]


def forecast_line(outlook: Outlook) -> str:
    """What a run will take: `Forecast: about 28 min 00 s, ...`; empty where it has nothing to do."""
    if not outlook.forecasts:
        return ""
    total = outlook.total
    if total.seconds is None:
        return "Forecast: none; no earlier run is like this one.\n"
    told = f"Forecast: about {_figures(total)}"
    told += ", in part an estimate from the release's size" if total.estimated else ", from earlier runs"
    unknown = f"; {total.unknown} more of which nothing is known" if total.unknown else ""
    return f"{told}{unknown}.\n"


def needs_text(downloads: Sequence[tuple[str, str]], *, disk: int, free: int | None, outlook: Outlook) -> str:
    """What a first build of upstream's sources downloads and needs, before hours are spent.

    Args:
        downloads: what, and from where.
        disk: bytes that it takes.
        free: bytes that are free where the engine keeps its data; None where nobody here can tell.
        outlook: the forecast.
    """
    if not downloads:
        return ""
    margin = max(len(what) for what, _ in downloads)
    lines = [f"  {what:<{margin}}  {place}" for what, place in dict.fromkeys(downloads)]
    total = outlook.total
    needs = [f"{size(disk)} of disk" + (f" ({size(free)} free)" if free is not None else "")]
    needs += [f"{size(total.memory)} of memory"] if total.memory else []
    needs += [duration(total.seconds)] if total.seconds else []
    return (
        "Downloads, for what is not here yet:\n"
        + "".join(f"{line}\n" for line in lines)
        + f"Needs about {', '.join(needs)}. Ctrl-C ends it; the same command goes on later.\n"
    )


def truth_line(outlook: Outlook, taken: Total | None) -> str:
    """The forecast against what it came to, a line each; empty where nothing is to be compared.

    Args:
        outlook: what was foretold.
        taken: as `line.forecast.truth` gives it.
    """
    if taken is None:
        return ""
    total = outlook.total
    foretold = "nothing" if total.seconds is None else f"about {_figures(total)}"
    if total.seconds is not None and total.unknown:
        foretold += f"; without {count(total.unknown, 'variant')} of which nothing was known"
    return f"Foretold: {foretold}.\nIt took:  {_figures(taken)}.\n"


def _figures(total: Total) -> str:
    return ", ".join(
        (
            "time unknown" if total.seconds is None else duration(total.seconds),
            f"peak memory {_size(total.memory)}",
            f"downloads {_size(total.download)}",
        )
    )


def _size(number: int | None) -> str:
    return "unknown" if number is None else size(number)


def forecast_cells(forecast: Forecast | None) -> tuple[str, str, str, str]:
    """Time, memory, downloads and what they go by, as cells of a table."""
    if forecast is None:
        return ("", "", "", "")
    return (
        "" if forecast.seconds is None else duration(forecast.seconds),
        "" if forecast.memory is None else size(forecast.memory),
        "" if forecast.download is None else size(forecast.download),
        forecast.basis.value,
    )
