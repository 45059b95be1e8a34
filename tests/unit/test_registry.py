"""docker/registry.py, against a small HTTP server on loopback that plays a registry and its token service."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import urllib.parse
from email.message import Message
from typing import TYPE_CHECKING

import pytest

from serving_factory.docker import registry as registries
from serving_factory.docker.http import Answer, Client, Patience
from serving_factory.docker.registry import INDEX, Credentials, ImageName, Manifest, Memory, Registry, credentials_for
from serving_factory.errors import (
    DockerSettingsError,
    FactoryError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
    UsageError,
)

from .http_servers import QuietHandler, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import ThreadingHTTPServer
    from pathlib import Path

DIGEST = "sha256:" + "ab" * 32
ME = Credentials(username="me", password="secret")
MANIFEST = b'{"schemaVersion": 2}'


class FakeRegistry:
    """Answers by `handler(fake, request)`, and remembers the requests."""

    def __init__(self) -> None:
        self.host = ""
        self.server: ThreadingHTTPServer | None = None
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.handler: Callable[[FakeRegistry, Handler], None] = lambda _, request: request.reply(404)

    @property
    def asked(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.requests]


class Handler(QuietHandler):
    """One request to a FakeRegistry."""

    fake: FakeRegistry

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.fake.requests.append((self.command, self.path, dict(self.headers.items()), body))
        self.fake.handler(self.fake, self)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  (names that http.server looks up)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()

    class Bound(Handler):
        fake = registry

    with serving(Bound) as server:
        registry.server = server
        registry.host = f"127.0.0.1:{server.server_port}"
        yield registry


def basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def found(_: FakeRegistry, request: Handler) -> None:
    request.reply(200, MANIFEST, Docker_Content_Digest=DIGEST)


def wants_basic(_: FakeRegistry, request: Handler) -> None:
    if request.authorization == basic(ME):
        request.reply(200, Docker_Content_Digest=DIGEST)
    else:
        request.reply(401, WWW_Authenticate='Basic realm="here"')


def wants_token(fake: FakeRegistry, request: Handler) -> None:
    """A registry whose token service gives reading to anyone and `private/` to us only."""
    path, _, query = request.path.partition("?")
    if path == "/token":
        asked = urllib.parse.parse_qs(query)
        assert asked["service"] == ["the registry"]
        private = asked["scope"][0].startswith("repository:private/")
        allowed = not private or request.authorization == basic(ME)
        request.reply(200, json.dumps({"token": "good" if allowed else "useless"}).encode())
    elif request.authorization == "Bearer good":
        request.reply(200, Docker_Content_Digest=DIGEST)
    else:
        challenge = f'Bearer realm="http://{fake.host}/token",service="the registry",scope="repository:x:pull"'
        request.reply(401, WWW_Authenticate=challenge)


class TestManifestDigest:
    def test_open_registry(self, fake: FakeRegistry) -> None:
        fake.handler = found
        assert Registry(fake.host).manifest_digest("team/image", "1.0") == DIGEST
        ((method, path, headers, _),) = fake.requests
        assert (method, path) == ("HEAD", "/v2/team/image/manifests/1.0")
        assert "application/vnd.oci.image.manifest.v1+json" in headers["Accept"]
        assert "application/vnd.docker.distribution.manifest.v2+json" in headers["Accept"]
        assert "Authorization" not in headers

    def test_by_digest(self, fake: FakeRegistry) -> None:
        fake.handler = found
        assert Registry(fake.host).manifest_digest("a", DIGEST) == DIGEST
        assert fake.asked == [f"HEAD /v2/a/manifests/{DIGEST}"]

    def test_absent(self, fake: FakeRegistry) -> None:
        assert Registry(fake.host).manifest_digest("a", "1") is None

    def test_digest_is_computed_where_no_header_holds_it(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.reply(200, MANIFEST)
        digest = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
        assert Registry(fake.host).manifest_digest("a", "1") == digest
        assert fake.asked == ["HEAD /v2/a/manifests/1", "GET /v2/a/manifests/1"]

    def test_basic(self, fake: FakeRegistry) -> None:
        fake.handler = wants_basic
        assert Registry(fake.host, credentials=ME).manifest_digest("a", "1") == DIGEST

    def test_basic_and_absent(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.authorization:
                request.reply(404)
            else:
                wants_basic(fake, request)

        fake.handler = handler
        assert Registry(fake.host, credentials=ME).manifest_digest("a", "1") is None

    @pytest.mark.parametrize("credentials", [None, Credentials(username="me", password="wrong")])
    def test_basic_denied(self, fake: FakeRegistry, credentials: Credentials | None) -> None:
        fake.handler = wants_basic
        with pytest.raises(RegistryDeniedError) as caught:
            Registry(fake.host, credentials=credentials).manifest_digest("a", "1")
        assert f"docker login {fake.host}" in caught.value.remedy
        assert "wrong" not in str(caught.value)

    def test_forbidden(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.reply(403)
        with pytest.raises(RegistryDeniedError):
            Registry(fake.host).manifest_digest("a", "1")

    def test_token_for_anyone(self, fake: FakeRegistry) -> None:
        fake.handler = wants_token
        assert Registry(fake.host).manifest_digest("team/a", "1") == DIGEST
        assert fake.asked[1] == "GET /token?service=the+registry&scope=repository%3Ateam%2Fa%3Apull"

    def test_token_for_us(self, fake: FakeRegistry) -> None:
        fake.handler = wants_token
        assert Registry(fake.host, credentials=ME).manifest_digest("private/a", "1") == DIGEST

    def test_token_that_does_not_do(self, fake: FakeRegistry) -> None:
        fake.handler = wants_token
        with pytest.raises(RegistryDeniedError):
            Registry(fake.host).manifest_digest("private/a", "1")

    def test_identity_token(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.command == "POST":
                request.reply(200, b'{"access_token": "good"}')
            else:
                wants_token(fake, request)

        fake.handler = handler
        me = Credentials(identity_token="refresh")
        assert Registry(fake.host, credentials=me).manifest_digest("private/a", "1") == DIGEST
        form = urllib.parse.parse_qs(fake.requests[1][3].decode())
        assert form["grant_type"] == ["refresh_token"]
        assert form["refresh_token"] == ["refresh"]
        assert form["scope"] == ["repository:private/a:pull"]

    @pytest.mark.parametrize(
        ("status", "error"), [(401, RegistryDeniedError), (503, RegistryFaultError), (404, RegistryError)]
    )
    def test_token_service_that_refuses(self, fake: FakeRegistry, status: int, error: type[FactoryError]) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.path.startswith("/token"):
                request.reply(status)
            else:
                wants_token(fake, request)

        fake.handler = handler
        with pytest.raises(error):
            Registry(fake.host).manifest_digest("a", "1")

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"[]", b"{}", b"no json", b"[" * 100_000, b'{"token": 7}'),
            *(b'{"token": "two\\nlines"}', b'{"token": "\xe2\x82\xac"}', b'{"token": ""}', b'{"token": "a b"}'),
        ],
    )
    def test_token_service_that_talks_nonsense(self, fake: FakeRegistry, body: bytes) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.path.startswith("/token"):
                request.reply(200, body)
            else:
                wants_token(fake, request)

        fake.handler = handler
        with pytest.raises(RegistryError, match="gave no token") as caught:
            Registry(fake.host).manifest_digest("a", "1")
        assert "lines" not in str(caught.value), "what was given for a secret is shown to nobody"

    @pytest.mark.parametrize("challenge", ["Negotiate", 'Bearer realm="file:///etc/passwd"', "Bearer"])
    def test_unknown_challenge(self, fake: FakeRegistry, challenge: str) -> None:
        fake.handler = lambda _, request: request.reply(401, WWW_Authenticate=challenge)
        with pytest.raises(RegistryError, match="kind of log-in"):
            Registry(fake.host, credentials=ME).manifest_digest("a", "1")

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_faults_are_worth_a_retry(self, fake: FakeRegistry, status: int) -> None:
        fake.handler = lambda _, request: request.reply(status)
        with pytest.raises(RegistryFaultError, match=fake.host) as caught:
            Registry(fake.host).manifest_digest("a", "1")
        assert str(status) in caught.value.why

    @pytest.mark.parametrize(("header", "seconds"), [("12", 12.0), ("", None), ("soon", None)])
    def test_a_rate_limit_is_an_error_of_its_own(self, fake: FakeRegistry, header: str, seconds: float | None) -> None:
        fake.handler = lambda _, request: request.reply(429, b"toomanyrequests", Retry_After=header)
        with pytest.raises(RegistryLimitError) as caught:
            Registry(fake.host).manifest_digest("a", "1")
        assert caught.value.retry_after == seconds
        assert ("asks to wait 12 s" in caught.value.why) == (seconds is not None)
        assert f"docker login {fake.host}" in caught.value.remedy

    def test_other_refusals_are_not(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.reply(400, b"name invalid")
        with pytest.raises(RegistryError):
            Registry(fake.host).manifest_digest("a", "1")

    def test_cut_connection(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.cut()
        with pytest.raises(RegistryFaultError):
            Registry(fake.host).manifest_digest("a", "1")

    def test_cut_in_the_middle_of_an_answer(self, fake: FakeRegistry) -> None:
        def handler(_: FakeRegistry, request: Handler) -> None:
            if request.command == "HEAD":
                request.reply(200)
                return
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b"{")
            request.wfile.flush()
            request.cut()

        fake.handler = handler
        with pytest.raises(RegistryFaultError):
            Registry(fake.host).manifest_digest("a", "1")

    def test_no_answer_in_time(self, fake: FakeRegistry) -> None:
        done = threading.Event()

        def handler(_: FakeRegistry, request: Handler) -> None:
            done.wait(5)
            request.cut()

        fake.handler = handler
        with pytest.raises(RegistryFaultError):
            Registry(fake.host, client=Client(patience=Patience(each=0.2))).manifest_digest("a", "1")
        done.set()

    def test_nothing_listens(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{unused.getsockname()[1]}"
            with pytest.raises(RegistryUnreachableError) as caught:
                Registry(host).manifest_digest("a", "1")
        assert f"http://{host}/v2/" in caught.value.remedy

    def test_redirect_keeps_the_method_and_drops_the_password(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.path == "/elsewhere":
                found(fake, request)
            elif request.authorization:
                request.reply(307, Location=f"http://{fake.host}/elsewhere")
            else:
                wants_basic(fake, request)

        fake.handler = handler
        assert Registry(fake.host, credentials=ME).manifest_digest("a", "1") == DIGEST
        method, path, headers, _ = fake.requests[-1]
        assert (method, path) == ("HEAD", "/elsewhere")
        assert "Authorization" not in headers

    def test_proxies_are_not_asked_about_this_machine(
        self, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.delenv("no_proxy", raising=False)
        fake.handler = found
        assert Registry(fake.host).manifest_digest("a", "1") == DIGEST

    def test_other_machines_are_asked_by_https_and_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def connect(*_: object, **__: object) -> None:
            raise ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")

        monkeypatch.setattr(socket, "create_connection", connect)
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RegistryError) as caught:
            Registry("registry.example.com").manifest_digest("a", "1")
        assert "/etc/docker/certs.d/registry.example.com/" in caught.value.remedy


class Shelf:
    """A registry with documents by digest."""

    def __init__(self, fake: FakeRegistry) -> None:
        self.documents: dict[str, bytes] = {}
        fake.handler = self.answer

    def put(self, document: object) -> str:
        body = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.documents[digest] = body
        return digest

    def answer(self, _: FakeRegistry, request: Handler) -> None:
        body = self.documents.get(request.path.rpartition("/")[2])
        request.reply(404) if body is None else request.reply(200, body)


class TestPlatforms:
    def test_of_an_index(self, fake: FakeRegistry) -> None:
        entries: list[dict[str, object]] = [
            {"platform": {"os": "linux", "architecture": "amd64"}},
            {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"platform": {"os": "unknown", "architecture": "unknown"}},
        ]
        digest = Shelf(fake).put({"manifests": entries})
        assert Registry(fake.host).platforms("team/a", digest) >= {"linux/amd64", "linux/arm64"}
        assert fake.asked == [f"GET /v2/team/a/manifests/{digest}"]
        assert "application/vnd.oci.image.index.v1+json" in fake.requests[0][2]["Accept"]

    def test_of_a_single_manifest(self, fake: FakeRegistry) -> None:
        shelf = Shelf(fake)
        config = shelf.put({"os": "linux", "architecture": "arm64"})
        digest = shelf.put({"config": {"digest": config}, "layers": []})
        assert Registry(fake.host).platforms("team/a", digest) == {"linux/arm64"}
        assert fake.asked[1] == f"GET /v2/team/a/blobs/{config}"

    @pytest.mark.parametrize("document", [{}, {"config": "x"}, {"config": {}}, []])
    def test_of_what_is_no_manifest(self, fake: FakeRegistry, document: object) -> None:
        digest = Shelf(fake).put(document)
        with pytest.raises(RegistryError, match="does not hold"):
            Registry(fake.host).platforms("a", digest)

    def test_of_what_is_nested_too_deep(self, fake: FakeRegistry) -> None:
        deep = b"[" * 100_000
        digest = f"sha256:{hashlib.sha256(deep).hexdigest()}"
        Shelf(fake).documents[digest] = deep
        with pytest.raises(RegistryError, match="does not hold"):
            Registry(fake.host).platforms("a", digest)

    @pytest.mark.parametrize("entry", [{}, {"platform": None}, None])
    def test_an_entry_without_a_platform_is_for_none(self, fake: FakeRegistry, entry: object) -> None:
        assert "linux/amd64" not in Registry(fake.host).platforms("a", Shelf(fake).put({"manifests": [entry]}))

    def test_what_is_sent_must_have_the_digest_that_was_asked_for(self, fake: FakeRegistry) -> None:
        shelf = Shelf(fake)
        shelf.documents[DIGEST] = b'{"manifests": []}'
        with pytest.raises(RegistryError, match="does not hold"):
            Registry(fake.host).platforms("a", DIGEST)

    def test_what_is_not_there(self, fake: FakeRegistry) -> None:
        with pytest.raises(RegistryError, match="does not hold") as caught:
            Registry(fake.host).platforms("a", DIGEST)
        assert caught.value.why == "There is nothing."


OTHERS = Credentials(username="me", password="wrong")


def public_to_read(fake: FakeRegistry, request: Handler) -> None:
    """Anyone may read; who wants more shows a token that the service gives to us only."""
    path, _, query = request.path.partition("?")
    if path == "/token":
        assert urllib.parse.parse_qs(query)["scope"] == ["repository:team/image:pull,push"]
        mine = request.authorization == basic(ME)
        request.reply(200 if mine else 401, json.dumps({"token": "good"}).encode())
    elif path == "/v2/" and request.authorization != "Bearer good":
        request.reply(401, WWW_Authenticate=f'Bearer realm="http://{fake.host}/token",service="the registry"')
    else:
        found(fake, request)


class TestLogIn:
    def test_no_login_required(self, fake: FakeRegistry) -> None:
        fake.handler = found
        assert not Registry(fake.host).log_in("team/image")
        assert not Registry(fake.host, credentials=ME).log_in("team/image")

    @pytest.mark.parametrize("handler", [wants_basic, public_to_read])
    def test_right(self, fake: FakeRegistry, handler: Callable[[FakeRegistry, Handler], None]) -> None:
        fake.handler = handler
        assert Registry(fake.host, credentials=ME).log_in("team/image")

    @pytest.mark.parametrize("handler", [wants_basic, public_to_read])
    @pytest.mark.parametrize("credentials", [None, OTHERS])
    def test_wrong_or_none(
        self, fake: FakeRegistry, handler: Callable[[FakeRegistry, Handler], None], credentials: Credentials | None
    ) -> None:
        fake.handler = handler
        with pytest.raises(RegistryDeniedError):
            Registry(fake.host, credentials=credentials).log_in("team/image")

    def test_no_registry(self, fake: FakeRegistry) -> None:
        with pytest.raises(RegistryError, match="did not answer as a registry does"):
            Registry(fake.host).log_in("team/image")


class TestTryPush:
    """An upload that is begun and cancelled."""

    def test_what_a_push_would_be_let_do(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.command == "POST" and request.authorization != basic(ME):
                request.reply(401, WWW_Authenticate='Basic realm="here"')
            else:
                request.reply(202, Location=f"http://{fake.host}/v2/team/image/blobs/uploads/1?state=x")

        fake.handler = handler
        Registry(fake.host, credentials=ME).try_push("team/image")
        post, delete = "POST /v2/team/image/blobs/uploads/", "DELETE /v2/team/image/blobs/uploads/1?state=x"
        assert fake.asked == [post, post, delete]
        assert fake.requests[-1][2]["Authorization"] == basic(ME)

    def test_a_token_that_only_reads(self, fake: FakeRegistry) -> None:
        fake.handler = wants_token
        with pytest.raises(RegistryDeniedError):
            Registry(fake.host).try_push("private/image")

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, RegistryDeniedError),
            (403, RegistryDeniedError),
            (404, RegistryError),
            (405, RegistryError),
            (429, RegistryLimitError),
            (500, RegistryFaultError),
        ],
    )
    def test_refusals(self, fake: FakeRegistry, status: int, error: type[FactoryError]) -> None:
        fake.handler = lambda _, request: request.reply(status, Retry_After="9")
        with pytest.raises(error) as caught:
            Registry(fake.host, credentials=ME).try_push("team/image")
        assert getattr(caught.value, "retry_after", 9) == 9
        if status == 404:
            assert "team/image" in caught.value.what

    @pytest.mark.parametrize("place", ["http://[::1", "http://127.0.0.1:1/x", "ftp://x", "", "https://{host}/x"])
    def test_no_other_host_hears_of_the_upload(self, fake: FakeRegistry, place: str) -> None:
        fake.handler = lambda fake, request: request.reply(202, Location=place.format(host=fake.host))
        Registry(fake.host, credentials=ME).try_push("team/image")
        assert fake.asked[0].startswith("POST")
        assert [one for one in fake.asked if "uploads" not in one] == []

    def test_one_that_cannot_cancel_uploads(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: (
            request.reply(202, Location="/v2/x") if request.command == "POST" else request.cut()
        )
        Registry(fake.host).try_push("team/image")


class TestWhatIsNoRegistry:
    """A captive portal, or a proxy's page, in place of a registry."""

    @pytest.fixture(autouse=True)
    def portal(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.reply(200, b"<html>log in", Content_Type="text/html; charset=utf-8")

    @pytest.mark.parametrize(
        "ask",
        [
            lambda registry: registry.manifest_digest("a", "1"),
            lambda registry: registry.try_push("a"),
            lambda registry: registry.log_in("a"),
            lambda registry: registry.platforms("a", DIGEST),
        ],
    )
    def test_a_web_page(self, fake: FakeRegistry, ask: Callable[[Registry], object]) -> None:
        with pytest.raises(RegistryError, match="web page") as caught:
            ask(Registry(fake.host))
        assert "log-in" in caught.value.remedy


class TestHabits:
    """What registries in use do, each in its own way."""

    @pytest.mark.parametrize(
        "challenges",
        [
            ['Basic realm="r", Bearer realm="http://{host}/token",service="the registry"'],
            ['Basic realm="say \\"Bearer realm=x", Bearer realm="http://{host}/token", service="the registry"'],
            ["bearer Realm=http://{host}/token,service=the%20registry"],
            ['Bearer realm="/token",service="the registry",scope="repository:team/a:pull,push"'],
            ["Negotiate", 'Basic realm="r"', 'Bearer realm="http://{host}/token",service="the registry"'],
        ],
    )
    def test_challenges(self, fake: FakeRegistry, challenges: list[str]) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.path.startswith("/token"):
                assert "registry" in request.path
                request.reply(200, b'{"token": "", "access_token": "good"}')
            elif request.authorization == "Bearer good":
                found(fake, request)
            else:
                request.reply(401, WWW_Authenticate=[one.format(host=fake.host) for one in challenges])

        fake.handler = handler
        assert Registry(fake.host, credentials=ME).manifest_digest("team/a", "1") == DIGEST

    @pytest.mark.parametrize("challenges", [["NEGOTIATE", "BASIC"], ['Bearer realm="ftp://x", Basic realm="r"']])
    def test_basic_is_what_is_left(self, fake: FakeRegistry, challenges: list[str]) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.authorization == basic(ME):
                found(fake, request)
            else:
                request.reply(401, WWW_Authenticate=challenges)

        fake.handler = handler
        assert Registry(fake.host, credentials=ME).manifest_digest("a", "1") == DIGEST

    def test_what_is_hidden_from_strangers(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.authorization == basic(ME):
                found(fake, request)
            elif request.path == "/v2/":
                request.reply(401, WWW_Authenticate='Basic realm="r"')
            else:
                request.reply(404)

        fake.handler = handler
        assert Registry(fake.host).manifest_digest("a", "1") is None
        assert Registry(fake.host, credentials=ME).manifest_digest("a", "1") == DIGEST

    def test_a_token_is_kept_where_there_is_nothing(self, fake: FakeRegistry) -> None:
        def handler(fake: FakeRegistry, request: Handler) -> None:
            request.reply(404) if request.authorization == "Bearer good" else wants_token(fake, request)

        fake.handler = handler
        registry = Registry(fake.host)
        assert [registry.manifest_digest("a", tag) for tag in ("1", "2")] == [None, None]
        assert [one.partition("?")[0] for one in fake.asked] == [
            *("HEAD /v2/a/manifests/1", "GET /token", "HEAD /v2/a/manifests/1"),
            "HEAD /v2/a/manifests/2",
        ]

    def test_it_says_who_asks(self, fake: FakeRegistry) -> None:
        fake.handler = lambda fake, request: (
            found(fake, request)
            if request.path == "/elsewhere"
            else request.reply(307, Location=f"http://{fake.host}/elsewhere")
        )
        Registry(fake.host).manifest_digest("a", "1")
        assert all(headers["User-Agent"].startswith("serving-factory/") for _, _, headers, _ in fake.requests)

    @pytest.mark.parametrize(
        "place", ["/v2/team/a/blobs/uploads/1?state=x", "http://{host}/up?state=x", "http://{other}/up?state=x"]
    )
    def test_where_an_upload_goes(self, fake: FakeRegistry, place: str) -> None:
        other = fake.host.replace("127.0.0.1", "localhost")

        def handler(fake: FakeRegistry, request: Handler) -> None:
            path = request.path.partition("?")[0]
            if request.command == "PUT":
                request.reply(201, Content_Type="text/html; charset=utf-8")
            elif request.authorization != basic(ME):
                wants_basic(fake, request)
            elif request.command == "POST":
                request.reply(202, Location=place.format(host=fake.host, other=other), Content_Type="text/html")
            else:
                assert path.startswith("/v2/team/a/blobs/sha256:")
                request.reply(404)

        fake.handler = handler
        digest = Registry(fake.host, credentials=ME).put_blob("team/a", b"content")
        method, path, headers, body = fake.requests[-1]
        assert (method, path.endswith(f"?state=x&digest={digest}"), body) == ("PUT", True, b"content")
        assert headers.get("Authorization") == (None if "other" in place else basic(ME))

    @pytest.mark.parametrize("place", ["http://r.example/up", "http://[::1", "ftp://r.example/up"])
    def test_no_upload_without_tls(self, place: str) -> None:
        class Fixed(Client):
            def ask(self, method: str, *_: object, **__: object) -> Answer:
                headers = Message()
                headers["Location"] = place
                assert method != "PUT"
                return Answer(202 if method == "POST" else 404, headers, b"")

        with pytest.raises(RegistryError, match="to no HTTPS address"):
            Registry("r.example", client=Fixed()).put_blob("a", b"content")

    @pytest.mark.parametrize("status", [405, 501])
    def test_one_without_head(self, fake: FakeRegistry, status: int) -> None:
        fake.handler = lambda _, request: (
            request.reply(status) if request.command == "HEAD" else request.reply(200, MANIFEST)
        )
        assert Registry(fake.host).manifest_digest("a", "1") == f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"

    def test_a_greeting_that_calls_itself_html(self, fake: FakeRegistry) -> None:
        version = {"Docker_Distribution_API_Version": "registry/2.0"}
        fake.handler = lambda _, request: request.reply(200, b"true", Content_Type="text/html", **version)
        assert not Registry(fake.host).log_in("a")

    @pytest.mark.parametrize("status", [400, 405, 409, 412])
    def test_a_tag_that_may_not_move(self, fake: FakeRegistry, status: int) -> None:
        fake.handler = lambda _, request: request.reply(status, b"the tag is immutable")
        with pytest.raises(RegistryError, match="does not take a:1") as caught:
            Registry(fake.host).put_manifest("a", "1", Manifest(body=MANIFEST, media_type=INDEX))
        assert "the tag is immutable" in caught.value.why
        assert "immutable tags" in caught.value.remedy

    @pytest.mark.parametrize("header", ["application/json", f"{INDEX}; charset=utf-8"])
    def test_the_kind_of_a_manifest(self, fake: FakeRegistry, header: str) -> None:
        body = json.dumps({"mediaType": INDEX}).encode()
        fake.handler = lambda _, request: request.reply(200, body, Content_Type=header)
        held = Registry(fake.host).manifest("a", "1")
        assert held
        assert held.media_type == INDEX


class TestMemory:
    """What one has learnt of a registry, the next one that asks it in the same run does not ask again."""

    def test_what_is_not_asked_twice(self, fake: FakeRegistry) -> None:
        digest = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()

        def handler(fake: FakeRegistry, request: Handler) -> None:
            if request.path.startswith("/token") or request.authorization != "Bearer good":
                wants_token(fake, request)
            else:
                request.reply(*((404, b"page not found") if "referrers" in request.path else (200, MANIFEST)))

        fake.handler = handler
        memory = Memory()
        for _ in range(2):
            registry = Registry(fake.host, memory=memory)
            held = registry.manifest("a", digest)
            assert held
            assert (held.body, registry.small_blob("a", digest)) == (MANIFEST, MANIFEST)
            assert registry.referrers("a", digest) is None
            assert registry.manifest("a", "a-tag")
            assert registry.manifest("a", DIGEST), "another content than its name says"
        asked = [one.partition("?")[0] for one in fake.asked]
        assert asked == [
            *(f"GET /v2/a/manifests/{digest}", "GET /token", f"GET /v2/a/manifests/{digest}"),
            *(f"GET /v2/a/blobs/{digest}", f"GET /v2/a/referrers/{digest}"),
            *("GET /v2/a/manifests/a-tag", f"GET /v2/a/manifests/{DIGEST}") * 2,
        ]


class TestReferrers:
    """Distribution specification 1.1, "Listing Referrers"."""

    URL = f"/v2/a/referrers/{DIGEST}"

    def pages(self, *links: str) -> Callable[[FakeRegistry, Handler], None]:
        """A list of which each page has one entry, and one more page than links."""

        def handler(fake: FakeRegistry, request: Handler) -> None:
            number = int(request.path.partition("page=")[2] or 0)
            more = {"Link": links[number].format(host=fake.host, url=self.URL)} if number < len(links) else {}
            body = json.dumps({"manifests": [{"digest": str(number)}, "no entry"]}).encode()
            request.reply(200, body, Content_Type=INDEX, **more)

        return handler

    def test_all_pages_are_read(self, fake: FakeRegistry) -> None:
        fake.handler = self.pages(
            '<{url}?page=1>; rel="next"',
            "<?page=2>; rel=next",
            '</x>; rel="prev", <http://{host}{url}?page=3>; rel="next"',
        )
        listing = Registry(fake.host).referrers("a", DIGEST)
        assert listing == [{"digest": str(number)} for number in range(4)]

    @pytest.mark.parametrize(
        ("link", "pages"),
        [("<{url}>; rel=next", 1), ("<http://other.example{url}>; rel=next", 1), ("<http://[::1>; rel=next", 1)],
    )
    def test_a_list_that_goes_nowhere(self, fake: FakeRegistry, link: str, pages: int) -> None:
        fake.handler = self.pages(link)
        with pytest.raises(RegistryError, match="gave no whole list"):
            Registry(fake.host).referrers("a", DIGEST)
        assert len(fake.asked) == pages

    def test_a_list_without_end(self, fake: FakeRegistry) -> None:
        fake.handler = self.pages(*(f"<{{url}}?page={number + 1}>; rel=next" for number in range(1000)))
        with pytest.raises(RegistryError, match="gave no whole list"):
            Registry(fake.host).referrers("a", DIGEST)
        assert len(fake.asked) == 100

    @pytest.mark.parametrize("status", [400, 404, 405, 406, 501])
    def test_a_registry_that_keeps_none(self, fake: FakeRegistry, status: int) -> None:
        fake.handler = lambda _, request: request.reply(status)
        assert Registry(fake.host).referrers("a", DIGEST) is None

    def test_one_manifest_without_a_list(self, fake: FakeRegistry) -> None:
        pages = self.pages()
        unknown = b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        fake.handler = lambda fake, request: (
            pages(fake, request) if DIGEST in request.path else request.reply(404, unknown)
        )
        registry = Registry(fake.host)
        assert registry.referrers("a", "sha256:" + "cd" * 32) is None
        assert registry.referrers("a", DIGEST) == [{"digest": "0"}]

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"manifests": 7}'])
    def test_an_answer_that_is_no_list(self, fake: FakeRegistry, body: bytes) -> None:
        fake.handler = lambda _, request: request.reply(200, body, Content_Type="text/html")
        assert Registry(fake.host).referrers("a", DIGEST) is None

    def test_a_redirection_to_a_page_for_browsers(self, fake: FakeRegistry) -> None:
        fake.handler = lambda fake, request: request.reply(303, Location=f"http://{fake.host}/-/v2/packages")
        assert Registry(fake.host).referrers("a", DIGEST) is None
        assert fake.asked == [f"GET {self.URL}"]

    @pytest.mark.parametrize(
        ("status", "error"), [(401, RegistryDeniedError), (429, RegistryLimitError), (500, RegistryFaultError)]
    )
    def test_not_knowing_is_not_taken_for_none(
        self, fake: FakeRegistry, status: int, error: type[FactoryError]
    ) -> None:
        fake.handler = lambda _, request: request.reply(status)
        with pytest.raises(error):
            Registry(fake.host).referrers("a", DIGEST)

    @pytest.mark.parametrize(("status", "error"), [(404, RegistryError), (500, RegistryFaultError)])
    def test_a_page_that_is_missing(self, fake: FakeRegistry, status: int, error: type[FactoryError]) -> None:
        first = self.pages("<?page=1>; rel=next")
        fake.handler = lambda fake, request: request.reply(status) if "page=" in request.path else first(fake, request)
        with pytest.raises(error):
            Registry(fake.host).referrers("a", DIGEST)


class TestTls:
    """Registries on this machine are asked as Docker asks them: by HTTPS, whatever the certificate, then by HTTP."""

    @pytest.fixture
    def over_tls(self, fake: FakeRegistry, tmp_path: Path) -> FakeRegistry:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl")
        names = ("-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=elsewhere", "-days", "2", "-nodes")
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *names]
        subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        assert fake.server is not None
        fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
        return fake

    def test_https_first(self, over_tls: FakeRegistry) -> None:
        over_tls.handler = found
        assert Registry(over_tls.host).manifest_digest("a", "1") == DIGEST
        assert over_tls.asked == ["GET /v2/", "HEAD /v2/a/manifests/1"]

    def test_then_http(self, fake: FakeRegistry) -> None:
        fake.handler = found
        assert Registry(fake.host).manifest_digest("a", "1") == DIGEST
        assert fake.asked == ["HEAD /v2/a/manifests/1"]

    def test_another_machine_needs_a_trusted_certificate(
        self, over_tls: FakeRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        over_tls.handler = found
        monkeypatch.setattr(registries, "is_loopback", lambda _: False)
        monkeypatch.setattr(registries, "CERTIFICATES", tmp_path / "certs.d")
        with pytest.raises(RegistryError, match="not trusted"):
            Registry(over_tls.host).manifest_digest("a", "1")
        assert Registry(over_tls.host, insecure=True).manifest_digest("a", "1") == DIGEST

    def test_certificates_that_docker_trusts_are_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registries, "CERTIFICATES", tmp_path)
        (tmp_path / "r.example").mkdir()
        loaded: list[Path] = []
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda _, cafile=None, **__: loaded.append(cafile))
        (tmp_path / "r.example" / "ca.crt").touch()
        Registry("r.example")
        assert tmp_path / "r.example" / "ca.crt" in loaded


