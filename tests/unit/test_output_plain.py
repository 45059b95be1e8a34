from __future__ import annotations

import io
import re
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from serving_factory.errors import CompileError, LockedError
from serving_factory.output.github import annotation, escape_data, escape_property, fold
from serving_factory.output.reporters import PlainReporter, RunView
from serving_factory.output.text import Stream
from serving_factory.pipeline.estimates import NOTHING_TO_DO, Basis, Estimate, RunEstimate
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult

if TYPE_CHECKING:
    from pathlib import Path

import pytest

ESTIMATE = Estimate(
    variant="2.19.1-cpu-v3", seconds=3000.0, memory=None, download=None, basis=Basis.ESTIMATE, compiles=True
)
_START = datetime(2026, 1, 31, 23, 41, 7, tzinfo=UTC)


@dataclass
class _Bench:
    """A plain reporter with a clock that stands still until it is moved."""

    github: bool = False
    step_summary: Path | None = None
    seconds: float = 0.0
    estimate: RunEstimate = NOTHING_TO_DO
    lines: io.StringIO = field(default_factory=io.StringIO)
    out: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        view = RunView(
            now=lambda: _START + timedelta(seconds=self.seconds), clock=lambda: self.seconds, estimate=self.estimate
        )
        self.reporter = PlainReporter(
            Stream(self.out), view, lines=Stream(self.lines), github=self.github, step_summary=self.step_summary
        )

    def progress(
        self,
        kind: EventKind,
        text: str = "",
        *,
        variant: str = "2.19.1-cpu-v3",
        stage: str = "compile",
        seconds: float | None = None,
        log: str | None = None,
    ) -> None:
        self.reporter.handle(Event(variant=variant, stage=stage, kind=kind, text=text, seconds=seconds, log=log))


def test_start_and_finish_lines() -> None:
    bench = _Bench()
    bench.progress(EventKind.STARTED)
    bench.progress(EventKind.PROGRESS, "Compiling a.cc")
    bench.seconds = 71.4
    bench.progress(EventKind.FINISHED, seconds=71.4)
    bench.progress(EventKind.STARTED, "the image is\ngone", stage="smoke")
    bench.progress(EventKind.FINISHED, stage="smoke", seconds=2.06)
    bench.progress(EventKind.UP_TO_DATE, variant="2.19.1-cpu")
    bench.progress(EventKind.SKIPPED, "because of 2.19.1-cpu", variant="2.19.1-mkl")
    bench.progress(EventKind.CANCELLED, variant="2.19.1-gpu")
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "23:42:18 2.19.1-cpu-v3 compile finished in 1 min 11 s\n"
        "23:42:18 2.19.1-cpu-v3 smoke started again: the image is gone\n"
        "23:42:18 2.19.1-cpu-v3 smoke finished in 2.1 s\n"
        "23:42:18 2.19.1-cpu compile up to date\n"
        "23:42:18 2.19.1-mkl compile skipped: because of 2.19.1-cpu\n"
        "23:42:18 2.19.1-gpu compile cancelled\n"
    )


def test_a_failure_is_printed_at_once_with_the_end_of_its_log_and_only_once(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_text("fine\n\x1b[1mbroken\x1b[0m\n")
    error = CompileError("the build failed", remedy="fix it")
    bench = _Bench()
    bench.progress(EventKind.STARTED)
    bench.progress(EventKind.FAILED, str(error), seconds=12.0, log=str(log))
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "23:41:07 2.19.1-cpu-v3 compile failed after 12 s\n"
        "  the build failed\n"
        "  What to do: fix it\n"
        "\n"
        f"  The last 2 lines of {log}:\n"
        "    | fine\n"
        "    | broken\n"
    )
    before = bench.lines.getvalue()
    bench.reporter.summary([VariantResult(variant="2.19.1-cpu-v3", status=Status.FAILED, error=error, log=str(log))])
    assert bench.lines.getvalue() == before
    assert "1 variant: 1 failed." in bench.out.getvalue()


