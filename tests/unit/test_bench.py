"""`bench`: which levels are compared, what the figures say of a gate, what is printed and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from serving_factory.commands import bench as benching
from serving_factory.commands.bench import notes_of, require_gate
from serving_factory.commands.images import Image
from serving_factory.commands.shared import Checkout
from serving_factory.docker.engine import Engine
from serving_factory.errors import CpuLevelError, EngineError, LevelSlowerError, NotBuiltError
from serving_factory.load.generator import Sample
from serving_factory.load.levels import LevelFigures, Verdict, level_figures, verdict
from serving_factory.load.rounds import Load, Measured, Plan
from serving_factory.load.servers import GRPC, REST, Subject
from serving_factory.load.statistics import Interval
from serving_factory.pipeline.history import read_run, run_numbers

from .matrices import document, write
from .test_tasks import Ended, factory, module  # noqa: F401 - fixtures

V1, V3, V4 = (
    Subject(name=f"2.19.1-cpu-{level}", image=f"team/serving:{level}", cpus=1) for level in ("v1", "v3", "v4")
)
LEVELS = {"v1": "x86-64", "v3": "x86-64-v3", "v4": "x86-64-v4"}
LOAD = Load(GRPC, "32 rows")
STEADY, NOISY = (980, 990, 1000, 1010, 1020, 1000), (600, 1300, 1000, 800, 1400, 900)


def sample(answers: float, *, client: float = 0.1, failures: int = 0) -> Sample:
    return Sample(
        seconds=1.0,
        latencies=tuple(number / 1000 for number in range(1, int(answers) + 1)),
        failures=("HTTP 500",) * failures,
        unsent=0,
        client=client,
    )


def figures(
    rounds: Mapping[Subject, Sequence[float]], *, gate: float | None = 0.9, **changes: float
) -> dict[str, LevelFigures]:
    """The figures of some subjects by name, the lowest level first; of answers in each round."""
    measured = Measured()
    for subject, answers in rounds.items():
        measured.samples[subject, LOAD] = [sample(one, **changes) for one in answers]  # type: ignore[arg-type]
    levels = [(one, LEVELS[one.name.rpartition("-")[2]]) for one in rounds]
    return {one.variant: one for one in level_figures(measured, levels, gate=gate)}


def scaled(factor: float, rounds: Sequence[float] = STEADY) -> list[float]:
    return [factor * one for one in rounds]


# --- figures and gate -------------------------------------------------------------------------------------------------


def test_each_level_is_compared_with_the_lowest_and_with_the_one_below() -> None:
    found = figures({V1: STEADY, V3: scaled(2), V4: scaled(3)})
    lowest, middle, highest = found.values()
    assert (lowest.lowest, lowest.to_lowest, lowest.below, lowest.to_below, lowest.verdict) == (None,) * 5
    assert (middle.lowest, middle.below) == (V1.name, V1.name)
    assert (highest.lowest, highest.below) == (V1.name, V3.name)
    assert middle.to_lowest is not None
    assert highest.to_lowest is not None
    assert highest.to_below is not None
    assert (middle.to_lowest.middle, highest.to_lowest.middle, highest.to_below.middle) == (2, 3, 1.5)
    assert [one.verdict for one in found.values()] == [None, Verdict.PASSED, Verdict.PASSED]
    assert lowest.p50 is not None
    assert (lowest.p50.middle, lowest.per_second.middle) == (0.5, 1000)
    require_gate(list(found.values()))


def test_variants_of_one_level_are_not_below_each_other() -> None:
    twin = Subject(name="another-v3", image="twin", cpus=1)
    found = figures({V1: STEADY, V3: STEADY, twin: STEADY})
    assert found["another-v3"].below == V1.name


def test_a_level_that_is_certainly_slower_fails_the_gate() -> None:
    found = list(figures({V1: STEADY, V3: scaled(0.5)}).values())
    assert found[1].verdict is Verdict.SLOWER
    with pytest.raises(LevelSlowerError) as caught:
        require_gate(found)
    assert caught.value.what == "2.19.1-cpu-v3: slower than the level below by more than --gate 0.9 allows."
    assert caught.value.why == "2.19.1-cpu-v3, gRPC, 32 rows: 0.50 of what 2.19.1-cpu-v1 answers"
    assert caught.value.exit_code == 54


def test_only_the_level_below_counts_for_the_gate() -> None:
    found = figures({V1: STEADY, V3: scaled(4), V4: scaled(2)})
    assert found[V4.name].verdict is Verdict.SLOWER, "twice the lowest, and half of the one below"


def test_a_noisy_machine_cannot_say() -> None:
    found = list(figures({V1: STEADY, V3: NOISY}).values())
    assert found[1].verdict is Verdict.UNCERTAIN
    require_gate(found)
    (note,) = notes_of(found)
    assert note.startswith("Whether the gate is passed cannot be said of 2.19.1-cpu-v3, gRPC, 32 rows:")
    assert "Leave the machine idle" in note


def test_nor_can_too_few_rounds() -> None:
    found = list(figures({V1: STEADY[:5], V3: scaled(0.2, STEADY[:5])}).values())
    assert found[1].verdict is Verdict.UNCERTAIN
    assert notes_of(found) == ["Nothing is said of the gate: 6 rounds or more are needed for that."]


@pytest.mark.parametrize(
    ("low", "high", "gate", "said"),
    [
        (0.9, 1.1, 0.9, Verdict.PASSED),
        (0.89, 0.9, 0.9, Verdict.UNCERTAIN),
        (0.89, 0.899, 0.9, Verdict.SLOWER),
        (0.5, 1.5, 1.0, Verdict.UNCERTAIN),
        (0.5, 0.6, None, None),
    ],
)
def test_what_an_interval_says_of_a_gate(low: float, high: float, gate: float | None, said: Verdict | None) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 0.96), gate) is said
    assert verdict(None, gate) is None


def test_what_the_client_hides_is_said() -> None:
    found = list(figures({V1: STEADY, V3: STEADY}, client=0.95).values())
    assert notes_of(found) == [
        "The client was the limit in 2 figures of 2: there the servers may do more than is shown, and differ by more."
    ]


def test_requests_without_an_answer_are_said() -> None:
    found = figures({V1: STEADY, V3: STEADY}, failures=20)
    (note,) = notes_of(list(found.values()))
    assert note.startswith(
        "More than one request of a hundred had no usable answer, in some round: 2.19.1-cpu-v1, gRPC"
    )


def test_a_level_without_another_is_said_to_be_compared_with_nothing() -> None:
    found = list(figures({V3: STEADY}).values())
    assert found[0].to_lowest is None
    assert notes_of(found) == ["There is nothing to compare with 2.19.1-cpu-v3: no other level of it is built."]


def test_a_latency_that_too_few_answers_had_is_none() -> None:
    found = figures({V1: STEADY}, failures=600)[V1.name]
    assert (found.p50 is None, found.p99) == (False, None)


# --- the command ------------------------------------------------------------------------------------------------------


class NoEngine:
    """Has some images, and starts none."""

    def __init__(self, images: Sequence[str]) -> None:
        self.images = images

    def gpu(self) -> None:
        return None

    def remove_strays(self, _owner: str) -> int:
        return 0

    def image_id(self, name: str) -> str | None:
        return "sha256:id" if name in self.images else None


Bench = Callable[..., Ended]


@pytest.fixture
def bench(
    factory: Callable[..., Ended],  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """Runs `bench` where three levels of cpu and one of mkl are built; a plan's subjects answer by their speed."""
    targets = {
        "cpu": {"flavour": "cpu", "levels": ["x86-64", "avx", "x86-64-v3", "x86-64-v4"]},
        "mkl": {"flavour": "mkl", "levels": ["x86-64-v3"]},
    }
    matrix = write(
        tmp_path,
        document(releases=["2.19.1"], targets=targets, image={"repository": "team/serving", "aliases": ["{id}"]}),
    )
    built = {"2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-mkl-v3", "2.19.1-cpu-v4"}

    def run(
        *words: str,
        speed: Mapping[str, float] | None = None,
        later: Mapping[str, float] | None = None,  # the speed from the second measurement on
        images: Sequence[str] = ("v1", "v3", "v4"),
        published: bool = False,
        flags: frozenset[str] | None = frozenset({"avx", "avx2"}),
    ) -> Ended:
        def recorded(folder: Path) -> Image | None:
            level = folder.name.rpartition("-")[2]
            return Image(f"team/serving:{level}", published=published) if folder.name in built else None

        def measure(_engine: Engine, plan: Plan, **_more: object) -> Measured:
            found = Measured()
            for protocol in (REST, GRPC):
                for subject in plan.subjects:
                    factor = ((later if plans and later is not None else speed) or {}).get(subject.name, 1.0)
                    samples = [sample(one) for one in scaled(factor)[: plan.rounds]]
                    found.samples[subject, Load(protocol, "1 row")] = samples
            plans.append(plan)
            return found

        engine = cast("Engine", NoEngine([f"team/serving:{one}" for one in images]))
        monkeypatch.setattr(Engine, "connect", lambda _report: engine)
        monkeypatch.setattr(benching, "recorded_image", recorded)
        monkeypatch.setattr(benching, "measure", measure)
        monkeypatch.setattr(benching, "cpu_flags", lambda: flags)
        monkeypatch.setattr(benching, "run_docker", lambda *words, **_more: pulled.append(words))
        return factory("bench", "--matrix", str(matrix), *words)

    plans: list[Plan] = []
    pulled: list[tuple[str, ...]] = []
    run.__dict__.update(plans=plans, pulled=pulled)
    monkeypatch.setattr(
        benching,
        "level_facts",
        lambda level: type("Facts", (), {"cpuinfo": {"x86-64-v4": ("avx512f",)}.get(str(level), ("avx",))}),
    )
    return run


