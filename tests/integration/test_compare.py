"""`compare` on the demo's images: figures of real servers, a page, and nothing left of it when it is interrupted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from .browser import Browser
from .demo_story import Demo
from .pipeline import MATRIX, V1, V3

QUICK = ("--matrix", MATRIX, "--sizes", "32", "--rates", "20", "--seconds", "0.2")


def test_two_images_are_compared(demo: Demo, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    ended = demo.checkout.run("compare", V1, V3, *QUICK, "--rounds", "2", "--json", "--output", str(page)).built()
    printed = json.loads(ended.out)
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == printed
    assert "the client decodes" in ended.err, "the sample's server has no DecodePng"
    assert [one["name"] for one in printed["servers"]] == [V1, V3]
    assert all(0.05 < one["start"]["low"] <= one["start"]["high"] < 60 for one in printed["servers"])
    loads = [(one["server"], one["protocol"], one["input"], one["rate"]) for one in printed["figures"]]
    assert loads == [
        (name, protocol, "32²", rate) for protocol in ("REST", "gRPC") for rate in (None, 20.0) for name in (V1, V3)
    ]
    for one in printed["figures"]:
        assert one["per_second"]["low"] > 0
        assert one["failures"] == 0
        assert one["latencies"][0]["seconds"]["middle"] > 0
    assert any("6 rounds or more" in note for note in printed["notes"])
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    assert V3 in text
    assert demo.checkout.containers() == []

    # In a browser.
    with Browser.run(tmp_path) as browser:
        for scheme, width in (("light", 1200), ("dark", 1200), ("dark", 400)):
            assert browser.faults(page.name, scheme=scheme, width=width) == []


def test_an_interrupted_comparison_leaves_no_container(demo: Demo, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    with demo.checkout.start("compare", V1, V3, *QUICK, "--rounds", "99", "--output", str(page)) as running:
        running.wait_for(lambda: "round 1" in running.printed()[1], "the first round")
        running.wait_for(lambda: len(demo.checkout.containers()) == 2, "both servers")
        running.send(signal.SIGINT)
        ended = running.wait(30)
    assert ended.code == 130, ended
    assert "Cancelled." in ended.err
    assert "Traceback" not in ended.err
    assert demo.checkout.containers() == []
    assert not page.exists()
