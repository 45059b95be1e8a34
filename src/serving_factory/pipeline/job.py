"""What a stage is, and what it works with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from serving_factory.catalogue.data import data_digest
from serving_factory.docker.process import Cancel
from serving_factory.errors import EngineUnavailableError, NotBuiltError
from serving_factory.pipeline.budget import ONE_JOB, Share
from serving_factory.pipeline.digests import TreeMemory
from serving_factory.pipeline.records import O, Record, log_path, read_record, record_path
from serving_factory.recipes.pins import Base
from serving_factory.recipes.recipe import Recipe, key_of, short

if TYPE_CHECKING:
    from serving_factory.docker.emulator import Emulator
    from serving_factory.docker.engine import Engine
    from serving_factory.proofs.signatures import Signer


class Use(StrEnum):
    """Whether smoke uses what not every machine has, a GPU or an emulator: where it is there, in any case, or never."""

    AUTO = "auto"
    REQUIRE = "require"
    NEVER = "never"


VARIANT_LABEL = "org.serving-factory.variant"
Progress = Callable[[str], None]  # called with a stage's current action, in a few words


class Site:
    """Where a pipeline runs: folders and engine. What is there is looked up once, however many threads need it."""

    def __init__(
        self,
        *,
        build: Path,
        models: Path,
        programs: Path | None = None,
        registries: Sequence[str] = (),
        signer: Signer | None = None,
        connect: Callable[[], Engine] | None = None,
        report: Callable[[str], object] = lambda _text: None,  # called with a sentence while the engine is slow
    ) -> None:
        self.build = build
        self.models = models
        self.programs = programs  # where `./factory setup` puts programs that the machine does not have
        self.registries = registries
        self.signer = signer  # signs what is pushed
        self._connect = connect
        self._report = report
        self._no_engine: EngineUnavailableError | None = None
        self._lock = threading.RLock()
        self._image_ids: dict[str, str | None] = {}
        self._trees: dict[Path, str] = {}
        self.lost_engine = False  # whether an engine went away under a stage: what it ran then may still be there
        self.memory = TreeMemory(build / "trees.json")

    @cached_property
    def engine(self) -> Engine:
        """The Docker engine; one that does not answer is asked once."""
        if self._no_engine:
            raise self._no_engine
        if self._connect:
            return self._connect()
        # The SDK takes half a second to import: a run that finds all up to date by its records does not wait for it.
        from serving_factory.docker.engine import Engine

        try:
            return Engine.connect(self._report)
        except EngineUnavailableError as error:
            self._no_engine = error
            raise

    @cached_property
    def emulator(self) -> Emulator | None:
        """What emulates CPUs on this machine; None where nothing does."""
        from serving_factory.docker.emulator import find_emulator

        return find_emulator(self.programs)

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

    def base_id(self, base: Base) -> str:
        """A base image's digest, or the id of the image that this network has for it; empty if neither is known."""
        # One neither pinned nor swapped counts by its name: whether the engine happens to hold a copy decides nothing.
        pinned = base.image.partition("@")[2]
        if pinned or not base.contexts:
            return pinned
        return self.image_id(base.image) or ""

    def assume_image(self, reference: str, image_id: str | None) -> None:
        """Take an image's id from a record instead of asking the engine."""
        self._image_ids[reference] = image_id

    def tree(self, folder: Path) -> str:
        """The digest of a folder that is an input: one run sees one state of it."""
        with self._lock:
            if folder not in self._trees:
                self._trees[folder] = self.memory.digest(folder)
            return self._trees[folder]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One variant on its way through the pipeline."""

    recipe: Recipe
    site: Site
    share: Share = ONE_JOB  # of the engine's machine
    gpu: Use = Use.AUTO  # whether its image is tried on a GPU
    emulate: Use = Use.AUTO  # whether it is tried on emulated CPUs
    higher: tuple[Job, ...] = ()  # whose binaries its image has as well, the lowest level first
    cancel: Cancel = field(default_factory=Cancel)  # asks its stages to end
    # called, at least once, when compilers need the share no more: Bazel is done, or the compile stage has ended
    release_share: Callable[[], None] = lambda: None
    report_retry: Progress = lambda _text: None  # called with what failed, and how it is tried again

    @property
    def folder(self) -> Path:
        """Where everything about this variant lands."""
        return self.site.build / self.recipe.variant.id

    @property
    def artifact(self) -> Path:
        """What the compile stage took out of the build."""
        return self.folder / "artifact"

    @property
    def dockerfile(self) -> Path:
        """The devel Dockerfile as it was built last."""
        return self.folder / "recipe" / "devel.Dockerfile"

    @property
    def resources(self) -> Path:
        """Bazel's options for how much of the machine that build might use."""
        return self.folder / "recipe" / "resources"

    @property
    def staged_inputs(self) -> Path:
        """What is put together of folders and files for the build, in a folder for each named context."""
        return self.folder / "recipe" / "inputs"

    def log(self, stage: str) -> Path:
        """The full log of a stage."""
        return log_path(self.folder, stage)

    def record(self, stage: Stage[O]) -> Record[O]:
        """The record of an earlier stage; NotBuiltError where that has not run."""
        record = stage.read(self.folder)
        if record is None:
            id_ = self.recipe.variant.id
            raise NotBuiltError(
                f"{id_}: the stage {stage.name} has not run",
                remedy=f"run `./factory build --variant {id_}` with the same --matrix: it runs all that is missing",
            )
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[O]):
    """One stage of the pipeline."""

    name: str  # also of the module in `stages` that defines it
    version: int  # raised whenever the stage makes or records something else of the same inputs
    outputs: type[O]  # what `run` gives, and the record holds
    inputs: Callable[[Job], Mapping[str, object]]  # all that decides what it makes, as values that JSON knows
    run: Callable[[Job, Progress], O]
    # the inputs by names that people know, where those are others: what has changed is shown so
    shown: Callable[[Job, Mapping[str, Any]], Mapping[str, object]] = lambda _job, inputs: inputs
    product: str = "product"  # what it makes, in a word or two
    needs: tuple[Stage[Any], ...] = ()  # the stages whose records it reads; they are up to date before it runs
    data: tuple[str, ...] = ()  # the catalogue's files that it reads, beyond what is in its inputs
    # what a record of the same key lacks of what this run asks for, as a reason to run; empty where nothing
    lacks: Callable[[Job, O], str] = lambda _job, _outputs: ""
    # whether what an earlier run made is still there, as it was
    intact: Callable[[Job, O], bool] = lambda _job, _outputs: True
    compiles: bool = False  # whether it takes a compile's share of CPUs and memory
    engine: bool = False  # whether it loads the engine's machine
    pushes: bool = False  # whether it pushes to registries

    @property
    def all_needs(self) -> tuple[Stage[Any], ...]:
        """What it needs and what that needs, what is needed first before the others."""
        return tuple(found for needed in self.needs for found in (*needed.all_needs, needed))

    def key(self, job: Job) -> str:
        """The key of what it would do now: a record with the same key is up to date."""
        return self.key_for(self.inputs(job))

    def digests(self, job: Job) -> Mapping[str, str]:
        """What that key is made of, each part by the first digits of its digest."""
        parts = {**self.shown(job, self.inputs(job)), **{name: data_digest(name) for name in self.data}}
        parts["version of the stage"] = self.version
        return {name: short(key_of(part=part)) for name, part in parts.items()}

    def key_for(self, inputs: Mapping[str, object]) -> str:
        """The key of given inputs."""
        data = {name: data_digest(name) for name in self.data}
        return key_of(stage=self.name, version=self.version, data=data, inputs=inputs)

    def read(self, folder: Path) -> Record[O] | None:
        """Its record in a variant's folder."""
        return read_record(folder, self.name, self.outputs)

    def reason(self, job: Job, *, look: bool = True) -> str:
        """Why it would run; empty where its record is of what it would do now, and its product still there."""
        record = self.read(job.folder)  # the record first: without one there is nothing to ask the engine
        if record is None:
            if not self.ran_before(job.folder):
                return f"{self.name} has not run"
            damaged = os.path.lexists(record_path(job.folder, self.name))
            return f"the record of {self.name} cannot be read" if damaged else f"the last {self.name} left no record"
        if record.key != self.key(job):
            now = self.digests(job)
            names = [name for name in {**record.inputs, **now} if record.inputs.get(name) != now.get(name)]
            changed = f": {', '.join(names)}" if record.inputs else ""  # an earlier factory wrote none
            return f"what decides {self.name} has changed{changed}"
        if why := self.lacks(job, record.outputs):
            return why
        if look and not self.intact(job, record.outputs):
            return f"the {self.product} is missing or was changed"
        return ""

    def ran_before(self, folder: Path) -> bool:
        """Whether an earlier run of it left anything."""
        return os.path.lexists(record_path(folder, self.name)) or log_path(folder, self.name).is_file()
