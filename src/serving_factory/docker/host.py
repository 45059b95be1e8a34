"""BuildKit's garbage collection: the rules that an engine really follows, as `docker buildx inspect` prints them.

daemon.json need not be read, which may be on another machine: buildx prints rules wherever there are any. An engine has
none unless `builder.gc.enabled` is set; from 2025 on (moby/moby#49899) unless that is false.

Its default rules (builder/builder-next/worker/gc.go of moby/moby) take, above a limit (`defaultKeepStorage`, or a tenth
of the disk), (1) all that was unused for 60 days, (2) all that no image shares, (3) all. Before them, above 13.8 % of
the limit, (0) what is easy to make again, `type==exec.cachemount` among it, once unused for 48 h. That one has a filter
that matches nothing until moby/buildkit#6856 (2026), and until moby/moby#46861 (2023) its 48 h are 172.8 µs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from serving_factory.docker.client import FIRST_ANSWER, TIMEOUT, run_docker, unavailable

_SIZE = re.compile(r"([\d.]+)\s*([kKMGT]?)(i?)B")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
_FRACTION = re.compile(r"(\.\d{6})\d*")


GPU_REMEDY = (
    "install the NVIDIA driver and the NVIDIA container toolkit, then `nvidia-ctk runtime configure --runtime=docker` "
    "(or `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`), and restart the engine"
)
_GPUS = "nvidia.com/gpu"


class GpuAccess(StrEnum):
    """How an engine gives a container NVIDIA's GPUs, by the option of `docker run`."""

    RUNTIME = "--gpus all"
    CDI = f"--device {_GPUS}=all"


def gpu_access(info: Mapping[str, Any]) -> GpuAccess | None:
    """Find in an engine's `/info` how it gives GPUs; None where it can give none, or does not say that it can."""
    # From API 1.50 on it lists the devices of CDI files. Before, the files themselves say it: the engine that runs
    # containers for smoke tests is on this machine. That it looks for such files (CDISpecDirs) says nothing: from
    # 28.2 on it always does.
    devices = info.get("DiscoveredDevices")
    if any(isinstance(device, Mapping) and device.get("ID") == f"{_GPUS}=all" for device in devices or ()):
        return GpuAccess.CDI
    if "nvidia" in (info.get("Runtimes") or ()):
        return GpuAccess.RUNTIME
    folders = map(Path, info.get("CDISpecDirs") or ()) if devices is None else ()
    described = any(_describes_gpus(file) for folder in folders for file in folder.glob("*"))
    return GpuAccess.CDI if described else None


def _describes_gpus(file: Path) -> bool:
    if file.suffix not in {".yaml", ".json"}:
        return False
    try:
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))
        return bool(spec["kind"] == _GPUS and any(device["name"] == "all" for device in spec["devices"]))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """An engine, as `docker version` and `docker info` describe it."""

    version: str
    api: str  # the newest version of its API, such as `1.45`
    oldest_api: str
    client_api: str  # the newest that the docker command speaks
    buildx: str | None  # None where the docker command has no such plugin
    containerd_store: bool  # whether images are in containerd's store
    cpus: int
    memory: int  # of its machine, bytes
    host: str  # its machine's name
    root: str  # its folder there
    time: datetime  # what it takes the time to be; `asked_at` is ours
    asked_at: datetime
    proxies: Mapping[str, str]  # `http`, `https` and `no` → what it uses, where it uses any
    gpu: GpuAccess | None  # how it gives a container NVIDIA's GPUs; None where it can give none
    registries: Mapping[str, Any] = field(default_factory=dict)  # its RegistryConfig, for `registry.is_insecure`


def engine_facts() -> EngineFacts:
    """Ask the engine in use; raises EngineUnavailableError."""
    version = _json("version", FIRST_ANSWER)
    before = datetime.now(UTC)
    info = _json("info", TIMEOUT)
    try:
        return read_facts(version, info, asked_at=before + (datetime.now(UTC) - before) / 2)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unavailable(f"`docker info` does not describe an engine: {error!r}") from error


