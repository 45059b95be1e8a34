"""The docker command and its settings. Failures are classified by asking: the file system, the settings, the engine."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_factory.docker import process
from serving_factory.errors import DockerCommandError, DockerSettingsError, EngineUnavailableError, os_remedy

# The remedy for a full disk of the engine, without the full stop
FREE_SOME_SPACE = (
    "Free some space on the engine's disk: 'docker system df' shows what takes it, './factory cache prune --max-size "
    "20GiB' leaves what Bazel used last ('docker buildx prune' would drop Bazel's caches as well)"
)
START = "Start it ('./factory setup' does)"
TIMEOUT = 60.0  # seconds for a question to the engine
ANSWER = 10.0  # seconds in which an engine says that it is there
FIRST_ANSWER = 20.0  # the same of the first question, which may be what starts it
DIED_OF_SIGNAL = 128  # exit codes above are a signal's
PROBE_BYTES = 2**20
_ADDRESS = re.compile(r"(?:unix|npipe|fd)://.*|(?:tcp|https?|ssh)://[^/\s]+.*")


def run_docker(*arguments: str, timeout: float = TIMEOUT) -> str:
    """Give what a docker command prints; raises EngineUnavailableError, DockerCommandError."""
    lines: list[str] = []
    try:
        code = process.run(["docker", *arguments], on_line=lines.append, timeout=timeout)
    except FileNotFoundError as error:
        raise docker_missing(error) from error
    except TimeoutError as error:
        raise unavailable(str(error)) from error
    text = "\n".join(lines)
    if code:
        raise docker_failed(code, text)
    return text


def docker_missing(error: FileNotFoundError) -> DockerCommandError:
    """There is no docker command."""
    return DockerCommandError(
        "The docker command is missing.",
        why=str(error),
        remedy="Run './factory setup', which installs Docker with buildx, or put docker on PATH.",
    )


def docker_failed(code: int, text: str) -> EngineUnavailableError:
    """A docker command failed: because it crashed, because of its settings, or because no engine answers."""
    if code > DIED_OF_SIGNAL or not text.strip():
        return DockerCommandError(
            f"The docker command crashed: it ended with exit code {code}.",
            why=text or "It printed nothing.",
            remedy="Try 'docker version'; install Docker's command line client again if it fails, too.",
        )
    if version := os.environ.get("DOCKER_API_VERSION"):
        env = {name: value for name, value in os.environ.items() if name != "DOCKER_API_VERSION"}
        if process.run(["docker", "version"], on_line=lambda _: None, env=env, timeout=ANSWER) == 0:
            why = text.strip().splitlines()[-1]
            return _unusable(f"DOCKER_API_VERSION={version}", why, "Unset it: the engine does not speak that version")
    return unavailable(text)


def unavailable(why: str, *, permission: bool = False) -> EngineUnavailableError:
    """The engine does not answer: because of its client's settings, or of the engine itself."""
    try:
        check_settings()
    except DockerSettingsError as error:
        return error
    if permission or "permission denied" in why.lower():
        remedy = "Let your user use it (as root: usermod -aG docker $USER, then log in again), or run as root."
    else:
        given = (f"{name}={value}" for name in ("DOCKER_HOST", "DOCKER_CONTEXT") if (value := os.environ.get(name)))
        address = next(given, "DOCKER_HOST and DOCKER_CONTEXT are not set")
        remedy = f"{START}, or check where Docker looks for it: {address}; 'docker context ls' shows others."
    return EngineUnavailableError("The Docker engine does not answer.", why=why, remedy=remedy)


def config_folder() -> Path:
    """The folder of Docker's client configuration."""
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))  # noqa: PTH111 - never raises


def check_settings() -> None:
    """Check what Docker's client reads before it speaks to the engine; raises DockerSettingsError."""
    config = read_config()
    host = os.environ.get("DOCKER_HOST", "")
    context = os.environ.get("DOCKER_CONTEXT", "")
    if host and not _ADDRESS.fullmatch(host):
        raise _unusable(
            f"DOCKER_HOST={host}",
            "It is not the address of an engine.",
            "Unset it, or write it like unix:///var/run/docker.sock, tcp://HOST:PORT or ssh://HOST",
        )
    if not host:
        _check_context(context or str(config.get("currentContext") or ""), by_variable=bool(context))
    version = os.environ.get("DOCKER_API_VERSION", "")
    if version and not re.fullmatch(r"1\.\d+", version):
        raise _unusable(f"DOCKER_API_VERSION={version}", "It is not a version of the API.", "Unset it")
    if os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_CERT_PATH"):
        _check_certificates(Path(os.environ.get("DOCKER_CERT_PATH") or config_folder()))


