"""The history: a file of JSON lines for each run, the events that `--json` prints, and what they say of runs to come.

`build/history/12.jsonl` is run 12. Its first line says what was typed, and of which variants; then come the events, but
for progress. A finished stage also has its record's key and numbers, a result what was made. Lines are only ever
added, so a killed run leaves whole lines and at most a part of one at the end.
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
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from serving_factory.catalogue.upstream_files import read_workspace
from serving_factory.errors import HistoryError
from serving_factory.pipeline.budget import Schedule
from serving_factory.pipeline.estimates import (
    NOTHING_TO_DO,
    RunEstimate,
    StageRun,
    Work,
    add_up,
    estimate_variants,
    size_of,
)
from serving_factory.pipeline.events import (
    Event,
    EventKind,
    StageName,
    VariantResult,
    counts_of,
    event_members,
    json_line,
    result_members,
    utc_now,
)
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import reached, read_record
from serving_factory.recipes.recipe import Recipe
from serving_factory.recipes.toolchain import Toolchain

_FOLDER = "history"
_OLD = "history.sqlite"  # what earlier factories wrote
_FORMAT = 1
_KEPT = 300  # runs
_FILE = re.compile(r"([1-9][0-9]{0,8})\.jsonl")
_REMEDIES = {
    errno.EACCES: "give your user the right to read and write there",
    errno.EPERM: "give your user the right to read and write there",
    errno.EROFS: "use a build folder on a file system that can be written",
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space on that disk",
    errno.EEXIST: "move that file away: a folder belongs there",
    errno.ENOTDIR: "move that file away: a folder belongs there",
    errno.EISDIR: "move that folder away: a file belongs there",
}
_TYPES: Mapping[str, Any] = {
    "str": str,
    "str | None": str | None,
    "int": int,
    "int | None": int | None,
    "float": int | float,
    "float | None": int | float | None,
}
_SENSELESS = (LookupError, TypeError, ValueError, AttributeError)  # what reading a document of another shape raises


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRun:
    """What became of one variant in one run.

    Args:
        toolchain: what compiled it, in a few words.
        status: how it ended, as `Status` spells it.
        seconds: spent on it, all stages together.
        estimate: seconds that were expected; None where nothing was.
        binary: sha256 of the binary; None where there is none.
        image: the image's id, likewise.
        error: the name of the error's class, where it failed.
    """

    variant: str
    release: str
    flavour: str
    level: str
    toolchain: str
    status: str = ""
    seconds: float = 0.0
    estimate: float | None = None
    binary: str | None = None
    binary_size: int | None = None
    image: str | None = None
    image_size: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the pipeline.

    Args:
        id: its number, counted from 1.
        started: UTC time, ISO 8601.
        ended: the same; None where the run was killed, or still works.
        command: what the user typed, without the program's name.
        matrix: the matrix file, by its path below the checkout where it is there.
        seconds: wall time of the whole run; None as with `ended`.
        estimate: seconds that were expected; None where nothing was.
        counts: how many variants ended how, `{"built": 3, "failed": 1}`.
        works: whether it still works.
        damaged: lines of its file that cannot be read.
        variants: what became of them; empty before the end.
        stages: those that worked, in the order in which they ended.
    """

    id: int
    started: str
    command: str
    matrix: str
    ended: str | None = None
    seconds: float | None = None
    estimate: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    works: bool = False
    damaged: int = 0
    variants: tuple[VariantRun, ...] = ()
    stages: tuple[StageRun, ...] = ()


_Row = TypeVar("_Row", Run, VariantRun, StageRun)


