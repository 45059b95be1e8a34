"""What the factory adds to a bare `docker buildx build` of the same Dockerfile, with warm caches.

usage: python -m benchmarks.overhead [--rounds N] [--weight N]

Before each measurement a file of the sample is changed, so that either way has the same to do: transfer the sources,
let Bazel analyse, take most actions from its disk cache, run the others, collect. That is a C++ file, on which a few
actions depend, or a header, on which fourteen do. The factory's way is `invoke compile` from its start to its end,
with the records and facts that it writes: of one variant, and of four against as many bare builds one after another.
The bare builds run as many jobs as the factory's did. The ways take turns; the best of each counts.

Ends with exit code 1 when the factory takes more than 5 % longer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measuring import Ratio, parser, report, seconds
from benchmarks.weighted import HEADER, KERNEL, MOST, Bench, weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_factory.recipes.recipe import Recipe

LIMIT = 1.05


def bare(bench: Bench, recipe: Recipe) -> None:
    """What someone would type who has the Dockerfile."""
    folder = bench.checkout.variant_folder(recipe.variant.id) / "recipe"
    out = bench.checkout.folder.parent / "bare"
    shutil.rmtree(out, ignore_errors=True)
    words = ["docker", "buildx", "build", "--progress=plain", "--provenance=false", "--target=artifact"]
    words += [f"--build-context=source={bench.source}"]
    words += [f"--build-context={name}={value}" for name, value in recipe.base.contexts]
    words += [f"--build-arg={name}={value}" for name, value in recipe.build_args]
    words += [
        f"--build-arg=BAZEL_RESOURCES={(folder / 'resources').read_text()}",
        f"--file={folder / 'devel.Dockerfile'}",
    ]
    context = bench.checkout.folder / "dockerfiles" / "context"
    subprocess.run([*words, f"--output=type=local,dest={out}", context], stderr=subprocess.DEVNULL, check=True)
    assert (out / "tensorflow_model_server").is_file()


def measure(bench: Bench, recipes: Sequence[Recipe], file: str, rounds: int) -> tuple[float, float]:
    """Seconds of the factory's way, and of the bare one, each time after a change of the file."""

    def bare_in_turn() -> None:
        for recipe in recipes:
            bare(bench, recipe)

    ours, theirs = [], []
    for _ in range(rounds):
        bench.change(file)
        ours.append(seconds(lambda: bench.compile(*(recipe.variant.id for recipe in recipes))))
        bench.change(file)
        theirs.append(seconds(bare_in_turn))
        print(f"{len(recipes)}: factory {ours[-1]:6.1f} s   bare {theirs[-1]:6.1f} s", flush=True)
    return min(ours), min(theirs)


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="of each way (default: 5)")
    arguments.add_argument("--weight", type=int, default=28, help=f"heavy files, 0 to {MOST} (default: 28)")
    options = arguments.parse_args()
    ratios = []
    with weighted(options.weight) as bench:
        bench.compile()  # fills the caches
        for name, recipes, file in (
            ("one variant, a changed header", bench.recipes[:1], HEADER),
            ("one variant, a changed C++ file", bench.recipes[:1], KERNEL),
            ("four variants, a changed C++ file", bench.recipes, KERNEL),
        ):
            ours, theirs = measure(bench, recipes, file, options.rounds)
            against = f"{name}, against bare `docker buildx build`"
            ratios.append(Ratio(name=against, ours=ours, theirs=theirs, limit=LIMIT))
    return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
