"""BuildKit's cache mounts: found by the id that a Dockerfile gave them, dropped, and worked on from inside a build."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.docker.client import run_docker
from serving_factory.docker.host import byte_count
from serving_factory.docker.solve_status import Step
from serving_factory.errors import EngineUnavailableError

_PRUNE_TIMEOUT = 600.0
_TOTAL = re.compile(r"^(Private|Total):\s+(\S+)$", re.MULTILINE)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What became of cache mounts that were to be dropped.

    Args:
        gone: these are.
        used: these stay, as a build uses them.
    """

    gone: tuple[CacheMount, ...]
    used: tuple[CacheMount, ...]


def cache_mounts(prefix: str) -> tuple[CacheMount, ...]:
    """List the engine's cache mounts whose id begins with `prefix`.

    Raises:
        EngineUnavailableError: buildx cannot tell.
    """
    return tuple(mount for mount in parse_disk_usage(_buildx("du", "--verbose")) if mount.id.startswith(prefix))


def cache_sizes(prefix: str) -> tuple[int, int]:
    """Bytes of the build cache without what images share, and of the cache mounts whose id begins with `prefix`.

    Raises:
        EngineUnavailableError: buildx cannot tell.
    """
    text = _buildx("du", "--verbose")
    totals = {name: byte_count(size) or 0 for name, size in _TOTAL.findall(text)}
    mounts = sum(byte_count(mount.size) or 0 for mount in parse_disk_usage(text) if mount.id.startswith(prefix))
    return totals.get("Private", totals.get("Total", 0)), mounts


def drop_cache_mounts(prefix: str) -> Dropped:
    """Drop the engine's cache mounts whose id begins with `prefix`, and tell which are gone.

    Raises:
        EngineUnavailableError: buildx cannot progress, or cannot drop them.
    """
    mounts = cache_mounts(prefix)
    for mount in mounts:
        _buildx("prune", "--force", "--filter", f"id={mount.record}")
    # BuildKit leaves alone what a build uses, and says nothing of it.
    left = {mount.record for mount in cache_mounts(prefix)} if mounts else set()
    return Dropped(
        gone=tuple(mount for mount in mounts if mount.record not in left),
        used=tuple(mount for mount in mounts if mount.record in left),
    )


def work_on_mounts(
    context: Path, words: Sequence[str], *, base: str, parcel: Path | None = None, output: Path | None = None
) -> tuple[str, ...]:
    """Run a build step that has cache mounts: nothing else gets at what is in them.

    Args:
        context: holds `cache.Dockerfile` and what its step runs. The name of what the step mounts there, `/NAME`, tells
            what the build leaves in BuildKit's own cache, and is dropped again: it may be as big as the caches.
        words: for the step.
        base: the image that the step runs in.
        parcel: a folder that the step reads.
        output: gets the step's files.

    Returns:
        the lines that the step printed.

    Raises:
        BuildFailed: the step failed.
        EngineUnavailableError: no engine, or no buildx.
        DiskFullError: a disk is full.
    """
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
        try:
            build(request, on_step=on_step, log=io.StringIO())
        except BaseException:
            with suppress(EngineUnavailableError):  # what happened first is what counts
                _drop_leftovers()
            raise
        _drop_leftovers()
    return tuple(lines)


_LEFTOVER = re.compile(r"/serving-factory-cache\b|local source for parcel")


def _drop_leftovers() -> None:
    for block in _buildx("du", "--verbose").split("\n\n"):
        description, record = (_field(block, name) for name in ("Description", "ID"))
        if record and _LEFTOVER.search(description) and not description.startswith("cached mount "):
            _buildx("prune", "--force", "--filter", f"id={record}")


def _field(block: str, name: str) -> str:
    return next((match[2] for match in map(_FIELD.match, block.splitlines()) if match and match[1] == name), "")


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
    return run_docker("buildx", *arguments, timeout=_PRUNE_TIMEOUT)
