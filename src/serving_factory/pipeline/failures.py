"""Finds from a build's log why it failed, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, takewhile
from textwrap import shorten
from typing import Any

from serving_factory.catalogue.host_programs import package_of
from serving_factory.docker.client import FREE_SOME_SPACE
from serving_factory.errors import (
    BazelTooOldError,
    CacheCorruptError,
    ChecksumError,
    CompileError,
    DiskFullError,
    FactoryError,
    FetchError,
    OutOfMemoryError,
    ProgramMissingError,
)
from serving_factory.pipeline.budget import Share, count_jobs, gib

_SHOWN = 6
_PRINTED = 3  # last lines of a command that says nothing that is known
_KILLED = 128 + 9


class Kind(StrEnum):
    """The kinds of failures."""

    OUT_OF_MEMORY = "out-of-memory"
    DISK_FULL = "disk-full"
    CACHE_CORRUPT = "cache-corrupt"
    CHECKSUM = "checksum"
    FETCH = "fetch"
    UNTRUSTED = "untrusted"
    BAZEL_TOO_OLD = "bazel-too-old"
    PROGRAM_MISSING = "program-missing"
    COMPILE = "compile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure."""

    kind: Kind
    lines: tuple[str, ...]  # of the log, at most six
    # `expected`, `found` and `input` of a checksum; the damaged `cache`; `minimum` and `found` of Bazel's version; the
    # missing `program`; of memory `peak` and `limit` in bytes (`max` for none), and `kills`, as far as measured
    details: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False  # it came before any flag of a level, or in a rule that these do not reach


# `file.cc:12:3: error:`, `gcc: error:`, Bazel's own, the linker's. Not the whole command, which buildx repeats.
_ERROR = re.compile(
    r"(?:^|\] )\S+: (?:fatal )?error: |(?:^|\] )ERROR: (?!failed to solve)|: undefined reference to |: cannot find -l"
    r"|^\[[^\]]+\] failed: (?!process )"
)

# The first words are gcc's or Bazel's for a child that got SIGKILL: in a build step only an OOM killer sends it, the
# kernel's or the cgroup's. The second line is BuildKit's, which watches the cgroup.
_OUT_OF_MEMORY = re.compile(
    r"Killed signal terminated program|internal compiler error: Killed|terminated with signal 9|\bfailed: \(Killed\)"
    r"|failed \(Killed\)|\(Exit 137\)|: line \d+:\s+\d+ Killed\b"
    r"|did not complete successfully: cannot allocate memory"
    r"|java\.lang\.OutOfMemoryError|what\(\):\s+std::bad_alloc|out of memory allocating|virtual memory exhausted"
)
# What bazel.sh ends with when Bazel failed. Without a limit, version 1 of the control groups says some 2**63.
_MEASURED = re.compile(r"factory: exit_code \d+ peak_memory_bytes (\S*) memory_limit_bytes (\S*) oom_kills ?(\d*)$")
_NO_LIMIT = 2**60
_DISK_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)

# Not the warning that comes before: another mirror may have what this one has not.
_BAZEL_CHECKSUM = re.compile(
    r"Error downloading \[(?P<input>[^\]]+)\].*?"
    r"Checksum was (?P<found>[0-9a-f]{64}) but wanted (?P<expected>[0-9a-f]{64})"
)
_BUILDKIT_CHECKSUM = re.compile(
    r"digest mismatch (?:sha256:)?(?P<found>[0-9a-f]{64}): (?:sha256:)?(?P<expected>[0-9a-f]{64})"
)
_WHEEL_CHECKSUM = re.compile(
    r"factory: (?P<input>\S+) has sha256 (?P<found>[0-9a-f]{64}), expected (?P<expected>[0-9a-f]{64})"
)
_ADDED = re.compile(r"\bADD (?:--\S+ )*(?P<input>\S+)")

