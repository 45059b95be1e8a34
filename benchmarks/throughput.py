"""How many requests an image answers against another one: the same dense model, over gRPC, in one run.

usage: python -m benchmarks.throughput IMAGE REFERENCE

In each round both servers start, and are asked for some seconds one after the other. A request is a batch of 64 rows
for the sample's perceptron (256-512-512-10, some 51 million floating-point operations); two clients wait for their
answers. It prints each image's requests per second, best of the rounds, and the ratio of each round's pair: lowest,
median and highest.
"""

from __future__ import annotations

import statistics

from benchmarks.measuring import parser
from serving_factory.docker.engine import Engine
from serving_factory.docker.process import Cancel
from serving_factory.load.rounds import Plan, measure
from serving_factory.load.servers import GRPC, Subject
from tests.integration.pipeline import MODEL, ROOT


def main() -> None:
    """Measure, and print."""
    arguments = parser(__doc__)
    arguments.add_argument("image")
    arguments.add_argument("reference")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=4.0, help="how long each server is asked in a round")
    options = arguments.parse_args()
    plan = Plan(
        subjects=[Subject(name=image, image=image) for image in (options.image, options.reference)],
        model=ROOT / MODEL / "models" / "dense",
        sizes=(64,),
        protocols=(GRPC,),
        rates=(),
        rounds=options.rounds,
        seconds=options.seconds,
        connections=2,
        owner="test",
    )
    measured = measure(Engine.connect(), plan, cancel=Cancel(), on_step=lambda _done, _steps, _text: None)
    (load,) = measured.loads()
    ours, theirs = ([one.per_second for one in measured.samples[subject, load]] for subject in plan.subjects)
    for subject, values in zip(plan.subjects, (ours, theirs), strict=True):
        print(f"{subject.name}: {max(values):.0f} requests/s")
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"ratio: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
