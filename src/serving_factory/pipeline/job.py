"""What a stage is, and what it works with."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_factory.docker.process import Cancel
from serving_factory.errors import NotBuiltError
from serving_factory.pipeline.budget import ONE_JOB, Share
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.records import Record, read_record, tree_digest, write_atomically
from serving_factory.recipes.recipe import Recipe, key_of, short

_SETTLED = 2.0
"""Seconds since the last change after which a folder's digest is remembered: a file that changes twice within a tick of
the clock looks as after its first change (git calls such an entry "racily clean")."""


class TreeMemory:
    """Digests by the files' metadata: name, inode, mode, size, and both times of the last change.

    The time of the last change of an inode (ctime) cannot be set by a program, so a file whose content was changed and
    whose other times were put back is seen as well.

    Args:
        file: where they are remembered; nothing is written there before `save`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, str]] | None = None
        self._new = False

    def digest(self, folder: Path) -> str:
        """The digest of a folder, as `tree_digest` gives it."""
        with self._lock:
            known = self._read()
            signature, newest = _signature(folder)
            remembered = known.get(str(folder))
            if remembered and remembered[0] == signature:
                return remembered[1]
            digest = tree_digest(folder)
            settled = newest < (time.time() - _SETTLED) * 1e9 and _signature(folder)[0] == signature
            if settled:
                known[str(folder)] = (signature, digest)
                self._new = True
            return digest

    def save(self) -> None:
        """Remember, for the next run. What cannot be written is read again then."""
        with self._lock, suppress(OSError):
            if self._new and self._known:
                kept = {folder: entry for folder, entry in self._known.items() if Path(folder).is_dir()}
                write_atomically(self._file, json.dumps(kept))
                self._new = False

    def _read(self) -> dict[str, tuple[str, str]]:
        if self._known is None:
            self._known = {}
            with suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
                found = json.loads(self._file.read_text(encoding="utf-8"))
                self._known = {str(folder): (str(entry[0]), str(entry[1])) for folder, entry in found.items()}
        return self._known


def _signature(folder: Path) -> tuple[str, int]:
    """Sum up a folder's metadata, and tell the newest change in it, in nanoseconds since 1970."""
    found = _everything_in(str(folder))
    lines = [
        f"{path[len(str(folder)) :]!a} {status.st_ino} {status.st_mode} {status.st_size}"
        f" {status.st_mtime_ns} {status.st_ctime_ns}\n"
        for path, status in sorted(found.items())
    ]
    newest = max((max(status.st_mtime_ns, status.st_ctime_ns) for status in found.values()), default=0)
    return hashlib.sha256("".join(lines).encode()).hexdigest(), newest


def _everything_in(folder: str) -> dict[str, os.stat_result]:
    """Path → metadata of all that is below a folder."""
    found: dict[str, os.stat_result] = {}
    folders = [folder]
    while folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                found[entry.path] = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found[entry.path].st_mode):
                    folders.append(entry.path)
    return found


if TYPE_CHECKING:
    from serving_factory.docker.engine import Engine


VARIANT_LABEL = "org.serving-factory.variant"

Outputs = Mapping[str, Any]
Progress = Callable[[str], None]
"""Called with what is told of a stage while it works: the current action, in a few words."""


