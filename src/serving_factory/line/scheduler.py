"""Runs variants through the stages. What a record shows to be done is skipped; one variant's failure is no other's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from serving_factory.engine.disk import disk_full_is_typed
from serving_factory.errors import FactoryError, NotBuiltError
from serving_factory.line.events import Emit, Event, EventKind, StageName
from serving_factory.line.job import Job, Stage
from serving_factory.line.records import Record, reached, read_record, record_path, write_record
from serving_factory.line.results import Status, VariantResult

__all__ = ["run_line"]


def run_line(
    jobs: Sequence[Job], stages: Sequence[Stage], emit: Emit, *, before: Sequence[Stage] = ()
) -> tuple[VariantResult, ...]:
    """Run each job through the stages, in their order.

    Args:
        jobs: the variants.
        stages: the stages to run, neighbours on the line.
        emit: is told of all that happens.
        before: the stages before these. They are not run; where one of them is out of date, the variant fails, so that
            no image is made of yesterday's binary and today's labels.

    A FactoryError ends its own variant and no other. A KeyboardInterrupt ends the running stage; it and all that
    comes after count as cancelled.
    """
    results: list[VariantResult] = []
    interrupted = False
    for job in jobs:
        run = _VariantRun(job, emit)
        if not interrupted:
            try:
                run.through(stages, before)
            except KeyboardInterrupt:
                interrupted = True
        results.append(run.result(cancelled=interrupted))
    return tuple(results)


class _VariantRun:
    """One variant's way along the line."""

    def __init__(self, job: Job, emit: Emit) -> None:
        self._job = job
        self._emit = emit
        self._began = time.monotonic()
        self._worked = False
        self._complete = False
        self._error: FactoryError | None = None
        self._running: Stage | None = None
        self._last_log: str | None = None

    def through(self, stages: Sequence[Stage], before: Sequence[Stage]) -> None:
        for index, stage in enumerate(stages):
            try:
                if index == 0:
                    self._must_be_done(before)
                with disk_full_is_typed():
                    self._one(stage)
            except FactoryError as error:
                self._error, self._last_log = error, self._log(stage)
                self._tell(stage, EventKind.FAILED, text=str(error), log=self._last_log)
                for later in stages[index + 1 :]:
                    self._tell(later, EventKind.SKIPPED, text=f"{stage.name} failed")
                return
            except KeyboardInterrupt:
                for later in stages[index:]:
                    self._tell(later, EventKind.CANCELLED)
                raise
        self._complete = True

    def _must_be_done(self, before: Sequence[Stage]) -> None:
        for stage in before:
            # The record first: without one there is nothing to ask the engine.
            if not read_record(self._job.folder, stage.name) or not self._is_done(stage, stage.key(self._job)):
                variant = self._job.recipe.variant.id
                raise NotBuiltError(
                    f"{variant}: the stage {stage.name} has not been done, or what decides it has changed since",
                    remedy="run `./factory build` with the same options, which does all that is missing",
                )

    def _is_done(self, stage: Stage, key: str) -> bool:
        record = read_record(self._job.folder, stage.name)
        return record is not None and record.key == key and stage.intact(self._job, record)

    def _one(self, stage: Stage) -> None:
        key = stage.key(self._job)
        if self._is_done(stage, key):
            self._tell(stage, EventKind.UP_TO_DATE)
            return
        self._tell(stage, EventKind.STARTED)
        self._worked = True
        self._running = stage
        record_path(self._job.folder, stage.name).unlink(missing_ok=True)
        started, clock = datetime.now(UTC), time.monotonic()
        outputs = stage.run(self._job, lambda text: self._tell(stage, EventKind.PROGRESS, text=text))
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
            ),
        )
        self._tell(stage, EventKind.FINISHED, seconds=seconds, log=self._log(stage))

    def _log(self, stage: Stage) -> str | None:
        path = self._job.log(stage.name)
        return str(path) if self._running is stage and path.is_file() else None

    def _tell(self, stage: Stage, kind: EventKind, **more: Any) -> None:  # noqa: ANN401 - as Event takes them
        self._emit(Event(variant=self._job.recipe.variant.id, stage=stage.name, kind=kind, **more))

    def result(self, *, cancelled: bool) -> VariantResult:
        """Sum up; the facts come from the records, so that they are there for what was up to date too."""
        return VariantResult(
            variant=self._job.recipe.variant.id,
            status=self._status(cancelled=cancelled),
            seconds=round(time.monotonic() - self._began, 3),
            error=self._error,
            log=self._last_log,
            **_facts(self._job),
        )

    def _status(self, *, cancelled: bool) -> Status:
        if self._error:
            return Status.FAILED
        if not self._complete:
            return Status.CANCELLED if cancelled else Status.SKIPPED
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
