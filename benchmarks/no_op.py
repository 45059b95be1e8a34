"""How long a demo takes when there is nothing to do, next to one that compiles everything.

usage: python -m benchmarks.no_op [--drop-caches]

Works in a scratch copy of this checkout; its own build folder and images stay as they are. Each variant gets a compiler
flag that no build has had before, so all target code is compiled, whatever lies in Bazel's caches; tools of the build
itself and the toolchain's packages come from the caches. With --drop-caches, Bazel's caches in the Docker engine are
dropped before: those of your own builds too.

Ends with exit code 1 when the ratio is not below 3 %.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import parser
from tests.integration.pipeline import BUILD_STAGES, MATRIX, VARIANTS, Checkout, Outcome

LIMIT = 0.03
REPEATS = 5


def timed_demo(checkout: Checkout) -> tuple[float, Outcome]:
    """Run the demo; seconds, and how it ended."""
    began = time.monotonic()
    outcome = checkout.run("demo", "--json").built()
    return time.monotonic() - began, outcome


def expect(outcome: Outcome, became: str) -> None:
    """Make sure that the run was what it is taken for."""
    for variant in VARIANTS:
        assert outcome.stages(variant) == dict.fromkeys(BUILD_STAGES, became), outcome.stages(variant)


def measure(checkout: Checkout) -> tuple[float, list[float]]:
    """Seconds of the cold run, and of each run after it."""
    # gpu-optimized extends gpu-standard.
    for flavour, level in (("cpu", "x86-64"), ("cpu", "x86-64-v3"), ("mkl", "x86-64-v3"), ("gpu", "x86-64")):
        target = f"    flavour: {flavour}\n    levels: [{level}]\n"
        checkout.edit(MATRIX, target, f"{target}    copts: [-DFACTORY_{checkout.mark}=1]\n")
    cold, outcome = timed_demo(checkout)
    expect(outcome, "finished")
    runs = []
    for _ in range(REPEATS):
        seconds, outcome = timed_demo(checkout)
        expect(outcome, "up_to_date")
        runs.append(seconds)
    return cold, runs


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--drop-caches", action="store_true", help="drop Bazel's caches in the engine first, all of them"
    )
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-no-op-") as folder:
        checkout = Checkout.make(Path(folder) / "factory")
        try:
            if options.drop_caches:
                print(checkout.run("clean", "--matrix", MATRIX, "--caches").built().out, end="")
            cold, runs = measure(checkout)
        finally:
            checkout.clear()
    ratio = statistics.median(runs) / cold
    print(f"cold   {cold:7.1f} s   {len(VARIANTS)} variants compiled, packaged and smoke-tested")
    print(f"no-op  {statistics.median(runs):7.2f} s   median of {REPEATS}, from {min(runs):.2f} to {max(runs):.2f}")
    print(f"ratio  {ratio:7.2%}     (limit {LIMIT:.0%})")
    return 0 if ratio < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