class Site:
    """Where a line runs: its folders, its engine, what it finds there.

    Each thing is looked up once, when needed, however many threads need it at a time.
    """

    def __init__(
        self, *, build: Path, models: Path, registry: str | None = None, connect: Callable[[], Engine] | None = None
    ) -> None:
        self.build = build
        self.models = models
        self.registry = registry
        self._connect = connect
        self._lock = threading.RLock()
        self._image_ids: dict[str, str | None] = {}
        self._trees: dict[Path, str] = {}
        self.lost_engine = False
        """Whether an engine went away under a stage: what it ran then may still be there."""
        self.memory = TreeMemory(build / "trees.json")

    @cached_property
    def engine(self) -> Engine:
        """The Docker engine."""
        if self._connect:
            return self._connect()
        # The SDK takes half a second to import: a run that finds all up to date by its records does not wait for it.
        from serving_factory.docker.engine import Engine

        return Engine.connect()

    @property
    def knows_engine(self) -> bool:
        """Whether an engine has answered in this run."""
        return "engine" in vars(self)

    @property
    def owner(self) -> str:
        """Marks the containers of this build folder, so that no other checkout's are taken for strays."""
        return f"factory-{short(key_of(build=str(self.build.resolve())))}"

    @cached_property
    def strays(self) -> int:
        """How many containers a killed run had left; they are removed by looking."""
        return self.engine.remove_strays(self.owner)

    @cached_property
    def packaged(self) -> Mapping[str, str]:
        """The names of all images that a factory has packaged and the engine has, each with the image's id."""
        return self.engine.image_names(VARIANT_LABEL)

    def image_id(self, reference: str) -> str | None:
        """The id of an image that the engine has; None when it has none of that name."""
        with self._lock:
            if reference not in self._image_ids:
                self._image_ids[reference] = self.engine.image_id(reference)
            return self._image_ids[reference]

    def base_id(self, recipe: Recipe) -> str:
        """The base image's digest, or the id of the image that this network has for it; empty where neither is known.

        A base that is neither pinned nor swapped counts by its name: whether the engine happens to hold a copy of it
        decides nothing.
        """
        pinned = recipe.base_image.partition("@")[2]
        if pinned or not recipe.base_context:
            return pinned
        return self.image_id(recipe.base_image) or ""

    def assume_image(self, reference: str, image_id: str | None) -> None:
        """Take an image's id from a record instead of asking the engine."""
        self._image_ids[reference] = image_id

    def tree(self, folder: Path) -> str:
        """The digest of a folder."""
        with self._lock:
            if folder not in self._trees:
                self._trees[folder] = self.memory.digest(folder)
            return self._trees[folder]


def _nothing(*_told: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One variant on its way along the line.

    Args:
        recipe: how it is built.
        site: where.
        share: what it may use of the engine's machine.
        cancel: asks its stages to end.
        release_share: called, at least once, when compilers need its share no more: Bazel is done, or the compile stage
            has ended.
        report_retry: told what failed, and how it is tried again.
    """

    recipe: Recipe
    site: Site
    share: Share = ONE_JOB
    cancel: Cancel = field(default_factory=Cancel)
    release_share: Callable[[], None] = _nothing
    report_retry: Progress = _nothing

    @property
    def folder(self) -> Path:
        """Where everything about this variant lands."""
        return self.site.build / self.recipe.variant.id

    @property
    def artifact(self) -> Path:
        """What the compile stage took out of the build."""
        return self.folder / "artifact"

    @property
    def devel_context(self) -> Path:
        """The devel Dockerfile, and the files that it copies."""
        return self.folder / "recipe" / "devel"

    @property
    def staged_inputs(self) -> Path:
        """What is put together of folders and files for the build, in a folder for each named context."""
        return self.folder / "recipe" / "inputs"

    def log(self, stage: StageName) -> Path:
        """The full log of a stage."""
        return self.folder / "logs" / f"{stage}.log"

    def record(self, stage: StageName) -> Record:
        """The record of an earlier stage.

        Raises:
            NotBuiltError: that stage has not been done.
        """
        record = read_record(self.folder, stage)
        if record is None:
            raise NotBuiltError(
                f"{self.recipe.variant.id}: the stage {stage} has not been done",
                remedy="run `./factory build` with the same options, which does all that is missing",
            )
        return record


def _always(_job: Job, _record: Record) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of the line.

    Args:
        name: its name.
        key: the key of what it would do now.
        run: does it, and gives what its record shall hold.
        intact: whether what an earlier run made is still there.
    """

    name: StageName
    key: Callable[[Job], str]
    run: Callable[[Job, Progress], Outputs]
    intact: Callable[[Job, Record], bool] = field(default=_always)
