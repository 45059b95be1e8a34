"""`report --html`: the matrix as a page, from the records and the runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving_factory.commands.report import Speed, matrix_page, measure, past, speeds
from serving_factory.commands.shared import Asked
from serving_factory.load.levels import LevelFigures
from serving_factory.load.statistics import Interval
from serving_factory.matrix.matrix import Matrix
from serving_factory.pipeline.history import Recorder, Run, VariantRun
from serving_factory.pipeline.records import Record, matrix_name
from serving_factory.pipeline.stages import STAGES

from .matrices import document, load, write
from .stage_records import record, write_records
from .test_page import problems
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

MATRIX = document(
    releases=["2.19.1", "1.15.0"],
    targets={"standard": {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]}},
    image={"repository": "team/serving", "aliases": ["{id}"]},
)
NEW1, NEW3, OLD1, OLD3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3", "1.15.0-cpu-v1", "1.15.0-cpu-v3"


def run(number: int, **ends: tuple[str, float]) -> Run:
    """A run, by how variants ended in it and after how many seconds."""
    variants = tuple(ended(name, status, seconds) for name, (status, seconds) in ends.items())
    counts = Counter(one.status for one in variants)
    about: dict[str, Any] = {"started": "then", "command": "build '<a&b>'", "matrix": "m"}
    return Run(id=number, seconds=60, counts=counts, variants=variants, **about)


def ended(variant: str, status: str, seconds: float) -> VariantRun:
    error = "ItsError" if status == "failed" else None
    made: dict[str, Any] = {**dict.fromkeys(("release", "flavour", "level", "toolchain"), ""), "variant": variant}
    return VariantRun(status=status, seconds=seconds, error=error, **made)


def made(matrix: Matrix, records: dict[str, dict[str, Record[Any]]], runs: list[Run]) -> str:
    """The page of a matrix with these records and runs, the latest run first."""
    found = []
    for one in matrix.variants:
        document = measure(one.id, records.get(one.id, {}))
        command = None if document["compiled"] else f"./factory build --variant {one.id}"
        found.append((one, {**document, "runs": past(one.id, runs), "speed": None, "build_command": command}))
    return matrix_page("a <matrix> & more", found, runs)


def records(*stages: str, **changes: Any) -> dict[str, Record[Any]]:  # noqa: ANN401 - any field of a compile
    return {stage: record(stage, **(changes if stage == "compile" else {})) for stage in stages}


def rows(text: str, caption: str = "") -> dict[str, str]:
    """The text of each row from a caption on, by its first cell; the first row of that name."""
    found: dict[str, str] = {}
    for row in re.findall(r"<tr>(.*?)</tr>", text.partition(f"<caption>{caption}")[2]):
        first, *cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        found.setdefault(first, " | ".join(cells))
    return found


def columns(text: str, caption: str, name: str) -> dict[str, str]:
    """The cells of a row, by their columns' heads."""
    found = rows(text, caption)
    return dict(zip(found["variant"].split(" | "), found[name].split(" | "), strict=True))


def dead_links(text: str) -> set[str]:
    return set(re.findall(r'href="#(.*?)"', text)) - set(re.findall(r'\bid="(.*?)"', text))


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    return load(tmp_path, MATRIX)


def test_without_records_it_says_what_to_build(matrix: Matrix) -> None:
    text = made(matrix, {}, [])
    assert problems(text) == []
    assert dead_links(text) == set()
    assert "4 variants of a &lt;matrix&gt; &amp; more: 4 not built." in text
    assert rows(text)["2.19.1-cpu"] == "not built | not built"
    assert rows(text)[NEW3] == f"./factory build --variant {NEW3}"
    assert "Numbers" not in text
    assert "Runs" not in text


def test_records_and_runs_are_in_it(matrix: Matrix) -> None:
    found = {
        NEW1: records(*STAGES, actions=60, disk_cache_hits=12, remote_cache_hits=30, peak_memory_bytes=3 * 2**30),
        NEW3: records(*STAGES[:-1]),
        OLD1: records("compile", "extract"),
    }
    runs = [
        run(4, **{OLD3: ("failed", 5), NEW1: ("up_to_date", 0)}),
        run(3, **{NEW1: ("built", 45)}),
        run(2, **{NEW1: ("failed", 3)}),
        run(1, **{NEW1: ("built", 90), NEW3: ("built", 80), OLD3: ("built", 70)}),
    ]
    text = made(matrix, found, runs)
    assert problems(text) == []
    assert dead_links(text) == set()
    by_name = rows(text)
    assert by_name["2.19.1-cpu"] == "pushed | tested"
    assert by_name["1.15.0-cpu"] == "unfinished | failed"
    made_, compiled = (columns(text, caption, NEW1) for caption in ("What was made", "How it was compiled"))
    assert (made_["state"], made_["smoke checks"], made_["its builds"]) == ("pushed", "1 in 0.5 s", " 45 s")
    assert (compiled["compile stage"], compiled["peak memory"]) == ("1 min 11 s", "3.0 GiB")
    assert (compiled["actions"], compiled["from caches"]) == ("60", "42 (70%)")
    assert "tried on GPU" not in made_, "a column in which nothing is known is left out"
    assert by_name[OLD1].startswith("unfinished (after extract) | ")
    assert by_name[OLD3].startswith("failed (run 4: ItsError) | ")
    assert 'aria-label="2 builds, from 1 min 30 s in run 1 to 45 s in run 3"' in text
    assert text.count("<polyline") == 1, "of one build there is no line"
    assert by_name["4"] == "then | 1 min 00 s |  | 1 failed, 1 up to date | build '&lt;a&amp;b&gt;'"
    assert text.index(">4<") < text.index(">1<"), "the latest run first"
    assert f"./factory build --variant {OLD3}" in text


