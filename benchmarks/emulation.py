"""What the check on emulated CPUs adds to the smoke of a variant.

usage: python -m benchmarks.emulation MATRIX VARIANT...

The variants are built, and qemu-x86_64-static is there. Smoke runs with and without the check in turns; of each the
best time counts, for what disturbs a measurement only ever adds to it. The last run of each variant has the check, so
that its report is complete. Ends with exit code 1 where it adds more than 2 s to one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from benchmarks.measuring import parser, seconds
from serving_factory.commands.plan import jobs_of
from serving_factory.commands.shared import Asked
from serving_factory.pipeline.job import Use
from serving_factory.pipeline.stages.smoke import SMOKE

LIMIT = 2.0
ROUNDS = 5


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("matrix")
    arguments.add_argument("variants", nargs="+")
    options = arguments.parse_args()
    worst = 0.0
    for job in jobs_of(Asked(matrix=options.matrix), options.variants):
        best = dict.fromkeys((Use.NEVER, Use.REQUIRE), float("inf"))
        for _ in range(ROUNDS):
            for use in best:
                smoke = partial(SMOKE.run, replace(job, emulate=use), lambda _text: None)
                best[use] = min(best[use], seconds(smoke))
        added = best[Use.REQUIRE] - best[Use.NEVER]
        worst = max(worst, added)
        print(f"{job.recipe.variant.id}: smoke {best[Use.NEVER]:.2f} s, with emulated CPUs {best[Use.REQUIRE]:.2f} s")
    print(f"at most {worst:.2f} s are added; the limit is {LIMIT:g} s")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
