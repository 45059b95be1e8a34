"""One HTTP question and its answer. What an answer means is for who asked; that none came is told here, by kind."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from serving_factory.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from pathlib import Path
    from typing import IO

__all__ = ["Answer", "Asker", "NoAnswerError", "Route", "Trouble"]

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
