"""The report's two texts, read back by parsers that are not ours."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from serving_factory.errors import WrongAnswerError
from serving_factory.smoke.report import CheckResult, SmokeReport, to_json, to_junit

GOOD = SmokeReport(
    variant="2.19.1-cpu-v3",
    image="registry/image:2.19.1-cpu",
    seconds=7.23456,
    checks=(
        CheckResult(name="start", ok=True, seconds=0.8, text="two containers"),
        CheckResult(name="ready", ok=True, seconds=1.0, text="available"),
    ),
    skipped=(("predict-rest", "the release has no rest"),),
    answers={"gRPC": (2.5, 3.0, 4.5)},
)
BAD = SmokeReport(
    variant="2.19.1-cpu-v3",
    image="image",
    seconds=2.0,
    checks=(
        CheckResult(name="start", ok=True, seconds=0.5, text=""),
        CheckResult(name="predict-rest", ok=False, seconds=0.01, text='wrong <&" answer'),
    ),
    skipped=(("swap", "not reached: predict-rest failed"),),
    answers={},
    error=WrongAnswerError('wrong <&" answer', why="log: \x1b[31mred\x1b[0m \x00 \ud800 \ufffe ]]> ü", remedy="fix it"),
)


def test_json_of_a_good_run() -> None:
    text = to_json(GOOD)
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "format": 1,
        "variant": "2.19.1-cpu-v3",
        "image": "registry/image:2.19.1-cpu",
        "ok": True,
        "seconds": 7.235,
        "answers": {"gRPC": [2.5, 3.0, 4.5]},
        "checks": [
            {"name": "start", "ok": True, "seconds": 0.8, "text": "two containers"},
            {"name": "ready", "ok": True, "seconds": 1.0, "text": "available"},
        ],
        "gpu": None,
        "emulated": None,
        "skipped": [{"name": "predict-rest", "reason": "the release has no rest"}],
        "error": None,
    }


def test_json_of_a_bad_run_holds_the_whole_error() -> None:
    document = json.loads(to_json(BAD))
    assert document["ok"] is False
    assert document["error"]["type"] == "WrongAnswerError"
    assert document["error"]["exit_code"] == 32
    assert document["error"]["what"] == 'wrong <&" answer'
    assert document["error"]["remedy"] == "fix it"
    to_json(BAD).encode()


@pytest.mark.parametrize(("report", "failures"), [(GOOD, 0), (BAD, 1)])
def test_junit_counts_agree_with_its_cases(report: SmokeReport, failures: int) -> None:
    root = ET.fromstring(to_junit(report).encode())  # noqa: S314 - our own text
    assert root.tag == "testsuites"
    (suite,) = root.findall("testsuite")
    for element in (root, suite):
        assert element.get("tests") == str(len(suite.findall("testcase"))) == "3"
        assert element.get("failures") == str(len(suite.findall("testcase/failure"))) == str(failures)
        assert float(element.get("time", "")) == pytest.approx(report.seconds, abs=0.001)
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped"))) == "1"
    assert suite.get("name") == report.variant
    assert {case.get("classname") for case in suite.findall("testcase")} == {f"smoke.{report.variant}"}


def test_junit_failure_carries_the_error_with_odd_characters_written_out() -> None:
    root = ET.fromstring(to_junit(BAD).encode())  # noqa: S314 - our own text
    (failure,) = root.findall("testsuite/testcase/failure")
    assert failure.get("message") == 'wrong <&" answer'
    assert failure.get("type") == "WrongAnswerError"
    assert failure.text == (
        'wrong <&" answer\nlog: \\x1b[31mred\\x1b[0m \\x00 \\ud800 \\ufffe ]]> ü\nWhat to do: fix it'
    )


def test_junit_of_an_engine_that_went_away_after_the_checks() -> None:
    report = SmokeReport(
        variant="v", image="i", seconds=1.0, checks=GOOD.checks, skipped=(), answers={}, error=WrongAnswerError("late")
    )
    root = ET.fromstring(to_junit(report).encode())  # noqa: S314 - our own text
    (error,) = root.findall("testsuite/testcase/error")
    assert error.get("message") == "late"
    assert root.get("errors") == "1"
