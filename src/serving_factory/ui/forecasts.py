"""A forecast in words, before the work and after it. Pure, from values to text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_factory.ui.text import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_factory.line.forecast import Forecast, Outlook
    from serving_factory.line.results import VariantResult

__all__ = ["forecast_cells", "forecast_line", "truth_line"]


def forecast_line(outlook: Outlook) -> str:
    """What a run will take: `Forecast: about 28 min 00 s, ...`; empty where it has nothing to do."""
    if not outlook.forecasts:
        return ""
    total = outlook.total
    if total.seconds is None:
        return "Forecast: none; no earlier run is like this one.\n"
    parts = [f"about {duration(total.seconds)}"]
    parts.append("peak memory unknown" if total.memory is None else f"peak memory {size(total.memory)}")
    parts.append("downloads unknown" if total.download is None else f"downloads {size(total.download)}")
    told = f"Forecast: {', '.join(parts)}"
    told += ", in part an estimate from the release's size" if total.estimated else ", from earlier runs"
    unknown = f"; {total.unknown} more of which nothing is known" if total.unknown else ""
    return f"{told}{unknown}.\n"


def truth_line(outlook: Outlook, results: Sequence[VariantResult], seconds: float) -> str:
    """The forecast against what it came to; empty where there was none, or where not all of it was done."""
    built = {result.variant for result in results if result.status.value == "built"}
    if outlook.total.seconds is None or {one.variant for one in outlook.forecasts} - built:
        return ""
    return f"Foretold {duration(outlook.total.seconds)}, took {duration(seconds)}.\n"


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