def figures(image: str, *ratios: tuple[float, float, float], lowest: str = OLD1) -> tuple[LevelFigures, ...]:
    """What `bench` finds of an image, by the ratio's interval under each load."""
    rate = Interval(100, 100, 100, 0.98)
    about: dict[str, Any] = {"variant": "v", "level": "l", "image": image, "protocol": "REST", "input": "1 row"}
    return tuple(
        LevelFigures(per_second=rate, client=0.1, lowest=lowest, to_lowest=Interval(*ratio, 0.98), **about)
        for ratio in ratios
    )


def test_speeds_are_those_of_the_latest_bench_of_each_image() -> None:
    latest = replace(
        run(3),
        bench=(
            *figures("faster", (1.5, 1.4, 1.6), (1.9, 1.8, 2.0)),
            *figures("mixed", (0.8, 0.7, 0.9), (1.2, 1.1, 1.3)),
        ),
    )
    earlier = replace(run(2), bench=(*figures("faster", (9, 9, 9)), *figures("unsure", (1.1, 0.9, 1.3))))
    alone = replace(run(1), bench=tuple(replace(one, to_lowest=None) for one in figures("alone", (1, 1, 1))))
    found = speeds([latest, earlier, alone])
    assert found["faster"] == Speed(times_as=OLD1, low=1.5, high=1.9, certain=True, run=3)
    assert {name: (one.certain, one.run) for name, one in found.items()} == {
        "faster": (True, 3),
        "mixed": (False, 3),
        "unsure": (False, 2),
    }


def test_two_hundred_variants_are_one_page(tmp_path: Path) -> None:
    wide = {"flavour": "cpu", "levels": ["x86-64", "avx", "x86-64-v3"]}
    matrix = load(tmp_path, {**MATRIX, "releases": [">=1.9"], "targets": {"standard": wide}})
    assert len(matrix.variants) >= 200
    text = made(matrix, {one.id: records(*STAGES) for one in matrix.variants[::2]}, [])
    assert problems(text) == []
    assert dead_links(text) == set()
    assert len(text) < 400_000


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_page_goes_to_a_file_and_takes_the_place_of_the_text(
    tmp_path: Path,
    factory: Factory,  # noqa: F811 - the fixture
) -> None:
    matrix, file = str(write(tmp_path, MATRIX)), tmp_path / "report.html"
    asked = Asked(matrix=matrix)
    write_records(asked.folder / NEW1, *STAGES)
    name = matrix_name(asked.file, asked.checkout.root)
    recorder = Recorder(asked.checkout.build, [], command="bench", matrix=name)
    for one in figures("h:5000/r@sha256:pushed", (1.5, 1.4, 1.6)):
        recorder.add(one)
    recorder.end([])
    ended = factory("report", "--html", str(file), "--matrix", matrix)
    assert (ended.code, ended.out, ended.err) == (0, "", f"Wrote {file}.\n")
    text = file.read_text(encoding="utf-8")
    assert problems(text) == []
    assert columns(text, "What was made", NEW1)["speed"] == "1.50"
    assert rows(text)["2.19.1-cpu"] == "pushed | not built"
    assert f"./factory build --matrix {matrix} --variant {NEW3}" in text
    ended = factory("report", "--html", str(file), "--matrix", matrix, "--variant", NEW1, "--json")
    assert [one["variant"] for one in json.loads(ended.out)["variants"]] == [NEW1]
    assert NEW3 not in file.read_text(encoding="utf-8")


def test_a_page_without_a_place_is_one_message(tmp_path: Path, factory: Factory) -> None:  # noqa: F811 - the fixture
    ended = factory("report", "--html", str(tmp_path), "--matrix", str(write(tmp_path, MATRIX)))
    assert (ended.code, ended.out) == (2, "")
    assert "`--html` must be a file" in ended.err