def test_levels_are_measured_together_and_recorded(bench: Bench) -> None:
    ended = bench("--json", "--gate", "0.9", speed={"2.19.1-cpu-v3": 1.5})
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert {one["variant"] for one in found["figures"]} == {"2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-mkl-v3"}
    fast = next(one for one in found["figures"] if one["variant"] == "2.19.1-cpu-v3")
    assert (fast["to_lowest"]["middle"], fast["below"], fast["verdict"]) == (1.5, "2.19.1-cpu-v1", "passed")
    assert [one["variant"] for one in found["left_out"]] == ["2.19.1-cpu-v4"]
    assert [[one.name for one in plan.subjects] for plan in bench.__dict__["plans"]] == [
        ["2.19.1-cpu-v1", "2.19.1-cpu-v3"],
        ["2.19.1-mkl-v3"],
    ]
    assert {one.cpus for plan in bench.__dict__["plans"] for one in plan.subjects} == {1}
    build = Checkout.here().build
    run = read_run(build, run_numbers(build)[-1])
    assert [one.variant for one in run.bench] == [one["variant"] for one in found["figures"]]
    assert run.bench[0].to_lowest is None
    assert run.bench[1].to_lowest is not None
    assert run.damaged == 0
    assert run.ended


def test_the_history_shows_them(bench: Bench, factory: Callable[..., Ended]) -> None:  # noqa: F811 - the fixture
    table = bench("2.19.1-cpu-v3", "--gate", "0.9", speed={"2.19.1-cpu-v3": 1.5}).out
    shown = factory("history", "1")
    assert shown.code == 0
    lines = [line for line in table.splitlines() if line.startswith("2.19.1-cpu-v3")]
    assert len(lines) == 2
    assert all(line in shown.out for line in lines)
    assert json.loads(factory("history", "1", "--json").out)["bench"][-1]["verdict"] == "passed"


