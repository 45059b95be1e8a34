"""A remote cache or executor, as lines of a build's bazelrc; bazel.sh tells what becomes of them in the build."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import Version

from serving_factory.catalogue.bazel_remote import RemoteAbility, has_ability
from serving_factory.matrix.settings import Remote

__all__ = ["TOOLCHAIN", "remote_lines", "unusable"]

TOOLCHAIN = "{toolchain}"
"""Stands for the toolchain's id, which is known only where the packages are installed."""

_FILES = "/dev/shm/factory-{}"  # noqa: S108 - in the build's container; where bazel.sh puts them
_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}
_TIMEOUT = 30
"""Seconds for one answer. Bazel's own 60 make a cache that hangs cost more than it saves."""
_RETRIES = 1
_GRPC = ("grpc", "grpcs")
_STRATEGIES = "remote,local"
"""Upstream's .bazelrc asks for `standalone`, that is `local`: with that alone, an executor would never be asked."""


def unusable(remote: Remote, bazel: Version, *, upload: bool) -> str:
    """Why this Bazel cannot use the remote cache or executor as it is asked for; empty where it can.

    Args:
        remote: what the matrix says.
        bazel: the Bazel that builds.
        upload: whether results are to be uploaded.
    """
    cache = remote.executor is None
    grpc = cache and _is_grpc(remote.address)
    needs = {
        RemoteAbility.EXECUTOR: ("no remote execution as this factory asks for it", not cache),
        RemoteAbility.HTTP: ("no remote cache beside a disk cache", cache),
        RemoteAbility.GRPC: ("no remote cache over gRPC beside a disk cache", grpc),
        RemoteAbility.READ_ONLY: ("no read-only remote cache beside a disk cache", cache and not upload),
        RemoteAbility.HEADERS: ("no headers", bool(remote.headers)),
        RemoteAbility.CLIENT_CERTIFICATE: ("no client certificates", remote.client_certificate is not None),
    }
    return next((why for ability, (why, needed) in needs.items() if needed and not has_ability(bazel, ability)), "")


def remote_lines(remote: Remote, bazel: Version, *, upload: bool) -> Iterator[str]:
    """Write the lines; none where this Bazel cannot use it.

    Args:
        remote: what the matrix says.
        bazel: the Bazel that builds.
        upload: whether results are uploaded; else they are only read.
    """
    if not remote.address or unusable(remote, bazel, upload=upload):
        return
    for host, port in dict.fromkeys(_host_and_port(url) for url in (remote.executor, remote.cache) if url):
        yield f"# factory-remote {host} {port}"
    if remote.executor and not has_ability(bazel, RemoteAbility.EXECUTOR_BESIDE_DISK):
        yield "# factory-remote-alone"
    files = {
        "tls_certificate": remote.certificate,
        "tls_client_certificate": remote.client_certificate,
        "tls_client_key": remote.client_key,
    }
    for name, file in files.items():
        if file:
            yield f"# factory-file {name} {_base64(file)}"
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
        yield f"--remote_cache={remote.cache if _is_grpc(remote.cache) else _folder(remote.cache)}"
    if _is_grpc(remote.address):
        yield f"--remote_instance_name={TOOLCHAIN}"
    yield f"--remote_upload_local_results={'true' if upload else 'false'}"
    if not upload and not has_ability(bazel, RemoteAbility.READ_ONLY_BY_DEFAULT):
        yield "--incompatible_remote_results_ignore_disk"
    # Else Bazel uploads what its events name, and ends with exit code 38 where the remote has died by then.
    yield "--nobuild_event_json_file_path_conversion"
    yield "--remote_local_fallback"
    yield f"--remote_timeout={_TIMEOUT}"
    yield f"--remote_retries={_RETRIES}"
    for name, value in sorted(remote.headers.items()):
        yield _quoted(f"--remote_header={name}={value}")


def _is_grpc(url: str) -> bool:
    return urlsplit(url).scheme in _GRPC


def _folder(url: str) -> str:
    return f"{url.rstrip('/')}/{TOOLCHAIN}"


def _host_and_port(url: str) -> tuple[str, int]:
    address = urlsplit(url)
    return address.hostname or "", address.port or _PORTS[address.scheme]


def _quoted(option: str) -> str:
    """Quote as a bazelrc is split into words, like a shell's line."""
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
