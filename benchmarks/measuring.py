"""What the benchmarks share: arguments, timing, and one line per ratio."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def parser(text: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's own text."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def seconds(action: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def best(action: Callable[[], object], rounds: int) -> float:
    """The best of some rounds, in seconds: what disturbs a measurement only ever adds to it."""
    return min(seconds(action) for _ in range(rounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Two measurements of one run against each other.

    Args:
        name: what is compared.
        ours: seconds.
        theirs: seconds.
        limit: what the ratio must not exceed.
    """

    name: str
    ours: float
    theirs: float
    limit: float

    @property
    def value(self) -> float:
        """Ours by theirs."""
        return self.ours / self.theirs

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit

    def row(self) -> str:
        """A row of the table in docs/performance.md."""
        verdict = "holds" if self.holds else "FAILS"
        return (
            f"| {self.name} | {self.ours:.1f} s | {self.theirs:.1f} s | {self.value:.3f} | {self.limit:g} | {verdict} |"
        )


def report(ratios: Iterable[Ratio]) -> int:
    """Print the table; the exit code tells whether all limits hold."""
    rows = list(ratios)
    print("| what | ours | against | ratio | limit | |")
    print("|---|--:|--:|--:|--:|---|")
    for row in rows:
        print(row.row())
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return 0 if all(row.holds for row in rows) else 1
