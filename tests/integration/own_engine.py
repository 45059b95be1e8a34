"""An engine of our own, in namespaces of its own, so that nobody else's is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .pipeline import ROOT, docker, wait_until

BASE = "serving-factory/base:bookworm"
DEVEL = "samples/dockerfiles/2.19.1/cpu.devel.Dockerfile"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd"), reason="only root can start an engine of its own"
)


@dataclass(slots=True)
class OwnEngine:
    """An engine without a network. Its processes and mounts go with the namespaces that it runs in.

    Args:
        folder: for all that it keeps.
        settings: its daemon.json.
    """

    folder: Path
    settings: str = "{}"
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @classmethod
    @contextlib.contextmanager
    def run(cls, settings: str = "{}") -> Iterator[OwnEngine]:
        with tempfile.TemporaryDirectory(prefix="engine-") as name:  # the paths of sockets must be short
            own = cls(Path(name), settings)
            try:
                own.start()
                yield own
            finally:
                own.end()

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        options = {"host": self.host, "data-root": "root", "exec-root": "exec", "pidfile": "pid", "config-file": "json"}
        paths = {name: value if ":" in value else str(self.folder / value) for name, value in options.items()}
        (self.folder / "json").write_text(self.settings)
        # Numbers of processes that were killed: they mean others in the new namespace, as after a boot.
        (self.folder / "pid").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"]
        command += [word for name, value in paths.items() for word in (f"--{name}", value)]
        command += ["--iptables=false", "--ip6tables=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        assert wait_until(self.answers, 60), (self.folder / "log").read_text()

    def inside(self, *command: str) -> list[str]:
        """A command in the network of the engine, which leads nowhere else."""
        assert self.process
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command]

    def answers(self) -> bool:
        asked = ["docker", "--host", self.host, "version"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the engine a signal; it is gone after that, and all its containers with it."""
        if self.process is None:
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for engine in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                os.kill(int(engine), number)
        self.process.wait(30)
        self.process = None

    def has_the_base(self) -> None:
        """Give it the base image, as it can download none."""
        image = self.folder / "base.tar"
        docker("save", "--output", str(image), BASE)
        docker("--host", self.host, "load", "--input", str(image))

    def has_the_toolchain(self) -> None:
        """Give it the base image with all in it that the sample's toolchain installs: a build needs no network then."""
        context = self.folder / "context"
        context.mkdir()
        bare = "FROM base_build AS bare\nRUN rm -r /factory\n"  # as a build makes that folder itself
        (context / "Dockerfile").write_text((ROOT / DEVEL).read_text(encoding="utf-8") + bare, encoding="utf-8")
        tree = self.folder / "toolchain.tar"
        words = ["--target", "bare", "--build-context", f"debian:bookworm=docker-image://{BASE}"]
        words += ["--output", f"type=tar,dest={tree}"]
        words += ["--file", str(context / "Dockerfile")]
        docker("buildx", "build", *words, str(ROOT / "dockerfiles" / "context"))
        docker("--host", self.host, "import", str(tree), BASE)
        tree.unlink()
