"""The history: a file of JSON lines for each run, which estimates of later runs come from.

`build/history/12.jsonl` is run 12: a line that says what was typed, then the events that `--json` prints, but for
progress. A stage that ended also has its record's key and numbers, a result what was made. Lines are only ever added,
so a killed run leaves whole lines and at most a part of one at the end.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from serving_factory.catalogue.upstream_files import read_workspace
from serving_factory.errors import HistoryError, os_remedy
from serving_factory.load.levels import LevelFigures
from serving_factory.pipeline import estimates, events
from serving_factory.pipeline.budget import Schedule
from serving_factory.pipeline.estimates import NOTHING_TO_DO, RunEstimate, StageRun
from serving_factory.pipeline.events import Event, EventKind, VariantResult
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import decode_known
from serving_factory.pipeline.stages import reached, stage
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import Toolchain

_FOLDER = "history"
_OLD = "history.sqlite"  # what earlier factories wrote
_FORMAT = 1
_KEPT = 300  # runs
_FILE = re.compile(r"([1-9][0-9]{0,8})\.jsonl")
_BENCH = "bench"  # the name of an event
_ENDINGS = {EventKind.FINISHED.value, EventKind.FAILED.value, EventKind.CANCELLED.value}
_SENSELESS = (LookupError, TypeError, ValueError, AttributeError)  # what reading a document of another shape raises


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRun:
    """What became of one variant in one run."""

    variant: str
    release: str
    flavour: str
    level: str
    toolchain: str  # what compiled it, in a few words
    status: str  # how it ended, as `Status` spells it
    seconds: float  # spent on it, all stages together
    estimate: float | None = None  # seconds that were expected; None where nothing was
    binary: str | None = None  # sha256 of the binary; None where there is none
    binary_size: int | None = None
    image: str | None = None  # the image's id, likewise
    image_size: int | None = None
    pushed: str | None = None  # the image's name by digest in the first registry; None where it was not pushed
    error: str | None = None  # the name of the error's class, where it failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the pipeline."""

    id: int  # its number, counted from 1
    started: str  # UTC time, ISO 8601
    command: str  # what the user typed, without the program's name
    matrix: str  # the matrix file, by its path below the checkout where it is there
    ended: str | None = None  # UTC time; None where the run was killed, or still works
    seconds: float | None = None  # wall time of the whole run; None as with `ended`
    estimate: float | None = None  # seconds that were expected; None where nothing was
    counts: Mapping[str, int] = field(default_factory=dict)  # how many variants ended how, `{"built": 3, "failed": 1}`
    works: bool = False  # whether it still works
    damaged: int = 0  # lines of its file that cannot be read
    variants: tuple[VariantRun, ...] = ()  # what became of them; empty before the end
    stages: tuple[StageRun, ...] = ()  # those that worked, in the order in which they ended
    bench: tuple[LevelFigures, ...] = ()  # what `bench` measured


def run_numbers(build: Path) -> list[int]:
    """The numbers of the runs that have a file, in their order; HistoryError if the folder cannot be read."""
    try:
        return _numbers(build)
    except OSError as error:
        raise HistoryError(f"{build / _FOLDER} cannot be read", why=str(error), remedy=os_remedy(error)) from None


def read_runs(build: Path) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Read all runs, the latest first, without their stages; and notes on files that cannot be read."""
    runs, notes = [], []
    for number in reversed(run_numbers(build)):
        try:
            runs.append(read_run(build, number, whole=False))
        except HistoryError as error:
            notes.append(f"{error.what}: {error.why}")
    return tuple(runs), (*notes, *_old_history(build))


def read_run(build: Path, number: int, *, whole: bool = True) -> Run:
    """Read one run (unless `whole`, its first and last line alone); HistoryError if its file is not that of a run."""
    file = build / _FOLDER / f"{number}.jsonl"
    try:
        written = _content(file).rpartition(b"\n")[0]  # a killed run may leave a part of a line
        first, _, rest = written.partition(b"\n")
        head = json.loads(first)
        if head["event"] != "run" or head["format"] != _FORMAT:
            raise ValueError(f"its format is {head.get('format')}, this factory's is {_FORMAT}")
        members = {name: head.get(name) for name in ("command", "matrix", "estimate")}
        members |= {"id": number, "started": _time(head)}
        decode_known(Run, members)
    except OSError as error:
        raise HistoryError(f"run {number} cannot be read", why=str(error), remedy=os_remedy(error)) from None
    except (*_SENSELESS, RecursionError) as error:
        raise HistoryError(
            f"run {number} cannot be read",
            why=f"{file} does not begin as the file of a run: {error}",
            remedy="delete the file, or read it with the factory that wrote it",
        ) from None
    stages: list[StageRun] = []
    bench: list[LevelFigures] = []
    damaged = 0
    for line in filter(None, rest.split(b"\n") if whole else [rest.rpartition(b"\n")[2]]):
        try:
            event = json.loads(line)
            if event["event"] == "summary":
                members |= _end(event)
            elif event["event"] == _BENCH:
                bench.append(decode_known(LevelFigures, event))
            elif event["event"] in _ENDINGS and "seconds" in event:  # else the stage had not begun
                _seconds(event)
                one = decode_known(StageRun, {**event, "status": event["event"], "facts": {}})
                stages.append(replace(one, facts=numbers(event.get("facts", {}))))
        except (*_SENSELESS, RecursionError):
            damaged += 1
    return Run(**members, damaged=damaged, stages=tuple(stages), bench=tuple(bench))


def _content(file: Path) -> bytes:
    if file.exists() and not file.is_file():  # to open a pipe would be to wait for its writer
        raise FileExistsError(errno.EEXIST, "It is not a file", str(file))
    return file.read_bytes()


def _end(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary says of a run. Variants without a recipe are in the counts alone."""
    members = {
        "ended": _time(event),
        "seconds": _seconds(event),
        "counts": {str(status): int(number) for status, number in event["counts"].items() if number},
    }
    results = [one for one in event["results"] if "made" in one]
    ends = [{**one, "error": one.get("error", {}).get("kind"), "image": None, **one["made"]} for one in results]
    return {**members, "variants": tuple(decode_known(VariantRun, one) for one in ends)}