_FETCH = re.compile(
    # Bazel's downloader, and what asks a registry of modules
    r"(?:Error downloading \[|Error accessing registry ).*"
    r"(?:Connection (?:reset|refused|timed out)|Connect timed out|Read timed out|Unknown host|"
    r"No route to host|Network is unreachable|Premature EOF|Bytes read \d+ but wanted|"
    r"Remote host (?:terminated|closed)|GET returned (?:408|429|5\d\d)|Timed out|Broken pipe)"
    # git
    r"|fatal: unable to access .*(?:Could not resolve host|Failed to connect|timed out|Connection|returned error: 5)"
    r"|fatal: (?:early EOF|the remote end hung up unexpectedly)|error: RPC failed"
    # apt
    r"|[EW]: Failed to fetch .*(?:Could not (?:connect|resolve)|Temporary failure|"
    r"Connection (?:failed|timed out|reset)|Unable to connect|Hash Sum mismatch|File has unexpected size|5\d\d )"
    # pip, also where the index does not have the project
    r"|ERROR: Could not find a version that satisfies the requirement \S+ \(from versions: none\)"
    # BuildKit: base images and ADD
    r"|failed to do request: .*(?:no such host|connection re(?:fused|set)|i/o timeout|EOF|timed? ?out|unreachable)"
    r"|dial tcp.*(?:no such host|connection refused|i/o timeout|unreachable)"
    r"|invalid response status (?:408|429|5\d\d)"
    r"|failed to resolve source metadata for .*: not found$"
    r"|unexpected status(?: code)?(?: from \S+ request to)? .*\b(?:408|429|5\d\d)\b"
    # what a captive portal's or a proxy's web page is to a client of registries
    r"|failed to resolve source metadata for .*(?:invalid checksum digest format|unexpected media type text/html|"
    r"invalid character '<' looking for beginning of value)"
)

# Of pip, apt, git, curl, Bazel and BuildKit. Not their warnings: another mirror may be trusted. For a certificate that
# is out of date no authority helps.
_UNTRUSTED = re.compile(
    r"Could not fetch URL .*CERTIFICATE_VERIFY_FAILED|[EW]: Failed to fetch .*[Cc]ertificate verification failed"
    r"|fatal: unable to access .*(?:certificate verification failed|SSL certificate problem)|curl: \(60\) "
    r"|(?:Error downloading \[|Error accessing registry ).*PKIX path (?:building|validation) failed"
    r"|(?:^|\] )(?:ERROR|failed): .*x509: certificate signed by unknown authority"
)

_CACHE = re.compile(
    r"/cache/(?P<cache>disk|repository)\b.*(?:Please delete the directory|Input/output error|Is a directory|"
    r"Not a directory|File exists|Structure needs cleaning|Invalid argument|Bad message)"
)
_DISK_CACHE = re.compile(r"(?:InvalidProtocolBufferException|Protocol message).*/cache/disk\b")

