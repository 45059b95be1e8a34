"""The swap check: a new version of the model takes over under load, and no request notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from serving_factory.errors import SmokeError, WrongAnswerError
from serving_factory.smoke.answers import ServerUnavailableError, ServingApiError
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient
from serving_factory.smoke.server import GRPC_PORT, INPUTS, MODEL, NEW_ANSWER, OLD_ANSWER, REST_PORT, Server, close_to

_WORKERS_PER_PROTOCOL = 2
_REQUESTS_AFTER = 20
_POLL = 0.02


class _Worker(threading.Thread):
    """Asks without pause until it is ended; its counters are read by the main thread while it runs."""

    def __init__(self, protocol: str, client: RestClient | GrpcClient) -> None:
        super().__init__(name=f"swap-{protocol}", daemon=True)
        self.protocol = protocol
        self.old = self.new = 0  # how many answers each version gave
        self.saw_new_last = False
        self.wrong: list[float] | None = None
        self.failure = ""
        self.ended = threading.Event()
        self._client = client

    def run(self) -> None:
        try:
            with self._client as client:
                while not self.ended.is_set() and self.wrong is None:
                    self._count(client.predict(MODEL, INPUTS))
                    if isinstance(client, RestClient) and client.reconnects:
                        # Asked without pause, a connection is never idle: closing it unannounced cuts a request.
                        raise ServerUnavailableError("the server cut a connection in use")
        except ServingApiError as error:
            self.failure = str(error)

    def _count(self, answer: list[float]) -> None:
        self.saw_new_last = close_to(answer, NEW_ANSWER)
        if self.saw_new_last:
            self.new += 1
        elif close_to(answer, OLD_ANSWER):
            self.old += 1
        else:
            self.wrong = answer


def check_swap(server: Server) -> str:
    """Bring in the new version while requests run without pause over both protocols."""
    old, new = server.models.versions
    limit, statuses = server.plan.swap_timeout, partial(server.grpc.model_status, MODEL)
    with _load(server) as workers:
        _wait(server, workers, lambda: all(worker.old + worker.new for worker in workers))
        # A rename, so that no half of it is ever seen.
        waiting = server.models.waiting
        waiting.rename(server.models.plain / waiting.name)
        began = time.monotonic()
        if not _wait(server, workers, lambda: all(worker.saw_new_last for worker in workers)):
            raise server.fault(
                SmokeError,
                f"Version {new} was placed beside {old}, and after {limit:g} s not all answers come from it.",
                why=_counts(workers),
                remedy="Read in the log whether the server found the new version, and why it did not load it.",
            )
        took = time.monotonic() - began
        if not _wait(server, workers, lambda: all(one.version != old or one.state == "END" for one in statuses())):
            raise server.fault(
                SmokeError,
                f"Version {new} answers, but after {limit:g} s version {old} is still loaded.",
                why=", ".join(map(str, statuses())),
            )
        gone = time.monotonic() - began
        # A few more from each: what unloading breaks shows only in the requests after it.
        enough = [worker.new + _REQUESTS_AFTER for worker in workers]
        _wait(server, workers, lambda: all(w.new >= due for w, due in zip(workers, enough, strict=True)))
    _require_no_fault(server, workers)
    return f"{_counts(workers)}; new answers after {took:.2f} s, old version gone after {gone:.2f} s"


@contextmanager
def _load(server: Server) -> Iterator[list[_Worker]]:
    grpc, rest = server.address(GRPC_PORT), server.address(REST_PORT) if server.plan.server.rest else ""
    workers = [_Worker("gRPC", GrpcClient(grpc)) for _ in range(_WORKERS_PER_PROTOCOL)]
    workers += [_Worker("REST", RestClient(rest)) for _ in range(_WORKERS_PER_PROTOCOL) if rest]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.ended.set()
        for worker in workers:
            worker.join()


def _wait(server: Server, workers: Sequence[_Worker], condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + server.plan.swap_timeout
    while time.monotonic() < deadline:
        server.cancel.check()
        _require_no_fault(server, workers)
        if condition():
            return True
        time.sleep(_POLL)
    return False


def _require_no_fault(server: Server, workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.wrong is not None:
            raise server.fault(
                WrongAnswerError,
                f"While the model's version was swapped, the server answered wrongly over {worker.protocol}.",
                why=f"Sent {list(INPUTS)}, got {worker.wrong}, "
                f"expected {list(OLD_ANSWER)} (old) or {list(NEW_ANSWER)} (new).",
            )
        if worker.failure:
            raise server.fault(
                SmokeError,
                f"While the model's version was swapped, a {worker.protocol} request failed.",
                why=f"{worker.failure}\nUntil then: {_counts(workers)}.",
                remedy="The server must load the new version before it unloads the old one.",
            )


def _counts(workers: Sequence[_Worker]) -> str:
    mine = {protocol: [one for one in workers if one.protocol == protocol] for protocol in ("REST", "gRPC")}
    return "answers: " + ", ".join(
        f"{name} {sum(one.old for one in each)} old and {sum(one.new for one in each)} new"
        for name, each in mine.items()
        if each
    )
