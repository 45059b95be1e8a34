"""The edge of a closed network, for the tests: a CA, servers of files and of git, a proxy with a password.

They also stand in for the internet: whoever is led to them by the settings of the network asks nobody else.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from .pipeline import docker

HOST = "archives.test"
"""No resolver knows it: what asks for it has gone through the proxy."""


def gateway(*engine: str) -> str:
    """This machine's address, as an engine's builds reach it; `--host URL` for another engine than the usual one."""
    return docker(*engine, "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that nobody else trusts, and a certificate of its for some hosts and for this machine.

    Args:
        folder: `ca.pem` is in it.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, address: str = "", hosts: Collection[str] = (HOST,)) -> Authority:
        folder.mkdir()
        names = folder / "names"
        all_of_them = ",".join(("IP:" + (address or gateway()), *(f"DNS:{host}" for host in sorted(hosts))))
        names.write_text(f"subjectAltName={all_of_them}\n", encoding="utf-8")
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
        signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", names.name)
        for arguments in (
            ("req", "-x509", *key, "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=A closed network's own"),
            ("req", *key, "server.key", "-out", "server.csr", "-subj", "/CN=a server"),
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
    """A server for the files of a folder, by HTTPS or HTTP.

    Args:
        port: where it listens, on every address of this machine.
        asked: the paths that were asked for.
    """

    port: int
    asked: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def run(cls, folder: Path, authority: Authority | None, by_name: Path | None = None) -> Iterator[Server]:
        """Serve a folder; and the files of another one by the last part of any path. Without an authority by HTTP."""
        asked: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # apt sends its requests ahead of the answers

            def translate_path(self, path: str) -> str:
                name = PurePosixPath(urlsplit(path).path).name
                if by_name and name and (by_name / name).is_file():
                    return str(by_name / name)
                return super().translate_path(path)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
                asked.append(self.path)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("", 0), functools.partial(Handler, directory=str(folder)))
        if authority:
            server.socket = authority.context().wrap_socket(server.socket, server_side=True)
        with _served(server):
            yield cls(server.server_address[1], asked)


@dataclass(frozen=True, slots=True)
class GitServer:
    """A server of git repositories by HTTP, as code hosts are: any commit can be asked for by its id.

    Args:
        port: where it listens, on every address of this machine.
        asked: the paths that were asked for.
    """

    port: int
    asked: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def run(cls, repositories: Mapping[str, Path]) -> Iterator[GitServer]:
        """Serve repositories, by the path of each in a URL, such as `/team/code.git`."""
        asked: list[str] = []
        settings = {"safe.directory": "*", "uploadpack.allowAnySHA1InWant": "true"}
        pairs = (
            (f"GIT_CONFIG_{kind}_{n}", text)
            for n, pair in enumerate(settings.items())
            for kind, text in zip(("KEY", "VALUE"), pair, strict=True)
        )
        env = {**os.environ, "GIT_HTTP_EXPORT_ALL": "1", "GIT_CONFIG_COUNT": str(len(settings)), **dict(pairs)}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                asked.append(self.path)
                path, _, query = self.path.partition("?")
                name = next((name for name in repositories if path.startswith(f"{name}/")), None)
                if name is None:
                    self.send_error(404)
                    return
                request = {
                    "PATH_TRANSLATED": f"{repositories[name]}{path.removeprefix(name)}",
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                }
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                done = subprocess.run(
                    ["git", "http-backend"], input=body, stdout=subprocess.PIPE, env={**env, **request}, check=True
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
                self.send_response(int(fields.pop("Status", "200").split()[0]))
                for title, value in fields.items():
                    self.send_header(title, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a build that was given up
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = ThreadingHTTPServer(("", 0), Handler)
        with _served(server):
            yield cls(server.server_address[1], asked)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy for https that lets in who knows the password, and leads to one server under the hosts' names.

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
    def run(cls, server: Server, password: str, address: str = "", hosts: Collection[str] = (HOST,)) -> Iterator[Proxy]:
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
                elif self.path.removesuffix(":443") not in hosts:
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
            yield cls(f"http://builder:{password}@{address or gateway()}:{proxy.server_address[1]}", tunnels, refused)


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
