"""Asks many addresses at once whether they answer, within a time for all of them."""

from __future__ import annotations

import http
import threading
import time
import urllib.parse
from enum import StrEnum
from typing import TYPE_CHECKING

from serving_factory.engine.http import Asker, NoAnswerError
from serving_factory.engine.registry_faults import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from serving_factory.engine.http import Route

__all__ = ["Reach", "reach_all"]

_GONE = {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}
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
    if answer.status in _GONE:
        return Reach.GONE, told
    if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        return Reach.REFUSED, told
    return Reach.ANSWERS, told
