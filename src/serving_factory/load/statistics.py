"""Figures of several rounds: percentiles, medians with their confidence intervals, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
FEWEST_ROUNDS = 6
"""Below, even the whole range of the rounds holds the median with less than CONFIDENCE: 1 - 2**(1 - rounds)."""

_WHOLE = 99.95  # from here on three digits are all before the point


@dataclass(frozen=True, slots=True)
class Interval:
    """The median of a figure's rounds, and the interval that holds the actual one with `confidence`."""

    middle: float
    low: float
    high: float
    confidence: float

    def excludes(self, value: float) -> bool | None:
        """Whether the figure certainly differs from a value; None where there were too few rounds to say."""
        return None if self.confidence < CONFIDENCE else not self.low <= value <= self.high


def interval(rounds: Sequence[float]) -> Interval:
    """Make an interval of a figure's rounds by their order alone: it holds whatever the distribution of the noise."""
    ordered, count = sorted(rounds), len(rounds)
    # The k-th lowest is above the median where less than k rounds are below it: a binomial probability, at both ends.
    outside = [2 * sum(math.comb(count, below) for below in range(k)) / 2**count for k in range(1, count // 2 + 1)]
    cut = max([k for k, chance in enumerate(outside, 1) if 1 - chance >= CONFIDENCE], default=1)
    confidence = max(0.0, 1 - outside[cut - 1]) if outside else 0.0
    return Interval(statistics.median(ordered), ordered[cut - 1], ordered[-cut], confidence)


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Compare two subjects round by round: what slows down a whole round changes no ratio."""
    return interval([one / other for one, other in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share of all do not exceed (nearest rank); infinite where there is none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.inf


def spread(figure: Interval, form: str = "", factor: float = 1.0) -> str:
    """A figure with its interval, `12.5 (11.8 to 12.9)`; without a form three digits, or all before the point."""

    def text(value: float) -> str:
        if not math.isfinite(value):
            return "never"
        return f"{factor * value:{form or ('.0f' if factor * value >= _WHOLE else '.3g')}}"

    middle, low, high = map(text, (figure.middle, figure.low, figure.high))
    return middle if low == high else f"{middle} ({low} to {high})"
