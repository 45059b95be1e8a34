"""What the CPU levels of one release answer: against the lowest of them, and against the one below, by a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from serving_factory.load.statistics import CONFIDENCE, Interval, interval, ratio_of

if TYPE_CHECKING:
    from serving_factory.load.generator import Sample
    from serving_factory.load.rounds import Load, Measured
    from serving_factory.load.servers import Subject


class Verdict(StrEnum):
    """What a gate says of a ratio; uncertain where the interval holds the gate, or there were too few rounds."""

    PASSED = "passed"
    SLOWER = "slower"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFigures:
    """One variant under one load: as much as it answers."""

    variant: str
    level: str
    image: str
    protocol: str
    input: str
    per_second: Interval  # answers
    client: float  # CPU seconds a second of the client, in its busiest round
    p50: Interval | None = None  # seconds of an answer, while all clients ask without pause; None where too few had any
    p99: Interval | None = None
    lowest: str | None = None  # the variant of the lowest level; None of that itself
    to_lowest: Interval | None = None  # its answers a second against that one's, round by round
    below: str | None = None  # the variant of the level below, of those that were measured; None of the lowest
    to_below: Interval | None = None
    gate: float | None = None  # the least that `to_below` may be; None for no gate
    verdict: Verdict | None = None


def level_figures(
    measured: Measured, subjects: Sequence[tuple[Subject, str]], *, gate: float | None
) -> tuple[LevelFigures, ...]:
    """Make figures of what was measured; subjects come with their levels, the lowest first."""
    found: list[LevelFigures] = []
    for load in measured.loads():
        those = [one for one in subjects if (one[0], load) in measured.samples]
        for subject, level in those:
            lower = [other for other, other_level in those[: those.index((subject, level))] if other_level != level]
            below = lower[-1] if lower else None
            found.append(_figures(measured, load, subject, level, lowest=those[0][0], below=below, gate=gate))
    return tuple(found)


def _figures(
    measured: Measured,
    load: Load,
    subject: Subject,
    level: str,
    *,
    lowest: Subject,
    below: Subject | None,
    gate: float | None,
) -> LevelFigures:
    samples = measured.samples[subject, load]

    def against(other: Subject | None) -> Interval | None:
        if other is None or other == subject:
            return None
        rounds = [one.per_second for one in measured.samples[other, load]]
        return ratio_of([one.per_second for one in samples], rounds)

    to_below = against(below)
    return LevelFigures(
        variant=subject.name,
        level=level,
        image=subject.image,
        protocol=load.protocol,
        input=load.input,
        per_second=interval([one.per_second for one in samples]),
        p50=_latency(samples, 0.5),
        p99=_latency(samples, 0.99),
        client=max(one.client for one in samples),
        lowest=None if lowest == subject else lowest.name,
        to_lowest=against(lowest),
        below=below.name if below else None,
        to_below=to_below,
        gate=gate,
        verdict=verdict(to_below, gate),
    )


def _latency(samples: Sequence[Sample], share: float) -> Interval | None:
    rounds = [one.latency(share) for one in samples]
    return interval(rounds) if all(map(math.isfinite, rounds)) else None


def verdict(ratio: Interval | None, gate: float | None) -> Verdict | None:
    """What a gate says of a ratio; None without one of the two."""
    if ratio is None or gate is None:
        return None
    if ratio.confidence < CONFIDENCE or ratio.low < gate <= ratio.high:
        return Verdict.UNCERTAIN
    return Verdict.PASSED if ratio.low >= gate else Verdict.SLOWER
