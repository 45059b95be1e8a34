"""Pages for a browser: one HTML file, light or dark as the reader's system is, with charts as SVG.

A page is well-formed XML as well, runs no script and loads nothing. It is made of nodes, whose texts are escaped:
`page(title, lead, [(heading, [table(...), bars(...), lines(...)])])`.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.output.text import clean

Node = ET.Element | str
Range = tuple[float, float, float]
"""A figure's lowest, middle and highest value; three equal ones where it does not vary."""

_STYLE = Path(__file__).with_suffix(".css")
_COLOURS = 8  # of series, in the style
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
"""


def node(tag: str, *children: Node, **attributes: object) -> ET.Element:
    """An element; `class_` and `aria_label` stand for `class` and `aria-label`, and texts lose control characters."""
    named = {name.strip("_").replace("_", "-"): clean(_number(value)) for name, value in attributes.items()}
    made = ET.Element(tag, named)
    for child in children:
        if not isinstance(child, str):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + clean(child)
        else:
            made.text = (made.text or "") + clean(child)
    return made


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def page(title: str, lead: Sequence[Node], sections: Iterable[tuple[str, Sequence[Node]]]) -> str:
    """The whole file: what stands under the title, then each section with its heading."""
    links, parts = [], []
    for number, (heading, nodes) in enumerate(sections, 1):
        links.append(node("a", heading, href=f"#part{number}"))
        parts.append(node("section", node("h2", heading, id=f"part{number}"), *nodes))
    body = node("body", node("h1", title), *lead, node("nav", *links, aria_label="Sections"), node("main", *parts))
    # Tags are closed by tags: a browser would take `<p/>` for an opening one.
    made = [ET.tostring(one, encoding="unicode", short_empty_elements=False) for one in (node("title", title), body)]
    style = _STYLE.read_text(encoding="utf-8")
    return f"{_HEAD}{made[0]}<style>{style}</style></head>\n{made[1]}</html>\n"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Node]]) -> ET.Element:
    """A table; `>` begins the head of a column of numbers. A wide one scrolls, by the keyboard too."""
    right = [{"class_": "right"} if head.startswith(">") else {} for head in heads]
    names = [node("th", head.removeprefix(">"), scope="col", **kind) for head, kind in zip(heads, right, strict=True)]
    body = []
    for first, *others in rows:
        cells = [node("td", cell, **kind) for cell, kind in zip(others, right[1:], strict=True)]
        body.append(node("tr", node("th", first, scope="row", **right[0]), *cells))
    made = node("table", node("caption", caption), node("thead", node("tr", *names)), node("tbody", *body))
    return node("div", made, class_="wide", role="region", aria_label=caption, tabindex=0)


def charts(*figures: ET.Element) -> ET.Element:
    """Charts beside each other, as many as fit."""
    return node("div", *figures, class_="charts")


def legend(names: Sequence[str]) -> ET.Element:
    """Which colour is which series."""
    keys = [node("span", node("i", class_=f"key k{n % _COLOURS}"), name) for n, name in enumerate(names)]
    return node("p", *keys, class_="legend")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, its length, what is written beside it, and its series' number, which is its colour."""

    label: str
    range: Range
    text: str
    series: int = 0


_WIDTH, _ROW, _BAR, _LABELS, _LENGTH, _LABEL_LETTERS = 720.0, 24.0, 14.0, 200.0, 330.0, 30


