"""Taking away what the line left: folders of variants, containers, images, and Bazel's caches in the engine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving_factory.docker.caches import drop_cache_mounts
from serving_factory.docker.client import disk_full_is_typed
from serving_factory.errors import FactoryError, NotBuiltError
from serving_factory.pipeline.budget import Candidate
from serving_factory.pipeline.events import Emit, Event, EventKind, StageName, Status, VariantResult
from serving_factory.pipeline.job import Job, Outputs, Site, Stage
from serving_factory.pipeline.records import Record, clear_logs, reached, read_record, record_path, write_record
from serving_factory.pipeline.retry import with_engine_back
from serving_factory.recipes.recipe import CACHES, Recipe, key_of


def is_done(stage: Stage, job: Job) -> bool:
    """Whether a stage's record is of what it would do now, and its product still there."""
    return _is_done(stage, job, stage.key(job))


def _is_done(stage: Stage, job: Job, key: str) -> bool:
    record = read_record(job.folder, stage.name)
    return record is not None and record.key == key and stage.intact(job, record)


class VariantRun:
    """One variant's way along the line.

    Args:
        job: the variant.
        emit: is told of all that happens.
    """

    def __init__(self, job: Job, emit: Emit) -> None:
        self._job = replace(job, report_retry=self._retried)
        self._emit = emit
        self._began: float | None = None
        self._ended: float | None = None
        self._worked = False
        self._complete = False
        self._compiled: Outputs = {}
        self._running: Stage | None = None
        self._last_log: str | None = None
        self._tries: list[str] = []
        self.error: FactoryError | None = None
        self.time_limit: FactoryError | None = None
        self.skipped = ""
        self.cancelled = ""

    def through(self, stages: Sequence[Stage], before: Sequence[Stage]) -> None:
        """Run the stages, in their order.

        A FactoryError ends the variant: `error` holds it then. Any other exception is raised.

        Args:
            stages: the stages to run, neighbours on the line.
            before: the stages before these. They are not run; where one of them is out of date, the variant fails, so
                that no image is made of yesterday's binary and today's labels.
        """
        self._began = time.monotonic()
        try:
            self._through(stages, before)
        finally:
            self._ended = time.monotonic()

    def _through(self, stages: Sequence[Stage], before: Sequence[Stage]) -> None:
        for index, stage in enumerate(stages):
            try:
                self._job.cancel.check()
                if index == 0:
                    self._must_be_done(before)
                with disk_full_is_typed():
                    self._one(stage)
            except FactoryError as error:
                if self._job.cancel.asked and not self.time_limit:
                    for later in stages[index:]:
                        self._report(later, EventKind.CANCELLED)
                    return
                self._fail(stage, self.time_limit or error)
                for later in stages[index + 1 :]:
                    self._report(later, EventKind.SKIPPED, text=f"{stage.name} failed")
                return
            finally:
                if stage.name is StageName.COMPILE:
                    self._job.release_share()
        self._complete = True

    def _fail(self, stage: Stage, error: FactoryError) -> None:
        self.error, self._last_log = error, self._log(stage)
        self._report(stage, EventKind.FAILED, text=str(error), log=self._last_log)

    def skip(self, stages: Sequence[Stage], because: str) -> None:
        """Do nothing, and say why."""
        self.skipped = because
        self._report(stages[0], EventKind.SKIPPED, text=because)

    def _must_be_done(self, before: Sequence[Stage]) -> None:
        for stage in before:
            # The record first: without one there is nothing to ask the engine.
            if not read_record(self._job.folder, stage.name) or not is_done(stage, self._job):
                variant = self._job.recipe.variant.id
                raise NotBuiltError(
                    f"{variant}: the stage {stage.name} has not been done, or what decides it has changed since",
                    remedy="run `./factory build` with the same options, which does all that is missing",
                )

    def _one(self, stage: Stage) -> None:
        key = stage.key(self._job)
        if _is_done(stage, self._job, key):
            self._report(stage, EventKind.UP_TO_DATE)
            return
        self._report(stage, EventKind.STARTED)
        self._worked = True
        self._running, self._tries = stage, []
        clear_logs(self._job.log(stage.name))
        record_path(self._job.folder, stage.name).unlink(missing_ok=True)
        started, clock = datetime.now(UTC), time.monotonic()
        outputs = with_engine_back(lambda: stage.run(self._job, lambda text: self._progress(stage, text)), self._job)
        seconds = round(time.monotonic() - clock, 3)
        write_record(
            self._job.folder,
            Record(
                variant=self._job.recipe.variant.id,
                stage=stage.name,
                key=key,
                started=started.isoformat(timespec="seconds"),
                seconds=seconds,
                outputs=outputs,
                tried_again=tuple(self._tries),
            ),
        )
        if stage.name is StageName.COMPILE:
            self._compiled = outputs
        self._report(stage, EventKind.FINISHED, seconds=seconds, log=self._log(stage))

    def _progress(self, stage: Stage, text: str) -> None:
        """Pass on what a stage tells; one that is to end does not come back from here."""
        self._job.cancel.check()
        self._report(stage, EventKind.PROGRESS, text=text)

    def _retried(self, text: str) -> None:
        """Note and pass on that the running stage tries again; one that is to end does not come back from here."""
        self._job.cancel.check()
        self._tries.append(text)
        if self._running:
            self._report(self._running, EventKind.RETRIED, text=text)

    def _log(self, stage: Stage) -> str | None:
        path = self._job.log(stage.name)
        return str(path) if self._running is stage and path.is_file() else None

    def _report(self, stage: Stage, kind: EventKind, **more: Any) -> None:  # noqa: ANN401 - as Event takes them
        self._emit(Event(variant=self._job.recipe.variant.id, stage=stage.name, kind=kind, **more))

    def result(self) -> VariantResult:
        """Sum up; the facts come from the records, so that they are there for what was up to date too."""
        status = self._status()
        because = self.skipped if status is Status.SKIPPED else self.cancelled if status is Status.CANCELLED else ""
        return VariantResult(
            variant=self._job.recipe.variant.id,
            status=status,
            seconds=round((self._ended or time.monotonic()) - self._began, 3) if self._began else 0.0,
            error=self.error,
            because=because,
            log=self._last_log,
            memory=self._compiled.get("peak_memory_bytes") if self._compiled.get("bazel_ran") else None,
            download=self._compiled.get("bytes_fetched"),
            **_facts(self._job),
        )

    def _status(self) -> Status:
        if self.error:
            return Status.FAILED
        if not self._complete:
            return Status.SKIPPED if self.skipped else Status.CANCELLED
        return Status.BUILT if self._worked else Status.UP_TO_DATE


