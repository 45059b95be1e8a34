"""The demo as the tests run it, once for all of them: ended twice in the second variant's compile, then let finish.

On a machine without caches this compiles each variant once, as any demo does. The second variant has a flag of its own,
a new one for each run of the tests, so that there is something to interrupt on every machine.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from serving_factory.pipeline.bazel import BazelProgress

from .pipeline import MATRIX, V1, V3, Checkout, Outcome, processes_with, wait_until

COMPILING = re.compile(r"\d+/\d+ (?:Compiling )?(?:\S*[/:])?(?!tensorflow_model_server;)([^;:/\s]+);")
"""Bazel shows the file, or the label of its target where the line would be too long: the last part of either."""
FLAVOUR = "  cpu-optimized:\n    flavour: cpu\n"
COPTS = "    copts: [-D{mark}=1]\n"

WHOLE_DEMO = 900.0  # seconds: five variants, on a machine with other work


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a factory that was ended in a compile left behind, once the engine has had time to notice.

    Args:
        outcome: how it ended.
        processes: those of the factory and those in the engine's build.
        partial: files and folders that a stage was in the middle of.
        records: names of the second variant's records.
        compiled: the files that Bazel had compiled, of those whose names it showed.
        first: the first variant's records and logs.
    """

    outcome: Outcome
    processes: list[str]
    partial: list[str]
    records: set[str]
    compiled: set[str]
    first: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A checkout in which the demo has run; tests leave it as it is, and copy it.

    Args:
        checkout: the checkout.
        by_ctrl_c: what was left when it was interrupted.
        by_kill: what was left when it was killed after that.
        outcome: how the last run ended.
        recompiled: the files that Bazel showed to be compiling in the last run.
        first: the first variant's records and logs after that.
    """

    checkout: Checkout
    by_ctrl_c: Left
    by_kill: Left
    outcome: Outcome
    recompiled: set[str]
    first: dict[str, tuple[int, str]]


def run_demo(checkout: Checkout) -> Demo:
    """Run the demo to its end, in three attempts."""
    mark = f"FACTORY_{checkout.mark}"
    checkout.edit(MATRIX, FLAVOUR, FLAVOUR + COPTS.format(mark=mark))
    by_ctrl_c = _end_compile(checkout, mark, signal.SIGINT, after=0)
    by_kill = _end_compile(checkout, mark, signal.SIGKILL, after=2)
    with checkout.start("demo", "--json") as running:
        outcome = running.wait(WHOLE_DEMO).built()
    return Demo(
        checkout=checkout,
        by_ctrl_c=by_ctrl_c,
        by_kill=by_kill,
        outcome=outcome,
        recompiled=set(_compiling(checkout)),
        first=checkout.state(V1),
    )


def _compiling(checkout: Checkout) -> list[str]:
    """The files that Bazel showed to be compiling, in order. It shows one at a time: the one that began first."""
    progress = BazelProgress()
    texts = [progress.see(line.partition("] ")[2]) or "" for line in checkout.compile_log(V3).splitlines()]
    return list(dict.fromkeys(found[1].removesuffix(".cc") for text in texts if (found := COMPILING.match(text))))


def _end_compile(checkout: Checkout, mark: str, number: signal.Signals, *, after: int) -> Left:
    """Run, and end it when Bazel has compiled that many files of the second variant, and works on the next."""
    with checkout.start("demo", "--json") as running:
        log = checkout.compile_log(V3)
        running.wait_for(lambda: checkout.compile_log(V3) != log, "the second variant's compile")
        # The first variant is smoke-tested while the second compiles.
        running.wait_for(checkout.record_file(V1, "smoke").exists, "the first variant's smoke test")
        running.wait_for(lambda: len(_compiling(checkout)) > after, f"{after} compiled files")
        assert processes_with(mark), "Bazel's own command line holds the flag"
        running.send(number)
        outcome = running.wait(30)
        # The engine ends Bazel a moment after the client has gone. The factory's own processes name its folder.
        wait_until(lambda: not _processes(checkout, mark))
        return Left(
            outcome=outcome,
            processes=_processes(checkout, mark),
            partial=[path.name for path in checkout.partial_files()],
            records={path.name for path in checkout.variant_folder(V3).glob("*.json")},
            compiled=set(_compiling(checkout)[:-1]),
            first=checkout.state(V1),
        )


def _processes(checkout: Checkout, mark: str) -> list[str]:
    return [*processes_with(mark), *processes_with(str(checkout.folder))]
