"""The line, ended in the middle: by Ctrl-C, by SIGTERM, by SIGKILL, and by its own lock."""

from __future__ import annotations

import os
import re
import signal
import uuid
from dataclasses import dataclass

import pytest

from .line import BUILD_STAGES, MATRIX, MKL_V3, V1, V3, Checkout, Outcome, Running, processes_with, wait_until

CANCELLED = 130
LOCKED = 10
NOTHING_TO_DO = dict.fromkeys(BUILD_STAGES, "up-to-date")
FINISHED = dict.fromkeys(BUILD_STAGES, "finished")
COMPILING = re.compile(r"\[\d+ / \d+\] Compiling ([^;\s]+);")


def compiling(checkout: Checkout) -> list[str]:
    """The files that Bazel showed to be compiling, in their order. It shows one at a time: the one it began first."""
    return list(dict.fromkeys(COMPILING.findall(checkout.compile_log(V3))))


def start_smoke(checkout: Checkout) -> Running:
    """Start the smoke stage, and wait until its container runs."""
    checkout.record_file(V1, "smoke").unlink(missing_ok=True)
    running = checkout.start(*checkout.line("smoke", "--variant", V1))
    running.wait_for(lambda: bool(checkout.containers()), "a container")
    return running


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What an ended factory left, some seconds later."""

    outcome: Outcome
    processes: list[str]
    partial: list[str]
    records: set[str]
    compiled: set[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A flag of the second variant changes, and the build that follows is ended twice before it may finish."""

    checkout: Checkout
    untouched: bool
    by_ctrl_c: Left
    by_kill: Left
    last: Outcome


def end_compile(checkout: Checkout, mark: str, number: signal.Signals, *, after: int) -> Left:
    """Build, and end it when Bazel has compiled that many files of the second variant, and works on the next."""
    with checkout.start(*checkout.line("build")) as running:
        log = checkout.compile_log(V3)
        running.wait_for(lambda: checkout.compile_log(V3) != log, "a new log")
        running.wait_for(lambda: len(compiling(checkout)) > after, f"{after} compiled files")
        assert processes_with(mark), "Bazel's own command line holds the changed flag"
        running.send(number)
        outcome = running.wait(30)
        # The engine ends Bazel a moment after the client has gone. The factory's own processes name its folder.
        wait_until(lambda: not processes_with(mark) and not processes_with(str(checkout.folder)))
        return Left(
            outcome=outcome,
            processes=processes_with(mark) + processes_with(str(checkout.folder)),
            partial=[path.name for path in checkout.partial_files()],
            records={path.name for path in checkout.variant_folder(V3).glob("*.json")},
            compiled=set(compiling(checkout)[:-1]),
        )


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    checkout: Checkout = request.getfixturevalue("demo").checkout.copy(
        tmp_path_factory.mktemp("interrupts") / "factory", V1, V3, MKL_V3
    )
    mark = f"FACTORY_{uuid.uuid4().hex[:8]}"
    before = checkout.state(V1, MKL_V3)
    target = "  cpu-optimized:\n    flavour: cpu\n"
    checkout.edit(MATRIX, target, f"{target}    copts: [-D{mark}=1]\n")
    by_ctrl_c = end_compile(checkout, mark, signal.SIGINT, after=0)
    by_kill = end_compile(checkout, mark, signal.SIGKILL, after=2)
    last = checkout.build()
    return Story(
        checkout=checkout,
        untouched=checkout.state(V1, MKL_V3) == before,
        by_ctrl_c=by_ctrl_c,
        by_kill=by_kill,
        last=last,
    )


def test_ctrl_c_in_a_compile_leaves_nothing_running_and_nothing_half_written(story: Story) -> None:
    left = story.by_ctrl_c
    assert left.outcome.code == CANCELLED
    assert "Traceback" not in left.outcome.out + left.outcome.err
    assert left.outcome.stages(V1) == NOTHING_TO_DO
    assert left.outcome.stages(V3) == dict.fromkeys(BUILD_STAGES, "cancelled")
    assert left.outcome.results[MKL_V3]["status"] == "cancelled"
    assert left.processes == []
    assert left.partial == []
    assert "compile.json" not in left.records


def test_kill_9_in_a_compile_leaves_nothing_running(story: Story) -> None:
    assert story.by_kill.outcome.code == -signal.SIGKILL
    assert story.by_kill.processes == []
    assert "compile.json" not in story.by_kill.records


def test_the_same_command_goes_on_where_it_was_ended(story: Story) -> None:
    """And a changed flag of one target compiles that variant only."""
    assert story.last.built().stages(V3) == FINISHED
    assert story.last.stages(V1) == story.last.stages(MKL_V3) == NOTHING_TO_DO
    assert story.untouched
    assert story.by_kill.compiled.isdisjoint(compiling(story.checkout)), "what was compiled is in Bazel's disk cache"
    runners = story.checkout.record(V3, "compile")["outputs"]["runners"]
    assert sum(count for name, count in runners.items() if "cache hit" in name) >= len(story.by_kill.compiled), runners
    assert story.checkout.partial_files() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_smoke_test_takes_its_container_along(checkout: Checkout, number: signal.Signals) -> None:
    with start_smoke(checkout) as running:
        running.send(number)
        outcome = running.wait(30)
    assert outcome.code == CANCELLED
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.stages(V1) == {"smoke": "cancelled"}
    assert checkout.containers() == []
    assert processes_with(str(checkout.folder)) == []
    assert checkout.partial_files() == []
    assert not checkout.record_file(V1, "smoke").exists()
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO | {"smoke": "finished"}


def test_the_second_factory_in_a_checkout_says_who_holds_the_lock(checkout: Checkout) -> None:
    with start_smoke(checkout) as running:
        os.kill(running.process.pid, signal.SIGSTOP)  # so that it is there for as long as the second one looks
        message = checkout.build_one().told(LOCKED)
        os.kill(running.process.pid, signal.SIGCONT)
        running.wait(60).built()
    assert f"process {running.process.pid} has held the lock since 20" in message
    assert f"smoke --matrix {MATRIX}" in message
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO
