"""What stands at the edge of a closed network, for the tests: a CA, an HTTPS server, a proxy with a password."""

from __future__ import annotations

import base64
import contextlib
import functools
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .line import docker

__all__ = ["Authority", "Proxy", "Server", "gateway"]

HOST = "archives.test"
"""No resolver knows it: what asks for it has gone through the proxy."""


def gateway() -> str:
    """This machine's address, as the engine's builds reach it."""
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that nobody else trusts, and a certificate of its for HOST and for this machine.

    Args:
        folder: `ca.pem` is in it.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        names = folder / "names"
        names.write_text(f"subjectAltName=DNS:{HOST},IP:{gateway()}\n", encoding="utf-8")
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
        signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", names.name)
        for arguments in (
            ("req", "-x509", *key, "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=A closed network's own"),
            ("req", *key, "server.key", "-out", "server.csr", "-subj", f"/CN={HOST}"),
            ("x509", "-req", "-in", "server.csr", "-out", "server.pem", "-days", "2", *signed_by),
        ):
            subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)
        return cls(folder)

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context


@dataclass(frozen=True, slots=True)
class Server:
    """An HTTPS server for the files of a folder.

    Args:
        port: where it listens, on every address of this machine.
        asked: the paths that were asked for.
    """

    port: int
    asked: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def run(cls, folder: Path, authority: Authority) -> Iterator[Server]:
        asked: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
                asked.append(self.path)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("", 0), functools.partial(Handler, directory=str(folder)))
        server.socket = authority.context().wrap_socket(server.socket, server_side=True)
        with _served(server):
            yield cls(server.server_address[1], asked)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy for https that lets in who knows the password, and knows one host.

    Args:
        url: with user and password.
        tunnels: what was asked for by who knew the password.
        refused: what was asked for by others.
    """

    url: str
    tunnels: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def run(cls, server: Server, password: str) -> Iterator[Proxy]:
        tunnels: list[str] = []
        refused: list[str] = []
        expected = "Basic " + base64.b64encode(f"builder:{password}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                known = self.headers.get("Proxy-Authorization") == expected
                (tunnels if known else refused).append(self.path)
                if not known:
                    self.send_response(407)
                    self.send_header("Proxy-Authenticate", 'Basic realm="closed"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif self.path != f"{HOST}:443":
                    self.send_error(502)
                else:
                    self.send_response(200)
                    self.end_headers()
                    with socket.create_connection(("127.0.0.1", server.port)) as far:
                        _relay(self.connection, far)
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        proxy = ThreadingHTTPServer(("", 0), Handler)
        with _served(proxy):
            yield cls(f"http://builder:{password}@{gateway()}:{proxy.server_address[1]}", tunnels, refused)


def _relay(near: socket.socket, far: socket.socket) -> None:
    """Carry bytes both ways until one side has no more."""
    other = {near: far, far: near}
    with contextlib.suppress(OSError):
        while True:
            for one in select.select([near, far], [], [], 30)[0]:
                data = one.recv(1 << 16)
                if not data:
                    return
                other[one].sendall(data)


@contextlib.contextmanager
def _served(server: ThreadingHTTPServer) -> Iterator[None]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
