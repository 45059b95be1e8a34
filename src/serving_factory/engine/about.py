"""What the engine and its clients tell of themselves, by the docker command: also of an engine that is too old."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from serving_factory.engine import process
from serving_factory.engine.buildx import docker_missing
from serving_factory.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EngineFacts", "byte_count", "engine_facts", "read_facts", "run_docker"]

_SIZE = re.compile(r"([\d.]+)\s*([kKMGT]?)(i?)B")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
_FRACTION = re.compile(r"(\.\d{6})\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """An engine.

    Args:
        version: of the engine.
        api: the newest version of its API, such as `1.45`.
        oldest_api: the oldest that it still speaks.
        client_api: the newest that the docker command speaks.
        buildx: buildx's version; None where the docker command has no such plugin.
        containerd_store: whether images are in containerd's store.
        cpus: of its machine.
        memory: of its machine, bytes.
        host: its machine's name.
        root: its folder there.
        time: what it takes the time to be.
        asked_at: our time, when it was asked.
        proxies: `http`, `https` and `no` → what it uses, where it uses any.
        runtimes: names of its container runtimes.
        cdi: whether it looks for devices described by CDI files.
    """

    version: str
    api: str
    oldest_api: str
    client_api: str
    buildx: str | None
    containerd_store: bool
    cpus: int
    memory: int
    host: str
    root: str
    time: datetime
    asked_at: datetime
    proxies: Mapping[str, str]
    runtimes: tuple[str, ...]
    cdi: bool


def engine_facts() -> EngineFacts:
    """Ask the engine in use.

    Raises:
        EngineUnavailableError: no docker command, or no engine that answers.
    """
    version = _json("version")
    before = datetime.now(UTC)
    info = _json("info")
    return read_facts(version, info, asked_at=before + (datetime.now(UTC) - before) / 2)


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
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        cdi=bool(info.get("CDISpecDirs")),
    )


def byte_count(text: str) -> int | None:
    """Read a size as Docker prints it: `16.5MB` (powers of 1000), `2.7GiB` (powers of 1024); None if it is none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS["k" if unit == "K" else unit])


def _json(command: str) -> Mapping[str, Any]:
    text = run_docker(command, "--format", "{{json .}}")
    try:
        found = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise _silent(text) from error
    if found.get("ServerErrors"):
        raise _silent("\n".join(found["ServerErrors"]))
    return dict(found)


def run_docker(*arguments: str, timeout: float = 60) -> str:
    """Give what a docker command prints.

    Raises:
        EngineUnavailableError: it failed, or took longer than `timeout` seconds.
        DockerCommandError: there is no such command.
    """
    lines: list[str] = []
    try:
        code = process.run(["docker", *arguments], on_line=lines.append, timeout=timeout)
    except FileNotFoundError as error:
        raise docker_missing(error) from error
    except TimeoutError as error:
        raise _silent(str(error)) from error
    text = "\n".join(lines)
    if code:
        raise _silent(text)
    return text


def _silent(why: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        "The Docker engine does not answer.", why=why, remedy="Start it ('./factory setup' does), or see 'docker info'."
    )
