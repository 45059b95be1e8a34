"""A real registry for the tests, and a proxy in front of it that fails on demand.

The registry is Debian's docker-registry, built from `serving-factory/base:bookworm` and started by testcontainers. It
needs an engine on this machine: the engine treats 127.0.0.0/8 as a registry without TLS.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from testcontainers.core.container import DockerContainer

from serving_factory.docker.engine import OWNER_LABEL
from serving_factory.docker.registry import Credentials

from .pipeline import IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).with_name("registry_image")
IMAGE = f"{IMAGES}/registry"
PORT = 5000
READY_WITHIN = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class LocalRegistry:
    """A registry that answers.

    Args:
        host: such as `127.0.0.1:49153`.
        username: the one account.
        password: its password; the hash is in `registry_image/htpasswd`.
    """

    host: str
    username: str = "factory"
    password: str = "correct horse battery"

    @property
    def credentials(self) -> Credentials:
        return Credentials(username=self.username, password=self.password)

    @classmethod
    @contextlib.contextmanager
    def run(cls) -> Iterator[LocalRegistry]:
        """Build it (seconds the first time, then from the build cache), run it, and take both away."""
        subprocess.run(
            [
                "docker",
                "buildx",
                "build",
                "--quiet",
                "--load",
                "--label",
                f"{OWNER_LABEL}=test",
                "--tag",
                IMAGE,
                FOLDER,
            ],
            check=True,
            capture_output=True,
        )
        container = DockerContainer(IMAGE).with_exposed_ports(PORT).with_kwargs(labels={OWNER_LABEL: "test"})
        try:
            with container:
                wrapped = container.get_wrapped_container()
                wrapped.reload()
                published = wrapped.ports[f"{PORT}/tcp"]
                assert published
                registry = cls(f"127.0.0.1:{published[0]['HostPort']}")
                registry._wait_until_ready()
                yield registry
        finally:
            subprocess.run(["docker", "image", "rm", "--force", IMAGE], check=True, capture_output=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            connection = http.client.HTTPConnection(self.host, timeout=1)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status == http.HTTPStatus.UNAUTHORIZED:
                    return
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
            finally:
                connection.close()
            time.sleep(0.1)


def write_docker_config(folder: Path, registry: LocalRegistry, *hosts: str, password: str | None = None) -> Path:
    """Write a `config.json` as `docker login` does.

    Args:
        folder: for DOCKER_CONFIG; made if it is not there.
        registry: whose account.
        hosts: the registries that it is for; the registry itself if none is named (a proxy has a host of its own).
        password: another one than the right one.
    """
    pair = f"{registry.username}:{registry.password if password is None else password}"
    auth = base64.b64encode(pair.encode()).decode()
    folder.mkdir(parents=True, exist_ok=True)
    config = {"auths": {host: {"auth": auth} for host in hosts or (registry.host,)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass(slots=True, kw_only=True)
class Fault:
    """What the proxy does with the next requests that match, in place of or before passing them on.

    Args:
        method: of the request; empty for any.
        path: a regular expression found in the request's path.
        times: how many requests it is for.
        status: answer with this HTTP status; 0 passes the request on.
        cut: close the connection without an answer.
        half: do so after this many bytes of the body.
        delay: seconds to wait first.
        retry_after: the header Retry-After of the answer; empty for none.
    """

    method: str = ""
    path: str = ""
    times: int = 1
    status: int = 0
    retry_after: str = ""
    cut: bool = False
    half: int = 0
    delay: float = 0.0


@dataclass(slots=True)
class FaultyProxy:
    """An HTTP reverse proxy on a free port of 127.0.0.1 that does what it is told to, and remembers what it was asked.

    Attributes:
        host: such as `127.0.0.1:40123`.
        requests: method and path of each request, in order.
        faults: what is still to go wrong.
    """

    upstream: str
    host: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextlib.contextmanager
    def run(cls, upstream: str, port: int = 0) -> Iterator[FaultyProxy]:
        """Stand in front of `upstream`, a host and port that speaks HTTP, on a free port if none is given."""
        proxy = cls(upstream)

        class Bound(_Handler):
            plan = proxy

        with _Server(("127.0.0.1", port), Bound) as server:
            proxy.host = f"127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield proxy
            finally:
                server.shutdown()
                thread.join()

    def fail(
        self,
        *,
        times: int = 1,
        status: int = 0,
        method: str = "",
        path: str = "",
        cut: bool = False,
        half: int = 0,
        delay: float = 0.0,
        retry_after: str = "",
    ) -> Fault:
        """Plan a fault; see `Fault`. `times` of it counts down as it happens."""
        fault = Fault(
            method=method,
            path=path,
            times=times,
            status=status,
            cut=cut,
            half=half,
            delay=delay,
            retry_after=retry_after,
        )
        with self.lock:
            self.faults.append(fault)
        return fault

    def count(self, method: str, path: str) -> int:
        """How many requests came with this method and a path in which this regular expression is found."""
        with self.lock:
            return sum(seen[0] == method and re.search(path, seen[1]) is not None for seen in self.requests)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Note a request, and use up the first fault that is planned for it."""
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.method in {"", method} and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that keeps its connection open must not keep the test open

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news: faults make it do so."""


class _Handler(BaseHTTPRequestHandler):
    plan: FaultyProxy
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # or what asks for TLS gets an answer that is no HTTP, and asks no further

    def _answer(self) -> None:
        fault = self.plan.next_fault(self.command, self.path)
        body = self.rfile.read(fault.half) if fault and fault.half else self._body()  # waits where there is less
        if fault is not None:
            time.sleep(fault.delay)
            if fault.cut or fault.half:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault.status:
                more = [("Retry-After", fault.retry_after)] if fault.retry_after else []
                self._send(fault.status, [("Content-Type", "text/plain"), *more], b"a planned fault\n")
                return
        self._pass_on(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  (names that http.server looks up)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass_on(self, body: bytes) -> None:
        hop = {"transfer-encoding", "connection", "content-length", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(self.plan.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body=body, headers=headers)
            response = connection.getresponse()
            self._send(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet: `FaultyProxy.requests` has it all."""
