"""Pages: well-formed as XML and as HTML, without script or address, light and dark; charts show what they are given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from serving_factory.output import page as pages
from serving_factory.output.page import Bar, Node, bars, charts, legend, lines, node, page, sparkline, table

VOID = {"meta"}
OUTSIDE = re.compile(r"https?:|//\w|\burl\(|@import|\bsrc=|<script|<link|\bon\w+=", re.IGNORECASE)


def whole() -> str:
    figures = charts(
        bars("Throughput", [("REST, 128²", [Bar("a", (9, 10, 11), "10/s"), Bar("b" * 40, (5, 5, 5), "5/s", 9)])]),
        lines("Latency", ["p50", "p99"], [("a", [(1, 2, 3), (4, 5, 6)]), ("b", [(2, 2, 2), (3, 3, 3)])], unit="ms"),
    )
    rows: list[tuple[Node, Node]] = [("one <&> two", "1"), (node("code", "x"), sparkline([1, 3, 2], label="of runs"))]
    return page(
        "A <title> & more\x07",
        [node("p", "lead", class_="note")],
        [("Part", [figures, legend(["a", "b"]), table("Rows", ["name", ">value"], rows)])],
    )


def problems(text: str) -> list[str]:
    """What is wrong with a page: its XML, its tags as HTML, addresses in it."""

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
            if tag not in VOID:
                self.found.append(f"<{tag}/>")

        def handle_endtag(self, tag: str) -> None:
            if not self.open or self.open.pop() != tag:
                self.found.append(f"</{tag}>")

    found = []
    try:
        ET.fromstring(text)  # noqa: S314 - our own
    except ET.ParseError as error:
        found.append(str(error))
    tags = Tags()
    tags.feed(text)
    return [*found, *tags.found, *tags.open, *OUTSIDE.findall(text)]


def test_a_page_is_well_formed_and_loads_nothing() -> None:
    assert problems(whole()) == []


@pytest.mark.parametrize(
    "wrong", ["<p>", "<b></i>", "<p/>", '<img src="x"></img>', "<a>https://example.com</a>", "<script></script>"]
)
def test_the_rule_for_pages_can_fail(wrong: str) -> None:
    assert problems(whole().replace("<main>", f"<main>{wrong}"))


def test_texts_are_escaped_and_have_no_control_characters() -> None:
    text = whole()
    assert "<title>A &lt;title&gt; &amp; more\\x07</title>" in text
    assert "one &lt;&amp;&gt; two" in text


def test_a_page_is_light_and_dark_with_the_same_names_of_colours() -> None:
    style = Path(pages.__file__).with_suffix(".css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = re.compile(r"(--\w+): #")
    assert names.findall(light) == names.findall(dark)
    assert set(re.findall(r"var\((--\w+)\)", style)) == set(names.findall(light))


def test_each_text_has_a_contrast_with_its_background() -> None:
    """WCAG 2: 4.5 for text, 3 for what is drawn."""
    style = Path(pages.__file__).with_suffix(".css").read_text(encoding="utf-8")
    for half in style.split("@media (prefers-color-scheme: dark)"):
        colours = dict(re.findall(r"--(\w+): #(\w{6})", half))
        for name, colour in colours.items():
            if name not in {"back", "rule"}:
                assert contrast(colour, colours["back"]) >= (3 if re.fullmatch(r"s\d", name) else 4.5), name


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def numbers(figure: ET.Element, tag: str, name: str) -> list[float]:
    return [float(one.attrib[name]) for one in figure.iter(tag)]


def test_bars_are_as_long_as_their_values_and_ranges_are_lines() -> None:
    figure = bars("", [("", [Bar("a", (5, 10, 20), "10"), Bar("b", (5, 5, 5), "5")])])
    assert numbers(figure, "rect", "width") == [165.0, 82.5]
    assert len(list(figure.iter("path"))) == 1


def test_no_bar_and_no_heading_lies_on_another_one() -> None:
    figure = bars("", [("one", [Bar("a", (1, 1, 1), ""), Bar("b", (1, 1, 1), "")]), ("two", [Bar("a", (1, 1, 1), "")])])
    rects = numbers(figure, "rect", "y")
    assert all(later - earlier >= 24 for earlier, later in pairwise(rects))
    headings = [float(one.attrib["y"]) for one in figure.iter("text") if one.get("class") == "head"]
    assert headings[0] < rects[0]
    assert rects[1] + 14 < headings[1] - 10 < headings[1] < rects[2]
    (drawing,) = figure.iter("svg")
    assert rects[2] + 14 < float(drawing.attrib["viewBox"].split()[3])


def test_points_of_lines_stand_where_their_values_are() -> None:
    figure = lines("", ["p50", "p99"], [("a", [(50, 50, 50), (90, 100, 100)])], unit="ms")
    assert numbers(figure, "circle", "cy") == [120.0, 20.0]
    assert len(list(figure.iter("path"))) == 1
    assert [one.text for one in figure.iter("text")][1:7] == ["0", "20", "40", "60", "80", "100"]


@pytest.mark.parametrize("most", [0, 0.0003, 0.9, 1, 7, 10, 19, 60, 99999])
def test_grid_lines_are_few_and_round(most: float) -> None:
    figure = lines("", ["p50"], [("a", [(most, most, most)])], unit="ms")
    marks = [float(one.text or "") for one in figure.iter("text") if "end" in one.get("class", "")]
    assert 2 <= len(marks) <= 7
    assert marks[-1] >= most


def test_nothing_to_show_is_an_empty_chart() -> None:
    assert (
        problems(
            page(
                "",
                [],
                [("x", [bars("", []), lines("", [], [], unit=""), sparkline([], label=""), table("", ["a"], [])])],
            )
        )
        == []
    )
