"""Measures the planning half of the line: expanding a large matrix, and `invoke list` from its start to its end.

Usage: python -m benchmarks.planning [ROUNDS]

The matrix asks for every release by every flavour and level. `invoke list` lists the default matrix.yaml, and is
compared with the start of a bare `python -c 'import invoke, yaml'` in the same run: that ratio is what to compare
between machines, because the seconds are this machine's, under its present load. Each figure is the best of some
rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.measuring import best
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.load import load_matrix

ROOT = Path(__file__).resolve().parents[1]
BARE = "import invoke, yaml"


def everything() -> str:
    """A matrix of every release by every flavour and level, with a rule of each kind."""
    levels = [level.value for level in Level]
    document = {
        "image": {"repository": "bench", "aliases": ["{id}"]},
        "releases": [">=0"],
        "targets": {flavour.value: {"flavour": flavour.value, "levels": levels} for flavour in Flavour},
        "exclude": [{"reason": "a rule that drops", "releases": "<1.6", "levels": ["native"]}],
        "require": [{"reason": "a rule that keeps", "where": {"cuda": ">=12"}, "only": {"levels": levels[:-1]}}],
    }
    return yaml.safe_dump(document)


def run(*command: str) -> None:
    """Run a command in the checkout, without its output."""
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "matrix.yaml"
        file.write_text(everything(), encoding="utf-8")
        started = time.perf_counter()
        matrix = load_matrix(file)
        first = time.perf_counter() - started
        again = best(lambda: load_matrix(file), rounds)
    bare = best(lambda: run(sys.executable, "-c", BARE), rounds)
    listed = best(lambda: run(sys.executable, "-m", "invoke", "list"), rounds)
    print(f"{len(releases())} releases: {len(matrix.variants)} variants, {len(matrix.dropped)} dropped")
    print(f"expanding them, after import      {first * 1000:6.0f} ms the first time, {again * 1000:.0f} ms again")
    print(f"python -c '{BARE}' {bare * 1000:6.0f} ms")
    print(f"invoke list                       {listed * 1000:6.0f} ms, {listed / bare:.2f} times that")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
