"""What the factory adds to a bare `docker buildx build` of the same Dockerfile, with warm caches.

usage: python -m benchmarks.overhead [--rounds N] [--weight N]

Before each measurement one C++ file of the sample is changed, so that either way has the same to do: transfer the
sources, let Bazel analyse, take all but a few actions from its disk cache, collect. The factory's way is
`invoke compile` from its start to its end, with the records and facts that it writes. The ways take turns; the best of
each counts.

Ends with exit code 1 when the factory takes more than 5 % longer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import count
from typing import TYPE_CHECKING

from benchmarks.measuring import Ratio, parser, report, seconds
from benchmarks.weighted import Bench, weighted
from tests.integration.line import V1

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1.05


def bare(bench: Bench) -> None:
    """What someone would type who has the Dockerfile."""
    (recipe,) = (recipe for recipe in bench.recipes if recipe.variant.id == V1)
    context = bench.checkout.variant_folder(V1) / "recipe" / "devel"
    out = bench.checkout.folder.parent / "bare"
    shutil.rmtree(out, ignore_errors=True)
    words = ["docker", "buildx", "build", "--progress=plain", "--provenance=false", "--target=artifact"]
    words += [f"--build-context=source={bench.source}"]
    words += [f"--build-context={name}={value}" for name, value in recipe.base_context]
    words += [f"--build-arg={name}={value}" for name, value in recipe.build_args]
    subprocess.run([*words, f"--output=type=local,dest={out}", context], stderr=subprocess.DEVNULL, check=True)
    assert (out / "tensorflow_model_server").is_file()


def measure(bench: Bench, rounds: int) -> tuple[float, float]:
    """Seconds of the factory's way, and of the bare one."""
    bench.compile(V1)  # fills the caches
    marks: Iterator[int] = count(1)
    ours, theirs = [], []
    for _ in range(rounds):
        bench.change(next(marks))
        ours.append(seconds(lambda: bench.compile(V1)))
        bench.change(next(marks))
        theirs.append(seconds(lambda: bare(bench)))
        print(f"factory {ours[-1]:6.1f} s   bare {theirs[-1]:6.1f} s", flush=True)
    return min(ours), min(theirs)


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="of each way (default: 5)")
    arguments.add_argument("--weight", type=int, default=4, help="heavy files, 0 to 84 (default: 4)")
    options = arguments.parse_args()
    with weighted(options.weight) as bench:
        ours, theirs = measure(bench, options.rounds)
    name = "one variant, warm caches, against a bare `docker buildx build`"
    return report([Ratio(name=name, ours=ours, theirs=theirs, limit=LIMIT)])


if __name__ == "__main__":
    sys.exit(main())
