"""The matrix file's model of a remote cache and remote execution: `bazel.remote`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.matrix.shapes import Section, Table, TruthOr, key, matching
from serving_factory.matrix.words import FILE

__all__ = ["RemoteSection", "TlsSection"]

REMOTE = matching(
    r"(?:https?|grpcs?)://[^\s'\"`$\\\\{}#]+",
    "a remote cache has a URL with http, https, grpc or grpcs",
    "Write it like https://cache.example.com/bazel or grpcs://cache.example.com:443.",
)
EXECUTOR = matching(
    r"grpcs?://[^\s'\"`$\\\\{}#/]+",
    "remote execution has a URL with grpc or grpcs",
    "Write it like grpcs://build.example.com:443.",
)
HEADER = matching(
    r"[A-Za-z0-9_.-]+", "a header's name is letters, digits, '_', '.' and '-'", "Write it like x-api-key."
)
HEADER_VALUE = matching(
    r"[^\x00-\x1f\x7f]+", "a header's value is not empty and holds no control characters", "Write it on one line."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSection:
    """Files (PEM) for the connection to a remote cache."""

    certificate: str | None = key(FILE, "Of the authority that signed the server's; not for https.", default=None)
    client_certificate: str | None = key(FILE, "Who we are.", default=None)
    client_key: str | None = key(FILE, "The key to that.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSection:
    """A cache, or builders, that other machines share."""

    cache: str | None = key(
        REMOTE, "The remote cache's URL; each toolchain has a place of its own in it.", default=None
    )
    executor: str | None = key(EXECUTOR, "The URL of a remote execution service.", default=None)
    upload: bool | None = key(
        TruthOr("auto"),
        "Whether results go there: true, false, or `auto`, which is true where CI is set.",
        default=None,
    )
    headers: Mapping[str, str] = key(
        Table(HEADER, HEADER_VALUE), "Sent along with each request, and kept secret.", default_factory=dict
    )
    tls: TlsSection = key(Section(TlsSection), "Files for the connection.", default_factory=TlsSection)
