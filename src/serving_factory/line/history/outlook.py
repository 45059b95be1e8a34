"""The forecast of a run, from the history of the build folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving_factory.errors import HistoryError
from serving_factory.line.forecast import Outlook, Past, Wanted, forecast, total
from serving_factory.line.history.recorder import toolchain_words
from serving_factory.line.history.rows import StageRow
from serving_factory.line.history.store import FILE, read_history, read_latest
from serving_factory.line.plan import PlannedVariant
from serving_factory.recipes.recipe import Recipe

__all__ = ["DOWNLOADED", "PEAK_MEMORY", "outlook_of"]

PEAK_MEMORY = "peak_memory_bytes"
DOWNLOADED = "bytes_fetched"
"""Names of facts in the record of a compile."""

_EACH = 3  # runs of every stage of every variant: more are not looked at


def outlook_of(
    recipes: Sequence[Recipe], plan: Sequence[PlannedVariant], build: Path, *, cores: int, at_once: int = 1
) -> Outlook:
    """Foretell what a run takes. A history that cannot be read counts as none: the run itself will tell of it.

    Args:
        recipes: of the variants.
        plan: what would be done for each.
        build: the build folder of the checkout.
        cores: compilers that run at once.
        at_once: variants that run at once.
    """
    past: tuple[Past, ...] = ()
    with contextlib.suppress(HistoryError), read_history(build / FILE) as connection:
        past = tuple(map(_past, read_latest(connection, each=_EACH))) if connection else ()
    stages: Mapping[str, tuple[str, ...]] = {one.variant: tuple(map(str, one.run)) for one in plan}
    wanted = [_wanted(recipe, stages.get(recipe.variant.id, ())) for recipe in recipes]
    forecasts = forecast(wanted, past, cores=cores)
    return Outlook(forecasts, total(forecasts, at_once=at_once))


def _wanted(recipe: Recipe, run: tuple[str, ...]) -> Wanted:
    return Wanted(
        variant=recipe.variant.id,
        release=recipe.variant.release,
        flavour=recipe.variant.flavour.value,
        toolchain=toolchain_words(recipe.toolchain),
        upstream=recipe.upstream,
        run=run,
    )


def _past(row: StageRow) -> Past:
    memory, download = row.facts.get(PEAK_MEMORY), row.facts.get(DOWNLOADED)
    return Past(
        variant=row.variant,
        release=row.release,
        flavour=row.flavour,
        toolchain=row.toolchain,
        stage=row.stage,
        seconds=row.seconds,
        memory=None if memory is None else int(memory),
        download=None if download is None else int(download),
    )
