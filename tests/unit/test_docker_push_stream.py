"""docker/push.py, on streams recorded from Docker Engine 26.1.5 and docker-registry 2.8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving_factory.docker.http import is_loopback
from serving_factory.docker.push import PushResult, read_push
from serving_factory.docker.registry import from_text
from serving_factory.errors import (
    FactoryError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
)

REGISTRY = "127.0.0.1:5000"
DIGEST = "sha256:60fab71367473b8ac25cb74b91ab9d7c4a55ab951b4966e718f0eb8196dc4570"
RECORDED = Path(__file__).with_name("recorded") / "push-streams.jsonl"


def recorded(label: str) -> list[dict[str, Any]]:
    items = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    return [item for item in items if item.pop("label") == label]


def read(items: list[dict[str, Any]]) -> tuple[PushResult, list[str]]:
    reported: list[str] = []
    return read_push(items, registry=REGISTRY, on_status=reported.append), reported


@pytest.mark.parametrize(
    ("label", "pushed"), [("first", 2), ("again", 0), ("mounted", 0), ("two 500 on POST upload", 1)]
)
def test_recorded_success(label: str, pushed: int) -> None:
    result, _ = read(recorded(label))
    assert result == PushResult(digest=DIGEST, pushed_layers=pushed)


@pytest.mark.parametrize(
    ("label", "error"),
    [
        ("wrong password", RegistryDeniedError),
        ("no password", RegistryDeniedError),
        ("503 on ping", RegistryDeniedError),
        ("two 500 on PUT manifest", RegistryFaultError),
        ("cut on PUT manifest", RegistryFaultError),
        ("cut on PATCH", RegistryFaultError),
        ("429 on PUT manifest", RegistryLimitError),
        ("cut on ping", RegistryFaultError),
        ("refused", RegistryUnreachableError),
        ("no host", RegistryUnreachableError),
    ],
)
def test_recorded_failure(label: str, error: type[FactoryError]) -> None:
    items = recorded(label)
    with pytest.raises(error) as caught:
        read(items)
    assert type(caught.value) is error
    assert caught.value.why == items[-1]["error"]
    assert REGISTRY in caught.value.what
    assert caught.value.remedy


def test_progress_is_reported_in_few_words() -> None:
    megabyte = 1_000_000
    layer = {"id": "a", "status": "Pushing"}
    _, reported = read(
        [
            {"status": "The push refers to repository [x]"},
            {"id": "a", "status": "Preparing", "progressDetail": {}},
            {"id": "b", "status": "Preparing", "progressDetail": {}},
            {"id": "b", "status": "Waiting", "progressDetail": {}},
            {**layer, "progressDetail": {"current": 512, "total": 40 * megabyte}},
            {**layer, "progressDetail": {"current": 700, "total": 40 * megabyte}},
            {**layer, "progressDetail": {"current": 12 * megabyte, "total": 40 * megabyte}},
            {**layer, "progressDetail": {"current": 41 * megabyte, "total": 40 * megabyte}},
            {"id": "a", "status": "Pushed", "progressDetail": {}},
            {"id": "b", "status": "Layer already exists", "progressDetail": {}},
            {"aux": {"Tag": "1", "Digest": DIGEST, "Size": 7}},
        ]
    )
    assert reported == [
        "0 of 1 layers there",
        "0 of 2 layers there",
        "0 of 2 layers there, 0 of 40 MB sent",
        "0 of 2 layers there, 12 of 40 MB sent",
        "0 of 2 layers there, 40 of 40 MB sent",
        "1 of 2 layers there, 40 of 40 MB sent",
        "2 of 2 layers there, 40 of 40 MB sent",
    ]


def test_the_engines_own_retries_are_reported() -> None:
    retried: list[str] = []
    reported: list[str] = []
    read_push(recorded("404 on upload"), registry=REGISTRY, on_status=reported.append, on_retry=retried.append)
    assert "Retrying in 5 seconds" in reported
    assert [text.rpartition(" in ")[2] for text in retried] == ["5 s", "10 s"], "once a round"


def test_digest_from_the_status_line_of_engines_without_aux() -> None:
    result, _ = read([{"status": f"1: digest: {DIGEST} size: 734"}])
    assert result.digest == DIGEST


def test_end_without_a_digest_is_an_error() -> None:
    with pytest.raises(RegistryError, match="without naming a digest"):
        read(recorded("first")[:-2])


def test_an_error_after_the_digest_is_still_an_error() -> None:
    """docker-py issues 3277 and 2226: a denied push that reads as success."""
    with pytest.raises(RegistryDeniedError):
        read([*recorded("first"), {"errorDetail": {"message": "denied: quota"}, "error": "denied: quota"}])


def test_error_without_detail() -> None:
    with pytest.raises(RegistryFaultError):
        read([{"error": "unexpected EOF"}])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dial tcp 10.1.2.3:443: i/o timeout", RegistryUnreachableError),
        ("dial tcp 10.1.2.3:443: connect: no route to host", RegistryUnreachableError),
        ("dial tcp: lookup r.example on 127.0.0.53:53: server misbehaving", RegistryUnreachableError),
        ("net/http: request canceled while waiting for connection (Client.Timeout exceeded)", RegistryUnreachableError),
        ("proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused", RegistryUnreachableError),
        ("denied: requested access to the resource is denied", RegistryDeniedError),
        ("unauthorized: authentication required", RegistryDeniedError),
        ("no basic auth credentials", RegistryDeniedError),
        ("insufficient_scope: authorization failed", RegistryDeniedError),
        ("unexpected status from PUT request to https://r/v2/a/manifests/1: 403 Forbidden", RegistryDeniedError),
        ("received unexpected HTTP status: 502 Bad Gateway", RegistryFaultError),
        (
            "unexpected status from PUT request to https://r/v2/a/manifests/1: 503 Service Unavailable",
            RegistryFaultError,
        ),
        ("received unexpected HTTP status: 429 Too Many Requests", RegistryLimitError),
        ("toomanyrequests: Too Many Requests", RegistryLimitError),
        ("unknown blob", RegistryFaultError),
        ("blob upload unknown", RegistryFaultError),
        ("write tcp 10.0.0.1:1->10.0.0.2:443: write: connection reset by peer", RegistryFaultError),
        ("net/http: TLS handshake timeout", RegistryFaultError),
        ("net/http: request canceled (Client.Timeout exceeded while awaiting headers)", RegistryFaultError),
        ("manifest invalid: manifest invalid", RegistryError),
        ("name invalid: a digest with 429 and 503 inside: sha256:429503", RegistryError),
        ("http: server gave HTTP response to HTTPS client", RegistryError),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", RegistryError),
    ],
)
def test_texts(text: str, error: type[FactoryError]) -> None:
    found = from_text(REGISTRY, text)
    assert type(found) is error
    assert found.why == text
    assert found.remedy


def test_remedies_name_the_right_file() -> None:
    assert "certificate" in from_text(REGISTRY, "server gave HTTP response to HTTPS client").remedy
    assert f"certs.d/{REGISTRY}" in from_text(REGISTRY, "x509: unknown authority").remedy


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("127.evil.example", False),
        ("localhost.example:5000", False),
        ("registry.example.com:5000", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_plain_http_is_for_this_machine_only(registry: str, *, loopback: bool) -> None:
    assert is_loopback(registry) is loopback
