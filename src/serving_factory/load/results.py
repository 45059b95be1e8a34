"""What a comparison found: figures with their intervals, and what they do not show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving_factory.load.generator import SATURATED, Sample
from serving_factory.load.rounds import Load, Measured
from serving_factory.load.servers import REST, Subject
from serving_factory.load.statistics import FEWEST_ROUNDS, Interval, interval, ratio_of

SHARES_OF_REQUESTS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One image with its limits."""

    name: str
    image: str
    cpus: float | None  # that it might use; None for all
    gpu: bool
    image_size: int  # bytes
    start: Interval  # seconds from the command to start it until it served


@dataclass(frozen=True, slots=True)
class Latency:
    """The time in which a share of the requests had their answers, in seconds; infinite where fewer had any."""

    share: float
    seconds: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One server under one load."""

    server: str
    protocol: str
    input: str
    rate: float | None  # requests a second that were sent; None for as many as it answers
    per_second: Interval  # answers
    per_cpu: Interval | None  # answers a second for each CPU of the limit
    latencies: tuple[Latency, ...]
    requests: int
    failures: int
    failure: str | None  # why the first one failed
    unsent: int
    client: float  # CPU seconds a second of the client, in its busiest round
    ratio: Interval | None  # to the first server: answers a second, or at a set rate the median latency
    differs: bool | None  # whether it is certainly faster or slower; None where too few rounds say nothing


@dataclass(frozen=True, slots=True)
class Results:
    """All figures; the first server is what others are compared with."""

    servers: tuple[Server, ...]
    figures: tuple[Figures, ...]
    notes: tuple[str, ...]


def results_of(measured: Measured, subjects: Sequence[Subject], sizes: Mapping[str, int]) -> Results:
    """Make figures of samples; `sizes` are those of the images, in bytes."""
    servers = tuple(
        Server(
            name=one.name,
            image=one.image,
            cpus=one.cpus,
            gpu=one.gpu is not None,
            image_size=sizes[one.image],
            start=interval(measured.starts[one]),
        )
        for one in subjects
    )
    figures = tuple(
        _figures(one, load, measured.samples[one, load], measured.samples.get((subjects[0], load), ()))
        for load in measured.loads()
        for one in subjects
        if (one, load) in measured.samples
    )
    without = tuple(f"{one.name} has no {REST}." for one in subjects if one in measured.without_rest)
    return Results(servers, figures, (*without, *notes_of(figures, [one.name for one in subjects])))


def _figures(subject: Subject, load: Load, samples: Sequence[Sample], first: Sequence[Sample]) -> Figures:
    failures = [one for sample in samples for one in sample.failures]
    ours, theirs = ([_compared(load, one) for one in those] for those in (samples, first))
    comparable = samples is not first and bool(first) and all(map(math.isfinite, [*ours, *theirs]))
    ratio = ratio_of(ours, theirs) if comparable else None
    per_second = [one.per_second for one in samples]
    return Figures(
        server=subject.name,
        protocol=load.protocol,
        input=load.input,
        rate=load.rate,
        per_second=interval(per_second),
        per_cpu=interval([one / subject.cpus for one in per_second]) if subject.cpus else None,
        latencies=tuple(
            Latency(share, interval([one.latency(share) for one in samples])) for share in SHARES_OF_REQUESTS
        ),
        requests=sum(len(one.latencies) for one in samples),
        failures=len(failures),
        failure=failures[0] if failures else None,
        unsent=sum(one.unsent for one in samples),
        client=max(one.client for one in samples),
        ratio=ratio,
        differs=ratio.excludes(1.0) if ratio else None,
    )


def _compared(load: Load, sample: Sample) -> float:
    return sample.per_second if load.rate is None else sample.latency(0.5)


def notes_of(figures: Sequence[Figures], servers: Sequence[str]) -> list[str]:
    """What the figures do not show, each in a sentence: what the machine's noise hides, or the client's own limit."""
    found = []
    for name in servers[1:]:
        mine = [one for one in figures if one.server == name and one.ratio]
        certain = sum(bool(one.differs) for one in mine)
        if mine and not certain:
            found.append(_indistinct(name, servers[0], [one.ratio for one in mine if one.ratio]))
        elif certain < len(mine):
            found.append(
                f"{name} differs from {servers[0]} with certainty under {certain} of {len(mine)} loads; of servers "
                f"that are equally fast, {_by_chance(mine):.2g} would seem to on average. Under the others they are "
                "equally fast, or the machine is too noisy to show which is faster."
            )
    if busy := [one for one in figures if one.client >= SATURATED]:
        most = max(one.client for one in busy)
        found.append(
            f"The client was the limit in {len(busy)} of {len(figures)} figures: it took up to {most:.2f} of the one "
            "CPU that it can use. There the servers may do more than is shown."
        )
    for one in figures:
        if one.failures:
            what = f"{one.server}, {one.protocol}, {one.input}"
            found.append(f"{what}: {one.failures} requests had no usable answer, the first because: {one.failure}")
        if one.unsent:
            found.append(
                f"{one.server}, {one.protocol}, {one.input}: {one.rate:g} requests a second are more than it answers; "
                f"{one.unsent} were not sent in time, and count as without an answer."
            )
    return found


def _by_chance(figures: Sequence[Figures]) -> float:
    """Under how many of these loads the noise alone makes an interval without 1, on average."""
    return sum(1 - one.ratio.confidence for one in figures if one.ratio)


def _indistinct(name: str, first: str, ratios: Sequence[Interval]) -> str:
    if ratios[0].confidence and ratios[0].excludes(1.0) is None:
        return f"{FEWEST_ROUNDS} rounds or more say whether {name} differs from {first}; these were fewer."
    apart = statistics.median(abs(one.middle - 1) for one in ratios)
    noise = statistics.median(one.high - one.low for one in ratios)
    return (
        f"{name} and {first} cannot be distinguished on this machine: they differ by {apart:.0%}, and from round to "
        f"round their ratio varies by {noise:.0%}. Either they are equally fast, or the machine is too noisy: leave it "
        "idle, and take more --rounds and --seconds."
    )