def _time(event: Mapping[str, Any]) -> str:
    datetime.fromisoformat(event["time"])
    return str(event["time"])


def _seconds(event: Mapping[str, Any]) -> float:
    seconds = event["seconds"]
    if not is_number(seconds) or seconds < 0:
        raise ValueError(f"{seconds!r} are no seconds")
    return float(seconds)


def _numbers(build: Path) -> list[int]:
    try:
        names = [place.name for place in (build / _FOLDER).iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for name in names if (match := _FILE.fullmatch(name)))


def _old_history(build: Path) -> list[str]:
    old = build / _OLD
    return [f"{old} was written by an earlier factory and is not read; delete it if unused"] if old.exists() else []


def is_number(value: object) -> bool:
    """Whether a value is a number that JSON has."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(outputs: Mapping[str, Any]) -> dict[str, float]:
    """Pick the numbers out of a record's outputs; those of a table in it as `table.name`."""
    found: dict[str, float] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in value.items() if is_number(number)}
        elif is_number(value):
            found[name] = value
    return found


_COMPARED = ("status", "binary", "binary_size", "image", "image_size", "toolchain", "error")
_NOTABLE = 0.1  # part of the longer time by which two times must differ to count as changed
_LEAST = 1.0  # seconds: below, a difference is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing about one variant in which two runs differ."""

    variant: str
    what: str  # `variant` where only one of the runs has it; else the name of a member of `VariantRun`
    before: str | float | None  # None where it was not there, as `after`
    after: str | float | None


def changes(before: Sequence[VariantRun], after: Sequence[VariantRun]) -> tuple[Change, ...]:
    """Compare two runs, variant by variant, in the order of the second."""
    # Times count as changed where both runs worked on the variant, and they differ by more than 10 % and a second.
    old, new = ({one.variant: one for one in variants} for variants in (before, after))
    found: list[Change] = []
    for variant in dict.fromkeys([*new, *old]):
        first, second = old.get(variant), new.get(variant)
        if first is None or second is None:
            status = [one.status if one else None for one in (first, second)]
            found.append(Change(variant=variant, what="variant", before=status[0], after=status[1]))
            continue
        longer = max(first.seconds, second.seconds)
        notable = abs(first.seconds - second.seconds) > max(_LEAST, _NOTABLE * longer)
        worked = first.status == second.status == "built"
        for name in (*_COMPARED, *(["seconds"] if worked and notable else [])):
            values = getattr(first, name), getattr(second, name)
            if values[0] != values[1]:
                found.append(Change(variant=variant, what=name, before=values[0], after=values[1]))
    return tuple(found)


