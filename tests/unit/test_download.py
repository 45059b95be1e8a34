"""docker/http.py, against small servers on loopback."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from serving_factory.docker import process
from serving_factory.docker.http import Answer, Client, NoAnswerError, Patience, Route, Trouble, fetch_text
from serving_factory.docker.process import Cancel
from serving_factory.errors import CancelledError, DownloadError, DownloadFaultError, UsageError

from .test_registry import FakeRegistry, Handler, fake

__all__ = ["fake"]


def serve(fake: FakeRegistry, status: int, body: bytes = b"") -> str:
    fake.handler = lambda _, request: request.reply(status, body)
    return f"http://{fake.host}/3.0.0/bazel.sha256"


# --- a text -----------------------------------------------------------------------------------------------------------


def test_a_text_is_fetched(fake: FakeRegistry) -> None:
    assert fetch_text(serve(fake, 200, b"abc\n")) == "abc\n"
    assert fake.asked == ["GET /3.0.0/bazel.sha256"]


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_none(fake: FakeRegistry, status: int) -> None:
    assert fetch_text(serve(fake, status)) is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faults_are_worth_a_retry(fake: FakeRegistry, status: int) -> None:
    with pytest.raises(DownloadFaultError) as caught:
        fetch_text(serve(fake, status, b"too much"))
    assert f"{status}: too much" in caught.value.why


@pytest.mark.parametrize("status", [401, 403, 400])
def test_refusals_are_not(fake: FakeRegistry, status: int) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_text(serve(fake, status))
    assert not isinstance(caught.value, DownloadFaultError)
    assert "network.bazel_mirror" in caught.value.remedy


def test_a_cut_connection_is_worth_a_retry(fake: FakeRegistry) -> None:
    fake.handler = lambda _, request: request.cut()
    with pytest.raises(DownloadFaultError, match="could not be fetched"):
        fetch_text(f"http://{fake.host}/x")


def test_nothing_there() -> None:
    with pytest.raises(DownloadError, match="cannot be fetched") as caught:
        fetch_text("http://127.0.0.1:1/x")
    assert not isinstance(caught.value, DownloadFaultError)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_files_of_this_machine_are_no_downloads(url: str) -> None:
    with pytest.raises(DownloadError, match="neither http nor https"):
        fetch_text(url)


def test_a_password_is_sent_and_not_shown(fake: FakeRegistry) -> None:
    serve(fake, 403)
    with pytest.raises(DownloadError) as caught:
        fetch_text(f"http://me:s%40crit@{fake.host}/x")
    assert fake.requests[0][2]["Authorization"] == "Basic " + base64.b64encode(b"me:s@crit").decode()
    assert "crit" not in str(caught.value)


# --- the way there ----------------------------------------------------------------------------------------------------


def through(fake: FakeRegistry, **route: str) -> Client:
    fake.handler = lambda _, request: request.reply(200, b"by proxy")
    return Client(route=Route(proxies={"http": f"http://{fake.host}"}, **route), patience=Patience(total=5))  # type: ignore[arg-type] # only no_proxy


def test_a_networks_proxy_is_asked(fake: FakeRegistry) -> None:
    answer = through(fake).ask("GET", "http://mirror.example.com/x")
    assert (answer.status, answer.body) == (200, b"by proxy")
    assert fake.asked == ["GET http://mirror.example.com/x"]


def test_a_networks_proxy_goes_before_that_of_the_environment(
    fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert through(fake).ask("GET", "http://mirror.example.com/x").body == b"by proxy"


def test_hosts_that_need_no_proxy_are_asked_directly(fake: FakeRegistry) -> None:
    through(fake, no_proxy="localhost,.invalid").ask("GET", "http://mirror.example.com/x")
    with pytest.raises(NoAnswerError) as caught:
        through(fake, no_proxy="localhost,.invalid").ask("GET", "http://mirror.invalid/x")
    assert caught.value.trouble is Trouble.UNREACHABLE
    assert fake.asked == ["GET http://mirror.example.com/x"]


def test_without_one_the_environments_proxy_is_asked(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{fake.host}")
    fake.handler = lambda _, request: request.reply(200, b"by proxy")
    assert Client(patience=Patience(total=5)).ask("GET", "http://mirror.example.com/x").body == b"by proxy"


def test_certificates_that_are_none_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate\n")
    with pytest.raises(UsageError, match=r"ca\.pem") as caught:
        Client(route=Route(ca_certificates=file)).ask("GET", "https://mirror.example.com/x")
    assert "BEGIN CERTIFICATE" in caught.value.remedy


@pytest.mark.parametrize(
    "address", ["http://a..b/", f"http://{'a' * 80}.invalid/", "http://127.0.0.1:port/", "http://\xff/"]
)
def test_a_redirection_to_what_is_no_address_is_no_answer(fake: FakeRegistry, address: str) -> None:
    fake.handler = lambda _, request: request.reply(307, Location=address)
    with pytest.raises(NoAnswerError) as caught:
        ask(fake)
    assert caught.value.trouble in {Trouble.ADDRESS, Trouble.UNREACHABLE}
    with pytest.raises(DownloadError, match="cannot be fetched"):
        fetch_text(f"http://{fake.host}/x")


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1/x", "file:///etc/passwd", "data:,x", "http://[::1", "//[", ""])
def test_no_redirection_leads_out_of_http(fake: FakeRegistry, address: str) -> None:
    fake.handler = lambda _, request: request.reply(307, b"over there", Location=address)
    assert (ask(fake).status, ask(fake).body) == (307, b"over there")


@pytest.mark.parametrize("proxy", ["http:/x", "http://[::1", "http://127.0.0.1:port"])
def test_a_proxy_that_is_no_address_is_no_answer(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(NoAnswerError) as caught:
        Client().ask("GET", "http://mirror.invalid/")
    assert caught.value.trouble in {Trouble.ADDRESS, Trouble.UNREACHABLE}


# --- Retry-After ------------------------------------------------------------------------------------------------------


def answer(retry_after: str) -> Answer:
    headers = Message()
    headers["Retry-After"] = retry_after
    return Answer(429, headers, b"")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert answer("120").retry_after == 120.0
    assert answer(formatdate(time.time() + 60, usegmt=True)).retry_after == pytest.approx(60, abs=5)
    assert answer(formatdate(0, usegmt=True)).retry_after == 0.0
    assert answer("-1").retry_after is None
    assert Answer(429, Message(), b"").retry_after is None


# --- limits -----------------------------------------------------------------------------------------------------------


def ask(fake: FakeRegistry, **patience: Any) -> Answer:  # noqa: ANN401 - as Patience takes them
    return Client(direct=True, patience=Patience(**patience)).ask("GET", f"http://{fake.host}/x")


def endless(piece: bytes, pause: float) -> Callable[[FakeRegistry, Handler], None]:
    """Sends pieces for as long as someone reads."""

    def handler(_: FakeRegistry, request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        with suppress(OSError):
            while True:
                request.wfile.write(piece)
                time.sleep(pause)

    return handler


def test_no_more_is_read_than_a_registry_may_send(fake: FakeRegistry) -> None:
    fake.handler = endless(b"x" * 65536, 0)
    with pytest.raises(NoAnswerError) as caught:
        ask(fake)
    assert caught.value.trouble is Trouble.TOO_BIG


def test_an_answer_that_trickles_ends_with_the_deadline(fake: FakeRegistry) -> None:
    fake.handler = endless(b"x", 0.02)
    began = time.monotonic()
    with pytest.raises(NoAnswerError) as caught:
        ask(fake, total=0.4)
    assert caught.value.trouble is Trouble.SLOW
    assert time.monotonic() - began < 2


def test_headers_that_trickle_end_with_the_deadline(fake: FakeRegistry) -> None:
    def handler(_: FakeRegistry, request: Handler) -> None:
        with suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200:
                request.wfile.write(bytes([byte]))
                time.sleep(0.02)
        request.close_connection = True

    fake.handler = handler
    with pytest.raises(NoAnswerError) as caught:
        ask(fake, total=0.3)
    assert caught.value.trouble is Trouble.SLOW


def test_a_cancelled_run_waits_for_no_answer(fake: FakeRegistry) -> None:
    fake.handler = endless(b"x", 0.02)
    cancel = Cancel()
    threading.Timer(0.2, cancel.ask).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        ask(fake, cancel=cancel)
    assert time.monotonic() - began < 1


def test_a_long_wait_is_reported(fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "REPORT_AFTER", 0.1)
    fake.handler = endless(b"x", 0.02)
    reported: list[str] = []
    with pytest.raises(NoAnswerError):
        ask(fake, total=0.5, report=reported.append)
    (line,) = reported
    assert f"waiting for {fake.host}" in line


def test_retry_after_comes_with_the_error(fake: FakeRegistry) -> None:
    fake.handler = lambda _, request: request.reply(503, Retry_After="7")
    with pytest.raises(DownloadFaultError) as caught:
        fetch_text(f"http://{fake.host}/x")
    assert caught.value.retry_after == 7
