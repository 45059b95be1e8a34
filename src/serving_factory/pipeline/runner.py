"""One variant on its way through the stages; what a run would do; and what `clean` takes away."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_factory.docker.caches import drop_cache_mounts
from serving_factory.errors import FactoryError, NotBuiltError, os_errors_typed
from serving_factory.pipeline.budget import Candidate
from serving_factory.pipeline.events import Emit, Event, EventKind, Status, VariantResult
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import (
    Outputs,
    Record,
    clear_logs,
    put_aside,
    read_json,
    record_path,
    write_atomically,
    write_record,
)
from serving_factory.pipeline.retry import Recovery
from serving_factory.pipeline.stages import STAGES, reached, stage
from serving_factory.recipes.recipe import CACHES, key_of, short

if TYPE_CHECKING:
    from serving_factory.pipeline.stages.package import Packaged


class VariantRun:
    """One variant's way through the stages."""

    # Stages that these need beyond themselves are not run. Where one of those is out of date, the variant fails, so
    # that no image is made of yesterday's binary and today's labels.

    def __init__(self, job: Job, stages: Sequence[Stage[Any]], emit: Emit) -> None:
        self._job = replace(job, report_retry=self._retried)
        self._stages = stages
        self._emit = emit
        self._began: float | None = None
        self._ended: float | None = None
        self._made: dict[str, Outputs] = {}
        self._complete = False
        self._running: Stage[Any] | None = None
        self._since = 0.0  # the clock when it began
        self._last_log: str | None = None
        self._tries: list[str] = []
        self.error: FactoryError | None = None
        self.time_limit: FactoryError | None = None
        self.skipped = ""
        self.cancelled = ""

    def run(self) -> None:
        """Run the stages."""
        # A FactoryError ends the variant: `error` holds it then. Any other exception is raised.
        self._began = time.monotonic()
        try:
            for index, one in enumerate(self._stages):
                try:
                    self._job.cancel.check()
                    if index == 0:
                        self._check_needs()
                    with os_errors_typed():
                        self._run_stage(one)
                except FactoryError as error:
                    self._end(error, self._stages[index:])
                    return
                finally:
                    if one.compiles:
                        self._job.release_share()
            self._complete = True
        finally:
            self._ended = time.monotonic()

    def _run_stage(self, one: Stage[Any]) -> None:
        job = self._job
        if not (reason := one.reason(job)):
            self._report(one, EventKind.UP_TO_DATE)
            return
        key, inputs = one.key(job), one.digests(job)
        self._report(one, EventKind.STARTED, text=reason if one.ran_before(job.folder) else "")
        self._running, self._since, self._tries = one, time.monotonic(), []
        clear_logs(job.log(one.name))
        note_replaced(job, one)
        record_path(job.folder, one.name).unlink(missing_ok=True)
        started, recovery = datetime.now(UTC), Recovery(job)
        while True:
            try:
                outputs = one.run(recovery.job, self._progress)
                break
            except FactoryError as error:
                recovery.prepare(error)
                put_aside(job.log(one.name))
        took = self._took(one)
        done = Record(
            variant=job.recipe.variant.id,
            stage=one.name,
            key=key,
            started=started.isoformat(timespec="seconds"),
            seconds=took["seconds"],
            outputs=outputs,
            tried_again=tuple(self._tries),
            inputs=inputs,
        )
        write_record(job.folder, done)
        self._made[one.name] = outputs
        self._report(one, EventKind.FINISHED, **took)

    def _check_needs(self) -> None:
        for needed in needs_of(self._stages):
            if reason := needed.reason(self._job):
                raise NotBuiltError(
                    f"{self._job.recipe.variant.id}: {reason}",
                    remedy="run `./factory build` with the same options: it runs all that is missing",
                )

    def _end(self, error: FactoryError, left: Sequence[Stage[Any]]) -> None:
        """Report how the first of the stages that are left ended, and that the others did not begin."""
        if self._job.cancel.asked and not self.time_limit:
            for one in left:
                self._report(one, EventKind.CANCELLED, **self._took(one))
            return
        self.error, took = self.time_limit or error, self._took(left[0])
        self._last_log = took.get("log")
        self._report(left[0], EventKind.FAILED, text=str(self.error), **took)
        for one in left[1:]:
            self._report(one, EventKind.SKIPPED, text=f"{left[0].name} failed")

    def skip(self, because: str) -> None:
        """Do nothing, and say why."""
        self.skipped = because
        self._report(self._stages[0], EventKind.SKIPPED, text=because)

    def _progress(self, text: str) -> None:
        """Report what the running stage does; one that is to end does not come back from here."""
        self._job.cancel.check()
        if self._running:
            self._report(self._running, EventKind.PROGRESS, text=text)

    def _retried(self, text: str) -> None:
        """Report that the running stage is tried again, likewise."""
        self._job.cancel.check()
        self._tries.append(text)
        if self._running:
            self._report(self._running, EventKind.RETRIED, text=text)

    def _took(self, one: Stage[Any]) -> dict[str, Any]:
        """How long a stage has worked, and its log; nothing of one that has not begun."""
        if self._running is not one:
            return {}
        log = self._job.log(one.name)
        return {"seconds": round(time.monotonic() - self._since, 3), "log": str(log) if log.is_file() else None}

    def _report(self, one: Stage[Any], kind: EventKind, **more: Any) -> None:  # noqa: ANN401 - as Event takes them
        self._emit(Event(variant=self._job.recipe.variant.id, stage=one.name, kind=kind, **more))

    def result(self) -> VariantResult:
        """Sum up; the facts come from the records, so that they are there for what was up to date too."""
        status = self._status()
        facts: dict[str, Any] = {}
        beside = (one.read(self._job.folder) for one in self._stages if one.name not in STAGES)
        for record in (*reached(self._job.folder).values(), *filter(None, beside)):
            facts |= {name: value for name, value in record.outputs.summary().items() if value is not None}
        measures = {name: value for made in self._made.values() for name, value in made.measures().items()}
        return VariantResult(
            variant=self._job.recipe.variant.id,
            status=status,
            seconds=round((self._ended or time.monotonic()) - self._began, 3) if self._began else 0.0,
            memory=measures.get("memory"),
            download=measures.get("download"),
            image=facts.pop("image", None),
            facts=facts,
            error=self.error,
            because=self.skipped if status is Status.SKIPPED else self.cancelled if status is Status.CANCELLED else "",
            log=self._last_log,
        )

    def _status(self) -> Status:
        if self.error:
            return Status.FAILED
        if not self._complete:
            return Status.SKIPPED if self.skipped else Status.CANCELLED
        return Status.BUILT if self._made else Status.UP_TO_DATE