def test_a_slower_level_ends_with_its_own_code_and_is_recorded(bench: Bench) -> None:
    ended = bench("--flavour", "cpu", "--gate", "0.9", speed={"2.19.1-cpu-v3": 0.6})
    assert ended.code == LevelSlowerError.exit_code
    assert "2.19.1-cpu-v3, REST, 1 row: 0.60 of what 2.19.1-cpu-v1 answers" in ended.err
    assert "slower" in ended.out
    assert run_numbers(Checkout.here().build) == [1]
    assert bench("--flavour", "cpu", speed={"2.19.1-cpu-v3": 0.6}).code == 0, "without a gate it is a figure"


def test_a_level_that_is_slower_by_chance_is_measured_again_and_passes(bench: Bench) -> None:
    ended = bench("--flavour", "cpu", "--gate", "0.9", "--json", speed={"2.19.1-cpu-v3": 0.6}, later={})
    assert ended.code == 0, ended
    assert "measured once more" in ended.err
    assert len(bench.__dict__["plans"]) == 2
    figures = json.loads(ended.out)["figures"]
    assert [one["verdict"] for one in figures] == [None, "passed"] * 2, "the second ones, and no others"
    build = Checkout.here().build
    assert len(read_run(build, run_numbers(build)[-1]).bench) == len(figures)


def test_a_named_variant_brings_the_lowest_level_and_the_one_below(bench: Bench) -> None:
    assert bench("2.19.1-cpu-v4", flags=frozenset({"avx", "avx512f"})).code == 0
    (plan,) = bench.__dict__["plans"]
    assert [one.name for one in plan.subjects] == ["2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-cpu-v4"]


def test_a_dry_run_says_what_would_be_measured(bench: Bench) -> None:
    ended = bench("--dry-run", "--rounds", "3")
    assert ended.code == 0
    assert "2.19.1-cpu on linux/amd64  2.19.1-cpu-v1" in ended.out
    assert "Left out: 2.19.1-cpu-v4: this machine's CPU lacks avx512f" in ended.out
    assert "3 rounds of 1 s for each load; about " in ended.out
    assert bench.__dict__["plans"] == []
    assert run_numbers(Checkout.here().build) == []


def test_what_cannot_be_measured(bench: Bench) -> None:
    ended = bench("2.19.1-cpu-avx")
    assert ended.code == NotBuiltError.exit_code
    assert "2.19.1-cpu-avx has no image that passed its smoke test" in ended.err
    assert "--variant 2.19.1-cpu-avx" in ended.err
    assert bench("2.19.1-cpu-v4").code == CpuLevelError.exit_code
    assert bench("2.19.1-cpu-v5").code == 4
    assert bench("--gate", "much").code == 2
    assert bench("--rounds", "0").code == 2
    assert bench("2.19.1-cpu-v3", images=["v1"]).code == EngineError.exit_code
    assert bench.__dict__["plans"] == []


def test_a_published_image_that_the_engine_does_not_have_is_pulled(bench: Bench) -> None:
    assert bench("2.19.1-cpu-v3", images=["v1"], published=True).code == 0
    assert bench.__dict__["pulled"] == [("pull", "--quiet", "team/serving:v3")]
