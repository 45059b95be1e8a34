"""The rows of the history, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RunRow", "StageRow", "VariantRow", "is_number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of the line.

    Args:
        id: its number, counted from 1.
        started: UTC time, ISO 8601.
        ended: the same; None where the run never got to its end: it was killed, or still works.
        command: what the user typed, without the program's name.
        matrix: the matrix file, by its path below the checkout where it is there.
        seconds: wall time of the whole run; None as with `ended`.
        forecast: seconds that were foretold; None where nothing was.
        counts: how many variants ended how, `{"built": 3, "failed": 1}`.
        works: whether it still works; the database does not know.
    """

    id: int
    started: str
    ended: str | None
    command: str
    matrix: str
    seconds: float | None
    forecast: float | None
    counts: Mapping[str, int] = field(default_factory=dict)
    works: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRow:
    """What became of one variant in one run.

    Args:
        run: the run's number.
        variant: the variant's id.
        release: the full tag.
        flavour: the flavour.
        level: the level.
        toolchain: what compiled it, in a few words.
        status: how it ended, as `line.results.Status` spells it.
        seconds: spent on it, all stages together.
        forecast: seconds that were foretold; None where nothing was.
        binary: sha256 of the binary; None where there is none.
        binary_size: bytes.
        image: the image's id; None where there is none.
        image_size: bytes.
        error: the name of the error's class, where it failed.
    """

    run: int
    variant: str
    release: str
    flavour: str
    level: str
    toolchain: str
    status: str
    seconds: float
    forecast: float | None = None
    binary: str | None = None
    binary_size: int | None = None
    image: str | None = None
    image_size: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """What became of one stage of one variant in one run; only stages that were worked on have one.

    Args:
        run: the run's number.
        variant: the variant's id.
        release: of the variant.
        flavour: of the variant.
        toolchain: of the variant.
        stage: the stage's name.
        status: `finished`, `failed` or `cancelled`.
        seconds: how long it took.
        key: the key of its record; empty where it left none.
        facts: the numbers of its record, such as `{"actions": 53}`; numbers of a table in the record are there as
            `runners.worker`.
    """

    run: int
    variant: str
    release: str
    flavour: str
    toolchain: str
    stage: str
    status: str
    seconds: float
    key: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)


def is_number(value: object) -> bool:
    """Whether a value can be one of a stage's facts; what is true or false cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool)