def test_the_id_of_an_image_in_a_registry(fake: FakeRegistry) -> None:
    shelf = Shelf(fake)
    assert Registry(fake.host).config_digest("a", shelf.put({"config": {"digest": DIGEST}})) == DIGEST
    assert Registry(fake.host).config_digest("a", shelf.put({"manifests": []})) == ""


@pytest.mark.parametrize("config", [{"Labels": {"a": "b"}}, {"Labels": None}, {}, None])
def test_the_labels_of_an_image(fake: FakeRegistry, config: dict[str, object] | None) -> None:
    shelf = Shelf(fake)
    image = shelf.put({"config": {"digest": shelf.put({"config": config})}})
    assert Registry(fake.host).labels("a", image) == ({"a": "b"} if config and config.get("Labels") else {})
    assert Registry(fake.host).labels("a", shelf.put({"manifests": []})) == {}


class TestImageName:
    @pytest.mark.parametrize(
        ("text", "registry", "repository"),
        [
            ("127.0.0.1:5000/team/image", "127.0.0.1:5000", "team/image"),
            ("localhost/image", "localhost", "image"),
            ("registry.example.com/a/b/c", "registry.example.com", "a/b/c"),
            ("team/image", "docker.io", "team/image"),
            ("ubuntu", "docker.io", "library/ubuntu"),
            ("docker.io/ubuntu", "docker.io", "library/ubuntu"),
            ("index.docker.io/team/image", "docker.io", "team/image"),
            ("r.example:5000/a_b/c--d.e", "r.example:5000", "a_b/c--d.e"),
        ],
    )
    def test_parse(self, text: str, registry: str, repository: str) -> None:
        assert ImageName.parse(text) == ImageName(registry, repository)

    @pytest.mark.parametrize(
        ("text", "name", "reference"),
        [
            ("ubuntu:20.04", "docker.io/library/ubuntu", "20.04"),
            ("ubuntu", "docker.io/library/ubuntu", "latest"),
            (f"ubuntu:20.04@{DIGEST}", "docker.io/library/ubuntu", DIGEST),
            ("docker.io/library/ubuntu:20.04", "docker.io/library/ubuntu", "20.04"),
            ("nvidia/cuda:12.2.0", "docker.io/nvidia/cuda", "12.2.0"),
            ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a", "1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "latest"),
            ("localhost/a:1", "localhost/a", "1"),
        ],
    )
    def test_parse_reference(self, text: str, name: str, reference: str) -> None:
        found, found_reference = ImageName.parse_reference(text)
        assert (str(found), found_reference) == (name, reference)

    def test_text(self) -> None:
        assert str(ImageName.parse("127.0.0.1:5000/team/image")) == "127.0.0.1:5000/team/image"

    @pytest.mark.parametrize(
        "text", ["", "/", "host.example/", "r.example/Team", "r.example/a:tag", "a@sha256:00", "r.example//a", "a/-b"]
    )
    def test_not_a_name(self, text: str) -> None:
        with pytest.raises(UsageError):
            ImageName.parse(text)


