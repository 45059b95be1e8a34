"""`preflight` on a real engine, with Debian's Bazel: all that is missing is told at once, with no network at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from serving_factory.errors import MissingInputsError

from .pipeline import ROOT, V1, Checkout, Outcome
from .preflight_workspace import MISSING, PINNED_C, make_archive, write_workspace


def matrix() -> dict[str, object]:
    """The sample's matrix, so that its toolchain is there already, with another source tree."""
    sample = yaml.safe_load((ROOT / "samples" / "matrix.yaml").read_text(encoding="utf-8"))
    overrides = {"d": "overrides/d-1.0", "rules_cc": "overrides/rules_cc", "rules_java": "overrides/rules_java"}
    bazel = {**sample["bazel"], "distdir": "distdir", "overrides": overrides}
    return {**sample, "source": "source", "bazel": bazel}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout.make(tmp_path / "factory")


def preflight(checkout: Checkout, folder: Path) -> Outcome:
    (folder / "matrix.yaml").write_text(yaml.safe_dump(matrix()), encoding="utf-8")
    return checkout.run("preflight", V1, "--matrix", str(folder / "matrix.yaml"), "--json")


def test_all_that_is_missing_is_told_at_once(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    write_workspace(folder, mark=checkout.mark)
    ended = preflight(checkout, folder)
    assert ended.code == MissingInputsError.exit_code, ended
    (report,) = json.loads(ended.out)["variants"]
    assert [one["name"] for one in report["missing"]] == list(MISSING)
    assert all(one["file"] == f"{one['name']}-1.0.tar.gz" for one in report["missing"])
    assert report["missing"][1]["sha256"] == PINNED_C
    assert "the distdir's file of that name has sha256" in report["missing"][1]["problem"]
    origins = {one["name"]: one["origin"] for one in report["found"]}
    overridden = dict.fromkeys(("d", "rules_cc", "rules_java"), "override")
    assert origins == {"a": "distdir", "r": "distdir", **overridden}
    assert not report["stopped"]
    assert "3 inputs missing" in ended.err
    written = next(checkout.folder.glob(f"build/*/{V1}/preflight/report.json"))
    assert json.loads(written.read_text(encoding="utf-8")) == report

    # What was missing comes, and the next look says so.
    for name in ("b", "s"):
        (folder / "distdir" / f"{name}-1.0.tar.gz").write_bytes(make_archive(name, checkout.mark))
    (report,) = json.loads(preflight(checkout, folder).out)["variants"]
    assert [one["name"] for one in report["missing"]] == ["c"]


def test_a_workspace_that_cannot_be_read_is_told(checkout: Checkout, tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    write_workspace(folder, mark=checkout.mark, stopped=True)
    ended = preflight(checkout, folder)
    assert ended.code == MissingInputsError.exit_code, ended
    (report,) = json.loads(ended.out)["variants"]
    assert [one["name"] for one in report["missing"]] == ["s"]
    assert report["missing"][0]["urls"][0] == "https://mirror.invalid/s-1.0.tar.gz"
    assert len(report["missing"][0]["sha256"]) == 64
    assert report["stopped"]
    assert {one["name"] for one in report["unseen"]} == {"b", "c"}