def needs_of(stages: Sequence[Stage[Any]]) -> tuple[Stage[Any], ...]:
    """All that stages need and that is not among them, what is needed first before the others."""
    return tuple(dict.fromkeys(needed for one in stages for needed in one.all_needs if needed not in stages))


def why_not_ready(job: Job, one: Stage[Any]) -> str:
    """Why what a stage needs is not as it would be made now; empty where it is."""
    return next((why for needed in one.all_needs if (why := needed.reason(job))), "")


def plan_stages(jobs: Sequence[Job], stages: Sequence[Stage[Any]]) -> tuple[Candidate, ...]:
    """Say which stages would run. The base image is taken to be the recorded one."""
    return tuple(_plan(job, stages) for job in jobs)


def _plan(job: Job, stages: Sequence[Stage[Any]]) -> Candidate:
    compiled = stage("compile").read(job.folder)
    if compiled:
        job.site.assume_image(job.recipe.base.image, compiled.outputs.base_digest or None)
    if libraries := stage("libraries").read(job.folder):
        job.site.assume_image(libraries.outputs.base, libraries.outputs.base_digest or None)
    done, because = len(stages), ""
    for index, one in enumerate(stages):
        if because := one.reason(job, look=False):
            done = index
            break
    names = tuple(one.name for one in stages)
    compiles = any(one.compiles for one in stages[done:])
    return _candidate(job, compiles=compiles, run=names[done:], up_to_date=names[:done], because=because)


def candidates(jobs: Sequence[Job], stages: Sequence[Stage[Any]]) -> tuple[Candidate, ...]:
    """All jobs of a run, with what those do that compile; unlike a plan's, the engine is asked about them too."""
    names = tuple(one.name for one in stages)
    compiling = [any(one.compiles and has_work(one, job) for one in stages) for job in jobs]
    return tuple(
        _candidate(job, compiles=compiles, run=names if compiles else ())
        for job, compiles in zip(jobs, compiling, strict=True)
    )


