"""One push of one tag by the engine, watched: it ends when nothing moves, and when the run is cancelled."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from docker import APIClient
from docker.types import CancellableStream

from serving_factory.docker.process import POLL, Cancel
from serving_factory.docker.registry import fault, from_text
from serving_factory.errors import FactoryError, RegistryDeniedError, RegistryError, RegistryFaultError

PUSHED = "Pushed"
EXISTING = ("Layer already exists", "Mounted from")
RETRYING = re.compile(r"Retrying in (\d+) second")
DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64}) size: \d+")
NO_CREDENTIALS = re.compile(r"no basic auth credentials|authentication required|unauthorized", re.IGNORECASE)
MEGABYTE = 1_000_000
STALLED = 120.0  # seconds in which no byte of a layer moves
THINKING = 600.0  # seconds without a word where all is sent: a registry may take minutes over a layer of gigabytes
REPORT_EVERY = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push left in the registry: the manifest's digest, and how many layers were not there before."""

    digest: str
    pushed_layers: int


@dataclass(slots=True)
class _Layers:
    """How far each layer is."""

    states: dict[str, str] = field(default_factory=dict)
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, layer: str, status: str, progress: Mapping[str, Any]) -> None:
        self.states[layer] = status
        if progress.get("total"):
            self.sent[layer] = (int(progress.get("current") or 0), int(progress["total"]))

    @property
    def words(self) -> str:
        done = sum(state == PUSHED or state.startswith(EXISTING) for state in self.states.values())
        words = f"{done} of {len(self.states)} layers there"
        current, total = (sum(pair[index] for pair in self.sent.values()) for index in (0, 1))
        if total >= MEGABYTE:
            words += f", {min(current, total) // MEGABYTE} of {total // MEGABYTE} MB sent"
        return words


class Stream:
    """The items of a push. They are read in a thread, for the read has no time limit and cannot be cancelled."""

    # `api` is a client for this push alone.
    def __init__(self, api: APIClient, repository: str, tag: str, auth: Mapping[str, str]) -> None:
        self._items: queue.SimpleQueue[Mapping[str, Any] | Exception | None] = queue.SimpleQueue()
        self._responses: list[requests.Response] = []
        api.hooks["response"].append(lambda response, *_, **__: self._responses.append(response))

        def read() -> None:
            try:
                for item in api.push(repository, tag=tag, stream=True, decode=True, auth_config=dict(auth)):
                    self._items.put(item)
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                self._items.put(error)
            self._items.put(None)

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def watched(
        self, registry: str, on_status: Callable[[str], None], cancel: Cancel | None
    ) -> Iterator[Mapping[str, Any]]:
        """Give the items as they come; RegistryFaultError when nothing moves any more."""
        layers, moved, report_at = _Layers(), time.monotonic(), REPORT_EVERY
        while True:
            try:
                item = self._items.get(timeout=POLL)
            except queue.Empty:
                silent = time.monotonic() - moved
                sending = any(current < total for current, total in layers.sent.values())
                if cancel is not None:
                    cancel.check()
                if silent > (STALLED if sending else THINKING):
                    raise RegistryFaultError(
                        f"The push to {registry} stalled.",
                        why=f"Nothing moved for {silent:.0f} s: {layers.words}.",
                        remedy="See whether the registry, or what stands in between, takes data; then run the same "
                        "command again. If that stalls at once, the engine still waits for this upload: "
                        "restart the engine.",
                    ) from None
                if silent > report_at:
                    report_at += REPORT_EVERY
                    on_status(f"{layers.words}; nothing has moved for {silent:.0f} s")
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            moved, report_at = time.monotonic(), REPORT_EVERY
            if layer := item.get("id"):
                layers.note(str(layer), str(item.get("status") or ""), item.get("progressDetail") or {})
            yield item

    def close(self) -> None:
        """End the push if it still runs: the engine ends what no client listens to."""
        if self._reader.is_alive():
            for response in self._responses[-1:]:
                CancellableStream(iter(()), response).close()


def read_push(
    items: Iterable[Mapping[str, Any]],  # the stream's decoded items
    *,
    registry: str,  # for messages, such as `127.0.0.1:5000`
    on_status: Callable[[str], None],  # called with how far it is, in a few words, whenever these change
    on_retry: Callable[[str], None] = lambda _: None,  # called when the engine sends a layer again by itself
    # asks the registry itself whether a push would work, and raises why not. It is called when the engine begins to
    # wait for another try of its own, which it does whatever the registry said, and when a push failed
    ask: Callable[[], None] | None = None,
) -> PushResult:
    """Read the stream of one push to its end."""
    layers = _Layers()
    digest, error, reported, retried = "", "", "", ""
    waits: dict[str, int] = {}
    for item in items:
        detail = item.get("errorDetail") or {}
        error = error or str(detail.get("message") or item.get("error") or "")
        status = str(item.get("status") or "")
        if layer := item.get("id"):
            layers.note(str(layer), status, item.get("progressDetail") or {})
            retrying = RETRYING.match(status)
            if retrying and int(retrying[1]) > waits.get(str(layer), 0):  # it counts down
                retry = f"a layer did not arrive; the engine sends it again in {retrying[1]} s"
                if retry != retried:  # all layers fail alike
                    retried = retry
                    if ask:
                        ask()
                    on_retry(retry)
            waits[str(layer)] = int(retrying[1]) if retrying else 0
            words = status if retrying else layers.words
            if words != reported:
                reported = words
                on_status(words)
        if found := DIGEST.search(status):
            digest = found[1]
        digest = str((item.get("aux") or {}).get("Digest") or digest)
    if error:
        raise _failure(registry, error, ask)
    if not digest:
        raise RegistryError(
            f"The engine ended its push to {registry} without naming a digest.",
            remedy="Run the same command again; if it goes on, look at the engine's log.",
        )
    return PushResult(digest=digest, pushed_layers=sum(state == PUSHED for state in layers.states.values()))


def _failure(registry: str, text: str, ask: Callable[[], None] | None) -> FactoryError:
    found = from_text(registry, text)
    if ask and isinstance(found, RegistryDeniedError | RegistryFaultError):
        ask()
        if isinstance(found, RegistryDeniedError) and NO_CREDENTIALS.search(text):
            # After a 5xx to its first question the engine goes on without the credentials it has.
            return fault(registry, f"{text} (though the registry accepts the credentials)")
    return found
