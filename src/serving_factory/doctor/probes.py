"""Looks at the machine. Thin: what is found is checked elsewhere."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from serving_factory.docker.engine import Engine
from serving_factory.docker.host import EngineFacts
from serving_factory.docker.registry import ImageName, Registry, credentials_for, is_insecure
from serving_factory.doctor.checks import BaseState, Login
from serving_factory.errors import FactoryError, RegistryDeniedError

_DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Return the features of this machine's CPU; None where Linux lists none, or it is no x86 CPU."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), None)
    return None if flags is None else frozenset(flags.partition(":")[2].split())


def engine_elsewhere(facts: EngineFacts | None) -> str:
    """Return the name of the engine's machine if it is another one; empty if it is this one, or none answers."""
    return facts.host if facts and facts.host != socket.gethostname() else ""


def inotify_limits(folder: Path = Path("/proc/sys/fs/inotify")) -> Mapping[str, int]:
    """Return the kernel's limits for watching files; those that it shows."""
    names = ("max_user_instances", "max_user_watches")
    return {name: int((folder / name).read_text()) for name in names if (folder / name).is_file()}


def gpu_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return the version of the NVIDIA driver; None where none is loaded."""
    found = _DRIVER.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else None


def environment_proxies(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the proxies of an environment: `http`, `https`, `no`. The lower case goes first, as with curl."""
    found = {
        name: environ.get(f"{name}_proxy") or environ.get(f"{name.upper()}_PROXY") for name in ("http", "https", "no")
    }
    return {name: value for name, value in found.items() if value}


def free_disk(facts: EngineFacts) -> int | None:
    """Return the free bytes where the engine keeps its data; None where that is on another machine."""
    root = Path(facts.root)
    return shutil.disk_usage(root).free if not engine_elsewhere(facts) and root.is_dir() else None


def login(repository: str, facts: EngineFacts | None) -> tuple[str, Login, str]:
    """Log in to the registry of an image repository: its name, how it answered, and in its words why not."""
    name = ImageName.parse(repository)
    if not repository.startswith(f"{name.registry}/"):  # Docker Hub is what a name without a registry stands for
        return "", Login.NONE_NAMED, ""
    refused = Login.DENIED
    try:
        credentials = credentials_for(name.registry)
        refused = Login.DENIED if credentials else Login.MISSING
        insecure = is_insecure(name.registry, facts.registries if facts else {})
        required = Registry(name.registry, credentials=credentials, insecure=insecure).log_in(name.repository)
    except RegistryDeniedError as error:
        return name.registry, refused, error.why
    except FactoryError as error:
        return name.registry, Login.UNREACHABLE, error.why
    return name.registry, Login.ACCEPTED if required else Login.NOT_REQUIRED, ""


def base_state(reference: str, engine: Engine) -> BaseState:
    """Find out where a base image is: in the engine, and in the registry that it came from or would come from."""
    held = engine.image_id(reference) is not None
    if held and not engine.has_registry(reference):
        return BaseState.HELD
    try:
        name, tag = ImageName.parse_reference(reference)
        digest = engine.registry(name.registry).manifest_digest(name.repository, tag)
    except FactoryError:
        return BaseState.HELD if held else BaseState.UNKNOWN
    if digest is None:
        return BaseState.HERE_ALONE if held else BaseState.GONE
    return BaseState.HELD if held else BaseState.THERE
