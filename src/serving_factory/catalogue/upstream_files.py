"""Reading upstream's files: Dockerfiles, bazelrc, WORKSPACE, version.h, main.cc. Each value comes with its line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import dropwhile

_MODEL_SERVER = "tensorflow_serving/model_servers:tensorflow_model_server"
_BUILD = re.compile(rf"bazel build\b(.*?){_MODEL_SERVER}", re.DOTALL)
_INSTRUCTION = re.compile(r"([A-Za-z]+)\s+(.*)", re.DOTALL)
_PAIR = re.compile(r"""(\w+)=("[^"]*"|'[^']*'|\S*)""")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_PYTHON = re.compile(r"\bpython(3\.\d+)-dev\b")
_INSTALL = re.compile(r"apt-get install\b(.*?)(?:&&|;|$)", re.DOTALL)
# What the catalogue has elsewhere, or derives: Python, compilers, CUDA and its parts, packages named by a variable.
_NO_BUILD_PACKAGE = re.compile(
    r"python|(?:gcc|g\+\+|clang|lld|llvm)-|cuda|nvinfer|tensorrt|lib(?:cu(?:blas|dnn|fft|rand|solver|sparse)|nccl|nv)|.*\$"
)
_CONFIG_LINE = re.compile(r"([\w-]+):([\w-]+)\s+(.*)")

# Options of Bazel whose value may be the next word.
_TAKES_VALUE = frozenset({"-c", "--action_env", "--copt", "--cxxopt", "--define", "--repo_env"})

_TENSORFLOW = re.compile(r'name\s*=\s*"org_tensorflow"')
_MINIMUM = re.compile(
    r'(?:check_version|check_bazel_version(?:_at_least)?|versions\.check)\(\s*(?:minimum_bazel_version\s*=\s*)?"([\d.]+)"'
)


@dataclass(frozen=True, slots=True)
class Found:
    """A value and the line, counted from 1, on which it stands."""

    value: str
    line: int


class UnreadableError(Exception):
    """A line, counted from 1, that cannot be read, and why."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Dockerfile:
    """A Dockerfile of upstream's, read as far as the catalogue knows of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.variables: dict[str, Found] = {}
        """ARG and ENV, as written but for quotes; the last one counts."""
        self.images: list[Found] = []
        """What FROM lines name, stages of the file apart, in order."""
        self._runs: list[tuple[str, int]] = []
        """What RUN instructions run, and on which line each begins."""
        stages: set[str] = set()
        for keyword, body, line in _instructions(text):
            match keyword:
                case "FROM":
                    image, *stage = list(dropwhile(lambda word: word.startswith("--"), body.split())) or [""]
                    if image not in stages:
                        self.images.append(Found(image, line))
                    stages.add(stage[-1] if stage else "")
                case "ARG" | "ENV":
                    self.variables.update(_assignments(body, line))
                case "RUN":
                    self._runs.append((body, line))

    def build_flags(self) -> tuple[Found, ...]:
        """What `bazel build` of the server names, its variables apart; empty where the file builds nothing."""
        for body, line in self._runs:
            if found := _BUILD.search(body):
                at = line + body[: found.start()].count("\n")
                words = [word for word in _words(found[1], at) if not word.startswith("$")]
                return tuple(Found(flag, at) for flag in _flags(words))
        return ()

    def packages(self) -> tuple[Found, ...]:
        """The apt packages that it installs, as far as the catalogue has them as build packages."""
        found: dict[str, Found] = {}
        for body, line in self._runs:
            for install in _INSTALL.finditer(body):
                for word in re.finditer(r"\S+", install[1]):
                    name = word[0].partition("=")[0]
                    if not name.startswith(("-", "/")) and not _NO_BUILD_PACKAGE.match(name):
                        at = line + body.count("\n", 0, install.start(1) + word.start())
                        found.setdefault(name, Found(name, at))
        return tuple(found.values())

    def pin(self, package: str) -> Found | None:
        """The version of a package, by a regular expression for its name, that apt must take."""
        for number, text in enumerate(self._text.splitlines(), 1):
            if found := re.search(rf"(?<![\w-]){package}=(\S+)", text):
                return Found(_VARIABLE.sub(self._value, found[1]), number)
        return None

    def python(self) -> Found | None:
        """The version of the Python that is installed by its version."""
        return _search(_PYTHON, self._text)

    def _value(self, variable: re.Match[str]) -> str:
        found = self.variables.get(variable[1])
        return found.value if found else variable[0]


