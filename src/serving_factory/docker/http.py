"""HTTP with limits: each request has a deadline and a largest answer, and a cancelled run does not wait for it."""

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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import serving_factory
from serving_factory.docker.process import Cancel, bounded
from serving_factory.errors import DownloadError, DownloadFaultError, UsageError

MAX_BYTES = 4 * 2**20  # the largest manifest that registries must take (OCI distribution specification)
CHUNK = 65536
REASON_LIMIT = 500  # characters of an answer that an error quotes
# Some networks in front of registries refuse what the standard library says of itself: cloudflare's error 1010.
_AGENT = f"serving-factory/{serving_factory.__version__}"
GONE = frozenset({http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE})
DENIED = frozenset({http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN})


class Trouble(StrEnum):
    """Why there is no usable answer."""

    UNREACHABLE = "nothing answers at that address"
    ADDRESS = "an address, or a proxy's, is not valid"
    CUT = "the connection broke"
    SLOW = "the answer took too long"
    TOO_BIG = "the answer is too large"
    TLS = "the server does not speak HTTPS"
    CERTIFICATE = "the server's certificate is not trusted"


_TROUBLES = (
    (ssl.SSLCertVerificationError, Trouble.CERTIFICATE),
    (ssl.SSLError, Trouble.TLS),
    ((ConnectionResetError, BrokenPipeError), Trouble.CUT),
)


class NoAnswerError(Exception):
    """There is no usable answer; `reason` is the evidence."""

    def __init__(self, trouble: Trouble, reason: object) -> None:
        super().__init__(trouble, reason)
        self.trouble = trouble
        self.reason = str(reason)

    @property
    def why(self) -> str:
        """Trouble and reason in a line."""
        return f"{self.trouble.capitalize()}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way out of this network."""

    # scheme → the proxy's URL; where empty, HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment count
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""  # hosts that need no proxy, beside those of NO_PROXY, joined by commas
    ca_certificates: Path | None = None  # a PEM file of authorities that are trusted beside the system's


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take, and who hears of a long one."""

    each: float = 20.0  # seconds for the connection, and for each piece of the answer
    total: float = 60.0  # seconds for the whole answer, redirections included
    cancel: Cancel | None = None  # ends the wait when asked
    report: Callable[[str], object] | None = None  # called with a sentence while the wait is long


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def reason(self) -> str:
        """The beginning of its text."""
        return self.body[:REASON_LIMIT].decode("utf-8", errors="replace").strip() or "(no text)"

    @property
    def retry_after(self) -> float | None:
        """The seconds that Retry-After asks to wait (RFC 9110, section 10.2.3), if it does."""
        text = str(self.headers.get("Retry-After", "")).strip()
        if text.isdecimal():
            return float(text)
        with contextlib.suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        return None

    @property
    def is_fault(self) -> bool:
        """Whether the same request may work later."""
        return self.status == http.HTTPStatus.TOO_MANY_REQUESTS or self.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Speaks HTTP and HTTPS."""

    route: Route = field(default_factory=Route)
    direct: bool = False  # without the route's proxies
    context: ssl.SSLContext | None = None  # whom it trusts, if not the route's authorities
    patience: Patience = field(default_factory=Patience)
    redirected: bool = True  # whether redirections are followed

    def _opener(self) -> urllib.request.OpenerDirector:
        context = self.context or trusting(self.route.ca_certificates)
        handlers: list[urllib.request.BaseHandler] = [
            _Redirects(self.redirected),
            urllib.request.HTTPSHandler(context=context),
        ]
        if self.direct:
            handlers.append(urllib.request.ProxyHandler({}))
        elif self.route.proxies:
            handlers.append(_Proxies(self.route.proxies, self.route.no_proxy))
        return urllib.request.build_opener(*handlers)

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        sink: Callable[[bytes], object] | None = None,  # takes the body of a success, piece by piece, however large
    ) -> Answer:
        """Send one request; redirections are followed without these headers. Raises NoAnswerError."""
        patience = self.patience
        deadline = time.monotonic() + patience.total

        def report(waited: float) -> None:
            if patience.report is not None:
                host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
                patience.report(f"waiting for {host}, {waited:.0f} s so far")

        try:
            request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - callers give http and https
            request.add_header("User-Agent", _AGENT)
            for name, value in (headers or {}).items():
                request.add_unredirected_header(name, value)
            exchange = partial(self._exchange, request, deadline, sink)
            return bounded(exchange, seconds=patience.total, cancel=patience.cancel, on_wait=report)
        except urllib.error.URLError as error:
            trouble = next((each for kind, each in _TROUBLES if isinstance(error.reason, kind)), Trouble.UNREACHABLE)
            raise NoAnswerError(trouble, error.reason) from error
        except TimeoutError as error:
            raise NoAnswerError(Trouble.SLOW, str(error) or "timed out") from error
        except (OSError, http.client.HTTPException) as error:
            trouble = Trouble.ADDRESS if isinstance(error, http.client.InvalidURL) else Trouble.CUT
            raise NoAnswerError(trouble, repr(error)) from error
        except ValueError as error:  # of a redirection, or of the environment; a UnicodeError is one
            raise NoAnswerError(Trouble.ADDRESS, error) from error

    def _exchange(
        self, request: urllib.request.Request, deadline: float, sink: Callable[[bytes], object] | None
    ) -> Answer:
        try:
            with self._opener().open(request, timeout=self.patience.each) as response:
                return Answer(response.status, response.headers, _read(response, deadline, sink))
        except urllib.error.HTTPError as error:
            with error:
                try:
                    body = _read(error, deadline)
                except (OSError, http.client.HTTPException, NoAnswerError):
                    body = b""  # the status alone decides
                return Answer(error.code, error.headers, body)