def _candidate(job: Job, **plan: Any) -> Candidate:  # noqa: ANN401 - as Candidate takes them
    recipe, toolchain = job.recipe, job.recipe.toolchain
    # The same for variants of one toolchain, which share Bazel's caches.
    key = key_of(
        base=recipe.base.image, packages=toolchain.packages, bazel=repr(toolchain.bazel), compiler=toolchain.compiler
    )
    # Flavours of a level, and releases near each other, compile some of the same in the same way.
    objects = " ".join(recipe.variant.all_copts)
    return Candidate(variant=recipe.variant.id, toolchain=key, objects=objects, **plan)


def has_work(one: Stage[Any], job: Job) -> bool:
    """Whether a stage would run."""
    try:
        return bool(one.reason(job))
    except (FactoryError, OSError):  # the stage itself will report it
        return True


_PUSHED_BY = {"package": "push", "devel": "push_devel"}
_REPLACED = "replaced.json"


@dataclass(frozen=True, slots=True)
class _Replaced:
    """An image whose record another one has taken the place of."""

    made: str  # the stage that made it
    image: str
    names: tuple[str, ...]


def _replaced(folder: Path) -> tuple[_Replaced, ...]:
    """Read which images of a variant were replaced, and not removed yet."""
    return read_json(folder / _REPLACED, tuple[_Replaced, ...]) or ()


def _keep_replaced(folder: Path, images: Iterable[_Replaced]) -> None:
    members = [asdict(one) for one in dict.fromkeys(images)]
    write_atomically(folder / _REPLACED, json.dumps(members, indent=2, ensure_ascii=False) + "\n")


def note_replaced(job: Job, one: Stage[Any]) -> None:
    """Note the image of a record that is about to go, where a stage makes images and no registry holds this one."""
    # On disk: a run that fails, or is killed, leaves it to a later one.
    record: Record[Packaged] | None = one.read(job.folder) if one.name in _PUSHED_BY else None
    if record is None:
        return
    # Without its stage, which takes half a second to import.
    pushed = read_json(record_path(job.folder, _PUSHED_BY[one.name]), dict[str, Any]) or {}
    if (pushed.get("inputs") or {}).get("image") != short(key_of(part=record.outputs.image)):
        image = _Replaced(one.name, record.outputs.image, record.outputs.names)
        _keep_replaced(job.folder, (*_replaced(job.folder), image))


def remove_replaced(job: Job) -> Iterator[str]:
    """Remove the images that others have replaced; give a name of each. One with another name stays."""
    noted, kept = _replaced(job.folder), []
    for one in noted:
        now: Record[Packaged] | None = stage(one.made).read(job.folder)
        if now is None or (one.made == "package" and "smoke" not in reached(job.folder)):
            kept.append(one)  # until another one is tried, this may be the one that works
        elif now.outputs.image != one.image and job.site.engine.remove_if_only(one.image, one.names):
            yield one.names[0]
    if kept:
        _keep_replaced(job.folder, kept)
    elif noted:
        (job.folder / _REPLACED).unlink(missing_ok=True)


def clean(site: Site, *, images: bool, caches: bool) -> Iterator[str]:
    """Remove the folders of variants, and with `images` and `caches` what is in the engine; give a line for each."""
    # The folders in which a recipe was written down: nothing else is ours to delete.
    folders = sorted(path.parent for path in site.build.glob("*/recipe") if path.is_dir())
    if images:
        yield f"removed {site.strays} stray containers"
        # By their records: another checkout's images are none of ours.
        from serving_factory.pipeline.embedding import embedded_models  # it takes all stages, and so its time

        made = [stage(name) for name in ("package", "devel")]
        records = [record for folder in folders for one in made if (record := one.read(folder))]
        names = {name for record in records for name in record.outputs.names}
        names |= {name for folder in folders for one in _replaced(folder) for name in one.names}
        embedded = {name for folder in folders for one in embedded_models(folder) for name in one.all_names}
        for name in sorted(names | embedded):
            site.engine.remove_image(name)
            yield f"removed image {name}"
    for folder in (*folders, *site.build.glob("bake"), *site.build.glob("indexes")):
        shutil.rmtree(folder)
        yield f"removed {folder}"
    if caches:
        gone, used = drop_cache_mounts(CACHES)
        yield from (f"dropped cache {mount.id}, {mount.size}" for mount in gone)
        yield from (f"kept cache {mount.id}, {mount.size}: a build uses it" for mount in used)
