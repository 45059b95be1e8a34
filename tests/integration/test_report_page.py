"""What `report --html` writes, in a browser: light and dark, on wide and narrow screens, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .browser import Browser
from .demo_story import Demo
from .pipeline import MATRIX, V1

WIDE = """\
image: {repository: team/serving, aliases: ["{id}"]}
releases: [">=1.9"]
targets:
  standard: {flavour: cpu, levels: [x86-64, avx, x86-64-v3]}
"""
FAULTY = """<p style="width: 3000px"><img src="http://127.0.0.1/x.png"><script>console.error("a fault")</script>"""
PAGES = ("report.html", "wide.html")


@pytest.fixture(scope="module")
def browser(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with the page of what the demo has built, that of 200 variants without a record, and a faulty one."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "wide.yaml").write_text(WIDE)
    (folder / "faulty.html").write_text(FAULTY)
    for name, matrix in zip(PAGES, (MATRIX, str(folder / "wide.yaml")), strict=True):
        assert demo.checkout.run("report", "--matrix", matrix, "--html", str(folder / name)).code == 0
    with Browser.run(folder) as running:
        yield running


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_seen_as_a_whole_and_loads_nothing(browser: Browser, name: str, scheme: str) -> None:
    assert [browser.faults(name, scheme=scheme, width=width) for width in (1200, 400)] == [[], []]


def test_a_faulty_page_is_found_out(browser: Browser) -> None:
    found = browser.faults("faulty.html", scheme="dark", width=400)
    for fault in ("a fault", "asked for http://127.0.0.1/x.png", "wider than", "blank", "not dark"):
        assert any(fault in one for one in found), found


def test_all_of_it_is_reached_by_keyboard(browser: Browser) -> None:
    browser.open("report.html")
    name = "one => one.getAttribute('href') || one.getAttribute('aria-label')"
    expected = browser.ask(f"[...document.querySelectorAll('a, .wide')].map({name})")
    assert {"#part1", f"#{V1}", "By CPU level"} <= set(expected)
    reached = []
    for _ in expected:
        browser.press("Tab")
        reached.append(browser.ask(f"({name})(document.activeElement)"))
        assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") != "none", "the focus is to be seen"
    assert reached == expected
    browser.press("Tab")
    assert browser.ask("document.activeElement.tagName") == "BODY", "and it does not hold the reader"

    browser.open("report.html")
    browser.press("Tab")
    browser.press("Tab")
    browser.press("Enter")
    assert browser.ask("location.hash + ' ' + document.querySelector(location.hash).textContent") == "#part2 Numbers"
