"""Fetches a small text by HTTP, such as the checksum beside a release asset."""

from __future__ import annotations

import base64
import http
import urllib.parse
from typing import TYPE_CHECKING

from serving_factory.engine.http import Asker, NoAnswerError, Trouble
from serving_factory.engine.registry_faults import is_loopback
from serving_factory.errors import DownloadError, DownloadFaultError

if TYPE_CHECKING:
    from serving_factory.engine.http import Answer, Route

__all__ = ["fetch_text"]

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
