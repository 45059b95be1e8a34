"""Sends requests: as many as are answered, or at a set rate; and counts what the client itself takes."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serving_factory.load.statistics import percentile
from serving_factory.smoke.answers import ServingApiError

Send = Callable[[], object]
"""Sends one request and waits for its answer; raises ServingApiError. Each has a connection of its own."""

SATURATED = 0.8
"""CPU seconds a second, of the one core that Python uses, from which on the client may be what is measured."""
_PATIENCE = 1.0  # seconds at least that requests at a set rate may be late


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one subject answered to one load in one round."""

    seconds: float  # how long was sent
    latencies: tuple[float, ...]  # of each answer, in seconds; at a set rate from when it was to be sent
    failures: tuple[str, ...]  # why requests had no usable answer
    unsent: int  # requests whose time came and that no connection was free for to the end
    client: float  # CPU seconds that this process took in each second

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def latency(self, share: float) -> float:
        """The time within which a share of the requests had an answer; infinite where fewer had any."""
        return percentile([*self.latencies, *[math.inf] * (len(self.failures) + self.unsent)], share)


def closed_loop(sends: Sequence[Send], seconds: float) -> Sample:
    """Send the next request as soon as the last one is answered, on each connection: the most that a server can do."""

    def due(began: float, sent: int) -> float | None:
        return None if sent >= len(sends) and time.perf_counter() - began >= seconds else began

    return _drive(sends, due)


def open_loop(sends: Sequence[Send], rate: float, seconds: float) -> Sample:
    """Send at a rate, whatever becomes of the answers: those that come late delay none, but count from their due time.

    Once a server is behind by as much as the time that was planned, no more is sent.
    """
    planned = max(1, round(rate * seconds))

    def due(began: float, sent: int) -> float | None:
        late = time.perf_counter() - began > seconds + max(seconds, _PATIENCE)
        return None if sent >= planned or late else began + sent / rate

    return _drive(sends, due, planned=planned, least=planned / rate)


def _drive(
    sends: Sequence[Send], due: Callable[[float, int], float | None], *, planned: int = 0, least: float = 0.0
) -> Sample:
    """Send on all connections at once; `due` says when a request is to be sent, and None at the end."""
    numbers, stop = itertools.count(), threading.Event()
    latencies: list[float] = []
    failures: list[str] = []
    began, used = time.perf_counter(), time.process_time()

    def work(send: Send) -> None:
        while not stop.is_set() and (at := due(began, next(numbers))) is not None:
            now = time.perf_counter()
            if at > now:
                stop.wait(at - now)
            start = at if planned else now
            try:
                send()
            except ServingApiError as error:
                failures.append(str(error))
            else:
                latencies.append(time.perf_counter() - start)

    pool = ThreadPoolExecutor(len(sends), thread_name_prefix="load")
    try:
        for ended in [pool.submit(work, send) for send in sends]:
            ended.result()
    finally:
        stop.set()
        pool.shutdown(wait=False)  # after a Ctrl-C a thread may wait for an answer until its container is gone
    seconds = time.perf_counter() - began
    return Sample(
        seconds=max(seconds, least),
        latencies=tuple(latencies),
        failures=tuple(failures),
        unsent=max(0, planned - len(latencies) - len(failures)),
        client=(time.process_time() - used) / seconds,
    )
