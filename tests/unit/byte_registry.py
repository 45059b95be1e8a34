"""A registry on loopback that keeps what it is sent in dictionaries, for tests to read and to change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from serving_factory.docker.registry import INDEX, Registry

from .http_servers import QuietHandler, serving


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

        with serving(Bound) as server:
            registry.host = f"127.0.0.1:{server.server_port}"
            yield registry

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

    def answer(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes, Mapping[str, str]]:
        """Answer a request whose body has this media type: status, body and headers."""
        request = f"{method} {path}"
        self.asked.append(request)
        if self.refuses and re.search(self.refuses, request):
            return 400, b"not taken", {}
        if match := re.fullmatch(r"/v2/.+/manifests/([^/]+)", path):
            return self._put_manifest(match[1], body, kind) if method == "PUT" else self._manifest(match[1])
        if match := re.fullmatch(r"/v2/.+/blobs/(sha256:[0-9a-f]{64})", path):
            content = self.blobs.get(match[1])
            return (404, b"", {}) if content is None else (200, content, {})
        if self.keeps_referrers and (match := re.fullmatch(r"/v2/.+/referrers/(sha256:[0-9a-f]{64})", path)):
            return self._referrers(match[1])
        if "/blobs/uploads/" in path:
            return self._upload(method, path, body)
        return (200 if path == "/v2/" else 404), b"", {}

    def _upload(self, method: str, path: str, body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        if method == "POST":
            return 202, b"", {"Location": f"{self.uploads_to}{path}1?state=x"}
        match = re.search(r"/1\?state=x&digest=(sha256:[0-9a-f]{64})$", path)
        if method == "PUT":
            return (201 if match and self.put_blob(body) == match[1] else 400), b"", {}
        return 204, b"", {}

    def _put_manifest(self, reference: str, body: bytes, kind: str) -> tuple[int, bytes, Mapping[str, str]]:
        document = json.loads(body)
        named = [*document.get("layers", ()), *document.get("manifests", ())]
        named += [document["config"]] if "config" in document else []
        if missing := [one["digest"] for one in named if one["digest"] not in {*self.blobs, *self.manifests}]:
            return 400, f"MANIFEST_BLOB_UNKNOWN {missing}".encode(), {}
        self.put(reference, kind, body)
        self.after_put(reference)
        return 201, b"", {"OCI-Subject": "sha256:1"} if self.keeps_referrers else {}

    def _referrers(self, subject: str) -> tuple[int, bytes, Mapping[str, str]]:
        """The list, with the type of each configuration in place of the artifact's, as go-containerregistry has it."""
        documents = {digest: json.loads(content) for digest, (_, content) in self.manifests.items()}
        found = [
            {"digest": digest, "artifactType": document["config"]["mediaType"]}
            for digest, document in documents.items()
            if document.get("subject", {}).get("digest") == subject
        ]
        return 200, json.dumps({"manifests": found}).encode(), {"Content-Type": INDEX}

    def _manifest(self, reference: str) -> tuple[int, bytes, Mapping[str, str]]:
        digest = self.tags.get(reference, reference)
        if digest not in self.manifests:
            return 404, b"", {}
        kind, content = self.manifests[digest]
        return 200, content, {"Content-Type": kind, "Docker-Content-Digest": digest}


class _Handler(QuietHandler):
    held: ByteRegistry
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content, headers = self.held.answer(self.command, self.path, body, self.headers.get("Content-Type", ""))
        self.reply(status, content, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 - names that http.server looks up