class BazelrcFile:
    """A bazelrc file's configs."""

    def __init__(self, text: str) -> None:
        self.configs: dict[str, list[Found]] = {}
        """Name -> flags; a flag of another command than `build` begins with `COMMAND: `."""
        self.unreadable: dict[str, UnreadableError] = {}
        """Name of a config -> the first of its lines whose quotes do not pair; its other flags are those above."""
        for number, line in _joined(text):
            if found := _CONFIG_LINE.fullmatch(line.strip()):
                command, config, rest = found.groups()
                prefix = "" if command == "build" else f"{command}: "
                flags = self.configs.setdefault(config, [])
                try:
                    flags += [Found(prefix + flag, number) for flag in _flags(_words(rest, number))]
                except UnreadableError as error:
                    self.unreadable.setdefault(config, error)


def read_workspace(text: str) -> Mapping[str, Found]:
    """Read WORKSPACE: `tensorflow_commit`, `tensorflow_sha256` and `bazel_minimum`, as far as it names them."""
    found: dict[str, Found] = {}
    if start := _TENSORFLOW.search(text):
        begin = text.rfind("(", 0, start.start())
        end = text.find("\n)", start.end())
        for name, key in (("tensorflow_commit", "git_commit"), ("tensorflow_sha256", "sha256")):
            pattern = re.compile(rf'{key}\s*=\s*"([0-9a-f]+)"')
            if inner := pattern.search(text, begin, end if end > 0 else len(text)):
                found[name] = Found(inner[1], _line(text, inner.start()))
    if minimum := _search(_MINIMUM, text):
        found["bazel_minimum"] = minimum
    return found


def read_version(text: str) -> Found | None:
    """Read the version that version.h makes the server report; None where it defines none."""
    names = ("MAJOR", "MINOR", "PATCH")
    patterns = (re.compile(rf"#define\s+TF_MODELSERVER_{name}_VERSION\s+(\d+)") for name in names)
    parts = [found for pattern in patterns if (found := _search(pattern, text))]
    if len(parts) < len(names):
        return None
    suffix = _search(re.compile(r'#define\s+TF_MODELSERVER_VERSION_SUFFIX\s+"([^"]*)"'), text)
    return Found(".".join(part.value for part in parts) + (suffix.value if suffix else ""), parts[-1].line)


def read_flags(text: str) -> Mapping[str, int]:
    """Read the command-line flags of main.cc: name -> line."""
    return {found[1]: _line(text, found.start()) for found in re.finditer(r'\bFlag\(\s*"(\w+)"', text)}


def _instructions(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield keyword, body (its continued lines joined by newlines) and first line of each instruction."""
    body: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            if body:
                body.append("")
            continue
        first = first if body else number
        body.append(stripped.removesuffix("\\"))
        if not stripped.endswith("\\"):
            if found := _INSTRUCTION.fullmatch("\n".join(body)):
                yield found[1].upper(), found[2], first
            body = []


def _assignments(body: str, line: int) -> Iterator[tuple[str, Found]]:
    """Yield name and value of `ARG NAME=VALUE`, `ENV NAME VALUE` and `ENV NAME=VALUE NAME=VALUE`."""
    if pairs := list(_PAIR.finditer(body)) if re.match(r"\w+=", body) else []:
        for pair in pairs:
            yield pair[1], Found(pair[2].strip("\"'"), line + body[: pair.start()].count("\n"))
    elif len(words := body.split(None, 1)) > 1:
        yield words[0], Found(words[1].strip().strip("\"'"), line)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with those that continue it, as Bazel does, and the number of its first."""
    body, first = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        body += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield first, body
            body, first = "", number + 1
    if body:
        yield first, body


def _words(text: str, line: int) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise UnreadableError(str(error), line) from None


def _flags(words: list[str]) -> Iterator[str]:
    """Join an option and its value where they are two words."""
    rest = iter(words)
    for word in rest:
        yield f"{word} {next(rest, '')}".rstrip() if word in _TAKES_VALUE else word


def _search(pattern: re.Pattern[str], text: str) -> Found | None:
    found = pattern.search(text)
    return Found(found[1], _line(text, found.start())) if found else None


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