def read_runs(build: Path) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Read all runs, the latest first, without their stages; and what to say of files that cannot be read.

    Raises:
        HistoryError: the folder cannot be read.
    """
    runs, notes = [], []
    try:
        numbers = _numbers(build)
    except OSError as error:
        place = build / _FOLDER
        raise HistoryError(f"{place} cannot be read", why=str(error), remedy=_remedy(error)) from None
    for number in reversed(numbers):
        try:
            runs.append(read_run(build, number, whole=False))
        except HistoryError as error:
            notes.append(f"{error.what}: {error.why}")
    return tuple(runs), (*notes, *_old_history(build))


def _old_history(build: Path) -> list[str]:
    """Say that there is a history of another format."""
    old = build / _OLD
    return [f"{old} was written by an earlier factory and is not read; delete it if unused"] if old.exists() else []


def read_run(build: Path, number: int, *, whole: bool = True) -> Run:
    """Read one run; unless `whole`, its first and last line alone.

    Raises:
        HistoryError: its file cannot be read, or is not the file of a run.
    """
    file = build / _FOLDER / f"{number}.jsonl"
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # a killed run may leave a part of a line
    except OSError as error:
        raise HistoryError(f"run {number} cannot be read", why=str(error), remedy=_remedy(error)) from None
    lines = lines if whole else [*lines[:1], *lines[1:][-1:]]
    documents = [document for line in lines if (document := _document(line))]
    try:
        run = _head(number, documents[0])
    except _SENSELESS as error:
        raise HistoryError(
            f"run {number} cannot be read",
            why=f"{file} does not begin as the file of a run of this factory's format: {error}",
            remedy="delete the file, or read it with the factory that wrote it",
        ) from None
    damaged = len(lines) - len(documents)
    for document in documents[1:]:
        try:
            run = _add(run, document)
        except _SENSELESS:
            damaged += 1
    return replace(run, damaged=damaged, variants=run.variants if run.ended else ())


def _numbers(build: Path) -> list[int]:
    """The numbers of the runs that have a file, in their order."""
    folder = build / _FOLDER
    try:
        return sorted(int(match[1]) for place in folder.iterdir() if (match := _FILE.fullmatch(place.name)))
    except FileNotFoundError:
        return []


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, "see whether the disk is sound")


def _document(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _head(number: int, line: Mapping[str, Any]) -> Run:
    """What the first line says; the variants have no status yet."""
    if line["event"] != "run" or line["format"] != _FORMAT:
        raise ValueError(f"its format is {line.get('format')}, this factory's is {_FORMAT}")
    variants = tuple(_checked(VariantRun(**one)) for one in line["variants"])
    return _checked(
        Run(id=number, started=line["time"], command=line["command"], matrix=line["matrix"], variants=variants)
    )


def _add(run: Run, line: Mapping[str, Any]) -> Run:
    """Take in one event."""
    match line["event"]:
        case "estimate":
            seconds = {one["variant"]: one.get("seconds") for one in line["variants"]}
            variants = [_checked(replace(one, estimate=seconds.get(one.variant))) for one in run.variants]
            return _checked(replace(run, estimate=line.get("seconds"), variants=tuple(variants)))
        case "finished" | "failed" | "cancelled" if "seconds" in line:  # else the stage had not begun
            (known,) = (one for one in run.variants if one.variant == line["variant"])
            stage = StageRun(
                variant=known.variant,
                release=known.release,
                flavour=known.flavour,
                toolchain=known.toolchain,
                stage=line["stage"],
                status=line["event"],
                seconds=line["seconds"],
                key=line.get("key", ""),
                facts=numbers(line.get("facts", {})),
            )
            return replace(run, stages=(*run.stages, _checked(stage)))
        case "summary":
            begun = {one.variant: one for one in run.variants}
            # A variant without a recipe is in the counts alone.
            variants = [_ended(begun[one["variant"]], one) for one in line["results"] if one["variant"] in begun]
            counts = {str(status): int(number) for status, number in line["counts"].items() if number}
            ended = replace(run, ended=line["time"], seconds=line["seconds"], estimate=line.get("estimate_seconds"))
            return _checked(replace(ended, counts=counts, variants=tuple(variants)))
    return run


def _ended(variant: VariantRun, result: Mapping[str, Any]) -> VariantRun:
    error = result["error"]["kind"] if "error" in result else None
    made = result.get("made", {})
    return _checked(replace(variant, status=result["status"], seconds=result["seconds"], error=error, **made))


def _checked(one: _Row) -> _Row:
    """Give a value from a file back if each member has the type that its class declares: TypeError otherwise."""
    for member in fields(one):
        types = _TYPES.get(str(member.type))
        value = getattr(one, member.name)
        if types and not isinstance(value, types):
            raise TypeError(f"{member.name} is {value!r}")
    return one


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
    """One thing about one variant in which two runs differ.

    Args:
        what: `variant` where only one of the runs has it; else the name of a member of `VariantRun`.
        before: None where it was not there, as `after`.
    """

    variant: str
    what: str
    before: str | float | None
    after: str | float | None


def changes(before: Sequence[VariantRun], after: Sequence[VariantRun]) -> tuple[Change, ...]:
    """Compare two runs, variant by variant, in the order of the second.

    Times count as changed where both runs worked on the variant, and they differ by more than 10 % and a second.
    """
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
    """Writes the file of one run while it goes on. What cannot be written is a note, and ends no build.

    Args:
        build: the build folder of the checkout.
        jobs: the variants of the run.
        command: what the user typed, without the program's name.
        matrix: the matrix file, as `Run` has it.
        estimate: what the run is expected to take.
    """

    def __init__(
        self,
        build: Path,
        jobs: Sequence[Job],
        *,
        command: str,
        matrix: str,
        estimate: RunEstimate = NOTHING_TO_DO,
    ) -> None:
        self._build = build
        self._jobs = {job.recipe.variant.id: job for job in jobs}
        self._estimate = estimate
        self._began = time.monotonic()
        self._started: dict[tuple[str, StageName], float] = {}
        self._lock = threading.Lock()
        self._file: Path | None = None
        self.trouble = ""
        """What there is to say of the history itself; empty where all went well."""
        try:
            self._file = _new_file(build)
            if self._file == build / _FOLDER / "1.jsonl":
                self.trouble = "".join(_old_history(build))
        except OSError as error:
            self._give_up(error)
        self._write(
            "run",
            {"format": _FORMAT, "command": command, "matrix": matrix, "variants": [_about(job) for job in jobs]},
        )
        if estimate.variants:
            self._write("estimate", estimate.members())

    def handle(self, event: Event) -> None:
        """Take in an event, from any thread."""
        if event.kind is EventKind.PROGRESS:
            return
        now, stage = time.monotonic(), (event.variant, event.stage)
        with self._lock:
            if event.kind is EventKind.STARTED:
                self._started[stage] = now
            members = event_members(event)
            began = None if event.kind in {EventKind.STARTED, EventKind.RETRIED} else self._started.pop(stage, None)
            if began is not None and event.seconds is None:
                members["seconds"] = round(now - began, 3)
            job = self._jobs.get(event.variant)
            if event.kind is EventKind.FINISHED and job and (record := read_record(job.folder, event.stage)):
                members |= {"key": record.key, "facts": numbers(record.outputs)}
            self._write(event.kind.value, members)

    def end(self, results: Sequence[VariantResult]) -> None:
        """Write what became of the variants, and remove the files of the oldest runs."""
        members = {
            "counts": counts_of(results),
            "seconds": round(time.monotonic() - self._began, 3),
            "estimate_seconds": self._estimate.seconds,
            "results": [{**result_members(result), "made": self._made(result.variant)} for result in results],
        }
        with self._lock:
            self._write("summary", members)
        with suppress(OSError):
            for number in _numbers(self._build)[:-_KEPT]:
                (self._build / _FOLDER / f"{number}.jsonl").unlink()

    def _made(self, variant: str) -> Mapping[str, object]:
        job = self._jobs.get(variant)
        records = reached(job.folder) if job else {}
        binary, image = (
            records[stage].outputs if stage in records else {} for stage in (StageName.EXTRACT, StageName.PACKAGE)
        )
        return {
            "binary": binary.get("sha256"),
            "binary_size": binary.get("size"),
            "image": image.get("image"),
            "image_size": image.get("size"),
        }

    def _write(self, name: str, members: Mapping[str, object]) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("ab", buffering=0) as file:
                file.write(json_line(name, members, at=utc_now()).encode())
                if name == "summary":
                    os.fsync(file)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.trouble = f"this run is not in the history: {self._build / _FOLDER}: {error.strerror}; {_remedy(error)}"
        self._file = None


def _new_file(build: Path) -> Path:
    """Begin the file of the next run; several may begin at once."""
    folder = build / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(build), default=0)
    while True:
        number += 1
        with suppress(FileExistsError):
            file = folder / f"{number}.jsonl"
            file.touch(exist_ok=False)
            return file


def _about(job: Job) -> Mapping[str, str]:
    variant = job.recipe.variant
    return {
        "variant": variant.id,
        "release": variant.release,
        "flavour": variant.flavour.value,
        "level": variant.level.value,
        "toolchain": toolchain_words(job.recipe.toolchain),
    }


def toolchain_words(toolchain: Toolchain) -> str:
    """Name a toolchain in a few words. Two with the same words may differ in their packages."""
    return f"{toolchain.base} {toolchain.compiler} bazel-{toolchain.bazel.version}"


_OTHER_SOURCES_DISK = 10**9  # bytes; of a source tree that is not upstream's nothing is known


def estimate_run(
    recipes: Sequence[Recipe],
    runs: Mapping[str, Sequence[StageName]],
    schedule: Schedule,
    build: Path,
    *,
    matrix: str,
) -> RunEstimate:
    """Estimate what a run takes, of each variant's stages in `runs`.

    What cannot be read of the history is passed over. Runs of another matrix file count for nothing: a variant of the
    same name may have other sources there, as the sample's have.
    """
    if not any(runs.values()):
        return NOTHING_TO_DO
    turns = {turn.variant: turn for turn in schedule.turns}
    work = [
        Work(
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
    estimates = estimate_variants(work, _finished(build, matrix))
    return add_up(estimates, {turn.variant: turn.wave for turn in schedule.turns})


def _finished(build: Path, matrix: str) -> Sequence[StageRun]:
    """The stages that did work in earlier runs of a matrix file, oldest first."""
    found: list[StageRun] = []
    with suppress(OSError):
        for number in _numbers(build):
            with suppress(HistoryError):
                run = read_run(build, number)
                found += run.stages if run.matrix == matrix else ()
    # A build all of whose steps BuildKit had already, as after `clean`, did no work.
    return [
        one
        for one in found
        if one.status == "finished" and one.facts.get("steps", 0) != one.facts.get("cached_steps", -1)
    ]


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
    return int(size_of(recipe.variant.release).disk) if is_upstreams(recipe) else _OTHER_SOURCES_DISK
