"""What a Dockerfile needs for one of its stages: the instructions that lead to it, and the files that these copy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_FROM = re.compile(r"FROM (?P<base>\S+)(?: AS (?P<name>\S+))?$")
_COPY = re.compile(r"COPY (?P<flags>(?:--\S+ )*)(?P<paths>.+)$")
_OTHER_STAGE = re.compile(r"(?:--|,)from=([^\s,]+)")
_INSTALL = re.compile(r"\bapt_install ((?:[^\s&|;]+\s*)+)")
_BLANK = re.compile(r"^\s*\n", re.MULTILINE)
_OF_C = re.compile(r"/\*.*?\*/", re.DOTALL)
_COMMENTS = {".sh": re.compile(r"^\s*#(?!!).*", re.MULTILINE), ".c": _OF_C, ".h": _OF_C}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a Dockerfile: its instructions, each on one line, FROM first; no comments."""

    name: str
    instructions: tuple[str, ...]

    @property
    def base(self) -> str:
        """The image or the stage that it begins with."""
        return self.instructions[0].split()[1]

    @property
    def sources(self) -> frozenset[str]:
        """The stages and named contexts that it begins with, copies from, or mounts."""
        return frozenset({self.base, *(name for line in self.instructions for name in _OTHER_STAGE.findall(line))})

    @property
    def files(self) -> frozenset[str]:
        """The files of the build context that it copies."""
        copies = [match for line in self.instructions if (match := _COPY.match(line))]
        return frozenset(
            path for copy in copies if "--from=" not in copy["flags"] for path in copy["paths"].split()[:-1]
        )

    @property
    def packages(self) -> tuple[str, ...]:
        """What it installs with apt, as inputs.sh does."""
        calls = (call for line in self.instructions for call in _INSTALL.findall(line))
        return tuple(package for call in calls for package in call.split())


def stages(text: str) -> Mapping[str, Stage]:
    """Read a Dockerfile: stage by name; the last one may have none, and is `""`."""
    code = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        instruction = line.strip()
        if match := _FROM.match(instruction):
            current = found.setdefault(match["name"] or "", [])
        if instruction:
            current.append(instruction)
    return {name: Stage(name, tuple(lines)) for name, lines in found.items()}


def needed(text: str, target: str) -> tuple[Stage, ...]:
    """The stages that `target` is made of, in the order of the file."""
    known = stages(text)
    reached, left = set(), [target]
    while left:
        if (name := left.pop()) in known and name not in reached:
            reached.add(name)
            left += known[name].sources
    return tuple(stage for name, stage in known.items() if name in reached)


def without_comments(name: str, text: str) -> str:
    """Leave out what decides nothing in a script or a C file: blank lines, and comments on lines of their own."""
    comments = _COMMENTS.get(name[name.rfind(".") :])
    return _BLANK.sub("", comments.sub("", text)) if comments else text
