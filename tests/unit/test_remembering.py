"""`history` and `report`, from the records and the file to the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.commands.history import show_history
from serving_factory.commands.images import build_command
from serving_factory.commands.report import measure, show_report
from serving_factory.commands.shared import Asked, Checkout
from serving_factory.errors import HistoryError, UnknownNameError, UsageError
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.events import Status, VariantResult, document_text
from serving_factory.pipeline.history import Recorder
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import write_record
from serving_factory.recipes.recipe import recipe_for

from .matrices import ROOT, load, write
from .stage_records import record

V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(ROOT, tmp_path / "build")


def run(checkout: Checkout, status: Status, seconds: float = 3.0, file: str = "m.yaml") -> None:
    matrix = load(checkout.build.parent)
    job = Job(recipe=recipe_for(matrix.variants[0], matrix), site=Site(build=checkout.build, models=checkout.build))
    recording = Recorder(checkout.build, [job], command="build", matrix=file)
    recording.end([VariantResult(variant=V1, status=status, seconds=seconds)])


def test_before_the_first_run(checkout: Checkout, capsys: Captured) -> None:
    show_history(Asked(checkout=checkout), [], json=False)
    show_history(Asked(checkout=checkout), [], json=True)
    assert capsys.readouterr().out == "There is no run yet in this checkout.\n" + document_text({"runs": []})
    with pytest.raises(UnknownNameError, match="there is no run 1; there is none yet"):
        show_history(Asked(checkout=checkout), ["1"], json=False)


def test_runs_are_listed_shown_and_compared(checkout: Checkout, capsys: Captured) -> None:
    run(checkout, Status.FAILED)
    run(checkout, Status.BUILT)
    show_history(Asked(checkout=checkout), [], json=False)
    listed = capsys.readouterr().out
    assert listed.index("1 built") < listed.index("1 failed"), "the latest first"
    show_history(Asked(checkout=checkout), ["2"], json=False)
    assert f"{V1}  built" in capsys.readouterr().out
    show_history(Asked(checkout=checkout), ["1", "2"], json=False)
    assert f"{V1}  status  failed  built" in capsys.readouterr().out
    show_history(Asked(checkout=checkout), ["2", "2"], json=False)
    message = capsys.readouterr().out
    assert "Nothing changed" in message
    assert "matrix files differ" not in message
    run(checkout, Status.BUILT, file="samples/matrix.yaml")
    show_history(Asked(checkout=checkout), ["2", "3"], json=False)
    assert "The matrix files differ: m.yaml and samples/matrix.yaml" in capsys.readouterr().out


def test_a_run_that_works_is_no_run_that_was_killed(
    checkout: Checkout, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = load(checkout.build.parent)
    job = Job(recipe=recipe_for(matrix.variants[0], matrix), site=Site(build=checkout.build, models=checkout.build))
    with hold_lock(checkout.build):
        Recorder(checkout.build, [job], command="build", matrix="m.yaml")
        show_history(Asked(checkout=checkout), ["1"], json=False)
        assert "running" in capsys.readouterr().out
    show_history(Asked(checkout=checkout), ["1"], json=False)
    assert "did not end" in capsys.readouterr().out
    with hold_lock(checkout.build):
        monkeypatch.setattr("serving_factory.commands.history.held_since", lambda _build: "2999-01-01T00:00:00+00:00")
        show_history(Asked(checkout=checkout), ["1"], json=False)
        assert "did not end" in capsys.readouterr().out, "another one holds the lock"


def test_the_runs_of_one_matrix_file_are_listed(checkout: Checkout, capsys: Captured) -> None:
    run(checkout, Status.FAILED)
    run(checkout, Status.BUILT, file="samples/matrix.yaml")
    show_history(Asked(checkout=checkout, matrix=str(ROOT / "samples/matrix.yaml")), [], json=True)
    assert [one["matrix"] for one in json.loads(capsys.readouterr().out)["runs"]] == ["samples/matrix.yaml"]


def test_the_same_for_machines(checkout: Checkout, capsys: Captured) -> None:
    run(checkout, Status.FAILED)
    run(checkout, Status.BUILT)
    show_history(Asked(checkout=checkout), [], json=True)
    assert [one["counts"] for one in json.loads(capsys.readouterr().out)["runs"]] == [{"built": 1}, {"failed": 1}]
    show_history(Asked(checkout=checkout), ["1"], json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["run"]["id"], found["stages"], found["variants"][0]["status"]) == (1, [], "failed")
    show_history(Asked(checkout=checkout), ["1", "2"], json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["changes"] == [{"variant": V1, "what": "status", "before": "failed", "after": "built"}]


def test_a_run_without_variants_is_not_one_that_never_ended(checkout: Checkout, capsys: Captured) -> None:
    Recorder(checkout.build, [], command="build", matrix="m.yaml").end([])
    show_history(Asked(checkout=checkout), ["1"], json=False)
    assert "no variant to work on" in capsys.readouterr().out
    Recorder(checkout.build, [], command="build", matrix="m.yaml")
    show_history(Asked(checkout=checkout), ["2"], json=False)
    assert "It did not end by itself." in capsys.readouterr().out


def test_people_see_the_latest_runs_and_machines_all(checkout: Checkout, capsys: Captured) -> None:
    for _ in range(32):
        run(checkout, Status.BUILT)
    show_history(Asked(checkout=checkout), [], json=False)
    assert "Not shown: 2 older runs." in capsys.readouterr().out
    show_history(Asked(checkout=checkout), [], json=True)
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["runs"]] == list(range(32, 0, -1))


def test_a_run_whose_file_cannot_be_read_is_one_line(checkout: Checkout, capsys: Captured) -> None:
    run(checkout, Status.BUILT)
    run(checkout, Status.BUILT)
    file = checkout.build / "history" / "1.jsonl"
    file.write_text("garbage\n")
    show_history(Asked(checkout=checkout), [], json=False)
    (note,) = capsys.readouterr().err.splitlines()
    assert str(file) in note
    show_history(Asked(checkout=checkout), ["2"], json=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(HistoryError, match="run 1 cannot be read"):
        show_history(Asked(checkout=checkout), ["1"], json=False)


def test_a_wrong_run_is_reported(checkout: Checkout) -> None:
    run(checkout, Status.BUILT)
    with pytest.raises(UnknownNameError, match="there is no run 7; the latest is 1"):
        show_history(Asked(checkout=checkout), ["1", "7"], json=False)
    with pytest.raises(UsageError, match="must be a number, got 'latest'"):
        show_history(Asked(checkout=checkout), ["latest"], json=False)
    with pytest.raises(UsageError, match="must be a number"):
        show_history(Asked(checkout=checkout), ["9" * 5000], json=False)


COMPILED = record(
    "compile",
    variant=V1,
    seconds=71.4,
    actions=60,
    local_actions=40,
    disk_cache_hits=12,
    remote_cache_hits=0,
    wall_seconds=65.0,
)


def test_what_a_record_does_not_have_is_absent_not_nothing() -> None:
    nothing = measure(V1, {})
    assert (nothing["actions"], nothing["disk_cache_hits"], nothing["stage_seconds"]) == (None, None, None)
    found = measure(V1, {"compile": COMPILED})
    assert (found["stage_seconds"], found["wall_seconds"], found["actions"], found["local_actions"]) == (
        71.4,
        65.0,
        60,
        40,
    )
    assert (found["disk_cache_hits"], found["remote_cache_hits"]) == (12, 0)
    assert (found["peak_memory_bytes"], found["image_size"]) == (None, None)


def test_the_report_says_what_the_records_do(checkout: Checkout, tmp_path: Path, capsys: Captured) -> None:
    file = write(tmp_path, (ROOT / "samples" / "matrix.yaml").read_text("utf-8").replace("source: model_server\n", ""))
    asked = Asked(checkout=Checkout(tmp_path, checkout.build), matrix=str(file), variant=(V1,))
    write_record(checkout.build / V1, COMPILED)
    write_record(checkout.build / V1, record("extract", variant=V1, size=5 * 2**20))
    show_report(asked, json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["actions", "60"] in lines
    assert ["binary", "5.0", "MiB"] in lines
    assert ["peak", "memory", "absent"] in lines
    assert ["smoke", "checks", "absent"] in lines
    show_report(asked, json=True)
    (found,) = json.loads(capsys.readouterr().out)["variants"]
    assert (found["variant"], found["actions"], found["peak_memory_bytes"]) == (V1, 60, None)


def test_of_what_was_never_built_one_line_says_how_to_build_it(
    checkout: Checkout, tmp_path: Path, capsys: Captured
) -> None:
    file = write(tmp_path, (ROOT / "samples" / "matrix.yaml").read_text("utf-8").replace("source: model_server\n", ""))
    asked = Asked(checkout=Checkout(tmp_path, checkout.build), matrix=str(file), variant=(V1, V3))
    write_record(checkout.build / V1, COMPILED)
    show_report(asked, json=False)
    printed = capsys.readouterr().out
    assert printed.count(V3) == 2
    heading, line = printed.splitlines()[-2:]
    assert heading == "Not built yet; to build:"
    assert line.split() == [V3, *f"./factory build --matrix {file} --variant {V3}".split()]
    assert "absent" in printed, "of what was built, each thing that is not known is named"
    show_report(replace(asked, variant=(V3,)), json=False)
    assert "absent" not in capsys.readouterr().out
    show_report(asked, json=True)
    built, other = json.loads(capsys.readouterr().out)["variants"]
    assert built.keys() == other.keys()
    assert {name for name, value in other.items() if value} == {"variant", "build_command"}


def test_the_command_names_the_matrix_only_where_it_has_to(checkout: Checkout, tmp_path: Path) -> None:
    asked = Asked(checkout=Checkout(tmp_path, checkout.build))
    assert build_command(asked, V1) == f"./factory build --variant {V1}"
    asked = replace(asked, matrix="my matrix.yaml")
    assert build_command(asked, V1) == f"./factory build --matrix 'my matrix.yaml' --variant {V1}"
