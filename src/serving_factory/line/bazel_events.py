"""Reading what Bazel tells: its progress lines, and the summary in its event file."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ActionSummary", "BazelProgress", "is_progress", "read_summary"]

_PROGRESS = re.compile(r"\[([\d,]+) / ([\d,]+)\](?: (.*))?")
_SEVERAL = re.compile(r"[\d,]+ actions\b")
_ACTION = re.compile(r" {4}(?:\[[\w-]{1,6} ?\] .*|.+; \d+s\b.*)$")
_RUNNING = re.compile(r" {4}(?!\[)(.+; \d+s\b.*)$")
# BuildKit's util/progress/logs. After the limit of its speed, `200KiB/s`, output goes on.
_CLIPPED = re.compile(r"\[output clipped, (log limit [^/\s]+ reached)\]")
_CURSOR = re.compile(r"\r|\x1b\[[0-9;?]*[A-Za-z]")
_CRITICAL_PATH = re.compile(r"Critical Path: ([\d.]+)s")
_PROCESSES = re.compile(r"^INFO: \d+ process(?:es)?: (.+?)\.?$", re.MULTILINE)
_ACTIONS = re.compile(r"^INFO: Build completed successfully, ([\d,]+) total actions?$", re.MULTILINE)
_ELAPSED = re.compile(r"^INFO: Elapsed time: ([\d.]+)s\b", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSummary:
    """What Bazel did, from the event `buildMetrics` (build_event_stream.proto, BuildMetrics.ActionSummary).

    What the event lacks is read from the lines that Bazel prints at its end, which the events `progress` hold: all of
    it of Bazel 0.17, the runners until 5.

    Args:
        executed: actions that ran or were taken from a cache; None where neither tells.
        runners: how: runner name → count, such as `{"processwrapper-sandbox": 40, "remote cache hit": 12}`.
        wall_seconds: from Bazel's start to its end; None where neither tells.
        critical_path_seconds: the longest chain of actions, from the event `buildToolLogs`; None where that lacks it.
    """

    executed: int | None
    runners: Mapping[str, int]
    wall_seconds: float | None = None
    critical_path_seconds: float | None = None


class BazelProgress:
    """Follows what Bazel prints while it works: how many actions are done, and which one has run the longest.

    With cursor control, as the factory asks for, Bazel prints a line with the count and then a line for each running
    action, the oldest first; without, one line for all, at growing intervals.
    """

    def __init__(self) -> None:
        self._count = ""

    def see(self, line: str) -> str | None:
        """Give `12/60 Compiling x.cc; 9s local` where a line tells of it; None for any other line.

        Where BuildKit has had enough of a step's output, nothing comes until the step ends: that is told in its place.
        """
        if clipped := _CLIPPED.match(line):
            return f"still at work; BuildKit shows no more of it until it ends ({clipped[1]})"
        if match := _PROGRESS.match(line):
            done, total, action = match.groups()
            several = action is not None and _SEVERAL.match(action)
            self._count = f"{done}/{total}" if several else ""
            return f"{done}/{total} {action or ''}".rstrip()
        if (running := _RUNNING.match(line)) and self._count:
            count, self._count = self._count, ""
            return f"{count} {running[1]}"
        return None


def is_progress(line: str) -> bool:
    """Whether a line of Bazel's output only tells that it is at work."""
    return bool(_PROGRESS.match(line) or _ACTION.match(line))


def read_summary(events: Path) -> ActionSummary | None:
    """Read the action summary of an event file; None where it has none, as of a build that failed early."""
    try:
        lines = events.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    metrics: Mapping[str, Any] = next(
        (found for line in reversed(lines) if (found := _event(line).get("buildMetrics")) is not None), {}
    )
    summary, wall = metrics.get("actionSummary", {}), metrics.get("timingMetrics", {}).get("wallTimeInMs")
    counted = {str(runner["name"]): int(runner.get("count", 0)) for runner in summary.get("runnerCount", ())}
    runners = {name: count for name, count in counted.items() if name != "total"} or _printed_runners(lines)
    executed = summary.get("actionsExecuted") or _printed(lines, _ACTIONS).replace(",", "")
    if not executed and not runners:
        return None
    elapsed = _printed(lines, _ELAPSED)
    return ActionSummary(
        executed=int(executed) if executed else None,
        runners=runners,
        wall_seconds=int(wall) / 1000 if wall else float(elapsed) if elapsed else None,
        critical_path_seconds=_critical_path(lines),
    )


def _event(line: str) -> Mapping[str, Any]:
    """Read one event; a line that was cut off, as by a full disk, holds none: a summary is not worth a compile."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _critical_path(lines: Sequence[str]) -> float | None:
    """Read the tool log `critical path`, a text in base64; some Bazels also tell `buildMetrics` of it, but not all."""
    for line in reversed(lines):
        if '"buildToolLogs"' not in line:
            continue
        for log in _event(line).get("buildToolLogs", {}).get("log", ()):
            if log.get("name") == "critical path" and (found := _CRITICAL_PATH.search(_decoded(log.get("contents")))):
                return float(found[1])
    return None


def _decoded(text: object) -> str:
    try:
        return base64.b64decode(str(text), validate=True).decode("utf-8", errors="replace")
    except binascii.Error:
        return ""


def _printed(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    """Find in what Bazel printed, the last of it first; empty where it is not there. The events `progress` hold it."""
    for line in reversed(lines):
        if '"progress"' in line:
            text = _CURSOR.sub("", _event(line).get("progress", {}).get("stderr", ""))
            if match := pattern.search(text):
                return str(match[1])
    return ""


def _printed_runners(lines: Sequence[str]) -> Mapping[str, int]:
    """Read how actions ran from what Bazel printed: `52 processes: 12 remote cache hit, 40 processwrapper-sandbox`."""
    parts = (part.partition(" ") for part in _printed(lines, _PROCESSES).split(", "))
    return {name: int(count) for count, _, name in parts if count.isdecimal()}