def test_a_log_whose_end_the_message_holds_is_only_named(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_text("fine\nbroken\n")
    bench = _Bench()
    bench.progress(EventKind.FAILED, "no\n  broken", log=str(log))
    assert bench.lines.getvalue().endswith(f"  no\n    broken\n\n  The whole log: {log}\n")


def test_an_error_that_no_line_printed_is_in_the_summary() -> None:
    bench = _Bench()
    bench.reporter.summary(
        [VariantResult(variant="v", status=Status.FAILED, error=LockedError("another factory works here"))]
    )
    assert bench.lines.getvalue() == "\nError: another factory works here\n"


def test_a_silent_stage_gets_a_sign_of_life_each_minute() -> None:
    bench = _Bench()
    bench.progress(EventKind.STARTED)
    bench.seconds = 59.0
    bench.reporter.beat()
    bench.progress(EventKind.PROGRESS, "Compiling\x1b[2J a.cc")
    bench.seconds = 60.0
    bench.reporter.beat()
    bench.reporter.beat()
    bench.seconds = 500.0
    bench.reporter.beat()
    bench.progress(EventKind.FINISHED, seconds=500.0)
    bench.seconds = 1000.0
    bench.reporter.beat()
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "23:42:07 2.19.1-cpu-v3 compile still running after 1 min 00 s: Compiling a.cc\n"
        "23:49:27 2.19.1-cpu-v3 compile still running after 8 min 20 s: Compiling a.cc\n"
        "23:49:27 2.19.1-cpu-v3 compile finished in 8 min 20 s\n"
    )


def test_a_retry_is_printed_at_once_and_the_stage_goes_on() -> None:
    bench = _Bench()
    bench.progress(EventKind.STARTED)
    bench.seconds = 59.0
    bench.progress(EventKind.RETRIED, "out of memory\nonce more\x1b[2J with 1 job")
    bench.seconds = 100.0
    bench.reporter.beat()
    bench.progress(EventKind.FINISHED, seconds=100.0)
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "23:42:06 2.19.1-cpu-v3 compile tried again: out of memory once more with 1 job\n"
        "23:42:47 2.19.1-cpu-v3 compile finished in 1 min 40 s\n"
    )


def test_github_warns_of_what_is_tried_again() -> None:
    bench = _Bench(github=True)
    bench.progress(EventKind.STARTED)
    bench.progress(EventKind.RETRIED, "100 % full\nonce more")
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "::warning title=2.19.1-cpu-v3 compile tried again::100 %25 full%0Aonce more\n"
        "23:41:07 2.19.1-cpu-v3 compile tried again: 100 % full once more\n"
    )


def test_the_reporter_ends_its_thread_also_on_ctrl_c() -> None:
    lines = io.StringIO()
    reporter = PlainReporter(Stream(io.StringIO()), RunView(), lines=Stream(lines), silence=0.01)

    def work() -> None:
        reporter.handle(Event(variant="v", stage="compile", kind=EventKind.STARTED))
        deadline = time.monotonic() + 5.0
        while "still running" not in lines.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporter:
        work()
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_github_folds_the_log_and_annotates_the_failure(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_text("one\n::error::forged\n  ::endgroup::\nsay ##[endgroup]\n100 %\n")
    bench = _Bench(github=True)
    bench.progress(EventKind.STARTED)
    bench.progress(EventKind.FAILED, "broken at 100 %\n  100 %", seconds=1.0, log=str(log))
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "::group::2.19.1-cpu-v3 compile: log\n"
        "one\n"
        ": :error::forged\n"
        "  : :endgroup::\n"
        "say ## [endgroup]\n"
        "100 %\n"
        "::endgroup::\n"
        "23:41:07 2.19.1-cpu-v3 compile failed after 1.0 s\n"
        "  broken at 100 %\n"
        "    100 %\n"
        "\n"
        f"  The whole log: {log}\n"
        "::error title=2.19.1-cpu-v3 compile failed::broken at 100 %25%0A  100 %25\n"
    )


def test_github_folds_the_progress_where_there_is_no_log() -> None:
    bench = _Bench(github=True)
    bench.progress(EventKind.STARTED)
    for text in ("a", "a", "b", ""):
        bench.progress(EventKind.PROGRESS, text)
    bench.progress(EventKind.FINISHED, seconds=1.0)
    bench.progress(EventKind.UP_TO_DATE, stage="smoke", log="none.log")
    assert bench.lines.getvalue() == (
        "23:41:07 2.19.1-cpu-v3 compile started\n"
        "::group::2.19.1-cpu-v3 compile: log\n"
        "a\n"
        "b\n"
        "::endgroup::\n"
        "23:41:07 2.19.1-cpu-v3 compile finished in 1.0 s\n"
        "23:41:07 2.19.1-cpu-v3 smoke up to date\n"
    )


