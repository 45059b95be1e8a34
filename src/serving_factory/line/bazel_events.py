"""Reading what Bazel tells: its progress lines, and the summary in its event file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ActionSummary", "progress", "read_summary"]

_PROGRESS = re.compile(r"\[([\d,]+) / ([\d,]+)\](?: (.*))?")
_PROCESSES = re.compile(r"^INFO: \d+ process(?:es)?: (.+?)\.?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSummary:
    """What Bazel did, from the event `buildMetrics` (build_event_stream.proto, BuildMetrics.ActionSummary).

    Args:
        executed: actions that ran or were taken from a cache.
        runners: how: runner name → count, such as `{"processwrapper-sandbox": 40, "remote cache hit": 12}`. Before
            Bazel 5 the event lacks them, and the line that Bazel prints at the end is read: `INFO: 52 processes: ...`.
    """

    executed: int
    runners: Mapping[str, int]


def progress(line: str) -> str | None:
    """Shorten a progress line to `12/60 Compiling x.cc`; None for any other line."""
    match = _PROGRESS.match(line)
    if not match:
        return None
    done, total, action = match.groups()
    return f"{done}/{total} {action or ''}".rstrip()


def read_summary(events: Path) -> ActionSummary | None:
    """Read the action summary of an event file; None where it has none: an old Bazel, or a build that failed early."""
    try:
        lines = events.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if '"buildMetrics"' not in line or "buildMetrics" not in (event := _event(line)):
            continue
        summary = event["buildMetrics"].get("actionSummary", {})
        counted = {str(runner["name"]): int(runner["count"]) for runner in summary.get("runnerCount", ())}
        runners = {name: count for name, count in counted.items() if name != "total"} or _printed_runners(lines)
        return ActionSummary(executed=int(summary.get("actionsExecuted", 0)), runners=runners)
    return None


def _event(line: str) -> Mapping[str, Any]:
    """Read one event; a line that was cut off, as by a full disk, holds none: a summary is not worth a compile."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _printed_runners(lines: Sequence[str]) -> Mapping[str, int]:
    """Read how actions ran from what Bazel printed; the events `progress` hold it."""
    for line in reversed(lines):
        if '"progress"' not in line:
            continue
        if match := _PROCESSES.search(_event(line).get("progress", {}).get("stderr", "")):
            parts = (part.partition(" ") for part in match[1].split(", "))
            return {name: int(count) for count, _, name in parts if count.isdecimal()}
    return {}
