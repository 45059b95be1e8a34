"""A registry on loopback that keeps what it is sent in dictionaries, for tests to read and to change."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving_factory.docker.registry import Registry


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class ByteRegistry:
    """What it holds, of all repositories together; `keeps_referrers` is OCI 1.1, without it clients keep the list."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest → media type and content
    tags: dict[str, str] = field(default_factory=dict)
    keeps_referrers: bool = False
    uploads_to: str = ""  # the beginning of the address to which it wants uploads; empty for its own
    refuses: str = ""  # a pattern of what it does not take: `PUT /v2/...`
    after_put: Callable[[str], None] = lambda _: None  # called with the reference of each manifest that came
    asked: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def run(cls) -> Iterator[ByteRegistry]:
        registry = cls()

        class Bound(_Handler):
            held = registry

        with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
            registry.host = f"127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield registry
            finally:
                server.shutdown()
                thread.join()

    @property
    def client(self) -> Registry:
        return Registry(self.host)

    @property
    def writes(self) -> list[str]:
        return [one for one in self.asked if one.startswith("PUT ")]

    def put(self, reference: str, media_type: str, content: bytes) -> str:
        """Keep a manifest under a tag or its digest; give the digest."""
        digest = digest_of(content)
        self.manifests[digest] = (media_type, content)
        if reference != digest:
            self.tags[reference] = digest
        return digest

    def put_blob(self, content: bytes) -> str:
        digest = digest_of(content)
        self.blobs[digest] = content
        return digest


class _Handler(BaseHTTPRequestHandler):
    held: ByteRegistry
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path}"
        self.held.asked.append(request)
        if self.held.refuses and re.search(self.held.refuses, request):
            self._reply(400, b"not taken")
        elif match := re.fullmatch(r"/v2/.+/manifests/([^/]+)", self.path):
            self._manifest(match[1], body)
        elif match := re.fullmatch(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})", self.path):
            content = self.held.blobs.get(match[1])
            self._reply(404) if content is None else self._reply(200, content)
        elif re.search(r"/blobs/uploads/$", self.path):
            self._reply(202, Location=f"{self.held.uploads_to}{self.path}1?state=x")
        elif match := re.search(r"/blobs/uploads/1\?state=x&digest=(sha256:[0-9a-f]{64})$", self.path):
            self._reply(201 if self.held.put_blob(body) == match[1] else 400)
        else:
            self._reply(200 if self.path == "/v2/" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815 - names that http.server looks up

    def _manifest(self, reference: str, body: bytes) -> None:
        if self.command == "PUT":
            self.held.put(reference, self.headers["Content-Type"], body)
            self.held.after_put(reference)
            headers = {"OCI_Subject": "sha256:1"} if self.held.keeps_referrers else {}
            self._reply(201, b"", **headers)
            return
        digest = self.held.tags.get(reference, reference)
        if digest not in self.held.manifests:
            self._reply(404)
            return
        kind, content = self.held.manifests[digest]
        self._reply(200, content, Content_Type=kind, Docker_Content_Digest=digest)

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
