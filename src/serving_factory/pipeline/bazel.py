"""How Bazel runs in a build. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import Version

from serving_factory.catalogue.bazel import RemoteAbility, has_ability
from serving_factory.matrix.settings import Remote
from serving_factory.pipeline.job import Job
from serving_factory.recipes.inputs import DOWNLOADER_CONFIG
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import bazel_numbers

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
    """What Bazel did, from the event `buildMetrics` (build_event_stream.proto, BuildMetrics.ActionSummary)."""

    # What the event lacks (all in Bazel 0.17, the runners until 5) is read from what Bazel prints at its end.

    executed: int | None  # actions that ran or were taken from a cache
    runners: Mapping[str, int]  # how: `{"processwrapper-sandbox": 40, "remote cache hit": 12}`
    wall_seconds: float | None = None  # from Bazel's start to its end
    critical_path_seconds: float | None = None  # the longest chain of actions, from the event `buildToolLogs`


class BazelProgress:
    """Follows what Bazel prints while it works: how many actions are done, and which one has run the longest."""

    # With cursor control, as the factory asks for, Bazel prints a line with the count and then a line for each running
    # action, the oldest first; without, one line for all, at growing intervals.

    def __init__(self) -> None:
        self._count = ""

    def see(self, line: str) -> str | None:
        """Give `12/60 Compiling x.cc; 9s local` for a line of progress; None for any other line."""
        # After BuildKit's limit for a step's output, nothing comes until the step ends: then a text says so.
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
    """Whether a line of Bazel's output only shows progress."""
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
    """Read the tool log `critical path`, a text in base64; only some Bazels have it in `buildMetrics`, too."""
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


TOOLCHAIN = "{toolchain}"  # stands for the toolchain's id, which is known only where the packages are installed
_FILES = "/dev/shm/factory-{}"  # noqa: S108 - in the build's container; where bazel.sh puts them
_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
# Upstream's .bazelrc asks for `standalone`, that is `local`: with that alone, an executor would never be asked
_STRATEGIES = "remote,local"


def unusable(remote: Remote, bazel: Version, *, upload: bool) -> str:
    """Why this Bazel cannot use the matrix's remote cache or executor, with or without uploads; empty where it can."""
    cache = remote.executor is None
    grpc = cache and _is_grpc(remote.address)
    needs = {
        RemoteAbility.EXECUTOR: ("no remote execution as this factory asks for it", not cache),
        RemoteAbility.HTTP: ("no remote cache beside a disk cache", cache),
        RemoteAbility.GRPC: ("no remote cache over gRPC beside a disk cache", grpc),
        RemoteAbility.READ_ONLY: ("no read-only remote cache beside a disk cache", cache and not upload),
        RemoteAbility.HEADERS: ("no headers", bool(remote.headers)),
        RemoteAbility.CLIENT_CERTIFICATE: ("no client certificates", remote.tls.client_certificate is not None),
    }
    return next((why for ability, (why, needed) in needs.items() if needed and not has_ability(bazel, ability)), "")


def remote_lines(remote: Remote, bazel: Version, *, upload: bool) -> Iterator[str]:
    """The lines of a bazelrc for a remote cache or executor; none where this Bazel cannot use it."""
    if not remote.address or unusable(remote, bazel, upload=upload):
        return
    urls = [urlsplit(url) for url in (remote.executor, remote.cache) if url]
    for host, port in dict.fromkeys((url.hostname or "", url.port or _PORTS[url.scheme]) for url in urls):
        yield f"# factory-remote {host} {port}"
    if remote.executor and not has_ability(bazel, RemoteAbility.EXECUTOR_BESIDE_DISK):
        yield "# factory-remote-alone"
    files = {
        "tls_certificate": remote.tls.certificate,
        "tls_client_certificate": remote.tls.client_certificate,
        "tls_client_key": remote.tls.client_key,
    }
    for name, file in files.items():
        if file:
            yield f"# factory-file {name} {base64.b64encode(file.read_bytes()).decode()}"
            yield f"build:factory-remote --{name}={_FILES.format(name)}"
    for option in _options(remote, bazel, upload=upload):
        yield f"build:factory-remote {option}"
    if remote.headers:
        yield "build --noannounce_rc"  # TensorFlow's bazelrc has it on, and then the headers are in the log


