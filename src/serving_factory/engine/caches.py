"""BuildKit's cache mounts: found by the id that a Dockerfile gave them, and dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from serving_factory.engine import process
from serving_factory.errors import EngineUnavailableError

__all__ = ["CacheMount", "cache_mounts", "drop_cache_mounts", "parse_disk_usage"]

_FIELD = re.compile(r"(ID|Description|Size):\s+(.*)")
# BuildKit of engine 26 prints the id with a slash before it that nobody gave.
_MOUNT_ID = re.compile(r'cached mount .* with id "/?(?P<id>[^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """One cache mount.

    Args:
        record: BuildKit's own name for it.
        id: the `id=` of the `--mount=type=cache` that made it.
        size: as BuildKit prints it, such as `16.5MB`.
    """

    record: str
    id: str
    size: str


def cache_mounts(prefix: str) -> tuple[CacheMount, ...]:
    """List the engine's cache mounts whose id begins with `prefix`.

    Raises:
        EngineUnavailableError: buildx cannot tell.
    """
    return tuple(mount for mount in parse_disk_usage(_buildx("du", "--verbose")) if mount.id.startswith(prefix))


def drop_cache_mounts(prefix: str) -> tuple[CacheMount, ...]:
    """Drop the engine's cache mounts whose id begins with `prefix`, and tell which they were.

    Raises:
        EngineUnavailableError: buildx cannot tell, or cannot drop them.
    """
    mounts = cache_mounts(prefix)
    for mount in mounts:
        _buildx("prune", "--force", "--filter", f"id={mount.record}")
    return mounts


def parse_disk_usage(text: str) -> Iterator[CacheMount]:
    """Read the cache mounts out of what `docker buildx du --verbose` prints."""
    for block in text.split("\n\n"):
        fields = {
            name: value
            for line in block.splitlines()
            if (match := _FIELD.match(line))
            for name, value in [match.groups()]
        }
        mount = _MOUNT_ID.search(fields.get("Description", ""))
        if mount and "ID" in fields:
            yield CacheMount(record=fields["ID"], id=mount["id"], size=fields.get("Size", ""))


def _buildx(*arguments: str) -> str:
    lines: list[str] = []
    code = process.run(["docker", "buildx", *arguments], on_line=lines.append)
    text = "\n".join(lines)
    if code:
        raise EngineUnavailableError(
            f"docker buildx {arguments[0]} failed", why=text, remedy="check `docker info` and `docker buildx version`"
        )
    return text
