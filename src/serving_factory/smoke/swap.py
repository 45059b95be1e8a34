"""The swap check: a new version of the model takes over under load, and no request notices."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serving_factory.errors import SmokeError, WrongAnswerError
from serving_factory.smoke.answers import ModelState, ServerUnavailableError, ServingApiError
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from serving_factory.smoke.answers import VersionStatus


INPUTS = (1.0, 2.0, 5.0)
OLD_ANSWER = (2.5, 3.0, 4.5)
NEW_ANSWER = (3.5, 4.0, 5.5)

_WORKERS_PER_PROTOCOL = 2
_REQUESTS_AFTER = 20
_POLL = 0.02
_TOLERANCE = 1e-6


def close_to(got: Sequence[float], expected: Sequence[float]) -> bool:
    """Say whether the numbers agree to float32's precision."""
    return len(got) == len(expected) and all(
        abs(value - required) <= _TOLERANCE * abs(required) for value, required in zip(got, expected, strict=True)
    )


class _Worker(threading.Thread):
    """Asks without pause until told to stop; its counters are read by the main thread while it runs."""

    def __init__(self, protocol: str, make_client: Callable[[], RestClient | GrpcClient], model: str) -> None:
        super().__init__(name=f"swap-{protocol}", daemon=True)
        self.protocol = protocol
        self.old = 0
        self.new = 0
        self.saw_new_last = False
        self.wrong: tuple[float, ...] | None = None
        self.failure = ""
        self._make_client = make_client
        self._model = model
        self._ended = threading.Event()

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        try:
            with self._make_client() as client:
                while not self._ended.is_set() and self.wrong is None:
                    self._count(client.predict(self._model, INPUTS))
                    if isinstance(client, RestClient) and client.reconnects:
                        # Asked without pause, a connection is never idle: closing it unannounced cuts a request.
                        raise ServerUnavailableError("the server cut a connection in use")
        except ServingApiError as error:
            self.failure = str(error)

    def _count(self, answer: Sequence[float]) -> None:
        if close_to(answer, NEW_ANSWER):
            self.new += 1
            self.saw_new_last = True
        elif close_to(answer, OLD_ANSWER):
            self.old += 1
            self.saw_new_last = False
        else:
            self.wrong = tuple(answer)


def swap_under_load(
    *,
    model: str,
    versions: tuple[int, int],
    addresses: tuple[str | None, str],
    place: Callable[[], None],
    status: Callable[[], list[VersionStatus]],
    limit: float,
) -> str:
    """Bring in the new version while requests run without pause over both protocols.

    Args:
        model: the model's name.
        versions: the old and the new version's number.
        addresses: `host:port` of REST (None where the release has none) and of gRPC.
        place: makes the new version appear, all at once.
        status: asks the server for the model's versions.
        limit: seconds for the new answers to come, and again for the old version to end.

    Returns:
        What was seen, in a sentence.

    Raises:
        SmokeError: a request failed, the new version did not come, or the old one did not go.
        WrongAnswerError: an answer belonged to neither version.
    """
    old, new = versions
    with _load(model, addresses) as workers:
        _wait(workers, limit, lambda: all(worker.old + worker.new for worker in workers))
        place()
        began = time.monotonic()
        if not _wait(workers, limit, lambda: all(worker.saw_new_last for worker in workers)):
            raise SmokeError(
                f"Version {new} was placed beside {old}, and after {limit:g} s not all answers come from it.",
                why=_count_text(workers),
                remedy="The log tells whether the server found the new version, and why it did not load it.",
            )
        took = time.monotonic() - began
        if not _wait(workers, limit, lambda: _gone(old, status())):
            raise SmokeError(
                f"Version {new} answers, but after {limit:g} s version {old} is still loaded.",
                why=", ".join(f"version {item.version}: {item.state}" for item in status()),
            )
        gone = time.monotonic() - began
        # A few more from each: what unloading breaks shows only in the requests after it.
        enough = [worker.new + _REQUESTS_AFTER for worker in workers]
        _wait(workers, limit, lambda: all(w.new >= due for w, due in zip(workers, enough, strict=True)))
    _check(workers)
    return f"{_count_text(workers)}; new answers after {took:.2f} s, old version gone after {gone:.2f} s"


@contextmanager
def _load(model: str, addresses: tuple[str | None, str]) -> Iterator[list[_Worker]]:
    rest, grpc = addresses
    workers = [_Worker("gRPC", lambda: GrpcClient(grpc), model) for _ in range(_WORKERS_PER_PROTOCOL)]
    if rest is not None:
        workers += [_Worker("REST", lambda: RestClient(rest), model) for _ in range(_WORKERS_PER_PROTOCOL)]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join()


def _wait(workers: Sequence[_Worker], limit: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        _check(workers)
        if condition():
            return True
        time.sleep(_POLL)
    return False


def _check(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.wrong is not None:
            raise WrongAnswerError(
                f"While the model's version was swapped, the server answered wrongly over {worker.protocol}.",
                why=f"Sent {list(INPUTS)}, got {list(worker.wrong)}, "
                f"expected {list(OLD_ANSWER)} (old) or {list(NEW_ANSWER)} (new).",
            )
        if worker.failure:
            raise SmokeError(
                f"While the model's version was swapped, a {worker.protocol} request failed.",
                why=f"{worker.failure}\nUntil then: {_count_text(workers)}.",
                remedy="The server must load the new version before it unloads the old one.",
            )


def _gone(version: int, statuses: Sequence[VersionStatus]) -> bool:
    return all(item.state is ModelState.END for item in statuses if item.version == version)


def _count_text(workers: Sequence[_Worker]) -> str:
    parts = []
    for protocol in ("REST", "gRPC"):
        mine = [worker for worker in workers if worker.protocol == protocol]
        if mine:
            parts.append(f"{protocol} {sum(w.old for w in mine)} old and {sum(w.new for w in mine)} new")
    return "answers: " + ", ".join(parts)
