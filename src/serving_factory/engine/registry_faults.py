"""What a registry's refusal means, whoever tells it: the engine while pushing, or the registry itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from serving_factory.errors import (
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
)

if TYPE_CHECKING:
    from serving_factory.errors import FactoryError

__all__ = ["denied", "fault", "from_text", "is_loopback", "limit", "unreachable"]

UNREACHABLE = re.compile(
    r"connection refused|no such host|i/o timeout|no route to host|network is unreachable|server misbehaving"
    r"|temporary failure in name resolution|while waiting for connection",
    re.IGNORECASE,
)
FAULT = re.compile(
    r"HTTP status:? (5\d\d|429)|request to \S+: (5\d\d|429)|\b(5\d\d|429) (Internal|Bad|Service|Gateway|Too)"
    r"|too ?many ?requests|\bEOF\b|unknown blob|blob upload (unknown|invalid)|connection reset|broken pipe"
    r"|TLS handshake timeout|connection closed|server closed|Client\.Timeout|deadline exceeded",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"unauthorized|denied|authentication required|no basic auth credentials|insufficient_scope|forbidden",
    re.IGNORECASE,
)
NOT_TLS = re.compile(r"server gave HTTP response to HTTPS client", re.IGNORECASE)
CERTIFICATE = re.compile(r"x509|certificate verify failed|CERTIFICATE_VERIFY_FAILED", re.IGNORECASE)


def unreachable(registry: str, why: str) -> RegistryUnreachableError:
    """Nothing answers at the registry's address."""
    return RegistryUnreachableError(
        f"The registry {registry} cannot be reached.",
        why=why,
        remedy=f"Check the registry's name, that it runs, and that this machine reaches it: curl -i "
        f"{'http' if is_loopback(registry) else 'https'}://{registry}/v2/",
    )


def denied(registry: str, why: str) -> RegistryDeniedError:
    """The registry wants credentials, or other ones."""
    return RegistryDeniedError(
        f"The registry {registry} refused the credentials, or there are none for it.",
        why=why,
        remedy=f"Log in with an account that may do this there: docker login {registry}",
    )


def fault(registry: str, why: str) -> RegistryFaultError:
    """The registry failed in a way that may be over the next time."""
    return RegistryFaultError(
        f"The registry {registry} failed while it was being asked.",
        why=why,
        remedy="Run the same command again later: what the registry has is not sent twice. If it goes on, look "
        "at the registry's own log.",
    )


def limit(registry: str, why: str, retry_after: float | None) -> RegistryLimitError:
    """The registry has had enough of us for now."""
    asked = f" It asks to wait {retry_after:.0f} s." if retry_after else ""
    return RegistryLimitError(
        f"The registry {registry} answers no more requests for now: its rate limit is used up.",
        why=why + asked,
        remedy="Run the same command again later. A log-in often has a higher limit than none: docker login "
        f"{registry}; or name a mirror at network.base_images in the matrix file.",
        retry_after=retry_after,
    )


def from_text(registry: str, text: str) -> FactoryError:
    """Find the error that a message means, such as the engine's while it pushes."""
    if NOT_TLS.search(text):
        return RegistryError(
            f"The registry {registry} speaks plain HTTP, and the engine wants HTTPS.",
            why=text,
            remedy="Give the registry a certificate. Plain HTTP is for registries on this machine alone, by the name "
            "127.0.0.1 or localhost.",
        )
    if CERTIFICATE.search(text):
        return RegistryError(
            f"The registry {registry} has a certificate that is not trusted here.",
            why=text,
            remedy=f"Put the authority's certificate into /etc/docker/certs.d/{registry}/ca.crt for the "
            "engine, and name it in SSL_CERT_FILE for the factory.",
        )
    if UNREACHABLE.search(text):
        return unreachable(registry, text)
    if FAULT.search(text):
        return fault(registry, text)
    if DENIED.search(text):
        return denied(registry, text)
    return RegistryError(
        f"The registry {registry} refused.",
        why=text,
        remedy="Read the registry's message above; its own log may say more.",
    )


def is_loopback(registry: str) -> bool:
    """Tell whether the engine and we talk plain HTTP to it: localhost and 127.0.0.0/8, as Docker does."""
    host = registry.rpartition(":")[0] or registry
    return host == "localhost" or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None
