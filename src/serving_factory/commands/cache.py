"""`cache`: Bazel's caches in the engine: show, prune, export, import."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from serving_factory.commands.shared import CacheOptions, bytes_of, new_file, show, width
from serving_factory.errors import FactoryError, UsageError
from serving_factory.output.text import count, size, table
from serving_factory.pipeline.bazel import unusable, uploads
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.caches import Cache, Changed, export_caches, import_caches, prune_caches, show_caches
from serving_factory.pipeline.events import Status, VariantResult
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.stages.compile import COMPILE, Compiled
from serving_factory.recipes.recipe import recipes_for

_VERBS = ("show", "prune", "export", "import")


def cache(options: CacheOptions) -> None:
    """Show, prune, export or import the caches."""
    _check(options)
    asked, file = options.asked, options.file
    matrix = asked.load()
    recipes, unbuildable = recipes_for(matrix.variants, matrix)
    if not recipes:
        raise unbuildable[0].error
    base = recipes[0].base.image  # the engine has it wherever something has been built
    if options.verb == "show":
        _show("", show_caches(base), json=options.json)
        return
    with hold_lock(asked.checkout.build):
        if options.verb == "export":
            exported = export_caches(base, Path(file).resolve())
            total = size(sum(one.bytes for one in exported))
            _show(f"exported {total} to {file}\n", exported, json=options.json, file=file)
        elif options.verb == "import":
            changed = import_caches(base, Path(file), scratch=asked.checkout.build)
            _show_changed("added", changed, json=options.json)
        else:
            most = _most(options, matrix.resources.cache)
            changed = prune_caches(base, most=most, toolchain=options.toolchain)
            _show_changed("removed", changed, json=options.json)


def _show_changed(word: str, changed: Changed, *, json: bool) -> None:
    amount = {word: {"bytes": changed.bytes, "files": changed.files}}
    _show(f"{word} {_amount(changed)}\n", changed.caches, json=json, **amount)


def _show(text: str, caches: Sequence[Cache], *, json: bool, **more: object) -> None:
    documents = [
        {
            **{name: getattr(one, name) for name in ("name", "bytes", "files")},
            "last_used": _when(one.used) or None,
            "toolchain": one.toolchain or None,
        }
        for one in caches
    ]
    total = {"bytes": sum(one.bytes for one in caches), "files": sum(one.files for one in caches)}
    document = {**more, "caches": documents, "total": total}
    show(document, text + caches_table(caches, width=width()), json=json)


def caches_table(caches: Sequence[Cache], *, width: int | None = None) -> str:
    """A line for each cache, and one for the total."""
    rows = []
    for one in caches:
        users = "all builds, for downloads" if one.name == "repository" else one.toolchain.replace(";", "; ")
        rows.append((one.name, size(one.bytes), str(one.files), _when(one.used), users))
    rows.append(("total", size(sum(one.bytes for one in caches)), str(sum(one.files for one in caches)), "", ""))
    return table(("cache", ">size", ">files", "last used", "used by"), rows, width=width)


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds else ""


def _amount(changed: Changed) -> str:
    return f"{size(changed.bytes)} in {count(changed.files, 'file')}"


def cap_caches(base: str, most: str) -> str:
    """Prune the caches after a build to `most`, the matrix's size; the text to print, for a failure ends no build."""
    try:
        changed = prune_caches(base, most=bytes_of(most))
    except FactoryError as error:
        return f"Bazel's caches could not be pruned to {most}: {error.what}\nWhat to do: {error.remedy}\n"
    return f"Pruned Bazel's caches to {most}: removed {_amount(changed)}.\n" if changed.files else ""


def remote_notes(jobs: Sequence[Job], results: Sequence[VariantResult]) -> str:
    """Say which of the variants built now went without their remote cache, and why."""
    built = {result.variant for result in results if result.status is Status.BUILT}
    without: dict[str, list[str]] = {}
    for job in jobs:
        record = COMPILE.read(job.folder)
        if record and job.recipe.variant.id in built and (why := _without_remote(job, record.outputs)):
            without.setdefault(why, []).append(job.recipe.variant.id)
    return "".join(f"Built {why}: {', '.join(ids)}.\n" for why, ids in without.items())


def _without_remote(job: Job, outputs: Compiled) -> str:
    remote, bazel = job.recipe.remote, job.recipe.toolchain.bazel.version
    if not remote.address:
        return ""
    what = "remote execution" if remote.executor else "the remote cache"
    partly = "in part " if outputs.remote_actions or outputs.remote_cache_hits else ""
    if silent := outputs.silent_remote:
        return f"{partly}without {what}, as {silent} does not answer"
    if trouble := outputs.remote_trouble:
        return f"with trouble from {what} ({trouble})"
    cannot = unusable(remote, Version(bazel), upload=uploads(remote))
    return f"without {what}, as Bazel {bazel} can have {cannot}" if cannot else ""


def _check(options: CacheOptions) -> None:
    verb, file = options.verb, options.file
    if verb not in _VERBS:
        raise UsageError(
            f"`cache {verb}` is no command" if verb else "`cache` needs a command",
            remedy=f"type one of: {', '.join(f'./factory cache {one}' for one in _VERBS)}",
        )
    if verb in {"export", "import"} and not file:
        raise UsageError(f"`cache {verb}` needs a file", remedy=f"type ./factory cache {verb} caches.tar")
    if verb in {"show", "prune"} and file:
        raise UsageError(f"`cache {verb}` takes no file, got {file!r}", remedy=f"type ./factory cache {verb}")
    if verb != "prune" and (options.max_size is not None or options.toolchain):
        raise UsageError("--max-size and --toolchain belong to `cache prune`", remedy="leave them out")
    if verb == "import" and not Path(file).is_file():
        raise UsageError(f"there is no file {file}", remedy="name one that `./factory cache export` wrote")
    if verb == "export":
        new_file("FILE", file)


def _most(options: CacheOptions, cap: str | None) -> int:
    if options.max_size is not None:
        return options.max_size
    if options.toolchain:
        return 0
    if cap:
        return bytes_of(cap)
    raise UsageError(
        "`cache prune` needs to know how much may stay",
        remedy="give --max-size 20GiB, or set resources.cache in the matrix file; --toolchain ID removes that one's",
    )