def bars(caption: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> ET.Element:
    """Horizontal bars from zero, in groups with a heading each (or an empty one); a line spans each one's range."""
    scale = _LENGTH / (max((bar.range[2] for _, each in groups for bar in each), default=0) or 1.0)
    nodes: list[Node] = []
    top = 0.0
    for heading, each in groups:
        if heading:
            nodes.append(node("text", heading, x=0, y=top + 16, class_="head"))
            top += _ROW
        for bar in each:
            low, middle, high = (_LABELS + scale * value for value in bar.range)
            across, shape = top + _ROW / 2, f"s{bar.series % _COLOURS}"
            label = bar.label if len(bar.label) <= _LABEL_LETTERS else f"{bar.label[: _LABEL_LETTERS - 1]}…"
            nodes += [
                node("text", label, x=_LABELS - 8, y=across + 4, class_="end"),
                node("rect", x=_LABELS, y=across - _BAR / 2, width=middle - _LABELS, height=_BAR, class_=shape),
                *([node("path", d=_span(low, across, high, across), class_="range")] if low < high else []),
                node("text", bar.text, x=high + 8, y=across + 4),
            ]
            top += _ROW
        top += _ROW / 3
    return _figure(caption, _WIDTH, top, nodes)


def _span(x: float, y: float, x2: float, y2: float) -> str:
    """A line with a short bar across each end."""
    ends = ("v-8", "v-8") if y == y2 else ("h8", "h8")
    at = ((x, y + 4), (x2, y2 + 4)) if y == y2 else ((x - 4, y), (x2 - 4, y2))
    path = f"M{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}"
    return path + "".join(f"M{a:.1f} {b:.1f}{end}" for (a, b), end in zip(at, ends, strict=True))


def lines(
    caption: str, places: Sequence[str], series: Sequence[tuple[str, Sequence[Range]]], *, unit: str
) -> ET.Element:
    """A line for each series over named places, from zero; a line through each point spans its range."""
    width, height, left, bottom = 420.0, 250.0, 52.0, 220.0
    step = _step(max((high for _, points in series for _, _, high in points), default=0))
    most = step * math.ceil(max((high for _, points in series for _, _, high in points), default=0) / step) or step
    gap = (width - left) / (len(places) or 1)
    nodes: list[Node] = [node("text", unit, x=0, y=12, class_="faint")]
    for mark in range(round(most / step) + 1):
        y = bottom - (bottom - 20) * mark * step / most
        nodes.append(node("line", x1=left, y1=y, x2=width, y2=y, class_="rule"))
        nodes.append(node("text", f"{mark * step:g}", x=left - 6, y=y + 4, class_="faint end"))
    for number, where in enumerate(places):
        nodes.append(node("text", where, x=left + gap * (number + 0.5), y=bottom + 18, class_="mid"))
    for number, (name, points) in enumerate(series):
        colour, at = number % _COLOURS, []
        for place, point in zip(range(len(places)), points, strict=False):
            x = left + gap * (place + 0.5) + 5 * (number - (len(series) - 1) / 2)
            low, middle, high = (bottom - (bottom - 20) * value / most for value in point)
            at.append(f"{x:.1f},{middle:.1f}")
            if high < low:
                nodes.append(node("path", d=_span(x, low, x, high), class_=f"line l{colour}"))
            hint = node("title", f"{name}, {places[place]}: {point[1]:.3g} {unit} ({point[0]:.3g} to {point[2]:.3g})")
            nodes.append(node("circle", hint, cx=x, cy=middle, r=4, class_=f"s{colour}"))
        nodes.append(node("polyline", points=" ".join(at), class_=f"line l{colour}"))
    return _figure(caption, width, height, nodes)


def _step(most: float) -> float:
    """The distance of grid lines: 1, 2 or 5 times a power of ten, three to six of them."""
    power = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    return next((power * part for part in (0.2, 0.5, 1.0, 2.0) if most / (power * part) <= 6), power * 2)  # noqa: PLR2004


def sparkline(values: Sequence[float], *, label: str, width: float = 120.0, height: float = 24.0) -> ET.Element:
    """A small line of how a figure went, from the oldest value to the newest, on which a dot is."""
    most, least = max(values, default=0.0), min(values, default=0.0)
    scale, gap = (height - 8) / ((most - least) or 1.0), (width - 8) / max(1, len(values) - 1)
    at = [(4 + gap * number, height - 4 - scale * (value - least)) for number, value in enumerate(values)]
    parts = [node("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in at), class_="line l0")]
    parts += [node("circle", cx=x, cy=y, r=3, class_="s0") for x, y in at[-1:]]
    return node(
        "svg", *parts, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img", aria_label=label
    )


def _figure(caption: str, width: float, height: float, nodes: Sequence[Node]) -> ET.Element:
    drawing = node("svg", *nodes, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=caption)
    return node("figure", node("figcaption", caption), drawing)
