from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from serving_factory.output.board import BoardReporter
from serving_factory.output.reporters import JsonLinesReporter, PlainReporter, RunView, choose
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _choose(environ: Mapping[str, str], *, json: bool = False, terminal: bool = True) -> object:
    stderr = _Terminal() if terminal else io.StringIO()
    return choose(RunView(), json=json, stdout=io.StringIO(), stderr=stderr, environ=environ)


@pytest.mark.parametrize(
    "environ", [{"TERM": "xterm"}, {"TERM": "xterm", "CI": ""}, {"TERM": "xterm", "CI": "false"}, {"TERM": "linux"}]
)
def test_a_terminal_gets_the_board(environ: dict[str, str]) -> None:
    assert isinstance(_choose(environ), BoardReporter)
    assert isinstance(_choose(environ, terminal=False), PlainReporter)
    assert isinstance(_choose(environ, json=True), JsonLinesReporter)


@pytest.mark.parametrize(
    "environ",
    [
        {"TERM": "dumb"},
        {},
        {"TERM": "xterm", "CI": "true"},
        {"TERM": "xterm", "CI": "1"},
        {"TERM": "xterm", "GITHUB_ACTIONS": "true"},
    ],
)
def test_others_get_plain_lines(environ: dict[str, str]) -> None:
    assert isinstance(_choose(environ), PlainReporter)


def test_plain_lines_do_not_wait_for_the_terminal_library() -> None:
    code = "import sys, serving_factory.commands.build; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_plain_lines_go_to_stderr_and_the_summary_to_stdout() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    with choose(RunView(), json=False, stdout=stdout, stderr=stderr, environ={}) as reporter:
        reporter.handle(Event(variant="v", stage="compile", kind=EventKind.STARTED))
        reporter.summary([VariantResult(variant="v", status=Status.BUILT)])
    assert stderr.getvalue().endswith(" v compile started\n")
    assert stdout.getvalue() == "\nresult  variant\n------  -------\nbuilt   v\n\n1 variant: 1 built.\n"


def test_on_github_all_goes_to_stdout_in_order(tmp_path: Path) -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    summary = tmp_path / "summary.md"
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    with choose(RunView(), json=False, stdout=stdout, stderr=stderr, environ=environ) as reporter:
        reporter.handle(Event(variant="v", stage="compile", kind=EventKind.STARTED))
        reporter.handle(Event(variant="v", stage="compile", kind=EventKind.FAILED, text="no"))
        reporter.summary([VariantResult(variant="v", status=Status.BUILT)])
    assert stderr.getvalue() == ""
    assert stdout.getvalue().index("::error title=v compile failed::no") < stdout.getvalue().index("result  variant")
    assert summary.read_text().startswith("### serving-factory\n")