def _pushed(push: Mapping[str, Any]) -> list[str] | None:
    """The names under which a registry holds the image, with its digest there."""
    if not push:
        return None
    where = f"{push['registry']}/{push['repository']}"
    return [f"{where}:{tag}@{digest}" for tag, digest in push["digests"].items()]


def _facts(job: Job) -> dict[str, Any]:
    """What the records tell of a variant, as far as it has come."""
    records = reached(job.folder)
    binary, image, smoke, push = (
        records[stage].outputs if stage in records else {}
        for stage in (StageName.EXTRACT, StageName.PACKAGE, StageName.SMOKE, StageName.PUSH)
    )
    facts = {
        "binary_size": binary.get("size"),
        "image_size": image.get("size"),
        "rest": smoke.get("rest"),
        "grpc": smoke.get("grpc"),
        "pushed": _pushed(push),
    }
    return {
        "image": f"{image['repository']}:{(*image['aliases'], *image['tags'])[0]}" if image else None,
        "facts": {name: value for name, value in facts.items() if value is not None},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVariant:
    """What would be done for one variant.

    Args:
        variant: its id.
        run: the stages that would run.
        up_to_date: the stages that would not.
        because: why the first of them would run; empty when none would.
        toolchain: tells its toolchain from others.
        objects: tells its object files from others' of the toolchain, as far as it is known.
    """

    variant: str
    toolchain: str
    objects: str
    run: tuple[StageName, ...]
    up_to_date: tuple[StageName, ...]
    because: str


def plan_line(jobs: Sequence[Job], stages: Sequence[Stage]) -> tuple[PlannedVariant, ...]:
    """Say which stages would run. The base image is taken to be the recorded one."""
    return tuple(_plan(job, stages) for job in jobs)


def _plan(job: Job, stages: Sequence[Stage]) -> PlannedVariant:
    compiled = read_record(job.folder, StageName.COMPILE)
    if compiled:
        job.site.assume_image(job.recipe.base_image, compiled.outputs.get("base_digest") or None)
    done, because = len(stages), ""
    for index, stage in enumerate(stages):
        if because := _reason(job, stage, compiled=compiled is not None):
            done = index
            break
    names = tuple(stage.name for stage in stages)
    return PlannedVariant(
        variant=job.recipe.variant.id,
        toolchain=toolchain_key(job.recipe),
        objects=_objects(job.recipe),
        run=names[done:],
        up_to_date=names[:done],
        because=because,
    )


def _reason(job: Job, stage: Stage, *, compiled: bool) -> str:
    record = read_record(job.folder, stage.name)
    if record is None or not compiled:
        return f"{stage.name} has not been done"
    if record.key != stage.key(job):
        return f"what decides {stage.name} has changed"
    return ""


def toolchain_key(recipe: Recipe) -> str:
    """Say a toolchain from others: by its base, packages, Bazel and compiler. Variants of one share Bazel's caches."""
    toolchain = recipe.toolchain
    return key_of(
        base=recipe.base_image,
        packages=toolchain.packages,
        bazel=repr(toolchain.bazel),
        compiler=toolchain.compiler,
    )


def _objects(recipe: Recipe) -> str:
    """Flavours of a level, and releases near each other, compile some of the same in the same way."""
    return " ".join(recipe.variant.all_copts)


def planned_candidates(plan: Sequence[PlannedVariant]) -> tuple[Candidate, ...]:
    """Those of a plan that have something to do."""
    return tuple(
        Candidate(
            variant=one.variant,
            toolchain=one.toolchain,
            objects=one.objects,
            compiles=StageName.COMPILE in one.run,
        )
        for one in plan
        if one.run
    )


def candidates(jobs: Sequence[Job], stages: Sequence[Stage]) -> tuple[Candidate, ...]:
    """All jobs of a run; unlike a plan's, they are looked at with the engine's eyes too."""
    return tuple(
        Candidate(
            variant=job.recipe.variant.id,
            toolchain=toolchain_key(job.recipe),
            objects=_objects(job.recipe),
            compiles=any(stage.name is StageName.COMPILE and has_work(stage, job) for stage in stages),
        )
        for job in jobs
    )


def has_work(stage: Stage, job: Job) -> bool:
    """Whether a stage would run."""
    try:
        return not is_done(stage, job)
    except FactoryError:  # the stage itself will tell
        return True


def clean(site: Site, *, images: bool, caches: bool) -> Iterator[str]:
    """Clean up, and say each thing that was removed.

    Args:
        site: whose build folder, and whose engine.
        images: remove the images that the line packaged, too.
        caches: drop Bazel's caches, too.

    Raises:
        EngineUnavailableError: images or caches were asked for, and no engine answers.
    """
    folders = tuple(_variant_folders(site.build))
    if images:
        yield f"removed {site.strays} stray containers"
        for name in sorted(name for folder in folders for name in _image_names(folder)):
            site.engine.remove_image(name)
            yield f"removed image {name}"
    for folder in (*folders, *site.build.glob("bake")):
        shutil.rmtree(folder)
        yield f"removed {folder}"
    if caches:
        dropped = drop_cache_mounts(CACHES)
        yield from (f"dropped cache {mount.id}, {mount.size}" for mount in dropped.gone)
        yield from (f"kept cache {mount.id}, {mount.size}: a build uses it" for mount in dropped.used)


def _image_names(folder: Path) -> Iterator[str]:
    """The names that a variant's package stage gave to its image; another checkout's images are none of ours."""
    record = read_record(folder, StageName.PACKAGE)
    if record:
        for tag in (*record.outputs["tags"], *record.outputs["aliases"]):
            yield f"{record.outputs['repository']}:{tag}"


def _variant_folders(build: Path) -> Iterator[Path]:
    """The folders in which a recipe was written down: nothing else is ours to delete."""
    yield from sorted(path.parent for path in build.glob("*/recipe") if path.is_dir())