def read_config() -> Mapping[str, Any]:
    """Read config.json of Docker's client; nothing where there is none; raises DockerSettingsError."""
    file = config_folder() / "config.json"
    try:
        if file.exists() and not file.is_file():  # to open a pipe would be to wait for its writer
            raise _unusable(str(file), "It is not a file.", f"Move it away: mv {file} {file}.old")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unusable(str(file), f"It cannot be read: {error.strerror}.", os_remedy(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(
            str(file), f"It is not JSON: {error}.", "Repair it, or move it away and log in again"
        ) from error
    if not isinstance(config, dict):
        raise _unusable(str(file), "It must hold a JSON object.", "Repair it: {} is an empty one")
    for name in ("HttpHeaders", "proxies"):  # where these are anything else, the SDK has no message
        if not isinstance(config.get(name, {}), dict):
            raise _unusable(str(file), f"{name} must be a JSON object.", "Repair it, or remove it")
    auths = config.get("auths", {})
    for host, entry in auths.items() if isinstance(auths, dict) else [("", None)]:
        if not isinstance(entry, dict) or not _is_auth(entry.get("auth", "")):
            remedy = f"Log in again: docker logout {host}; docker login {host}".replace(" ;", ";").rstrip()
            place = f"auths.{host}.auth" if host else "auths"
            raise _unusable(str(file), f"{place} is not what 'docker login' writes.", remedy)
    return config


def _is_auth(text: object) -> bool:
    try:
        return isinstance(text, str) and (not text or b":" in base64.b64decode(text, validate=True))
    except ValueError:
        return False


def _check_context(name: str, *, by_variable: bool) -> None:
    if name in {"", "default"}:
        return
    meta = config_folder() / "contexts" / "meta" / hashlib.sha256(os.fsencode(name)).hexdigest() / "meta.json"
    where = f"DOCKER_CONTEXT={name}" if by_variable else f'"currentContext": "{name}" in {config_folder()}/config.json'
    remedy = "Choose one that 'docker context ls' shows: " + (
        "unset DOCKER_CONTEXT, or give it another value" if by_variable else "docker context use default"
    )
    if not meta.is_file():
        raise _unusable(where, "There is no Docker context of that name.", remedy)
    try:
        json.loads(meta.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(where, f"The context's file {meta} cannot be used: {error}", remedy) from error


def _check_certificates(folder: Path) -> None:
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        if (folder / "cert.pem").exists() or (folder / "key.pem").exists():
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except OSError as error:  # ssl.SSLError is one
        name = "DOCKER_CERT_PATH" if os.environ.get("DOCKER_CERT_PATH") else "DOCKER_TLS_VERIFY"
        raise _unusable(
            f"{name}={os.environ[name]}",
            f"ca.pem, cert.pem and key.pem in {folder} cannot be used: {error}",
            "Put the engine's certificates there, or unset DOCKER_TLS_VERIFY and DOCKER_CERT_PATH",
        ) from error


def check_writable() -> None:
    """Check that buildx can keep its state; raises DockerSettingsError."""
    folder = Path(os.environ.get("BUILDX_CONFIG") or config_folder() / "buildx")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise _unusable(
            str(folder),
            f"buildx cannot write its state there: {error.strerror}.",
            "Name a folder that your user can write to: BUILDX_CONFIG=FOLDER, or HOME",
        ) from error


def check_builder() -> None:
    """Ask for the builder that the environment names; raises DockerSettingsError where there is none."""
    if builder := os.environ.get("BUILDX_BUILDER"):
        lines: list[str] = []
        if process.run(["docker", "buildx", "inspect", builder], on_line=lines.append, timeout=ANSWER):
            remedy = "Unset it, or name a builder that 'docker buildx ls' shows"
            raise _unusable(f"BUILDX_BUILDER={builder}", "\n".join(lines), remedy)


def _unusable(what: str, why: str, remedy: str) -> DockerSettingsError:
    return DockerSettingsError(f"Docker's settings cannot be used: {what}", why=why, remedy=f"{remedy}.")


def check_space(folder: Path) -> None:
    """Write a MiB into a folder, and remove it; raises OSError."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
