"""Measures the rendering of every Dockerfile against reading the same files from the disk.

Usage: python benchmarks/generating.py

The ratio is what to compare between machines: the seconds are this machine's, under its present load.
"""

from __future__ import annotations

import time
from pathlib import Path

from serving_factory.commands.generate import generated_files, generated_folder
from serving_factory.matrix.load import load_matrix

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, and print."""
    file = ROOT / "matrix.yaml"
    matrix = load_matrix(file)
    started = time.perf_counter()
    made = generated_files(matrix, every_release=True)
    rendered = time.perf_counter() - started
    started = time.perf_counter()
    for name in made:
        (generated_folder(file) / name).read_bytes()
    read = time.perf_counter() - started
    print(f"{len(made)} files: rendered in {rendered:.2f} s, read in {read:.3f} s: {rendered / read:.0f} times as long")


if __name__ == "__main__":
    main()