class Recorder:
    """Writes the file of one run while it goes on. What cannot be written is a note, and ends no build."""

    def __init__(
        self, build: Path, jobs: Sequence[Job], *, command: str, matrix: str, estimate: RunEstimate = NOTHING_TO_DO
    ) -> None:
        self._build = build
        self._jobs = {job.recipe.variant.id: job for job in jobs}
        self._estimates = estimate.by_variant
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._file: Path | None = None
        self.trouble = ""  # what there is to say of the history itself; empty where all went well
        try:
            self._file = _new_file(build)
        except OSError as error:
            self._give_up(error)
        else:
            if self._file.stem == "1":
                self.trouble = "".join(_old_history(build))
        head = {"format": _FORMAT, "command": command, "matrix": matrix, "estimate": estimate.seconds}
        self._write("run", head)

    def handle(self, event: Event) -> None:
        """Take in an event, from any thread."""
        if event.kind is EventKind.PROGRESS:
            return
        with self._lock:
            members = events.event_members(event)
            job = self._jobs.get(event.variant)
            if event.kind in _ENDINGS and job:
                members |= _about(job)
                if event.kind is EventKind.FINISHED and (record := stage(event.stage).read(job.folder)):
                    members |= {"key": record.key, "facts": numbers(asdict(record.outputs))}
            self._write(event.kind.value, members)

    def add(self, figures: LevelFigures) -> None:
        """Write what was measured of a variant."""
        with self._lock:
            self._write(_BENCH, asdict(figures))

    def end(self, results: Sequence[VariantResult]) -> None:
        """Write what became of the variants, and remove the files of the oldest runs."""
        members = {
            "counts": events.counts_of(results),
            "seconds": round(time.monotonic() - self._began, 3),
            "results": [{**events.as_json(one, whole=False), **self._made(one.variant)} for one in results],
        }
        with self._lock:
            self._write("summary", members)
        with suppress(OSError):
            for number in _numbers(self._build)[:-_KEPT]:
                (self._build / _FOLDER / f"{number}.jsonl").unlink()

    def _made(self, variant: str) -> Mapping[str, object]:
        job = self._jobs.get(variant)
        if job is None:
            return {}
        records = reached(job.folder)
        binary, image = records.get("extract"), records.get("package")
        made = {"binary": binary and binary.outputs.sha256, "binary_size": binary and binary.outputs.size}
        made |= {"image": image and image.outputs.image, "image_size": image and image.outputs.size}
        made |= {"pushed": push.outputs.places[0].image if (push := records.get("push")) else None}
        return {**_about(job), "estimate": self._estimates.get(variant), "made": made}

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("ab", buffering=0) as file:
                file.write(events.json_line(name, members, at=events.utc_now()).encode())
                if name == "summary":
                    os.fsync(file)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.trouble = f"this run is not in the history, {self._build / _FOLDER}: {error.strerror}; {os_remedy(error)}"
        self._file = None


def _new_file(build: Path) -> Path:
    """Begin the file of the next run; several may begin at once."""
    folder = build / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(build), default=0)
    while True:
        number += 1
        file = folder / f"{number}.jsonl"
        with suppress(FileExistsError):
            file.touch(exist_ok=False)
            return file


def _about(job: Job) -> Mapping[str, str]:
    variant = job.recipe.variant
    return {
        "release": variant.release,
        "flavour": variant.flavour.value,
        "level": variant.level.value,
        "toolchain": toolchain_words(job.recipe.toolchain),
    }


def toolchain_words(toolchain: Toolchain) -> str:
    """Name a toolchain in a few words. Two with the same words may differ in their packages."""
    return f"{toolchain.base} {toolchain.compiler} bazel-{toolchain.bazel.version}"


_OTHER_SOURCES_DISK = 10**9  # bytes; of a source tree that is not upstream's nothing is known
_ENOUGH = 5000  # stages of earlier runs to estimate from


def estimate_run(
    recipes: Sequence[Recipe], runs: Mapping[str, Sequence[str]], schedule: Schedule, build: Path, *, matrix: str
) -> RunEstimate:
    """Estimate what a run takes, of each variant's stages in `runs`."""
    # Runs of another matrix file do not count: a variant of the same name may have other sources, as the sample's have.
    if not any(runs.values()):
        return NOTHING_TO_DO
    turns = {turn.variant: turn for turn in schedule.turns}
    work = [
        estimates.Work(
            variant=recipe.variant.id,
            release=recipe.variant.release,
            flavour=recipe.variant.flavour.value,
            toolchain=toolchain_words(recipe.toolchain),
            upstream=is_upstreams(recipe),
            offline=recipe.inputs.offline,
            run=tuple(map(str, runs.get(recipe.variant.id, ()))),
            jobs=turns[recipe.variant.id].share.jobs,
        )
        for recipe in recipes
        if recipe.variant.id in turns
    ]
    variants = estimates.estimate_variants(work, _finished(build, matrix))
    return estimates.add_up(variants, {turn.variant: turn.wave for turn in schedule.turns})


def _finished(build: Path, matrix: str) -> Sequence[StageRun]:
    """The stages that did work in the latest runs of a matrix file, oldest first."""
    found: list[StageRun] = []
    with suppress(OSError):
        for number in reversed(_numbers(build)):
            with suppress(HistoryError):
                run = read_run(build, number)
                found += reversed(run.stages) if run.matrix == matrix else ()
            if len(found) > _ENOUGH:
                break
    # A build all of whose steps BuildKit had already, as after `clean`, did no work.
    done = [
        one
        for one in found
        if one.status == "finished" and not 0 < one.facts.get("steps", 0) == one.facts.get("cached_steps")
    ]
    return done[::-1]


def is_upstreams(recipe: Recipe) -> bool:
    """Whether a variant is made of upstream's sources: of its repository, or a checkout that pins its TensorFlow."""
    if not isinstance(recipe.source, Path):
        return True
    try:
        text = (recipe.source / "WORKSPACE").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    commit = read_workspace(text).get("tensorflow_commit")
    return commit is not None and commit.value == recipe.release.tensorflow_commit


def disk_of(recipe: Recipe) -> int:
    """Estimate the bytes that a variant takes while it is built."""
    return int(estimates.size_of(recipe.variant.release).disk) if is_upstreams(recipe) else _OTHER_SOURCES_DISK
