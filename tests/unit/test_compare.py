"""`compare`: what is refused before anything starts, the plan, the figures, the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from serving_factory.commands import compare as comparing
from serving_factory.commands.compare import Comparison, compare, document_of
from serving_factory.commands.compare_page import comparison_page
from serving_factory.commands.shared import Asked, Checkout, CompareOptions
from serving_factory.docker.engine import Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.errors import (
    FactoryError,
    GpuMissingError,
    NotBuiltError,
    ServerNotReadyError,
    UnknownNameError,
    UsageError,
)
from serving_factory.load import rounds
from serving_factory.load.generator import Sample
from serving_factory.load.results import Results, results_of
from serving_factory.load.rounds import Load, Measured, Plan
from serving_factory.load.servers import GRPC, REST, Subject
from serving_factory.pipeline.job import Site

from .fake_serving import Behaviour
from .matrices import ROOT, SAMPLE
from .test_load import Containers
from .test_page import problems
from .test_smoke import Script
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

A, B = Subject(name="a", image="one", cpus=1), Subject(name="b", image="two", cpus=2)
MOST, RATE = Load(REST, "128²"), Load(REST, "128²", 100.0)


def sample(answers: int, latency: float, *, failures: int = 0, unsent: int = 0, client: float = 0.1) -> Sample:
    failed = tuple("HTTP 500: <broken>" for _ in range(failures))
    return Sample(seconds=1.0, latencies=(latency,) * answers, failures=failed, unsent=unsent, client=client)


def measured(a: list[Sample], b: list[Sample], load: Load = MOST) -> Measured:
    found = Measured()
    found.starts.update({A: [0.5, 0.6], B: [0.7, 0.8]})
    found.samples.update({(A, load): a, (B, load): b})
    return found


def results(a: list[Sample], b: list[Sample], load: Load = MOST) -> Results:
    return results_of(measured(a, b, load), (A, B), {"one": 10**8, "two": 10**8})


def test_figures_are_of_the_rounds_and_in_ratio_to_the_first_server() -> None:
    found = results(
        [sample(n, 0.010) for n in (98, 99, 100, 101, 102, 100)],
        [sample(2 * n, 0.02) for n in (98, 99, 100, 101, 102, 100)],
    )
    first, second = found.figures
    assert (first.per_second.middle, first.per_second.low, first.per_second.high) == (100, 98, 102)
    assert (first.ratio, first.differs) == (None, None)
    assert second.per_cpu is not None
    assert second.per_cpu.middle == 100
    assert second.ratio is not None
    assert (second.ratio.middle, second.differs) == (2.0, True)
    assert [one.seconds.middle for one in second.latencies] == [0.02] * 3
    assert found.notes == ()


def test_at_a_set_rate_the_ratio_is_of_the_median_latency() -> None:
    _, second = results([sample(100, 0.010)] * 6, [sample(100, 0.005)] * 6, RATE).figures
    assert second.ratio is not None
    assert second.ratio.middle == pytest.approx(0.5)


def test_a_noisy_machine_is_said_to_be_noisy() -> None:
    a = [sample(n, 0.01) for n in (50, 100, 150, 90, 110, 100, 70)]
    b = [sample(n, 0.01) for n in (120, 60, 130, 100, 95, 140, 80)]
    (note,) = results(a, b).notes
    assert note.startswith("b and a cannot be distinguished on this machine: they differ by ")
    assert "too noisy" in note


def test_a_quiet_machine_is_not() -> None:
    assert results([sample(100, 0.01)] * 6, [sample(103, 0.01)] * 6).notes == ()


def test_what_is_certain_under_some_loads_only_is_said() -> None:
    found = measured([sample(100, 0.01)] * 6, [sample(200, 0.01)] * 6)
    found.samples.update(
        {(A, RATE): [sample(100, 0.01)] * 6, (B, RATE): [sample(100, n / 100) for n in (1, 2, 1, 1, 3, 1)]}
    )
    (note,) = results_of(found, (A, B), {"one": 1, "two": 1}).notes
    start = (
        "b differs from a with certainty under 1 of 2 loads; of servers that are equally fast, 0.062 would seem to on"
    )
    assert note.startswith(start)  # of each load 1 in 32: 6 rounds in the same order


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    (note,) = results([sample(100, 0.01)] * 2, [sample(300, 0.01)] * 2).notes
    assert note == "6 rounds or more say whether b differs from a; these were fewer."


def test_a_client_that_is_the_limit_is_named() -> None:
    notes = results([sample(100, 0.01, client=0.95)] * 6, [sample(200, 0.01, client=0.7)] * 6).notes
    assert [note.partition(":")[0] for note in notes] == ["The client was the limit in 1 of 2 figures"]
    assert "0.95" in notes[0]


def test_what_had_no_answer_is_named_and_slow() -> None:
    found = results([sample(100, 0.01)] * 6, [sample(40, 0.01, failures=5, unsent=55)] * 6, RATE)
    _, second = found.figures
    assert (second.failures, second.unsent, second.failure) == (30, 330, "HTTP 500: <broken>")
    assert (second.latencies[0].seconds.middle, second.ratio) == (math.inf, None)
    assert [note.partition(": ")[2][:25] for note in found.notes] == [
        "30 requests had no usable",
        "100 requests a second are",
    ]


# --- the page ---------------------------------------------------------------------------------------------------------


def comparison(found: Measured, **plan: object) -> Comparison:
    made = Plan(subjects=(A, B), model=Path("models/picture"), **plan)  # type: ignore[arg-type]
    machine = {"cpus": 2, "memory": 2**30, "load_average": 0.5}
    figures = results_of(found, (A, B), {"one": 10**8, "two": 10**8})
    return Comparison(started="2026-01-31T12:00:00Z", machine=machine, plan=made, results=figures)


def both_loads() -> Measured:
    found = measured([sample(100, 0.01)] * 6, [sample(200, 0.01, failures=1)] * 6)
    found.samples.update({(A, RATE): [sample(100, 0.01)] * 6, (B, RATE): [sample(40, 0.01, unsent=60)] * 6})
    return found


def test_the_page_is_well_formed_loads_nothing_and_has_every_figure() -> None:
    text = comparison_page(comparison(both_loads()))
    assert problems(text) == []
    for part in (
        "Start, in seconds",
        "Size of the image",
        "REST, 128²",
        "95.4 MiB",
        "requests/s",
        "&lt;broken&gt;",
        "50 %",
        "99 %",
    ):
        assert part in text
    assert not re.search(r"\b(inf|nan)\b", text)


def test_a_page_with_closed_loops_alone_and_no_rest_is_well_formed() -> None:
    found = measured([sample(100, 0.01)] * 2, [sample(200, 0.01)] * 2)
    del found.samples[B, MOST]
    found.without_rest.add(B)
    made = comparison(found, rates=())
    assert problems(comparison_page(made)) == []
    assert made.results.notes == ("b has no REST.",)


def test_the_document_has_null_where_a_figure_is_infinite() -> None:
    from serving_factory.pipeline.events import document_text

    text = document_text(document_of(comparison(both_loads())))
    figures = json.loads(text)["figures"]
    assert figures[3]["latencies"][0]["seconds"]["middle"] is None
    assert figures[0]["latencies"][0]["seconds"]["middle"] == 0.01


# --- the command ------------------------------------------------------------------------------------------------------


class Machine(Containers):
    """An engine with two CPUs that has the images of its scripts."""

    access: GpuAccess | None = None
    environment: dict[str, str] = {}  # noqa: RUF012

    def image_id(self, reference: str) -> str | None:
        return f"sha256:{reference}" if reference in self.scripts else None

    def image_size(self, reference: str) -> int:
        return 10**8 if reference in self.scripts else 0

    def image_environment(self, _reference: str) -> dict[str, str]:
        return self.environment

    def capacity(self) -> tuple[int, int]:
        return 2, 2**30

    def gpu(self) -> GpuAccess | None:
        return self.access

    def remove_strays(self, owner: str) -> int:
        assert owner.startswith("factory-")
        return 0


Compare = Callable[..., CompareOptions]


@pytest.fixture
def options(tmp_path: Path) -> Compare:
    """Makes options, of a checkout without anything built."""

    def make(**changed: object) -> CompareOptions:
        asked = Asked(checkout=Checkout(ROOT, tmp_path / "build"), matrix=str(SAMPLE))
        return CompareOptions(**{"asked": asked, "output": str(tmp_path / "report.html"), **changed})  # type: ignore[arg-type]

    return make


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The engine of this machine."""
    made = Machine(**{"one:1": Script(), "two:1": Script()})
    monkeypatch.setattr(Site, "engine", property(lambda _: cast("Engine", made)))
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0.0, 0.0))
    monkeypatch.setattr(rounds, "SHARES", (0.5,))
    return made