def _options(remote: Remote, bazel: Version, *, upload: bool) -> Iterator[str]:
    if remote.executor:
        yield f"--remote_executor={remote.executor}"
        yield f"--spawn_strategy={_STRATEGIES}"
        yield f"--genrule_strategy={_STRATEGIES}"
    if remote.cache:
        address = remote.cache if _is_grpc(remote.cache) else f"{remote.cache.rstrip('/')}/{TOOLCHAIN}"
        yield f"--remote_cache={address}"
    if _is_grpc(remote.address):
        yield f"--remote_instance_name={TOOLCHAIN}"
    yield f"--remote_upload_local_results={'true' if upload else 'false'}"
    if not upload and not has_ability(bazel, RemoteAbility.READ_ONLY_BY_DEFAULT):
        yield "--incompatible_remote_results_ignore_disk"
    # Else Bazel uploads what its events name, and ends with exit code 38 where the remote has died by then.
    yield "--nobuild_event_json_file_path_conversion"
    yield "--remote_local_fallback"
    yield "--remote_timeout=30"  # seconds for one answer; at Bazel's 60 a cache that hangs costs more than it saves
    yield "--remote_retries=1"
    for name, value in sorted(remote.headers.items()):
        option = f"--remote_header={name}={value}".replace("\\", "\\\\").replace('"', '\\"')
        yield f'"{option}"'  # quoted as a bazelrc is split into words, like a shell's line


def _is_grpc(url: str) -> bool:
    return urlsplit(url).scheme in {"grpc", "grpcs"}


# Bazel's release notes: 0.23 brought --local_ram_resources (MB), and 3.0 took --local_resources (MB, CPUs, I/O) away.
_RAM_OPTION = (0, 23)
_MIB = 2**20
_MOUNTS_OF_BAZEL = re.compile(r"^RUN (?:--mount=\S+ (?:\\\n +)?)*--mount=type=secret,id=bazelrc ", re.MULTILINE)
_SECRET = re.compile(r"--mount=type=secret,id=(\w+) ")


def bazelrc(recipe: Recipe, environ: Mapping[str, str] = os.environ) -> str:
    """Write the bazelrc of a variant's build, a line for each option; empty where there is nothing to say."""
    remote = recipe.remote
    lines = remote_lines(remote, Version(recipe.toolchain.bazel.version), upload=uploads(remote, environ))
    return "".join(f"{line}\n" for line in lines) + local_bazelrc(recipe)


def uploads(remote: Remote, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether results are uploaded: as the matrix says, else in a CI run only. Every CI service sets CI."""
    if remote.upload is not None:
        return remote.upload
    return environ.get("CI", "").lower() not in {"", "0", "false"}


def local_bazelrc(recipe: Recipe) -> str:
    """Write the same without a remote cache or executor, for who runs the build without this factory."""
    if recipe.inputs.downloader_config:
        return f"build --experimental_downloader_config={DOWNLOADER_CONFIG}\n"
    return ""


def without_absent_secrets(devel: str, secrets: Container[str]) -> str:
    """Take the mounts of secrets that are not given out of the steps that run Bazel; what they build is the same."""
    # BuildKit 0.13 to 0.15.1 (Docker 26.0 to 27.1) reads all of the toolchain before a step that mounts a secret, given
    # or not (https://github.com/moby/buildkit/pull/5251).
    return _MOUNTS_OF_BAZEL.sub(
        lambda mounts: _SECRET.sub(lambda mount: mount[0] if mount[1] in secrets else "", mounts[0]), devel
    )


def resource_options(job: Job) -> str:
    """Bazel's options for the share of the machine that a variant has; what they build is the same."""
    jobs, memory = max(1, job.share.jobs), job.share.memory // _MIB
    if bazel_numbers(job.recipe.toolchain.bazel.version) < _RAM_OPTION:
        return f"--jobs={jobs} --local_resources={memory},{jobs},1"
    return f"--jobs={jobs} --local_ram_resources={memory}"