def _read(response: IO[bytes], deadline: float, sink: Callable[[bytes], object] | None = None) -> bytes:
    body = b""
    while piece := response.read1(CHUNK):  # type: ignore[attr-defined] # http.client.HTTPResponse has it
        if sink:
            sink(piece)
        else:
            body += piece
        if len(body) > MAX_BYTES:
            raise NoAnswerError(Trouble.TOO_BIG, f"more than {MAX_BYTES // 2**20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(body)} bytes came in time, and not all")
    missing = getattr(response, "length", None)
    if missing:
        raise http.client.IncompleteRead(body, missing)
    return body


@cache
def trusting(own: Path | None, *more: Path) -> ssl.SSLContext:
    """Trust the system's authorities, a network's own (UsageError where that file cannot be used), and more files."""
    context = ssl.create_default_context()
    try:
        if own is not None:
            context.load_verify_locations(cafile=own)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"{own}: no certificates can be read from this file",
            why=str(error),
            remedy="name a PEM file, whose blocks begin with -----BEGIN CERTIFICATE-----",
        ) from error
    for file in more:
        with contextlib.suppress(OSError):
            context.load_verify_locations(cafile=file)
    return context


@cache
def trusting_anyone() -> ssl.SSLContext:
    """For TLS without certificates that can be checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by the names that Docker trusts without TLS."""
    name = host.rpartition(":")[0] or host
    return name in {"localhost", "[::1]"} or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