FAST: dict[str, object] = {"rounds": 2, "seconds": 0.02, "sizes": (1,), "rates": (50.0,)}


def half_plus_two() -> str:
    return str(ROOT / "samples/model_server/models/half_plus_two")


def test_images_are_compared_and_both_files_are_written(
    options: Compare, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(["one:1", "two:1"], options(**FAST, model=half_plus_two(), cpus=(1, 2)))
    out, err = capsys.readouterr()
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in document["servers"]] == [
        "one:1, 1 CPU",
        "two:1, 1 CPU",
        "one:1, 2 CPUs",
        "two:1, 2 CPUs",
    ]
    assert {(one["protocol"], one["rate"]) for one in document["figures"]} == {
        (p, r) for p in (REST, GRPC) for r in (None, 50.0)
    }
    assert problems((tmp_path / "report.html").read_text(encoding="utf-8")) == []
    assert "one:1, 1 CPU" in out
    assert "these were fewer" in out
    assert document["notes"][0] == "The machine was busy before this began: a load average of 1.5 on 2 CPUs."
    assert err.splitlines() == ["round 1 of 2", "round 2 of 2"]
    assert machine.running == []


def test_a_dry_run_asks_no_engine_and_writes_nothing(
    options: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "engine", property(lambda _: pytest.fail("asked")))
    compare(["one:1", "two:1"], options(dry_run=True, cpus=(1, 8)))
    out = capsys.readouterr().out
    assert "one:1, 8 CPUs" in out
    assert "estimate" in out
    compare(["one:1"], options(dry_run=True, json=True, seconds=2.0))
    planned = json.loads(capsys.readouterr().out)
    assert planned["plan"]["seconds"] == 2.0
    assert planned["estimate"] == 7 * (2 + 2 * 3 * (1 + 2 * 3))
    assert planned["estimate_decoding"] == 7 * (2 + 2 * 6 * (1 + 2 * 3))
    assert not (tmp_path / "report.html").exists()


