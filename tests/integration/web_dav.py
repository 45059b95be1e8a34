"""A remote cache over HTTP for the tests: nginx with WebDAV, in a container."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.engine import OWNER_LABEL

from .build_grid import answers
from .pipeline import IMAGES, docker, wait_until

FOLDER = Path(__file__).with_name("webdav_image")
IMAGE = f"{IMAGES}/webdav"


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
            assert wait_until(lambda: answers(host, 8080)), docker("logs", container)
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
        """End the server, at once; its machine is still there."""
        docker("exec", self.container, "nginx", "-s", "stop")