# What Bazel took from the cache for a compile has no outputs: an entry that was cut off still reads as one without any.
_NO_OUTPUTS = re.compile(r"error while parsing \.d file: \S+ \(No such file or directory\)")
_OLD_BAZEL = re.compile(
    r"Current Bazel version is (?P<found>[\d.]*).*?[,;] expected at least (?P<minimum>\d+(?:\.\d+)*)"
)
# How shells, make, env and automake say that there is no such program; each with what it begins a line with, as
# "not found" alone is also said of headers, images and targets.
_PROGRAM = r"(?:\S*/)?(?P<{}>[A-Za-z][\w.+-]*)"
_NOT_FOUND = re.compile(
    rf"(?:^|\s)\S+: (?:line )?\d+: (?:\S+: )?{_PROGRAM.format('by_script')}: (?:command )?not found$"
    rf"|(?:^|[\s/])(?:ba|da|k|z)?sh: {_PROGRAM.format('by_shell')}: (?:command )?not found$"
    rf"|(?:^|\s)make(?:\[\d+\])?: {_PROGRAM.format('by_make')}: (?:Command not found|No such file or directory)$"
    rf"|(?:^|[\s/])env: \W?{_PROGRAM.format('by_env')}\W?: No such file or directory$"
    rf"|\W{_PROGRAM.format('by_automake')}(?<![-.\d])(?:-[\d.]+)?\W is missing on your system"
    rf"|: {_PROGRAM.format('by_kernel')}: bad interpreter: "
)
# What ended a rule's own script: configure's words, make's, Python's.
_CAUSE = re.compile(
    r"\bconfigure: error: |\*\*\* .*(?:Stop\.|Error \d+)$|: [Pp]ermission denied$"
    r"|(?:^|\] )[A-Z]\w*(?:Error|Exception): "
)
_COMPILERS = re.compile(r"(?:^|\] )\S+: (?:fatal )?error: |: undefined reference to |: cannot find -l")
_ACTION_FAILED = re.compile(r"ERROR: \S+ .* failed\b")
# Bazel's word for a rule with a command: nothing that --copt says reaches it.
_COMMAND_FAILED = re.compile(r"ERROR: .*(?:Executing genrule .* failed|Action \S+ failed)")
_ACTION_ENDS = re.compile(r"(?:^|\] )(?:Target \S+ failed to build|INFO: Elapsed time|ERROR: )")
_PROGRESS = re.compile(r"(?:^|\] )(?:\[[\d,]+ / [\d,]+\] |$)")
_BAZEL_RUNS = re.compile(r"/factory/bazel\.sh (?:fetch|build)(?:\s|$)")
_RUN_FLAGS = re.compile(r"(?<=\] RUN )(?:--\S+\s+)+")
_BUILDS = re.compile(r"\[(?:\S+ )?binary_build ")


# In the order in which they count. What a match's groups do not say is in the third column.
_PATTERNS: Sequence[tuple[Kind, re.Pattern[str], Mapping[str, str]]] = (
    (Kind.OUT_OF_MEMORY, _OUT_OF_MEMORY, {}),
    (Kind.DISK_FULL, _DISK_FULL, {}),
    (Kind.CACHE_CORRUPT, _CACHE, {}),
    (Kind.CACHE_CORRUPT, _DISK_CACHE, {"cache": "disk"}),
    (Kind.CACHE_CORRUPT, _NO_OUTPUTS, {"cache": "disk"}),
    (Kind.CHECKSUM, _BAZEL_CHECKSUM, {}),
    (Kind.CHECKSUM, _BUILDKIT_CHECKSUM, {"input": "an ADD of the Dockerfile"}),
    (Kind.CHECKSUM, _WHEEL_CHECKSUM, {}),
    (Kind.FETCH, _FETCH, {}),
    (Kind.UNTRUSTED, _UNTRUSTED, {}),
    (Kind.BAZEL_TOO_OLD, _OLD_BAZEL, {"found": "of the build"}),
)


def is_shared(error: FactoryError) -> bool:
    """Whether what fails one variant so fails every other one with the same sources and the same Dockerfile."""
    shared = isinstance(error, BazelTooOldError | ChecksumError | FetchError | ProgramMissingError)
    return shared or (isinstance(error, CompileError) and error.shared)


def classify(log: str, *, exit_code: int, place: str = "") -> Failure:
    """Find why a build failed, from all that it printed and buildx said of the error."""
    # `place` is the failing step, `[binary_build 3/4]`, with which its lines begin, or empty for all lines: what an
    # earlier step warned of is not why this one failed.
    lines = [line for line in log.splitlines() if line.startswith(place) or not line.startswith("[")]
    lines = [line for line in lines if not line.lstrip().startswith(">>>")]
    failure = next(filter(None, (_matching(*row, lines) for row in _PATTERNS)), None)
    if exit_code == _KILLED and (failure is None or failure.kind is not Kind.OUT_OF_MEMORY):
        killed = f"the command ended with exit code {_KILLED}, which is SIGKILL"
        failure = Failure(kind=Kind.OUT_OF_MEMORY, lines=(killed,), details=_measured(lines))
    if failure := failure or _program_missing(lines):
        return failure
    if action := _failed_action(lines):
        wrapper, printed = action
        causes = (*filter(_COMPILERS.search, printed), *filter(_CAUSE.search, printed)) or printed[-_PRINTED:]
        return Failure(kind=Kind.COMPILE, lines=(*_first(causes)[: _SHOWN - 1], wrapper), shared=True)
    return Failure(kind=Kind.COMPILE, lines=error_lines(log), shared=bool(place) and not _BUILDS.match(place))


