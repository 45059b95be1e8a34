"""`cache`: Bazel's caches in the engine, seen, kept within bounds, and carried between machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from packaging.version import Version

from serving_factory.commands.shared import Asked, bytes_of, print_json, width, write
from serving_factory.errors import FactoryError, UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.output.text import Column, clean, count, size, table
from serving_factory.pipeline.bazel import unusable, uploads
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.caches import Cache, Changed, export_caches, import_caches, prune_caches, show_caches
from serving_factory.pipeline.events import StageName, Status, VariantResult
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import Record, read_record
from serving_factory.recipes.recipe import recipes_for


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    """The repository cache, or the disk cache of one toolchain.

    Args:
        name: `repository`, or the toolchain's id.
        bytes: what its files hold.
        files: how many.
        used: when it was used last, in seconds since 1970; 0 where nothing tells.
        toolchain: compiler and system, joined by `;`.
    """

    name: str
    bytes: int
    files: int
    used: int
    toolchain: str


def caches_table(caches: Sequence[CacheRow], *, width: int | None = None) -> str:
    """A line for each cache, and one for the whole."""
    rows = [(clean(one.name), size(one.bytes), str(one.files), _when(one.used), _about(one)) for one in caches]
    rows.append(("whole", size(sum(one.bytes for one in caches)), str(sum(one.files for one in caches)), "", ""))
    columns = (
        Column("cache"),
        Column("size", right=True),
        Column("files", right=True),
        Column("last used"),
        Column("what compiled it"),
    )
    return table(columns, rows, width=width)


def _about(cache: CacheRow) -> str:
    return "all builds' downloads" if cache.name == "repository" else clean(cache.toolchain.replace(";", "; "))


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ""


_VERBS = ("show", "prune", "export", "import")


def cache(asked: Asked, verb: str, file: str, *, max_size: str, toolchain: str, json: bool) -> None:
    """Do one thing with Bazel's caches.

    Raises:
        UsageError: there is no such thing to do, or options do not fit it.
    """
    _check(verb, file, max_size=max_size, toolchain=toolchain)
    matrix = asked.load()
    base = _base(matrix)
    if verb == "show":
        _print(show_caches(base), json=json)
        return
    with hold_lock(asked.checkout.build):
        if verb == "export":
            exported = export_caches(base, _target(file))
            _say(f"exported {_total(exported)} to {file}", exported, json=json)
        elif verb == "import":
            _changed("added", import_caches(base, Path(file), scratch=asked.checkout.build), json=json)
        else:
            most = _most(max_size, toolchain, matrix.resources.cache)
            _changed("removed", prune_caches(base, most=most, toolchain=toolchain), json=json)


def cap_caches(base: str, most: str) -> str:
    """Bring the caches within bounds; say so where something had to go, or could not: what was built is built.

    Args:
        base: the image to work from, of a variant that was worked on just now.
        most: what they may hold, as the matrix says it.
    """
    try:
        changed = prune_caches(base, most=_bytes(most))
    except FactoryError as error:
        return f"Bazel's caches could not be kept within {most}: {error.what}\nWhat to do: {error.remedy}\n"
    return f"Bazel's caches: removed {_amount(changed)}, to keep within {most}.\n" if changed.files else ""


def remote_notes(jobs: Sequence[Job], results: Sequence[VariantResult]) -> str:
    """Say once which of the variants built now went without the remote cache that they should have had, and why."""
    built = {result.variant for result in results if result.status is Status.BUILT}
    without: dict[str, list[str]] = {}
    for job in jobs:
        record = read_record(job.folder, StageName.COMPILE)
        if record and job.recipe.variant.id in built and (why := _without_remote(job, record)):
            without.setdefault(why, []).append(job.recipe.variant.id)
    return "".join(f"Built {why}: {', '.join(ids)}.\n" for why, ids in without.items())


def _without_remote(job: Job, record: Record) -> str:
    remote, bazel, outputs = job.recipe.remote, job.recipe.toolchain.bazel.version, record.outputs
    if not remote.address:
        return ""
    what = "remote execution" if remote.executor else "the remote cache"
    partly = "in part " if outputs.get("remote_actions") or outputs.get("remote_cache_hits") else ""
    if silent := outputs.get("silent_remote"):
        return f"{partly}without {what}, as {silent} does not answer"
    if trouble := outputs.get("remote_trouble"):
        return f"with trouble from {what} ({trouble})"
    cannot = unusable(remote, Version(bazel), upload=uploads(remote))
    return f"without {what}, as Bazel {bazel} can have {cannot}" if cannot else ""


def _check(verb: str, file: str, *, max_size: str, toolchain: str) -> None:
    if verb not in _VERBS:
        said = f"cache {verb}: there is no such thing to do" if verb else "cache needs to be told what to do"
        raise UsageError(said, remedy=f"write one of: {', '.join(f'./factory cache {one}' for one in _VERBS)}")
    if verb in {"export", "import"} and not file:
        raise UsageError(f"cache {verb} needs a file", remedy=f"write ./factory cache {verb} caches.tar")
    if verb in {"show", "prune"} and file:
        raise UsageError(f"cache {verb} {file}: {verb} takes no file", remedy=f"write ./factory cache {verb}")
    if verb != "prune" and (max_size or toolchain):
        raise UsageError(
            "--max-size and --toolchain are for prune", remedy="write ./factory cache prune --max-size 20GiB"
        )
    if verb == "import" and not Path(file).is_file():
        raise UsageError(f"there is no file {file}", remedy="name one that ./factory cache export has written")


def _target(file: str) -> Path:
    path = Path(file).resolve()
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", remedy="make it, or name another place")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", remedy="name a file in it, such as caches.tar")
    return path


def _most(max_size: str, toolchain: str, cap: str | None) -> int:
    if max_size or (cap and not toolchain):
        return _bytes(max_size or cap or "")
    if toolchain:
        return 0
    raise UsageError(
        "it is not said how much may stay",
        remedy="add --max-size 20GiB, or resources.cache to the matrix file; --toolchain ID alone removes that one's",
    )


def _bytes(text: str) -> int:
    size = bytes_of(text)
    if size is None:
        raise UsageError(
            f"--max-size {text}: this is no size", remedy="write a number and MiB or GiB: --max-size 20GiB"
        )
    return size


def _base(matrix: Matrix) -> str:
    """The base image of the matrix's first variant: it is there wherever something has been built."""
    recipes, unbuildable = recipes_for(matrix.variants, matrix)
    if not recipes:
        raise unbuildable[0].error
    return recipes[0].base_image


def _print(caches: tuple[Cache, ...], *, json: bool) -> None:
    if json:
        print_json([asdict(one) for one in caches])
    else:
        write(caches_table([CacheRow(**asdict(one)) for one in caches], width=width()))


def _say(text: str, caches: tuple[Cache, ...], *, json: bool) -> None:
    if not json:
        write(f"{text}\n")
    _print(caches, json=json)


def _changed(word: str, changed: Changed, *, json: bool) -> None:
    if json:
        print_json(asdict(changed))
    else:
        _say(f"{word} {_amount(changed)}", changed.caches, json=False)


def _amount(changed: Changed) -> str:
    return f"{size(changed.bytes)} in {count(changed.files, 'file')}"


def _total(caches: tuple[Cache, ...]) -> str:
    return size(sum(one.bytes for one in caches))