class _Proxies(urllib.request.ProxyHandler):
    """Proxies that replace the environment's; its NO_PROXY counts beside theirs."""

    def __init__(self, proxies: Mapping[str, str], no_proxy: str) -> None:
        super().__init__(dict(proxies))
        self._no = {"no": no_proxy}

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> object:  # noqa: A002 - the library's name
        if urllib.request.proxy_bypass_environment(req.host or "", self._no):  # type: ignore[attr-defined] # documented nowhere else
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the method: the standard library turns a redirected HEAD into a GET."""

    def __init__(self, follow: bool) -> None:  # noqa: FBT001 - its one setting
        self._follow = follow

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:  # noqa: ANN401
        if not self._follow:
            return None
        redirected = super().redirect_request(req, *answer)
        if redirected is not None:
            redirected.method = req.get_method()
        return redirected

    def http_response(self, request: urllib.request.Request, response: http.client.HTTPResponse) -> object:
        """Forget a new address that is none, or is not of HTTP: it is not followed then."""
        try:
            target = urllib.parse.urljoin(request.full_url, response.headers.get("Location", ""))
        except ValueError:
            target = ""
        if not target.startswith(("http://", "https://")):
            del response.headers["Location"]
        return response

    https_response = http_response


def fetch_text(url: str, client: Client | None = None) -> str | None:
    """Fetch a text by http or https; None if the server says that there is none."""
    # A name and a password in the URL are sent, and never shown. This machine itself is asked directly.
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=host).geturl()
    if parts.scheme not in {"http", "https"}:
        raise DownloadError(
            f"{shown} cannot be fetched: it is neither http nor https.",
            remedy="Name a mirror by its https URL at network.bazel_mirror in the matrix file.",
        )
    pair = base64.b64encode(urllib.parse.unquote(user).encode()).decode("ascii")
    headers = {"Authorization": f"Basic {pair}"} if at else {}
    try:
        answer = replace(client or Client(), direct=is_loopback(host)).ask("GET", shown, headers)
    except NoAnswerError as error:
        if error.trouble in {Trouble.CUT, Trouble.SLOW}:
            raise _fault(shown, error.why, None) from error
        remedy = "Name a mirror at network.bazel_mirror in the matrix file, or this network's proxy at network.proxies."
        if error.trouble is Trouble.CERTIFICATE:
            remedy = "Name the authority's certificate at network.ca_certificates in the matrix file."
        raise DownloadError(f"{shown} cannot be fetched.", why=error.why, remedy=remedy) from error
    if answer.status in GONE:
        return None
    if answer.status == http.HTTPStatus.OK:
        return answer.body.decode("utf-8", errors="replace")
    why = f"The server answered {answer.status}: {answer.reason}"
    if answer.is_fault:
        raise _fault(shown, why, answer.retry_after)
    raise DownloadError(
        f"{shown} requires other credentials." if answer.status in DENIED else f"{shown} cannot be fetched.",
        why=why,
        remedy="Name a mirror that requires no password at network.bazel_mirror in the matrix file.",
    )


def _fault(url: str, why: str, retry_after: float | None) -> DownloadFaultError:
    what, remedy = f"{url} could not be fetched.", "Run the same command again later."
    return DownloadFaultError(what, why=why, remedy=remedy, retry_after=retry_after)


class Reach(StrEnum):
    """What came of asking an address."""

    THERE = "there"
    ANSWERS = "answers"
    GONE = "not there"
    REFUSED = "refused"
    SILENT = "no answer"


def reach_all(urls: Iterable[str], *, route: Route, seconds: float = 10.0) -> Mapping[str, tuple[Reach, str]]:
    """Ask each address by HEAD, all at once: address → what came of it, and in words what it answered."""
    found: dict[str, tuple[Reach, str]] = {}
    asked = tuple(dict.fromkeys(urls))

    def ask(url: str) -> None:
        found[url] = _reach(url, route, seconds)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in asked]
    ends = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    return {url: found.get(url, (Reach.SILENT, f"none within {seconds:.0f} s")) for url in asked}


def _reach(url: str, route: Route, seconds: float) -> tuple[Reach, str]:
    try:
        direct, patience = is_loopback(urllib.parse.urlsplit(url).netloc), Patience(each=seconds, total=seconds)
        answer = Client(route=route, direct=direct, patience=patience).ask("HEAD", url)
    except NoAnswerError as error:
        slow = error.trouble is Trouble.SLOW
        return Reach.SILENT, f"none within {seconds:.0f} s" if slow else f"{error.trouble}: {error.reason}"
    except ValueError as error:  # no address at all
        return Reach.SILENT, str(error)
    reach = Reach.THERE if answer.status < http.HTTPStatus.BAD_REQUEST else Reach.ANSWERS
    if answer.status in GONE | DENIED:
        reach = Reach.GONE if answer.status in GONE else Reach.REFUSED
    return reach, f"HTTP {answer.status}"
