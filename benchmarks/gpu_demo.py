"""What the gpu variants add to the demo, on a machine that has built nothing yet but the base image.

usage: python -m benchmarks.gpu_demo

Works in a scratch copy of this checkout, with caches of its own: the toolchain's packages and CUDA are downloaded, and
all objects compiled, once more. First the variants for the CPU are built, then those for a GPU, which take all objects
but three from Bazel's disk cache. What was downloaded stays in BuildKit's cache, until the engine prunes it.

Ends with exit code 1 when a limit is not kept: 0.75 for the gpu variants against the others, 8 minutes for all of them,
three actions that a gpu variant runs itself.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import Ratio, parser, report, seconds
from tests.integration.pipeline import GPU_V1, GPU_V3, VARIANTS, Checkout

GPU = (GPU_V1, GPU_V3)
DEMO, LONGEST = 480.0, 3600.0  # seconds
COMPILED = 3  # the device code, the kernel that calls it, the link


def built(checkout: Checkout, *variants: str) -> float:
    """Seconds to build some variants."""
    words = checkout.line("build", *(word for name in variants for word in ("--variant", name)))

    def build() -> None:
        with checkout.start(*words) as running:
            running.wait(LONGEST).built()

    return seconds(build)


def main() -> int:
    """Measure and print."""
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-gpu-demo-") as folder:
        checkout = Checkout.make(Path(folder) / "factory")
        try:
            checkout.take_own_caches()
            # Every stage that installs something copies this file: none of them is in BuildKit's cache then.
            with (checkout.folder / "dockerfiles/context/inputs.sh").open("a", encoding="utf-8") as file:
                file.write(f": {checkout.mark}\n")
            others = built(checkout, *(name for name in VARIANTS if name not in GPU))
            gpu = built(checkout, *GPU)
            records = {name: checkout.record(name, "compile")["outputs"] for name in VARIANTS}
        finally:
            checkout.drop_caches()
            checkout.clear()
    for name, record in records.items():
        print(f"{name:<31} {record['local_actions']:3} actions run, {record['disk_cache_hits']:3} from the disk cache")
    ratios = (
        Ratio(name="two gpu variants, against three others before them", ours=gpu, theirs=others, limit=0.75),
        Ratio(name="a demo of five variants, cold, against 8 minutes", ours=others + gpu, theirs=DEMO, limit=1),
    )
    return max(report(ratios), int(any(records[name]["local_actions"] > COMPILED for name in GPU)))


if __name__ == "__main__":
    sys.exit(main())
