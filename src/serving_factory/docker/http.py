"""Asks many addresses at once whether they answer, within a time for all of them."""

from __future__ import annotations

import base64
import contextlib
import http
import http.client
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from serving_factory.errors import (
    DownloadError,
    DownloadFaultError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from serving_factory.errors import FactoryError


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
    """Say whether the engine and we talk plain HTTP to it: localhost and 127.0.0.0/8, as Docker does."""
    host = registry.rpartition(":")[0] or registry
    return host == "localhost" or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from pathlib import Path
    from typing import IO


REASON_LIMIT = 500  # characters of an answer that an error quotes


class Trouble(StrEnum):
    """Why there is no answer."""

    UNREACHABLE = "nobody answers at that address"
    CUT = "the connection broke"
    TLS = "the other end does not speak HTTPS as it should"
    CERTIFICATE = "the other end's certificate is not trusted"


class NoAnswerError(Exception):
    """No answer came.

    Args:
        trouble: why.
        reason: the evidence.
    """

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to get out of this network.

    Args:
        proxies: scheme → the proxy's URL; where empty, HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment count.
        no_proxy: names that are asked directly beside those of NO_PROXY, joined by commas.
        ca_certificates: a PEM file of authorities that are trusted beside the system's.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    ca_certificates: Path | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def reason(self) -> str:
        """The beginning of its text."""
        return self.body[:REASON_LIMIT].decode("utf-8", errors="replace").strip() or "(no text)"

    @property
    def retry_after(self) -> float | None:
        """The seconds to wait that Retry-After asks for (RFC 9110, section 10.2.3); None where it says nothing."""
        text = str(self.headers.get("Retry-After", "")).strip()
        if text.isdecimal():
            return float(text)
        with contextlib.suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        return None


class Asker:
    """Asks by HTTP and HTTPS.

    Args:
        route: how to get out of this network.
        direct: ask without any proxy.
        timeout: seconds that each connection and each answer may take.

    Raises:
        UsageError: the route's file of certificates cannot be used.
    """

    def __init__(self, *, route: Route | None = None, direct: bool = False, timeout: float = 20.0) -> None:
        route = route or Route()
        self._timeout = timeout
        handlers: list[urllib.request.BaseHandler] = [
            _Redirects(),
            urllib.request.HTTPSHandler(context=_trust(route.ca_certificates)),
        ]
        if direct:
            handlers.append(urllib.request.ProxyHandler({}))
        elif route.proxies:
            handlers.append(_Proxies(route.proxies, route.no_proxy))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, method: str, url: str, headers: Mapping[str, str] | None = None, data: bytes | None = None) -> Answer:
        """Ask once. Redirections are followed, without the headers given.

        Raises:
            NoAnswerError: none came.
        """
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - callers give http and https only
        for name, value in (headers or {}).items():
            request.add_unredirected_header(name, value)
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, _body(error))
        except urllib.error.URLError as error:
            raise _no_answer(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(Trouble.CUT, repr(error)) from error


def _trust(file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if file is not None:
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"{file}: no certificates can be read from this file",
                why=str(error),
                remedy="name a PEM file, whose blocks begin with -----BEGIN CERTIFICATE-----",
            ) from error
    return context


def _no_answer(reason: object) -> NoAnswerError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NoAnswerError(Trouble.CERTIFICATE, str(reason))
    if isinstance(reason, ssl.SSLError):
        return NoAnswerError(Trouble.TLS, str(reason))
    if isinstance(reason, ConnectionResetError | BrokenPipeError):
        return NoAnswerError(Trouble.CUT, str(reason))
    return NoAnswerError(Trouble.UNREACHABLE, str(reason))


class _Proxies(urllib.request.ProxyHandler):
    """Proxies that take the place of the environment's; its NO_PROXY counts beside theirs."""

    def __init__(self, proxies: Mapping[str, str], no_proxy: str) -> None:
        super().__init__(dict(proxies))
        self._no = {"no": no_proxy}

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> object:  # noqa: A002 - the library's name
        host = req.host or ""
        if urllib.request.proxy_bypass_environment(host, self._no):  # type: ignore[attr-defined] # documented nowhere else
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the method: the standard library turns a redirected HEAD into a GET."""

    def redirect_request(  # noqa: PLR0917  (the standard library's signature)
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected is not None:
            redirected.method = req.get_method()
        return redirected


def _body(response: urllib.error.HTTPError) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException):
        return b""  # the status alone decides


_GONE = {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}
_DENIED = {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}


def fetch_text(url: str, *, route: Route | None = None, timeout: float = 20.0) -> str | None:
    """Fetch a text.

    Args:
        url: http or https; a name and a password in it are sent, and never shown.
        route: how to get out of this network; this machine itself is asked directly.
        timeout: seconds that each connection and each answer may take.

    Returns:
        The text; None if the server says that there is none.

    Raises:
        DownloadFaultError: the server failed in a way that may be over the next time.
        DownloadError: it cannot be had, for another reason.
    """
    url, headers = _without_password(url)
    asker = Asker(route=route, direct=is_loopback(urllib.parse.urlsplit(url).netloc), timeout=timeout)
    try:
        answer = asker.ask("GET", url, headers)
    except NoAnswerError as error:
        raise _failed(url, error) from error
    if answer.status in _GONE:
        return None
    if answer.status != http.HTTPStatus.OK:
        raise _refused(url, answer)
    return answer.body.decode("utf-8", errors="replace")


def _without_password(url: str) -> tuple[str, dict[str, str]]:
    """Give the URL as it may be shown, and the header that its name and password become."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise DownloadError(
            f"{url} cannot be asked: it is neither http nor https.",
            remedy="Name a mirror by its https URL at network.bazel_mirror in the matrix file.",
        )
    user, at, place = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=place).geturl()
    if not at:
        return shown, {}
    pair = base64.b64encode(urllib.parse.unquote(user).encode()).decode("ascii")
    return shown, {"Authorization": f"Basic {pair}"}


