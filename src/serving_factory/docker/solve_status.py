"""Reads buildx's `--progress=rawjson`: BuildKit's SolveStatus messages, with other text in between.

buildx 0.13 writes each message as indented JSON over many lines, later ones as one line each. Both are read
here. A message holds changes only: `vertexes` (a step's state), `logs` (base64 pieces of a step's output, not
aligned to lines), `statuses` (transfers; not needed) and `warnings`.
"""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

INSTRUCTION = re.compile(r"\[(?:\S+ +)?\d+/\d+\] ")
TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MEMBERS = frozenset(("vertexes", "statuses", "logs", "warnings"))
CANCELED = "context canceled"  # steps that ended because another one failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that happened to a step of a build."""

    name: str  # as BuildKit gives it, such as `[binary_build 3/4] RUN bazel build ...`; empty outside any step
    # what happened; `cached` and `error` stand in place of `done`
    kind: Literal["started", "log", "done", "cached", "error"]
    text: str = ""  # for `log` one line of output; for `error` the error
    seconds: float | None = None  # for `done` how long it took

    @property
    def place(self) -> str:
        """The step in a few letters: `[binary_build 3/4]` for an instruction, else its whole name."""
        instruction = INSTRUCTION.match(self.name)
        return instruction.group().rstrip() if instruction else self.name


@dataclass(slots=True, kw_only=True)
class _Vertex:
    """One step: its state, its last lines, and per stream the output that has no line end yet."""

    tail: deque[str]
    name: str = ""
    running: bool = False
    cached: bool = False
    error: str = ""
    partial: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_instruction(self) -> bool:
        """Whether it does something: a FROM only names, and is never reported as cached."""
        place = INSTRUCTION.match(self.name)
        return place is not None and not self.name.startswith("FROM ", place.end())

    def begin(self, item: dict[str, Any]) -> list[Step]:
        self.name = item.get("name") or self.name
        if self.running or not item.get("started") or item.get("cached"):
            return []
        self.running = True
        return [Step(name=self.name, kind="started")]

    def add(self, stream: int, data: bytes) -> list[Step]:
        *lines, self.partial[stream] = (self.partial.get(stream, b"") + data).split(b"\n")
        return [self._line(line) for line in lines]

    def flush(self) -> list[Step]:
        lines, self.partial = [line for line in self.partial.values() if line], {}
        return [self._line(line) for line in lines]

    def finish(self, item: dict[str, Any]) -> list[Step]:
        if item.get("cached"):
            self.running, self.cached = False, True
            return [Step(name=self.name, kind="cached")]
        if not self.running or not item.get("completed"):
            return []
        self.running = False
        steps = self.flush()
        self.error = item.get("error") or ""
        if self.error:
            return [*steps, Step(name=self.name, kind="error", text=self.error)]
        started, completed = (datetime.fromisoformat(item[key]) for key in ("started", "completed"))
        return [*steps, Step(name=self.name, kind="done", seconds=max(0.0, (completed - started).total_seconds()))]

    def _line(self, line: bytes) -> Step:
        text = TERMINAL_CODES.sub("", line.decode("utf-8", errors="replace")).replace("\r", "")
        self.tail.append(text)
        return Step(name=self.name, kind="log", text=text)


class SolveStatus:
    """A build so far. `tail` lines of each step's output are kept for `failed`."""

    def __init__(self, *, tail: int) -> None:
        self._tail = tail
        self._vertexes: dict[str, _Vertex] = {}
        self._message: list[str] = []
        self.stray: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether the engine has reported any step."""
        return bool(self._vertexes)

    @property
    def steps(self) -> int:
        """How many of the Dockerfile's instructions took part, without FROM."""
        return sum(vertex.is_instruction for vertex in self._vertexes.values())

    @property
    def cached(self) -> int:
        """How many of these came from the cache."""
        return sum(vertex.is_instruction and vertex.cached for vertex in self._vertexes.values())

    @property
    def failed(self) -> _Vertex | None:
        """The first step with an error of its own."""
        broken = (vertex for vertex in self._vertexes.values() if vertex.error)
        return min(broken, key=lambda vertex: CANCELED in vertex.error, default=None)

    def feed(self, line: str) -> list[Step]:
        """Take one line of buildx's output; give what happened."""
        if line == "{":
            steps = self._not_json()
            self._message = [line]
            return steps
        if self._message:
            self._message.append(line)
            if line != "}":
                return []
            message = _message("".join(self._message))
            if message is None:
                return self._not_json()
            self._message = []
            return self._apply(message)
        message = _message(line) if line.startswith("{") else None
        return [self._stray(line)] if message is None else self._apply(message)

    def end(self) -> list[Step]:
        """Take the end of the output; give what had no line end yet."""
        steps = self._not_json()
        for vertex in self._vertexes.values():
            steps += vertex.flush()
        return steps

    def _not_json(self) -> list[Step]:
        lines, self._message = self._message, []
        return [self._stray(line) for line in lines]

    def _stray(self, line: str) -> Step:
        self.stray.append(line)
        return Step(name="", kind="log", text=line)

    def _apply(self, message: dict[str, Any]) -> list[Step]:
        steps: list[Step] = []
        # A message may hold several states of one step (tried, then found in the cache): the last one counts.
        vertexes = {item.get("digest", ""): item for item in message.get("vertexes") or []}
        logs = message.get("logs") or []
        speaking = {item.get("vertex", "") for item in logs}  # their last words come before their end
        for digest, item in vertexes.items():
            steps += self._of(digest).begin(item)
            if digest not in speaking:
                steps += self._of(digest).finish(item)
        for item in logs:
            steps += self._of(item.get("vertex", "")).add(int(item.get("stream", 1)), _decode(item.get("data", "")))
        for item in message.get("warnings") or []:
            text = _decode(item.get("short", "")).decode("utf-8", errors="replace")
            steps.append(Step(name=self._of(item.get("vertex", "")).name, kind="log", text=f"warning: {text}"))
        for digest, item in vertexes.items():
            if digest in speaking:
                steps += self._of(digest).finish(item)
        return steps

    def _of(self, digest: str) -> _Vertex:
        return self._vertexes.setdefault(digest, _Vertex(tail=deque(maxlen=self._tail)))


def _message(text: str) -> dict[str, Any] | None:
    with suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) and MEMBERS & found.keys() else None
    return None


def _decode(data: str) -> bytes:
    with suppress(ValueError):
        return base64.b64decode(data)
    return b""