class TestCredentials:
    @pytest.fixture(autouse=True)
    def config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path / "config.json"

    def test_no_configuration(self) -> None:
        assert credentials_for("127.0.0.1:5000") is None

    def test_logged_in(self, config: Path) -> None:
        auth = base64.b64encode(b"me:se:cret").decode()
        config.write_text(json.dumps({"auths": {"127.0.0.1:5000": {"auth": auth}}}))
        assert credentials_for("127.0.0.1:5000") == Credentials(username="me", password="se:cret")
        assert credentials_for("127.0.0.1:5001") is None

    def test_docker_hub(self, config: Path) -> None:
        auth = base64.b64encode(b"me:secret").decode()
        config.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
        assert credentials_for("docker.io") == ME

    def test_identity_token(self, config: Path) -> None:
        config.write_text(json.dumps({"auths": {"r.example": {"identitytoken": "t"}}}))
        assert credentials_for("r.example") == Credentials(identity_token="t")

    def test_credential_helper(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        helper = tmp_path / "docker-credential-test"
        helper.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"me\\", \\"Secret\\": \\"for $host\\"}"\n')
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        config.write_text(json.dumps({"credHelpers": {"r.example": "test"}}))
        assert credentials_for("r.example") == Credentials(username="me", password="for r.example")

    def test_credential_helper_that_fails(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        helper = tmp_path / "docker-credential-test"
        helper.write_text("#!/bin/sh\necho the vault is locked\nexit 1\n")
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        config.write_text(json.dumps({"credsStore": "test"}))
        with pytest.raises(RegistryDeniedError, match=r"r\.example") as caught:
            credentials_for("r.example")
        assert "docker login r.example" in caught.value.remedy

    @pytest.mark.parametrize(
        "text",
        ["[]", "{", '{"auths": []}', '{"auths": {"r.example": "text"}}', '{"auths": {"r.example": {"auth": "!!!"}}}'],
    )
    def test_broken_configuration(self, config: Path, text: str) -> None:
        config.write_text(text)
        with pytest.raises(DockerSettingsError, match=str(config)) as caught:
            credentials_for("r.example")
        assert caught.value.why
        assert caught.value.remedy

    def test_password_is_never_shown(self) -> None:
        assert "secret" not in repr(ME)
        assert "refresh" not in repr(Credentials(identity_token="refresh"))


class TestManifests:
    """What a manifest is, and how one is sent."""

    SENT = Manifest(body=MANIFEST, media_type=INDEX)

    def test_what_a_tag_stands_for(self, fake: FakeRegistry) -> None:
        fake.handler = lambda _, request: request.reply(200, MANIFEST, Content_Type=f"{INDEX}; charset=utf-8")
        found = Registry(fake.host).manifest("team/image", "1.0")
        assert found == self.SENT
        assert found.document == {"schemaVersion": 2}
        assert found.digest == f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
        assert Manifest(body=b"[1]", media_type=INDEX).document == {}
        fake.handler = lambda _, request: request.reply(404)
        assert Registry(fake.host).manifest("team/image", "1.0") is None

    def test_it_is_sent_as_it_is(self, fake: FakeRegistry) -> None:
        def handler(_: FakeRegistry, request: Handler) -> None:
            if request.authorization == basic(ME):
                request.reply(201)
            else:
                request.reply(401, WWW_Authenticate='Basic realm="here"')

        fake.handler = handler
        Registry(fake.host, credentials=ME).put_manifest("team/image", DIGEST, self.SENT)
        assert fake.asked[-2:] == [f"PUT /v2/team/image/manifests/{DIGEST}"] * 2
        _, _, headers, body = fake.requests[-1]
        assert (headers["Content-Type"], body) == (INDEX, MANIFEST)

    @pytest.mark.parametrize(
        ("status", "error", "said"),
        [
            (400, RegistryError, "does not take team/image:1.0"),
            (404, RegistryError, "does not take team/image:1.0"),
            (403, RegistryDeniedError, "refused the credentials"),
            (429, RegistryLimitError, "rate limit"),
            (503, RegistryFaultError, "failed"),
        ],
    )
    def test_a_refusal_is_an_error(self, fake: FakeRegistry, status: int, error: type[FactoryError], said: str) -> None:
        fake.handler = lambda _, request: request.reply(status, b"MANIFEST_BLOB_UNKNOWN", Retry_After="7")
        with pytest.raises(error, match=said) as caught:
            Registry(fake.host).put_manifest("team/image", "1.0", self.SENT)
        assert "MANIFEST_BLOB_UNKNOWN" in caught.value.why
        if isinstance(caught.value, RegistryFaultError):
            assert caught.value.retry_after == 7.0
