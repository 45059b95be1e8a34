"""Four variants (two flavours by two levels) through the factory, against two other ways to build the same four.

usage: python -m benchmarks.four_variants [--weight N] [--only WAY]

The sample is made heavy, so that a cold build takes minutes. Each way begins without any object file; the toolchain's
packages are there for all of them. The ways:

    factory  `invoke compile` of the four: one budget, Bazel's disk cache shared by all
    common   the four one after another in a container of the toolchain, `bazel clean --expunge` between them
    bake     a hand-written `docker buildx bake` file of the four, without Bazel's caches
    change   `invoke compile` again, after one C++ file was changed; against the factory's cold run

Two of the four are built in the common way before the factory's run and two after it: a machine that gets slower
meanwhile does so for both.

Ends with exit code 1 when a limit is not kept: 0.5 against common, 0.8 against bake, 0.25 for the change.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.measuring import Ratio, parser, report, seconds
from benchmarks.weighted import KERNEL, MOST, Bench, bazel_words, weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from serving_factory.recipes.recipe import Recipe

WAYS = ("factory", "common", "bake", "change")
BAZEL = "bazel --batch --output_user_root=/tmp/bench"

DOCKERFILE = """\
FROM {toolchain} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY . /source
WORKDIR /source
ARG WORDS
RUN {bazel} build --symlink_prefix=/tmp/bench- ${{WORDS}}
FROM scratch
COPY --from=build /tmp/bench-bin/tensorflow_serving/model_servers/tensorflow_model_server /
"""


def common(bench: Bench, recipes: Sequence[Recipe]) -> None:
    """One after another, in a container, from nothing each time."""
    steps = []
    for recipe in recipes:
        steps += [
            f"{BAZEL} build --symlink_prefix=/tmp/bench- {shlex.join(bazel_words(recipe))}",
            f"{BAZEL} clean --expunge",
        ]
    script = " && ".join(["cp -r /given /source", "cd /source", *steps])
    mount = f"type=bind,source={bench.source},target=/given,readonly"
    run("docker", "run", "--rm", "--network=none", f"--mount={mount}", bench.toolchain, "bash", "-euc", script)


def bake(bench: Bench) -> None:
    """All at once, by hand."""
    folder = bench.checkout.folder.parent
    dockerfile = folder / "bake.Dockerfile"
    dockerfile.write_text(DOCKERFILE.format(toolchain=bench.toolchain, bazel=BAZEL), encoding="utf-8")
    targets = {
        recipe.variant.id.replace(".", "-"): {
            "context": str(bench.source),
            "dockerfile": str(dockerfile),
            "args": {"WORDS": shlex.join(bazel_words(recipe))},
            "output": [f"type=local,dest={folder / 'baked' / recipe.variant.id}"],
        }
        for recipe in bench.recipes
    }
    file = folder / "bake.json"
    file.write_text(json.dumps({"group": {"default": {"targets": list(targets)}}, "target": targets}), encoding="utf-8")
    run("docker", "buildx", "bake", "--file", str(file), "--no-cache", "--progress=plain")
    assert len(list((folder / "baked").glob("*/tensorflow_model_server"))) == len(bench.recipes)


def run(*command: str | Path) -> None:
    """Run a command; what it says is shown only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[:3]} failed:\n{done.stdout[-4000:]}")


def measure(bench: Bench, ways: tuple[str, ...]) -> dict[str, float]:
    """Seconds of each way."""
    took: dict[str, float] = {}

    def take(way: str, action: Callable[[], None]) -> None:
        if way in ways:
            lasted = seconds(action)
            print(f"{way:<8} {lasted:7.1f} s", flush=True)
            took[way] = took.get(way, 0.0) + lasted

    half = len(bench.recipes) // 2
    take("common", partial(common, bench, bench.recipes[:half]))
    take("factory", bench.compile)
    take("common", partial(common, bench, bench.recipes[half:]))
    take("bake", partial(bake, bench))
    bench.change(KERNEL)
    take("change", bench.compile)
    return took


def main() -> int:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--weight", type=int, default=MOST, help=f"heavy files, 0 to {MOST} (default: {MOST})")
    arguments.add_argument("--only", choices=WAYS[1:3], help="only the factory's way and this one")
    options = arguments.parse_args()
    ways = ("factory", options.only) if options.only else WAYS
    with weighted(options.weight) as bench:
        took = measure(bench, ways)
    cold = took["factory"]
    ratios = [
        Ratio(name=name, ours=ours, theirs=theirs, limit=limit)
        for name, ours, theirs, limit in (
            ("four variants, cold, against one after another", cold, took.get("common"), 0.5),
            ("four variants, cold, against a bake file", cold, took.get("bake"), 0.8),
            ("one changed C++ file, against cold", took.get("change"), cold, 0.25),
        )
        if ours is not None and theirs is not None
    ]
    return report(ratios)


if __name__ == "__main__":
    sys.exit(main())
