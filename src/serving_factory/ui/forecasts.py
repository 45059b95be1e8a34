"""A forecast in words, before the work and after it. Pure, from values to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_factory.ui.text import count, duration, size

if TYPE_CHECKING:
    from serving_factory.line.forecast import Forecast, Outlook, Total

__all__ = ["forecast_cells", "forecast_line", "truth_line"]


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
