"""The page of a comparison: what matters first, all figures at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from serving_factory.load.results import Figures, Results
from serving_factory.load.statistics import CONFIDENCE, Interval, spread
from serving_factory.output.page import Bar, Node, Range, bars, charts, legend, lines, node, page, table
from serving_factory.output.text import size

if TYPE_CHECKING:
    from serving_factory.commands.compare import Comparison

_MIB = 2**20


def comparison_page(comparison: Comparison) -> str:
    """The whole file."""
    results, plan, machine = comparison.results, comparison.plan, comparison.machine
    lead = [
        node(
            "p",
            f"{comparison.started}, on a machine with {machine['cpus']} CPUs and a load average of "
            f"{machine['load_average']} at the start; the model is {plan.model.name}.",
        ),
        *(node("p", note, class_="note") for note in results.notes),
    ]
    return page(
        "Servers compared",
        lead,
        [
            ("Servers", _servers(results)),
            ("Throughput", _throughput(results)),
            ("Latency", _latency(results)),
            ("All figures", [_all(results)]),
            ("How it was measured", _method(comparison)),
        ],
    )


def _names(results: Results) -> list[str]:
    return [one.name for one in results.servers]


def _servers(results: Results) -> list[Node]:
    starts = [
        Bar(one.name, _range(one.start), f"{spread(one.start)} s", number) for number, one in enumerate(results.servers)
    ]
    sizes = [
        Bar(one.name, (one.image_size / _MIB,) * 3, size(one.image_size), number)
        for number, one in enumerate(results.servers)
    ]
    rows = [
        (
            one.name,
            node("code", one.image),
            f"{one.cpus:g}" if one.cpus else "all",
            "yes" if one.gpu else "no",
            size(one.image_size),
            spread(one.start),
        )
        for one in results.servers
    ]
    heads = ("server", "image", ">CPUs", "GPU", ">image size", ">start, s")
    return [
        table("Servers", heads, rows),
        bars("Start, in seconds until the model is served", [("", starts)]),
        bars("Size of the image", [("", sizes)]),
    ]


def _throughput(results: Results) -> list[Node]:
    most = [one for one in results.figures if one.rate is None]
    groups: list[tuple[str, list[Bar]]] = []
    for figures in _cells(most):
        shown = [(one, one.per_cpu or one.per_second) for one in figures]
        made = [
            Bar(one.server, _range(value), spread(value), _names(results).index(one.server)) for one, value in shown
        ]
        groups.append((f"{figures[0].protocol}, {figures[0].input}", made))
    first = results.servers[0].name
    rows = [
        (one.server, one.protocol, one.input, spread(one.ratio), _certain(one))
        for one in results.figures
        if one.ratio and one.rate is None
    ]
    ratios = table(f"Answers a second, in ratio to {first}", ("server", "protocol", "input", ">ratio", "differs"), rows)
    return [bars("Answers a second for each CPU, sent without pause", groups), *([ratios] if rows else [])]


def _certain(one: Figures) -> Node:
    if one.differs is None:
        return "too few rounds"
    return node("span", "certainly", class_="good") if one.differs else node("span", "not certain", class_="faint")


def _latency(results: Results) -> list[Node]:
    """For each protocol and input a chart at each rate."""
    figures = [
        lines(
            f"{cell[0].protocol}, {cell[0].input}, {cell[0].rate:g} requests/s" if cell[0].rate else "",
            [f"{100 * one.share:g} %" for one in cell[0].latencies],
            [
                (one.server, [_range(each.seconds, 1000) for each in one.latencies if math.isfinite(each.seconds.high)])
                for one in cell
            ],
            unit="ms",
        )
        for cell in _cells([one for one in results.figures if one.rate])
    ]
    text = (
        "The time within which a share of the requests had their answers, from the moment that each was to be sent. "
        "A line that ends early: fewer had an answer at all."
    )
    return [node("p", text), legend(_names(results)), charts(*figures)]


def _cells(figures: Sequence[Figures]) -> Iterator[list[Figures]]:
    """The servers under each load."""
    cells: dict[tuple[str, str, float | None], list[Figures]] = {}
    for one in figures:
        cells.setdefault((one.protocol, one.input, one.rate), []).append(one)
    yield from cells.values()


def _all(results: Results) -> Node:
    shares = [f">{100 * one.share:g} %, ms" for one in results.figures[0].latencies]
    heads = (
        "server",
        "protocol",
        "input",
        ">sent/s",
        ">answers/s",
        *shares,
        ">ratio",
        ">requests",
        ">without answer",
        ">client's CPU",
    )
    rows = [
        (
            *(one.server, one.protocol, one.input, f"{one.rate:g}" if one.rate else "without pause"),
            *(spread(one.per_second), *(spread(each.seconds, factor=1000) for each in one.latencies)),
            spread(one.ratio) if one.ratio else "",
            *(str(one.requests), str(one.failures + one.unsent), f"{one.client:.2f}"),
        )
        for one in results.figures
    ]
    return table("The ratio is of answers a second, and at a set rate of the median latency", heads, rows)


def _method(comparison: Comparison) -> list[Node]:
    plan = comparison.plan
    held = comparison.results.servers[0].start.confidence
    texts = (
        f"""Each figure is the median of {plan.rounds} rounds. In brackets, and as a line in the charts, is the interval
        that holds it with {held:.1%}, by the order of the rounds alone. A ratio is made within each round; servers
        differ certainly where its interval, of at least {CONFIDENCE:.0%}, does not hold 1.""",
        f"""In each round every server starts again, and each load goes to one server after the other, another one first
        in each round. A load lasts {plan.seconds:g} s, on {plan.connections} connections; before it, {plan.warm_up:g} s
        without pause warm up, and do not count.""",
        """At a set rate requests are sent by the clock, whatever becomes of the answers, and a latency counts from when
        its request was to be sent: what waits behind a slow answer is slow, too.""",
        """The client runs on the same machine. Its CPU is what it took of the one that Python can use, in its busiest
        round.""",
    )
    return [node("p", " ".join(text.split())) for text in texts]


def _range(figure: Interval, factor: float = 1.0) -> Range:
    return factor * figure.low, factor * figure.middle, factor * figure.high
