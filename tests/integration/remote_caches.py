"""Remote caches for the tests: nginx with WebDAV in a container, and BuildGrid in an environment of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving_factory.engine.docker import OWNER_LABEL

from .line import docker, wait_until

__all__ = ["WebDav", "build_grid"]

FOLDER = Path(__file__).with_name("webdav_image")
IMAGE = "serving-factory-test/webdav"
BUILD_GRID = "buildgrid==0.4.4"
GRID = """\
server:
  - !channel
    address: '{host}:{port}'
    insecure-mode: true
instances:
  - name: '{instance}'
    storages:
      - !lru-storage &cas
        size: 512mb
    services:
      - !cas
        storage: *cas
      - !bytestream
        storage: *cas
      - !action-cache
        cache: !lru-action-cache
          storage: *cas
          max-cached-refs: 1000
          allow-updates: true
"""


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@dataclass(frozen=True, slots=True)
class WebDav:
    """A cache over HTTP that answers.

    Args:
        container: its container's id.
        host: its address, as containers and this machine see it.
    """

    container: str
    host: str

    @classmethod
    @contextlib.contextmanager
    def run(cls) -> Iterator[WebDav]:
        """Build it (seconds the first time, then from the build cache), run it, and take both away."""
        label = f"{OWNER_LABEL}=test"
        docker("buildx", "build", "--quiet", "--load", "--label", label, "--tag", IMAGE, str(FOLDER), seconds=300)
        container = docker("run", "--detach", "--label", label, IMAGE).strip()
        try:
            show = "{{.NetworkSettings.IPAddress}}"
            host = docker("inspect", "--format", show, container).strip()
            assert wait_until(lambda: _answers(host, 8080)), docker("logs", container)
            yield cls(container, host)
        finally:
            docker("rm", "--force", container)
            docker("image", "rm", "--force", IMAGE)

    @property
    def url(self) -> str:
        return f"http://{self.host}:8080/bazel"

    def requests(self) -> list[str]:
        """What it was asked: method, status, path, and the header that the tests plant."""
        return docker("logs", self.container).splitlines()

    def stop(self) -> None:
        docker("stop", "--time", "1", self.container)


@contextlib.contextmanager
def build_grid(folder: Path, instance: str) -> Iterator[str]:
    """Install BuildGrid and run its cache for an instance name; gives the URL, as containers see it."""
    python = folder / "grid" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "grid"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", BUILD_GRID], check=True)
    host = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    config = folder / "grid.yml"
    config.write_text(textwrap.dedent(GRID).format(host=host, port=port, instance=instance), encoding="utf-8")
    with (folder / "grid.log").open("w") as log:
        server = subprocess.Popen([python.with_name("bgd"), "server", "start", config], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: _answers(host, port), 60), (folder / "grid.log").read_text()
            yield f"grpc://{host}:{port}"
        finally:
            server.kill()
            server.wait()
