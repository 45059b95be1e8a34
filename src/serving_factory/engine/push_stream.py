"""Reads what the engine tells while it pushes. Failures come as items of the stream, not as a status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving_factory.engine import registry_faults
from serving_factory.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["PushResult", "read_push"]

PUSHED = "Pushed"
EXISTING = ("Layer already exists", "Mounted from")
DIGEST = re.compile(r"digest: (?P<digest>sha256:[0-9a-f]{64}) size: (?P<size>\d+)")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push that succeeded left in the registry.

    Args:
        digest: the manifest's, `sha256:...`.
        pushed_layers: how many layers were sent.
        existing_layers: how many the registry had already, or took over from another of its repositories.
        size: of the manifest, in bytes.
    """

    digest: str
    pushed_layers: int
    existing_layers: int
    size: int


def read_push(items: Iterable[Mapping[str, Any]], *, registry: str, on_status: Callable[[str], None]) -> PushResult:
    """Read the whole stream of one push.

    Args:
        items: the stream's decoded items.
        registry: for messages, such as `127.0.0.1:5000`.
        on_status: told how far it is, in a few words, whenever these words change.

    Raises:
        RegistryDeniedError, RegistryUnreachableError, RegistryFaultError, RegistryError: as the stream says.
    """
    layers: dict[str, str] = {}
    sent: dict[str, tuple[int, int]] = {}
    digest, size = "", 0
    told = error = ""
    for item in items:
        detail = item.get("errorDetail") or {}
        error = error or str(detail.get("message") or item.get("error") or "")
        status = str(item.get("status") or "")
        if layer := item.get("id"):
            layers[str(layer)] = status
            progress = item.get("progressDetail") or {}
            if progress.get("total"):
                sent[str(layer)] = (int(progress.get("current") or 0), int(progress["total"]))
            words = status if status.startswith("Retrying") else _words(layers, sent)
            if words != told:
                told = words
                on_status(words)
        if found := DIGEST.search(status):
            digest, size = found["digest"], int(found["size"])
        aux = item.get("aux") or {}
        if aux.get("Digest"):
            digest, size = str(aux["Digest"]), int(aux.get("Size") or size)
    if error:
        raise registry_faults.from_text(registry, error)
    if not digest:
        raise RegistryError(
            f"The engine ended its push to {registry} without naming a digest.",
            remedy="Run the same command again; if it goes on, look at the engine's log.",
        )
    states = layers.values()
    return PushResult(
        digest=digest,
        pushed_layers=sum(state == PUSHED for state in states),
        existing_layers=sum(state.startswith(EXISTING) for state in states),
        size=size,
    )


def _words(layers: Mapping[str, str], sent: Mapping[str, tuple[int, int]]) -> str:
    there = sum(state == PUSHED or state.startswith(EXISTING) for state in layers.values())
    words = f"{there} of {len(layers)} layers there"
    current, total = (sum(pair[index] for pair in sent.values()) for index in (0, 1))
    if total >= MEGABYTE:
        words += f", {min(current, total) // MEGABYTE} of {total // MEGABYTE} MB sent"
    return words