def error_lines(log: str) -> tuple[str, ...]:
    """The first lines of a log about an error: what an action printed before Bazel's own, which name the action."""
    lines = [line for line in log.splitlines() if _ERROR.search(line)]
    return _first(sorted(lines, key=lambda line: not _COMPILERS.search(line)))


def _first(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(islice(dict.fromkeys(lines), _SHOWN))


def _matching(kind: Kind, pattern: re.Pattern[str], details: Mapping[str, str], lines: list[str]) -> Failure | None:
    found = [match for line in lines if (match := pattern.search(line))]
    if not found:
        return None
    details = {**details, **{name: text for name, text in found[0].groupdict().items() if text}}
    if pattern is _BUILDKIT_CHECKSUM:
        details |= next((match.groupdict() for line in lines if (match := _ADDED.search(line))), {})
    if kind is Kind.OUT_OF_MEMORY:
        details = _measured(lines)
    shown = _first(match.string for match in found)
    if kind is Kind.UNTRUSTED:  # each attempt says so
        return Failure(kind=kind, lines=shown[-1:], details=details, shared=True)
    return Failure(kind=kind, lines=shown, details=details)


def _measured(lines: list[str]) -> Mapping[str, str]:
    match = next((found for line in reversed(lines) if (found := _MEASURED.search(line.rstrip()))), None)
    if match is None:
        return {}
    peak, limit, kills = match.groups()
    if limit.isdecimal() and int(limit) >= _NO_LIMIT:
        limit = "max"
    measured = {"peak": peak if peak.isdecimal() else "", "limit": limit, "kills": kills}
    return {name: value for name, value in measured.items() if value}


def _failed_action(lines: list[str]) -> tuple[str, list[str]] | None:
    """The first action that failed, where it is a rule's command: Bazel's word for that, and what came behind it."""
    first = next((index for index, line in enumerate(lines) if _ACTION_FAILED.search(line)), None)
    if first is None or not _COMMAND_FAILED.search(lines[first]):
        return None
    behind = takewhile(lambda line: not _ACTION_ENDS.search(line), lines[first + 1 :])
    return lines[first], [line for line in behind if not _PROGRESS.search(line.rstrip())]


def _program_missing(lines: list[str]) -> Failure | None:
    """A program that is not there, unless what called it went on and failed of something else."""
    wrapper, printed = _failed_action(lines) or ("", lines)
    ended = max((index for index, line in enumerate(printed) if _COMPILERS.search(line)), default=-1)
    found = [(line, match) for line in printed[ended + 1 :] if (match := _NOT_FOUND.search(line.rstrip()))]
    if not found:
        return None
    program = next(filter(None, found[0][1].groups()))
    shown = _first(line for line, _ in found)[: _SHOWN - 1]
    lines = [*shown, wrapper] if wrapper else [*shown]
    return Failure(kind=Kind.PROGRAM_MISSING, lines=tuple(lines), details={"program": program})


# What to do where a proxy has a certificate of its own
NAME_CERTIFICATES = (
    "name a PEM file with the authority's certificate, in the environment, SERVING_FACTORY_CA_CERTIFICATES=FILE.pem, "
    "or in the matrix file, network: {ca_certificates: FILE.pem}"
)

_AGAIN = "run the same command again: what was compiled is kept in Bazel's disk cache"


def failure_error(failure: Failure, *, variant: str, step: str, tail: tuple[str, ...], share: Share) -> FactoryError:
    """The error of a variant's build."""
    details, why, compiles = failure.details, "\n".join(failure.lines or tail), _BAZEL_RUNS.search(step)
    step = step_title(step)
    error: type[FactoryError]
    more: dict[str, Any] = {}
    match failure.kind:
        case Kind.CACHE_CORRUPT:
            error, what = CacheCorruptError, f"Bazel cannot use its {details['cache']} cache"
            remedy = (
                "check the disk of the engine's machine, then run the same command again; "
                "`./factory clean --caches` drops all of Bazel's caches"
            )
            more = {"cache": details["cache"]}
        case Kind.OUT_OF_MEMORY:
            planned = f"{count_jobs(share.jobs)} and {gib(share.memory)} planned for it{_measured_words(details)}"
            error, what = OutOfMemoryError, f"the build ran out of memory in {step}, with {planned}"
            remedy = f"give the engine's machine more memory, or the build fewer jobs with --jobs; then {_AGAIN}"
            more = {"jobs": share.jobs if compiles else 0}
        case Kind.DISK_FULL:
            error, what = DiskFullError, f"the engine's disk is full: {step} could not write"
            remedy = f"{FREE_SOME_SPACE}; then {_AGAIN}"
        case Kind.CHECKSUM:
            error, what = ChecksumError, f"{details['input']} does not have its checksum; nothing of it was used"
            why = f"expected sha256:{details['expected']}\nfound    sha256:{details['found']}"
            remedy = "find out who changed it, or which proxy did; another attempt ends in the same way"
        case Kind.FETCH:
            error, what = FetchError, f"a download failed in {step}"
            remedy = (
                "check the network, the proxy and the mirrors, and log in to the network in a browser if it answers "
                "with a web page; then run the same command again. For what this network never reaches, name another "
                "place at `network:` in the matrix file"
            )
        case Kind.UNTRUSTED:
            error, what = CompileError, f"a download failed in {step}: a certificate is not trusted"
            remedy, more = NAME_CERTIFICATES, {"shared": failure.shared}
        case Kind.BAZEL_TOO_OLD:
            error = BazelTooOldError
            what = f"Bazel {details['found']} is too old: the sources require {details['minimum']} or later"
            remedy = "name a later one at `bazel: {version: ...}` in the matrix file"
        case Kind.PROGRAM_MISSING:
            error = ProgramMissingError
            what = f"a build rule calls {details['program']}, and the toolchain has no such program"
            package = package_of(details["program"]) or "THE PACKAGE THAT HAS IT"
            remedy = f"add its package in the matrix file, toolchain: {{packages: [{package}]}}; then {_AGAIN}"
        case _:
            error, what = CompileError, f"the build failed in {step}"
            remedy = "fix the cause and run the same command: what was compiled is kept in Bazel's disk cache"
            more = {"shared": failure.shared}
    return error(f"{variant}: {what}", why=why, remedy=remedy, **more)


def step_title(step: str) -> str:
    """Name a step in a part of a line, by what it does and not what it mounts; its whole command is in the log."""
    return shorten(_RUN_FLAGS.sub("", step), 90, placeholder=" ...") or "docker buildx build"


def _measured_words(details: Mapping[str, str]) -> str:
    """What was measured of memory, in brackets; empty where nothing was."""
    words = []
    if "peak" in details:
        words.append(f"peak {gib(int(details['peak']))}")
    if "limit" in details:
        words.append("no limit of its own" if details["limit"] == "max" else f"limit {gib(int(details['limit']))}")
    if "kills" in details:
        kills = int(details["kills"])
        words.append("1 process killed" if kills == 1 else f"{kills or 'no'} processes killed")
    return f" ({', '.join(words)})" if words else ""