def test_github_says_where_the_start_of_a_very_long_log_is(tmp_path: Path) -> None:
    log = tmp_path / "compile.log"
    log.write_text("".join(f"{number}\n" for number in range(10_001)))
    bench = _Bench(github=True)
    bench.progress(EventKind.STARTED)
    bench.progress(EventKind.FINISHED, log=str(log))
    lines = bench.lines.getvalue().splitlines()
    assert lines[2:4] == [f"(the lines before these are in {log})", "1"]


def test_escapes() -> None:
    assert escape_data("50 %\r\n: a,b") == "50 %25%0D%0A: a,b"
    assert escape_property("50 %\r\n: a,b") == "50 %25%0D%0A%3A a%2Cb"
    assert annotation("a: b, c", "x\ny%") == "::error title=a%3A b%2C c::x%0Ay%25\n"
    assert fold("a\nb %", ["::x::"]) == "::group::a b %25\n: :x::\n::endgroup::\n"


def test_the_step_summary_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    bench = _Bench(github=True, step_summary=path)
    bench.reporter.summary(
        [
            VariantResult(
                variant="2.19.1-cpu",
                status=Status.BUILT,
                seconds=71.4,
                image="a/b:c",
                facts={"binary_size": 12_897_485, "image_size": 96_000_000},
            ),
            VariantResult(variant="v", status=Status.FAILED, error=CompileError("a|b <script> `x`\nmore")),
        ]
    )
    assert path.read_text() == (
        "before\n"
        "### serving-factory\n"
        "\n"
        "| variant | result | time | binary | image | image name, or reason |\n"
        "|---|---|--:|--:|--:|---|\n"
        "| 2.19.1-cpu | built | 1 min 11 s | 12.3 MiB | 91.6 MiB | a/b:c |\n"
        "| v | failed |  |  |  | a\\|b &lt;script> \\`x\\` |\n"
        "\n"
        "2 variants: 1 built, 1 failed.\n"
        "\n"
    )


def test_a_step_summary_that_cannot_be_written_is_said_and_no_more(tmp_path: Path) -> None:
    bench = _Bench(github=True, step_summary=tmp_path)
    bench.reporter.summary([VariantResult(variant="v", status=Status.BUILT)])
    assert "The step summary could not be written: " in bench.lines.getvalue()


def test_variants_that_run_at_once_never_mix_their_lines(tmp_path: Path) -> None:
    bench = _Bench(github=True)

    def work(variant: str) -> None:
        log = tmp_path / f"{variant}.log"
        log.write_text(f"{variant}\n" * 50)
        for _ in range(20):
            bench.progress(EventKind.STARTED, variant=variant)
            for step in range(10):
                bench.progress(EventKind.PROGRESS, str(step), variant=variant)
            bench.reporter.beat()
            bench.progress(EventKind.FINISHED, variant=variant, log=str(log))

    threads = [threading.Thread(target=work, args=(f"v{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folds = re.findall(r"::group::(v\d) compile: log\n(.*?)::endgroup::\n", bench.lines.getvalue(), re.DOTALL)
    assert len(folds) == 8 * 20
    assert all(body == f"{variant}\n" * 50 for variant, body in folds)


def test_what_is_left_is_of_the_whole_variant_and_shrinks_from_stage_to_stage() -> None:
    bench = _Bench(estimate=replace(NOTHING_TO_DO, variants=(ESTIMATE,)))
    bench.progress(EventKind.STARTED)
    bench.seconds = 600.0
    bench.reporter.beat()
    bench.seconds = 2900.0
    bench.progress(EventKind.FINISHED, seconds=2900.0)
    bench.progress(EventKind.STARTED, stage="package")
    bench.seconds = 2960.0
    bench.reporter.beat()
    printed = re.findall(r"still running after .*", bench.lines.getvalue())
    assert printed == [
        "still running after 10 min 00 s, about 40 min 00 s left",
        "still running after 1 min 00 s, about 40 s left",
    ]
