"""BuildGrid, a cache and an executor over gRPC, in an environment of its own; and workers for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving_factory.docker.engine import OWNER_LABEL

from .closed_network import gateway
from .pipeline import docker, wait_until

BUILD_GRID = "buildgrid==0.2.53"
"""The last one that is content with SQLite: later ones want PostgreSQL."""

CLIENT = "serving-factory"
WORKER = Path(__file__).with_name("remote_worker.py")
CONFIG = """\
server:
  - !channel
    address: '{host}:{port}'
    insecure-mode: true
authorization:
  method: headers
  acl-config: {folder}/clients.yml
connections:
  - !sql-connection &sql
    connection-string: ''
storages:
  - !lru-storage &cas
    size: 512mb
caches:
  - !lru-action-cache &results
    storage: *cas
    max-cached-refs: 1000
    allow-updates: true
schedulers:
  - !sql-scheduler &scheduler
    sql: *sql
    storage: *cas
    action-cache: *results
    poll-interval: 0.1
    bot-poll-interval: 0.1
    assigners:
      - !priority-age-assigner
        count: 1
        interval: 0.1
        jitter-factor: 0.1
instances:
  - name: '{instance}'
    services:
      - !cas
        storage: *cas
      - !bytestream
        storage: *cas
      - !action-cache
        cache: *results
      - !execution
        scheduler: *scheduler
"""


@pytest.fixture(scope="session")
def build_grid_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python that has BuildGrid."""
    python = tmp_path_factory.mktemp("grid") / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", BUILD_GRID], check=True)
    return python


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildGrid:
    """A server that answers to whom it knows, by a header.

    Args:
        python: the Python that has BuildGrid.
        folder: where it has its files.
        instance: the one instance name that it knows.
        address: HOST:PORT, as containers see it.
        process: the server.
    """

    python: Path
    folder: Path
    instance: str
    address: str
    process: subprocess.Popen[bytes]

    @classmethod
    @contextlib.contextmanager
    def run(cls, python: Path, folder: Path, instance: str) -> Iterator[BuildGrid]:
        """Run it."""
        folder.mkdir()
        host = gateway()
        port = _free_port(host)
        (folder / "clients.yml").write_text(f"'{instance}': {{allow: [{{actor: {CLIENT}$}}]}}\n")
        config = CONFIG.format(
            host=host,
            port=port,
            instance=instance,
            folder=folder,
        )
        (folder / "grid.yml").write_text(config)
        with (folder / "grid.log").open("w") as log:
            argv = [str(python.with_name("bgd")), "server", "start", str(folder / "grid.yml")]
            process = subprocess.Popen(argv, stdout=log, stderr=log)
            try:
                assert wait_until(lambda: process.poll() is not None or answers(host, port), 60)
                assert process.poll() is None, (folder / "grid.log").read_text()
                yield cls(
                    python=python,
                    folder=folder,
                    instance=instance,
                    address=f"{host}:{port}",
                    process=process,
                )
            finally:
                process.kill()
                process.wait()

    def matrix(self, what: str, *, actor: str = CLIENT) -> str:
        """What a matrix file says of it: as its `cache` or its `executor`."""
        return f"{what}: 'grpc://{self.address}', headers: {{x-request-actor: {actor}}}"

    @contextlib.contextmanager
    def worker(self, image: str) -> Iterator[Path]:
        """Run a worker, whose actions run in a container of an image; gives the file with a line for each action."""
        work, told = self.folder / "work", self.folder / "worker.log"
        work.mkdir()
        run = ["run", "--detach", "--label", f"{OWNER_LABEL}=test", "--user", f"{os.getuid()}:{os.getgid()}"]
        run += ["--network", "none", "--volume", f"{work}:{work}", "--entrypoint", "sleep", image, "infinity"]
        container = docker(*run).strip()
        argv = [str(self.python), str(WORKER), self.address, self.instance, CLIENT, container, str(work)]
        try:
            with told.open("w") as log, (self.folder / "worker.errors").open("w") as errors:
                process = subprocess.Popen(argv, stdout=log, stderr=errors)
                try:
                    yield told
                finally:
                    process.kill()
                    process.wait()
        finally:
            docker("rm", "--force", container)
