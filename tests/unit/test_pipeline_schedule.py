"""pipeline/budget.py: which variant works when, and with how much."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_factory.pipeline.budget import (
    LIGHT,
    Budget,
    Candidate,
    Limits,
    Schedule,
    Share,
    Turn,
    one_by_one,
    schedule,
)

GIB = 2**30
BIG = Budget(cpus=16, memory=64 * GIB)
AUTO = Limits()


def compiling(*names: str) -> list[Candidate]:
    """Candidates named `toolchain.number`, or `toolchain.flavour/level` with objects of a level."""
    return [
        Candidate(variant=name, toolchain=name.partition(".")[0], objects=name.rpartition("/")[2], compiles=True)
        for name in names
    ]


def waves(found: Schedule) -> list[list[str]]:
    return [[turn.variant for turn in turns] for _, turns in groupby(found.turns, key=lambda turn: turn.wave)]


def shares(found: Schedule) -> dict[str, tuple[int, int]]:
    return {turn.variant: (turn.share.jobs, turn.share.memory // GIB) for turn in found.turns}


def test_the_first_of_a_toolchain_works_before_the_others_which_work_side_by_side() -> None:
    found = schedule(compiling("a.1", "a.2", "a.3", "a.4"), BIG, AUTO)
    assert waves(found) == [["a.1"], ["a.2", "a.3", "a.4"]]
    assert shares(found) == {"a.1": (16, 40), "a.2": (5, 12), "a.3": (5, 12), "a.4": (5, 12)}
    assert [turn.after for turn in found.turns] == ["", "a.1", "a.1", "a.1"]


def test_of_those_with_the_same_objects_one_comes_before_the_others() -> None:
    asked = compiling("a.cpu/1", "a.cpu/3", "a.mkl/1", "a.mkl/3", "a.gpu/3", "b.cpu/3")
    found = schedule(asked, BIG, AUTO)
    assert waves(found) == [["a.cpu/1", "b.cpu/3"], ["a.cpu/3", "a.mkl/1"], ["a.mkl/3", "a.gpu/3"]]
    assert {turn.variant: turn.after for turn in found.turns if turn.after} == {
        "a.cpu/3": "a.cpu/1",
        "a.mkl/1": "a.cpu/1",
        "a.mkl/3": "a.cpu/3",
        "a.gpu/3": "a.cpu/3",
    }


def test_independent_ones_begin_at_once_and_neighbours_stay_neighbours() -> None:
    found = schedule(compiling("a.1", "b.1", "a.2", "b.2", "a.3"), BIG, Limits(parallel=2))
    assert waves(found) == [["a.1", "b.1"], ["a.2", "a.3"], ["b.2"]]
    assert shares(found) == {"a.1": (8, 20), "b.1": (8, 20), "a.2": (8, 20), "a.3": (8, 20), "b.2": (16, 40)}


@pytest.mark.parametrize(
    ("budget", "limits", "at_once", "share"),
    [
        (Budget(cpus=2, memory=18 * GIB), AUTO, 1, (2, 5)),
        (Budget(cpus=2, memory=18 * GIB), Limits(parallel=2), 2, (1, 2)),
        (Budget(cpus=2, memory=18 * GIB), Limits(parallel=9), 2, (1, 2)),
        (Budget(cpus=2, memory=1 * GIB), AUTO, 1, (1, 1)),
        (Budget(cpus=16, memory=9 * GIB), AUTO, 1, (3, 7)),
        (Budget(cpus=16, memory=64 * GIB), AUTO, 4, (4, 10)),
        (Budget(cpus=16, memory=64 * GIB), Limits(jobs=8), 2, (8, 20)),
        (Budget(cpus=16, memory=64 * GIB), Limits(memory=30 * GIB), 2, (8, 30)),
        (Budget(cpus=16, memory=64 * GIB), Limits(memory=6 * GIB), 4, (2, 6)),
        (Budget(cpus=16, memory=64 * GIB), Limits(jobs=32, memory=90 * GIB), 1, (32, 90)),
        (Budget(cpus=16, memory=64 * GIB), Limits(parallel=1), 1, (16, 40)),
    ],
)
def test_what_a_wave_shares(budget: Budget, limits: Limits, at_once: int, share: tuple[int, int]) -> None:
    found = schedule(compiling("a.1", "b.1", "c.1", "d.1"), budget, limits)
    assert len(waves(found)[0]) == at_once
    assert shares(found)["a.1"] == share


def test_what_compiles_nothing_comes_first_and_takes_little() -> None:
    light = [Candidate(variant=f"a.{number}", toolchain="a", objects="", compiles=False) for number in (1, 2, 3)]
    found = schedule([*compiling("a.0"), *light], Budget(cpus=2, memory=8 * GIB), AUTO)
    assert waves(found) == [["a.1", "a.2"], ["a.3"], ["a.0"]]
    assert [turn.share for turn in found.turns[:3]] == [LIGHT] * 3
    assert found.turns[3].after == "", "who compiles nothing fills no cache"


def test_a_machine_where_nothing_runs_takes_any_share_and_a_full_one_none() -> None:
    found = Schedule(budget=Budget(cpus=4, memory=8 * GIB), parallel=None, turns=())
    assert found.fits(Share(jobs=64, memory=99 * GIB), ())
    assert found.fits(Share(jobs=2, memory=4 * GIB), [Share(jobs=2, memory=4 * GIB)])
    assert not found.fits(Share(jobs=3, memory=4 * GIB), [Share(jobs=2, memory=4 * GIB)])
    assert not found.fits(Share(jobs=2, memory=5 * GIB), [Share(jobs=2, memory=4 * GIB)])
    one = Schedule(budget=Budget(cpus=4, memory=8 * GIB), parallel=1, turns=())
    assert not one.fits(LIGHT, [LIGHT])


def test_what_compiles_nothing_takes_memory_and_no_cpu_of_a_compile() -> None:
    found = Schedule(budget=Budget(cpus=2, memory=8 * GIB), parallel=None, turns=())
    both = Share(jobs=2, memory=4 * GIB)
    assert found.fits(both, [LIGHT, LIGHT])
    assert found.fits(LIGHT, [both, LIGHT])
    assert not found.fits(both, [LIGHT, LIGHT, LIGHT]), "there is no memory for it"
    assert not found.fits(LIGHT, [LIGHT, LIGHT]), "one for each CPU is enough"
    wide = Schedule(budget=Budget(cpus=2, memory=99 * GIB), parallel=None, turns=())
    assert wide.fits(both, [LIGHT, LIGHT])
    assert not wide.fits(both, [LIGHT, LIGHT, LIGHT]), "what is done must get through before more comes"
    assert both.light() == LIGHT
    assert Share(jobs=2, memory=GIB).light() == Share(jobs=0, memory=GIB)
    assert not found.fits(both, [both])
    assert found.fits(Share(jobs=9, memory=4 * GIB), [LIGHT]), "where none compiles, who wants more than all gets it"


def test_one_by_one() -> None:
    found = one_by_one(["x", "y"])
    assert waves(found) == [["x"], ["y"]]
    assert not found.fits(found.turns[1].share, [found.turns[0].share])


def test_a_budget_is_all_cpus_and_most_of_the_memory() -> None:
    assert Budget.of_machine(cpus=2, memory=10 * GIB) == Budget(cpus=2, memory=8 * GIB)


def test_half_the_jobs_have_all_the_memory() -> None:
    share = Share(jobs=5, memory=10)
    assert share.halved() == Share(jobs=2, memory=10)
    assert Share(jobs=1, memory=10).halved().jobs == 1


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"), st.booleans()), max_size=25),
    st.integers(1, 64),
    st.integers(1, 128),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_a_wave_keeps_to_the_budget_and_every_variant_has_one_turn(
    asked: list[tuple[str, str, bool]], cpus: int, memory: int, parallel: int | None
) -> None:
    candidates = [
        Candidate(variant=f"{toolchain}.{number}", toolchain=toolchain, objects=objects, compiles=compiles)
        for number, (toolchain, objects, compiles) in enumerate(asked)
    ]
    budget = Budget(cpus=cpus, memory=memory * GIB)
    found = schedule(candidates, budget, Limits(parallel=parallel))
    assert sorted(turn.variant for turn in found.turns) == sorted(one.variant for one in candidates)
    numbers = [turn.wave for turn in found.turns]
    assert numbers == sorted(numbers)
    at: dict[str, Turn] = {turn.variant: turn for turn in found.turns}
    for turn in found.turns:
        assert not turn.after or at[turn.after].wave < turn.wave
    compiled: set[tuple[str, str]] = set()
    for number in sorted(set(numbers)):
        wave = [turn.share for turn in found.turns if turn.wave == number]
        assert all(found.fits(share, wave[:index]) for index, share in enumerate(wave))
        assert len(wave) == 1 or sum(share.jobs for share in wave) <= cpus
        assert len(wave) == 1 or sum(share.memory for share in wave) <= memory * GIB
        assert len(wave) <= cpus
        names = {turn.variant for turn in found.turns if turn.wave == number}
        objects = [(one.toolchain, one.objects) for one in candidates if one.variant in names and one.compiles]
        assert all(one in compiled or objects.count(one) == 1 for one in objects), "none is compiled twice"
        compiled.update(objects)
