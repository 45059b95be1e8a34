"""What the records of a variant tell in numbers (docs/records.md). What a record does not have is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving_factory.line.events import StageName
from serving_factory.line.records import Record

__all__ = ["Measures", "measure"]

_OF_BAZEL = (
    "wall_seconds",
    "actions",
    "local_actions",
    "disk_cache_hits",
    "remote_cache_hits",
    "remote_actions",
    "bytes_fetched",
    "critical_path_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The numbers of one variant.

    Args:
        variant: its id.
        compiled: when the binary was compiled; UTC, ISO 8601.
        stage_seconds: how long the compile stage took.
        wall_seconds: of these, Bazel's.
        actions: that Bazel ran or took from a cache.
        local_actions: of these, those that ran in the build's container.
        disk_cache_hits: of these, those from the disk cache.
        remote_cache_hits: of these, those from the remote cache.
        remote_actions: of these, those that a remote execution service ran.
        bytes_fetched: what came over the network to Bazel's containers.
        critical_path_seconds: the longest chain of actions.
        cpu_seconds: of all actions and of Bazel.
        peak_memory_bytes: of the build's container.
        binary_size: bytes, stripped.
        image_size: bytes.
        smoke_seconds: check's name → how long it took.
    """

    variant: str
    compiled: str | None = None
    stage_seconds: float | None = None
    wall_seconds: float | None = None
    actions: int | None = None
    local_actions: int | None = None
    disk_cache_hits: int | None = None
    remote_cache_hits: int | None = None
    remote_actions: int | None = None
    bytes_fetched: int | None = None
    critical_path_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    binary_size: int | None = None
    image_size: int | None = None
    smoke_seconds: Mapping[str, float] = field(default_factory=dict)


def measure(variant: str, records: Mapping[StageName, Record]) -> Measures:
    """Read the numbers out of a variant's records."""
    compiled = records.get(StageName.COMPILE)
    facts: Mapping[str, Any] = compiled.outputs if compiled else {}
    binary, image, smoke = (
        records[stage].outputs if stage in records else {}
        for stage in (StageName.EXTRACT, StageName.PACKAGE, StageName.SMOKE)
    )
    return Measures(
        variant=variant,
        compiled=compiled.started if compiled else None,
        stage_seconds=compiled.seconds if compiled else None,
        **{name: facts.get(name) for name in _OF_BAZEL},
        binary_size=binary.get("size"),
        image_size=image.get("size"),
        smoke_seconds=smoke.get("checks") or {},
    )
