"""The forecast of a run, from the history of the build folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving_factory.catalogue.upstream_files import read_workspace
from serving_factory.errors import HistoryError
from serving_factory.line.events import StageName
from serving_factory.line.forecast import NOTHING_TO_DO, Outlook, Past, Wanted, forecast, size_of, total
from serving_factory.line.history.recorder import toolchain_words
from serving_factory.line.history.rows import StageRow
from serving_factory.line.history.store import FILE, read_history, read_latest
from serving_factory.line.schedule import Schedule
from serving_factory.recipes.recipe import Recipe

__all__ = ["DOWNLOADED", "PEAK_MEMORY", "disk_of", "is_upstreams", "outlook_of"]

PEAK_MEMORY = "peak_memory_bytes"
DOWNLOADED = "bytes_fetched"
"""Names of facts in the record of a compile."""

_OTHER_SOURCES_DISK = 10**9  # bytes; of a source tree that is not upstream's nothing is known
_EACH = 3  # runs of every stage of every variant: more are not looked at


def outlook_of(
    recipes: Sequence[Recipe],
    runs: Mapping[str, Sequence[StageName]],
    schedule: Schedule,
    build: Path,
    *,
    matrix: str,
) -> Outlook:
    """Foretell what a run takes. A history that cannot be read counts as none: the run itself will tell of it.

    Args:
        recipes: of the variants.
        runs: variant's id → the stages that would run.
        schedule: who works when, and with how much.
        build: the build folder of the checkout.
        matrix: the matrix file, as runs are remembered by. Runs of another one foretell nothing: a variant of the same
            name may be made of other sources there, as the sample's are.
    """
    if not any(runs.values()):
        return NOTHING_TO_DO
    past: tuple[Past, ...] = ()
    with contextlib.suppress(HistoryError), read_history(build / FILE) as connection:
        past = tuple(map(_past, read_latest(connection, matrix=matrix, each=_EACH))) if connection else ()
    turns = {turn.variant: turn for turn in schedule.turns}
    wanted = [
        _wanted(recipe, runs.get(recipe.variant.id, ()), turns[recipe.variant.id].share.jobs)
        for recipe in recipes
        if recipe.variant.id in turns
    ]
    forecasts = forecast(wanted, past)
    waves = {turn.variant: turn.wave for turn in schedule.turns}
    return Outlook(forecasts, total(forecasts, waves), waves)


def is_upstreams(recipe: Recipe) -> bool:
    """Whether a variant is made of upstream's sources: of its repository, or a checkout that pins its TensorFlow."""
    if not isinstance(recipe.source, Path):
        return True
    try:
        text = (recipe.source / "WORKSPACE").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    commit = read_workspace(text).get("tensorflow_commit")
    return commit is not None and commit.value == recipe.release.tensorflow_commit


def disk_of(recipe: Recipe) -> int:
    """Estimate the bytes that a variant takes while it is built."""
    return int(size_of(recipe.variant.release).disk) if is_upstreams(recipe) else _OTHER_SOURCES_DISK


def _wanted(recipe: Recipe, run: Sequence[StageName], jobs: int) -> Wanted:
    return Wanted(
        variant=recipe.variant.id,
        release=recipe.variant.release,
        flavour=recipe.variant.flavour.value,
        toolchain=toolchain_words(recipe.toolchain),
        upstream=is_upstreams(recipe),
        offline=recipe.doors.offline,
        run=tuple(map(str, run)),
        jobs=jobs,
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
