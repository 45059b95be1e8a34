"""What a smoke run found, and that as text: JSON for programs, JUnit XML for CI pages."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from serving_factory.errors import FactoryError
from serving_factory.smoke.emulate import Emulated
from serving_factory.smoke.gpu import OnGpu

# What XML 1.0 cannot hold in any form (its production 2, Char); logs have it as terminal colours
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check that ran: whether it passed, how long it took, and what was seen or what failed."""

    name: str
    ok: bool
    seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeReport:
    """What a smoke run found; complete whether or not a check failed."""

    variant: str  # the variant's id
    image: str  # the image that was run
    seconds: float  # how long the whole run took
    checks: tuple[CheckResult, ...]  # the checks that ran, in their order; only the last can have failed
    skipped: tuple[tuple[str, str], ...]  # the checks that did not run, by name, with the reason
    # the predictions for [1.0, 2.0, 5.0] by protocol, `REST` and `gRPC`, where asked
    answers: Mapping[str, tuple[float, ...]]
    gpu: OnGpu | None = None  # what it did on a GPU; None where it was not tried on one
    emulated: Emulated | None = None  # what it did on emulated CPUs; None where it was not tried on one
    error: FactoryError | None = None  # what the failing check raised; the caller raises it after writing its files


def to_json(report: SmokeReport) -> str:
    """Write the report as one JSON document, ending in a newline."""
    document: dict[str, object] = {
        "format": 1,
        "variant": report.variant,
        "image": report.image,
        "ok": report.error is None,
        "seconds": round(report.seconds, 3),
        "answers": {protocol: list(values) for protocol, values in report.answers.items()},
        "checks": [{**asdict(item), "seconds": round(item.seconds, 3)} for item in report.checks],
        "gpu": asdict(report.gpu) if report.gpu else None,
        "emulated": asdict(report.emulated) if report.emulated else None,
        "skipped": [{"name": name, "reason": reason} for name, reason in report.skipped],
        "error": None,
    }
    if error := report.error:
        texts = {"what": error.what, "why": error.why, "remedy": error.remedy}
        document["error"] = {"type": type(error).__name__, "exit_code": error.exit_code, **texts}
    return json.dumps(document, indent=2) + "\n"


def to_junit(report: SmokeReport) -> str:
    """Write the report as JUnit XML with one test suite: the image. A check is a test case."""
    # An error that no check is to blame for, such as an engine that went away: a case of its own, or CI shows green.
    late = report.error is not None and all(item.ok for item in report.checks)
    counts = {
        "tests": str(len(report.checks) + len(report.skipped) + late),
        "failures": str(sum(not item.ok for item in report.checks)),
        "errors": str(int(late)),
        "time": f"{report.seconds:.3f}",
    }
    root = ET.Element("testsuites", {"name": "smoke", **counts})
    suite = ET.SubElement(
        root, "testsuite", {"name": _clean(report.variant), **counts, "skipped": str(len(report.skipped))}
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", {"name": "image", "value": _clean(report.image)})
    for item in report.checks:
        case = _case(suite, report, item.name, item.seconds)
        if item.ok:
            ET.SubElement(case, "system-out").text = _clean(item.text)
        else:
            _blame(case, "failure", report)
    if late:
        _blame(_case(suite, report, "engine", 0.0), "error", report)
    for name, reason in report.skipped:
        ET.SubElement(_case(suite, report, name, 0.0), "skipped", {"message": _clean(reason)})
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, report: SmokeReport, name: str, seconds: float) -> ET.Element:
    attributes = {"classname": f"smoke.{report.variant}", "name": name, "time": f"{seconds:.3f}"}
    return ET.SubElement(suite, "testcase", {key: _clean(value) for key, value in attributes.items()})


def _blame(case: ET.Element, tag: str, report: SmokeReport) -> None:
    if report.error is not None:
        attributes = {"message": _clean(report.error.what), "type": type(report.error).__name__}
        ET.SubElement(case, tag, attributes).text = _clean(str(report.error))


def _clean(text: str) -> str:
    return _NOT_XML.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
