"""pipeline/estimates.py, and how an estimate reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving_factory.commands.build import plan_row, plan_table
from serving_factory.output.outcomes import actual_line, estimate_cells, estimate_line, summary_table
from serving_factory.pipeline.estimates import (
    NOTHING_TO_DO,
    Basis,
    Estimate,
    RunEstimate,
    StageRun,
    Work,
    actual,
    add_up,
    estimate_variants,
)
from serving_factory.pipeline.events import Status, VariantResult

ALL = ("compile", "extract", "inspect", "package", "smoke")


def work(
    variant: str = "2.19.1-cpu-v3", *, run: tuple[str, ...] = ("compile",), upstream: bool = True, **more: int
) -> Work:
    release, flavour, _ = variant.split("-")
    return Work(
        variant=variant,
        release=release,
        flavour=flavour,
        toolchain="gcc",
        upstream=upstream,
        run=run,
        jobs=more.get("jobs", 2),
        offline=bool(more.get("offline")),
    )


def past(variant: str, seconds: float, *, stage: str = "compile", toolchain: str = "gcc", **facts: float) -> StageRun:
    release, flavour, _ = variant.split("-")
    return StageRun(
        variant=variant,
        release=release,
        flavour=flavour,
        toolchain=toolchain,
        stage=stage,
        status="finished",
        seconds=seconds,
        facts=facts,
    )


def one(wish: Work, *rows: StageRun) -> Estimate:
    (found,) = estimate_variants([wish], rows)
    return found


SIBLINGS = (past("1.15.0-mkl-v1", 400.0), past("2.19.1-cpu-v1", 90.0), past("2.19.1-cpu-v3", 60.0))


@pytest.mark.parametrize(
    ("rows", "basis", "seconds"),
    [
        (SIBLINGS, Basis.VARIANT, 60.0),
        (SIBLINGS[:2], Basis.FLAVOUR, 90.0),
        (SIBLINGS[:1], Basis.TOOLCHAIN, 400.0),
        ((past("1.15.0-mkl-v1", 400.0, toolchain="another"),), Basis.ESTIMATE, 6 * 3600.0),
    ],
)
def test_the_nearest_earlier_runs_count(rows: tuple[StageRun, ...], basis: Basis, seconds: float) -> None:
    found = one(work(), *rows)
    assert (found.basis, found.seconds) == (basis, seconds)


def test_of_the_latest_three_runs_the_middle_counts() -> None:
    rows = [past("2.19.1-cpu-v3", seconds) for seconds in (1000.0, 10.0, 50.0, 20.0)]
    assert one(work(), *rows).seconds == 20.0
    assert one(work(), *rows[:2]).seconds == 1000.0, "of two, the longer: rather too long than too short"


def test_only_what_will_run_takes_time() -> None:
    rows = [
        past("2.19.1-cpu-v3", 60.0, peak_memory_bytes=5, bytes_fetched=7),
        past("2.19.1-cpu-v3", 3.0, stage="smoke"),
    ]
    both = one(work(run=("compile", "smoke")), *rows)
    assert (both.seconds, both.after_compile) == (63.0, 3.0)
    smoke = one(work(run=("smoke",)), *rows)
    assert (smoke.seconds, smoke.memory, smoke.download, smoke.basis) == (3.0, None, None, Basis.VARIANT)
    assert estimate_variants([work(run=())], rows) == ()


def test_memory_is_the_most_and_downloads_the_middle_of_what_was_measured() -> None:
    rows = [past("2.19.1-cpu-v3", 60.0, peak_memory_bytes=memory, bytes_fetched=memory) for memory in (5, 9, 7)]
    found = one(work(), *rows)
    assert (found.memory, found.download) == (9, 7)
    found = one(work(), past("2.19.1-cpu-v3", 60.0))
    assert (found.memory, found.download) == (None, None), "what was not measured is unknown, not nothing"


def test_a_first_run_is_estimated_from_what_was_measured() -> None:
    """1.9.1: 2,869 s on two cores, peak 5.1 GB with two jobs."""
    found = one(work("1.9.1-cpu-v1"))
    assert (found.seconds, found.memory, found.basis) == (2_850, 5_100_000_000, Basis.ESTIMATE)
    more = one(work("1.9.1-cpu-v1", jobs=8))
    assert (more.seconds, more.memory) == (712.5, 14_100_000_000)
    assert (found.download, more.download) == (150_000_000, 150_000_000)
    later = one(work("2.0.0-cpu-v1"))
    assert later.seconds
    assert later.seconds > 2_850


def test_the_first_variant_of_a_release_fetches_for_the_others() -> None:
    ids = ("1.9.1-cpu-v1", "1.9.1-mkl-v1", "2.0.0-cpu-v1", "2.0.0-gpu-v1", "2.0.0-gpu-v2")
    found = estimate_variants([work(variant) for variant in ids], ())
    assert [each.download for each in found] == [150_000_000, 0, 1_000_000_000, None, 0], "of CUDA nothing is known"
    packaged = estimate_variants([work(ids[0], run=("package",)), work(ids[1])], ())
    assert [each.download for each in packaged] == [None, 150_000_000]


def test_without_a_network_nothing_is_downloaded() -> None:
    assert one(work(offline=True)).download == 0


def test_another_source_tree_is_not_estimated_from_the_release() -> None:
    found = one(work(upstream=False))
    assert (found.seconds, found.memory, found.basis) == (None, None, Basis.NOTHING)
    assert one(work(upstream=False), past("2.19.1-cpu-v1", 90.0)).seconds == 90.0


def test_what_no_run_has_been_through_is_allowed_for() -> None:
    allowed = one(work(run=ALL), past("2.19.1-cpu-v3", 60.0)).seconds
    assert allowed
    assert 60 < allowed < 300


def known(variant: str, seconds: float, memory: int | None = None, basis: Basis = Basis.VARIANT) -> Estimate:
    return Estimate(variant=variant, seconds=seconds, memory=memory, download=memory, basis=basis)


UNKNOWN = Estimate(variant="u", seconds=None, memory=None, download=None, basis=Basis.NOTHING)


def test_a_total_adds_up_wave_by_wave() -> None:
    estimates = [known("a", 60.0, 4), known("b", 20.0, 2), known("c", 40.0, 3), UNKNOWN]
    alone = add_up(estimates)
    assert (alone.seconds, alone.memory, alone.download) == (120.0, 4, 9)
    assert (alone.unknown, alone.estimated) == (1, False)
    waves = add_up(estimates, {"a": 1, "b": 2, "c": 2, "u": 2})
    assert (waves.seconds, waves.memory, waves.download) == (100.0, 5, 9)
    stages = replace(known("d", 5.0), compiles=False)
    assert add_up([known("a", 60.0, 4), stages]).memory == 4, "what compiles nothing has no compile to be measured"
    assert add_up([known("a", 60.0, basis=Basis.ESTIMATE)]).estimated
    nothing = add_up([UNKNOWN])
    assert (nothing.seconds, nothing.memory, nothing.download) == (None, None, None)


def test_what_comes_after_a_compile_overlaps_with_the_next_one() -> None:
    first, second = (replace(known(name, 70.0), after_compile=10.0) for name in ("a", "b"))
    assert add_up([second, first], {"a": 1, "b": 2}).seconds == 130.0
    assert add_up([first, second]).seconds == 140.0, "where each works alone nothing does"
    long = replace(known("c", 100.0), after_compile=95.0)
    assert add_up([first, long, second], {"c": 1, "a": 2, "b": 3}).seconds == 135.0
    assert add_up([replace(long, after_compile=200.0 - 105.0), second], {"c": 1, "b": 2}).seconds == 100.0


def test_a_total_that_a_part_is_missing_of_is_not_known() -> None:
    """A first level that downloads is estimated, its neighbour was built before: 0 bytes would be no estimate."""
    estimated = Estimate(variant="a", seconds=60.0, memory=4, download=None, basis=Basis.ESTIMATE)
    unmeasured = known("c", 60.0)
    both = add_up([estimated, known("b", 20.0, 0)])
    assert (both.seconds, both.memory, both.download) == (80.0, 4, None)
    assert add_up([estimated, unmeasured], {"a": 1, "c": 1}).memory is None


def run_of(*variants: Estimate) -> RunEstimate:
    return add_up(variants)


def test_a_estimate_in_words() -> None:
    assert estimate_line(NOTHING_TO_DO) == ""
    assert estimate_line(run_of(UNKNOWN)) == "Estimated: unknown; no earlier run is like this one.\n"
    assert estimate_line(run_of(known("a", 60.0, 2**30))) == (
        "Estimated: about 1 min 00 s, peak memory 1.0 GiB, downloads 1.0 GiB, from earlier runs.\n"
    )
    message = estimate_line(run_of(known("a", 60.0, basis=Basis.ESTIMATE), UNKNOWN))
    assert "peak memory unknown, downloads unknown, in part from the release's size" in message
    assert "; without 1 variant of unknown size." in message


def test_a_dry_run_shows_the_estimate_beside_the_plan() -> None:
    row = plan_row(variant="a", run=("compile",), because="compile has not run", estimate=known("a", 60.0))
    text = plan_table([row, plan_row(variant="b", up_to_date=("compile",))])
    assert "estimated from" in text
    assert "1 min 00 s" in text
    assert "its own earlier runs" in text
    assert estimate_cells(None) == ("", "", "", "")
    assert "estimated" not in plan_table([plan_row(variant="b", up_to_date=("compile",))])


def built(
    variant: str, status: Status = Status.BUILT, memory: int | None = None, download: int | None = None
) -> VariantResult:
    return VariantResult(variant=variant, status=status, seconds=70.0, memory=memory, download=download)


GIB = 2**30


def test_the_actual_figures_stand_beside_the_estimate() -> None:
    expected = run_of(known("a", 60.0, 4 * GIB))
    taken = actual(expected, [built("a", memory=5 * GIB, download=0), built("other", Status.UP_TO_DATE)], 75.0)
    assert taken
    assert (taken.seconds, taken.memory, taken.download) == (75.0, 5 * GIB, 0)
    assert actual_line(expected, taken) == (
        "Estimated: about 1 min 00 s, peak memory 4.0 GiB, downloads 4.0 GiB.\n"
        "Actual:    1 min 15 s, peak memory 5.0 GiB, downloads 0 B.\n"
    )
    assert "estimated" in summary_table([built("a")], expected=expected.by_variant)
    assert "estimated" not in summary_table([built("a")])


def test_half_a_run_proves_no_estimate_wrong() -> None:
    expected = run_of(known("a", 60.0))
    assert actual(expected, [built("a", Status.FAILED)], 75.0) is None
    assert actual(expected, [], 75.0) is None
    assert actual(NOTHING_TO_DO, [built("a", Status.UP_TO_DATE)], 1.0) is None
    assert actual_line(expected, None) == ""


def test_what_was_not_measured_is_unknown_not_nothing() -> None:
    expected = run_of(known("a", 60.0, 1), known("b", 60.0))
    taken = actual(expected, [built("a", memory=1, download=7), built("b")], 75.0)
    assert actual_line(expected, taken) == (
        "Estimated: about 2 min 00 s, peak memory unknown, downloads unknown.\n"
        "Actual:    1 min 15 s, peak memory unknown, downloads unknown.\n"
    )


def test_the_actual_figures_of_what_was_not_estimated_are_printed_too() -> None:
    done = [built("u", memory=GIB, download=7), built("a", memory=GIB, download=7)]
    expected = run_of(UNKNOWN)
    assert actual_line(expected, actual(expected, done, 75.0)) == (
        "Estimated: unknown.\nActual:    1 min 15 s, peak memory 1.0 GiB, downloads 7 B.\n"
    )
    expected = run_of(UNKNOWN, known("a", 60.0, GIB))
    line, _ = actual_line(expected, actual(expected, done, 75.0)).splitlines()
    assert line.endswith("downloads 1.0 GiB; without 1 variant of unknown size.")


def test_memory_is_measured_as_it_is_estimated_by_wave() -> None:
    estimates = (known("a", 60.0, 4), known("b", 20.0, 2), known("c", 40.0, 3))
    waves = {"a": 1, "b": 2, "c": 2}
    expected = add_up(estimates, waves)
    taken = actual(expected, [built(name, memory=10, download=1) for name in "abc"], 75.0)
    assert taken
    assert (expected.memory, taken.memory, taken.download) == (5, 20, 3)