def read_facts(version: Mapping[str, Any], info: Mapping[str, Any], *, asked_at: datetime) -> EngineFacts:
    """Read what `docker version` and `docker info` print as JSON."""
    server, client = version.get("Server") or {}, version.get("Client") or {}
    plugins = {
        plugin.get("Name"): plugin.get("Version") for plugin in (info.get("ClientInfo") or {}).get("Plugins") or ()
    }
    proxies = {"http": info.get("HttpProxy"), "https": info.get("HttpsProxy"), "no": info.get("NoProxy")}
    return EngineFacts(
        version=server.get("Version", ""),
        api=server.get("ApiVersion", ""),
        oldest_api=server.get("MinAPIVersion", ""),
        client_api=client.get("DefaultAPIVersion") or client.get("ApiVersion", ""),
        buildx=plugins.get("buildx"),
        containerd_store=["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or ()),
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        host=info.get("Name", ""),
        root=info.get("DockerRootDir", ""),
        time=datetime.fromisoformat(_FRACTION.sub(r"\1", info["SystemTime"])),
        asked_at=asked_at,
        proxies={name: value for name, value in proxies.items() if value},
        gpu=gpu_access(info),
        registries=info.get("RegistryConfig") or {},
    )


def byte_count(text: str) -> int | None:
    """Read a size as Docker prints it: `16.5MB` (powers of 1000), `2.7GiB` (powers of 1024); None if it is none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS["k" if unit == "K" else unit])


def _json(command: str, seconds: float) -> Mapping[str, Any]:
    text = run_docker(command, "--format", "{{json .}}", timeout=seconds)
    try:
        found = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError, RecursionError) as error:
        raise unavailable(text) from error
    if not isinstance(found, dict):
        raise unavailable(text)
    if found.get("ServerErrors"):
        raise unavailable("\n".join(found["ServerErrors"]))
    return dict(found)


_RULE = re.compile(r"^GC Policy rule#\d+:$", re.MULTILINE)
_FIELD = re.compile(
    r"^[ \t]+(Filters|Keep Duration|Keep Bytes|Reserved Space|Max Used Space|Min Free Space):(.*)$", re.MULTILINE
)
_OF_A_DURATION = re.compile(r"([\d.]+)(h|ms|m|s|µs|us|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_TYPE = re.compile(r"type(!?)==?(.*)")
_MOUNT = "exec.cachemount"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRule:
    """One rule of the garbage collection. Sizes are bytes of the whole build cache; 0 where there is no such limit."""

    mounts: bool  # whether cache mounts are among what it takes
    unused: float = 0.0  # it takes what was not used for so many seconds
    reserved: int = 0  # it leaves so much in any case. The only limit before BuildKit 0.17, where it is `Keep Bytes`
    most: int = 0  # it takes what is above this
    free: int = 0  # it takes what is needed for so much of the disk to be free

    def keeps(self, held: int, free: int | None) -> int:
        """The bytes left of `held`, of what may go at all, with `free` bytes free on the disk (None: enough)."""
        # As calculateKeepBytes in cache/manager.go of moby/buildkit.
        kept = self.most or (held if self.free else 0)
        if free is not None and free < self.free:
            kept = min(kept, held - (self.free - free))
        return max(kept, self.reserved)


def collection_rules() -> tuple[CollectionRule, ...] | None:
    """Ask for the rules; none where nothing is collected, None where the builder does not run."""
    head, *rules = _RULE.split(run_docker("buildx", "inspect"))
    if not re.search(r"^Status:\s+running$", head, re.MULTILINE):
        return None
    return tuple(_rule(dict(_FIELD.findall(rule))) for rule in rules)


def _rule(fields: dict[str, str]) -> CollectionRule:
    size = {name: byte_count(value) or 0 for name, value in fields.items()}
    filters = fields.get("Filters", "").split()
    durations = _OF_A_DURATION.findall(fields.get("Keep Duration", ""))
    return CollectionRule(
        mounts=not filters or any(map(_matches_mounts, filters)),
        unused=sum(float(number) * _SECONDS[unit] for number, unit in durations),
        reserved=size.get("Reserved Space", 0) or size.get("Keep Bytes", 0),
        most=size.get("Max Used Space", 0),
        free=size.get("Min Free Space", 0),
    )


def _matches_mounts(text: str) -> bool:
    """Whether a filter can match cache mounts: all its parts must (containerd's package filters); any filter does."""
    types = [match for part in text.split(",") if (match := _TYPE.fullmatch(part))]
    return all((match[2] == _MOUNT) != bool(match[1]) for match in types)