def test_where_a_server_cannot_decode_all_get_pixels(options: Compare, machine: Machine) -> None:
    def chosen() -> str:
        subjects = [Subject(name=name, image=name) for name in ("one:1", "two:1")]
        return comparing._loadable(cast("Engine", machine), subjects, comparing._models(options()), "factory-x").name

    assert chosen() == "picture_encoded"
    machine.scripts["two:1"] = Script(behaviour=Behaviour(load_error="Op type 'Placeholder' with DT_STRING"))
    assert chosen() == "picture"
    machine.scripts["two:1"] = Script(exits_with=1, behaviour=Behaviour(available=False))
    with pytest.raises(ServerNotReadyError):
        chosen()


Refused = tuple[list[str], dict[str, object], type[FactoryError], str]
REFUSED: list[Refused] = [
    ([], {}, UsageError, "takes IMAGE"),
    (["one:1", "one:1"], {}, UsageError, "named twice"),
    (["2.19.1-cpu-v1"], {}, NotBuiltError, "no image that passed its smoke test"),
    (["2.19.1-cpu-v2"], {}, UnknownNameError, "did you mean"),
    (["three:1"], {}, UnknownNameError, "the engine has no image three:1"),
    (["one:1"], {"cpus": (1, 64)}, UsageError, "the engine's machine has 2"),
    (["one:1"], {"model": "/nowhere"}, UsageError, "numbered folder"),
    (["one:1"], {"output": "figures.json"}, UsageError, "names the page"),
    (["one:1"], {"gpus": True}, UsageError, "none of the images is for GPUs"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[3])
def test_what_cannot_be_compared_is_refused_before_anything_starts(
    options: Compare, machine: Machine, case: Refused
) -> None:
    words, given, kind, text = case
    with pytest.raises(kind) as raised:
        compare(words, options(**given))
    assert text in raised.value.what
    assert raised.value.remedy
    assert machine.specs == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--cpus", text) for text in ("x", "0", "1,", "1;2", "-1")),
        *(("--sizes", text) for text in ("0", "big", "1.5", "128 256")),
        *(("--rates", text) for text in ("fast", "0")),
        *(("--seconds", text) for text in ("0", "long")),
        *(("--rounds", text) for text in ("0", "many")),
    ],
)
def test_what_is_no_number_is_refused_with_what_to_write(factory: Factory, option: str, value: str) -> None:  # noqa: F811
    ended = factory("compare", "one:1", f"{option}={value}")
    assert ended.code == 2
    assert ended.err.startswith(f"Error: `{option}` must be ")
    assert "What to do: write " in ended.err
    assert f"{option} " in ended.err


def test_a_gpu_that_the_engine_cannot_give_is_refused(options: Compare, machine: Machine) -> None:
    machine.environment = {"NVIDIA_VISIBLE_DEVICES": "all"}
    with pytest.raises(GpuMissingError):
        compare(["one:1"], options(gpus=True))
    machine.access = GpuAccess.CDI
    subjects = comparing._checked(cast("Engine", machine), {"one:1": "one:1"}, options(gpus=True, cpus=(1,)))
    assert [(one.name, one.cpus, one.gpu) for one in subjects] == [
        ("one:1, 1 CPU", 1, None),
        ("one:1, GPU", None, GpuAccess.CDI),
    ]