def _failed(url: str, error: NoAnswerError) -> DownloadError:
    if error.trouble is Trouble.CUT:
        return _fault(url, f"{error.trouble.capitalize()}: {error.reason}")
    if error.trouble is Trouble.CERTIFICATE:
        remedy = "Name the authority's certificate at network.ca_certificates in the matrix file."
    else:
        remedy = "Name a mirror at network.bazel_mirror in the matrix file, or this network's proxy at network.proxies."
    return DownloadError(
        f"{url} cannot be reached.", why=f"{error.trouble.capitalize()}: {error.reason}", remedy=remedy
    )


def _refused(url: str, answer: Answer) -> DownloadError:
    why = f"The server answered {answer.status}: {answer.reason}"
    if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS or answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return _fault(url, why)
    denied = answer.status in _DENIED
    return DownloadError(
        f"{url} is not given to us." if denied else f"{url} cannot be had.",
        why=why,
        remedy="Name a mirror that asks for no password at network.bazel_mirror in the matrix file.",
    )


def _fault(url: str, why: str) -> DownloadFaultError:
    return DownloadFaultError(f"{url} could not be fetched.", why=why, remedy="Run the same command again later.")


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_NOT_THERE = {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}
_SECONDS_EACH = 8.0


class Reach(StrEnum):
    """What came of asking an address."""

    THERE = "there"
    ANSWERS = "answers"
    GONE = "not there"
    REFUSED = "refused"
    SILENT = "no answer"


def reach_all(urls: Iterable[str], *, route: Route, seconds: float = 10.0) -> Mapping[str, tuple[Reach, str]]:
    """Ask each address by HEAD, all at once.

    Args:
        urls: http or https.
        route: how to get out of this network; this machine itself is asked directly.
        seconds: for all of them together.

    Returns:
        Address -> what came of it, and in words what it answered.
    """
    found: dict[str, tuple[Reach, str]] = {}
    asked = tuple(dict.fromkeys(urls))

    def ask(url: str) -> None:
        found[url] = _ask(url, route)

    # Daemons: one that hangs on a name server is no reason to wait any longer.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in asked]
    ends = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    return {url: found.get(url, (Reach.SILENT, f"none within {seconds:.0f} s")) for url in asked}


def _ask(url: str, route: Route) -> tuple[Reach, str]:
    try:
        direct = is_loopback(urllib.parse.urlsplit(url).netloc)
        answer = Asker(route=route, direct=direct, timeout=_SECONDS_EACH).ask("HEAD", url)
    except NoAnswerError as error:
        return Reach.SILENT, f"{error.trouble}: {error.reason}"
    except ValueError as error:  # no address at all
        return Reach.SILENT, str(error)
    told = f"HTTP {answer.status}"
    if answer.status < http.HTTPStatus.BAD_REQUEST:
        return Reach.THERE, told
    if answer.status in _NOT_THERE:
        return Reach.GONE, told
    if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        return Reach.REFUSED, told
    return Reach.ANSWERS, told
