"""BuildKit's cache mounts: found by the id that a Dockerfile gave them, dropped, and worked on from inside a build."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.docker.client import run_docker
from serving_factory.docker.host import byte_count
from serving_factory.docker.solve_status import Step
from serving_factory.errors import cleaned_up

_LIST_TIMEOUT, _PRUNE_TIMEOUT = 60.0, 600.0
_UNKNOWN = 5.0  # seconds for an engine that has not answered yet
_TOTAL = re.compile(r"^(Private|Total):\s+(\S+)$", re.MULTILINE)
_FIELD = re.compile(r"(ID|Description|Size):\s+(.*)")
# BuildKit of engine 26 prints the id with a slash before it that is not in the Dockerfile.
_MOUNT_ID = re.compile(r'cached mount .* with id "/?(?P<id>[^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """One cache mount: BuildKit's own name for it, the `id=` that a Dockerfile gave it, and its size, as `16.5MB`."""

    record: str
    id: str
    size: str


def cache_mounts(prefix: str) -> tuple[CacheMount, ...]:
    """List the engine's cache mounts whose id begins with `prefix`."""
    return tuple(mount for mount in parse_disk_usage(_usage()) if mount.id.startswith(prefix))


def cache_sizes(prefix: str) -> tuple[int, int]:
    """Bytes of the build cache without what images share, and of the cache mounts whose id begins with `prefix`."""
    text = _usage()
    totals = {name: byte_count(size) or 0 for name, size in _TOTAL.findall(text)}
    mounts = sum(byte_count(mount.size) or 0 for mount in parse_disk_usage(text) if mount.id.startswith(prefix))
    return totals.get("Private", totals.get("Total", 0)), mounts


def drop_cache_mounts(prefix: str) -> tuple[list[CacheMount], list[CacheMount]]:
    """Drop the mounts whose id begins with `prefix`: those that are gone, and those that stay, as a build uses them."""
    mounts = cache_mounts(prefix)
    for mount in mounts:
        _buildx("prune", "--force", "--filter", f"id={mount.record}")
    # BuildKit leaves alone what a build uses, and does not report that.
    left = {mount.record for mount in cache_mounts(prefix)} if mounts else set()
    return [one for one in mounts if one.record not in left], [one for one in mounts if one.record in left]


def work_on_mounts(
    context: Path, words: Sequence[str], *, base: str, parcel: Path | None = None, output: Path | None = None
) -> tuple[str, ...]:
    """Run a build step that has cache mounts, the only way to what is in them; return the lines that it printed."""
    lines: list[str] = []

    def on_step(step: Step) -> None:
        if step.kind == "log" and step.name.startswith("[work"):
            lines.append(step.text)

    with tempfile.TemporaryDirectory(prefix="serving-factory-") as scratch:
        request = BuildRequest(
            dockerfile=context / "cache.Dockerfile",
            context=context,
            build_args=(("BASE", base), ("RUN_ID", uuid.uuid4().hex), ("WORK", " ".join(words))),
            contexts=() if parcel is None else (("parcel", str(parcel)),),
            output=output or Path(scratch, "nothing"),
        )
        # An engine that has done nothing may be a silent one: Ctrl-C does not wait for it.
        with cleaned_up(lambda: _drop_leftovers(_LIST_TIMEOUT if lines else _UNKNOWN)):
            build(request, on_step=on_step, log=io.StringIO())
    return tuple(lines)


_LEFTOVER = re.compile(r"/serving-factory-cache\b|local source for parcel")


def _drop_leftovers(seconds: float = _LIST_TIMEOUT) -> None:
    for fields in _records(_usage(seconds)):
        description = fields.get("Description", "")
        if "ID" in fields and _LEFTOVER.search(description) and not description.startswith("cached mount "):
            _buildx("prune", "--force", "--filter", f"id={fields['ID']}")


def parse_disk_usage(text: str) -> Iterator[CacheMount]:
    """Read the cache mounts out of what `docker buildx du --verbose` prints."""
    for fields in _records(text):
        mount = _MOUNT_ID.search(fields.get("Description", ""))
        if mount and "ID" in fields:
            yield CacheMount(record=fields["ID"], id=mount["id"], size=fields.get("Size", ""))


def _records(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        yield {match[1]: match[2] for match in map(_FIELD.match, block.splitlines()) if match}


def _buildx(*arguments: str, seconds: float = _PRUNE_TIMEOUT) -> str:
    return run_docker("buildx", *arguments, timeout=seconds)


def _usage(seconds: float = _LIST_TIMEOUT) -> str:
    return _buildx("du", "--verbose", seconds=seconds)
