"""Puts a model into a variant's image: builds that, runs what was built, and only then names it; pushes it."""

from __future__ import annotations

import re
import shutil
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import cast

from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.docker.engine import ContainerSpec
from serving_factory.docker.registry import ImageName, names_registry
from serving_factory.errors import ModelError, NotBuiltError, PackageError, UsageError, cleaned_up
from serving_factory.inspection.device_code import not_named
from serving_factory.matrix.words import is_tag
from serving_factory.pipeline.digests import entries_digest, file_digest, quoted
from serving_factory.pipeline.failures import step_title
from serving_factory.pipeline.job import Job, Progress
from serving_factory.pipeline.records import Outputs, Record, log_path, read_record, write_atomically, write_record
from serving_factory.pipeline.stages.compile import BINARY, logged_build
from serving_factory.pipeline.stages.package import PACKAGE, Packaged
from serving_factory.pipeline.stages.push import Place, holds, push_names, push_to
from serving_factory.pipeline.stages.smoke import gpu_access
from serving_factory.proofs.described import Model
from serving_factory.recipes.recipe import key_of, render, short
from serving_factory.smoke.embedded import Question, Request, ask_embedded, question_for
from serving_factory.smoke.saved_model import SavedModel, read_saved_model
from serving_factory.smoke.server import GRPC_PORT, REST_PORT

VERSION = 1  # raised whenever another image is made of the same model, or it is tried in another way
_STAGE, _FOLDER = "embed", "embedded"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded(Outputs):
    """An image with a model inside."""

    model: str
    version: int
    model_sha256: str
    base: str  # the id of the image that it was made from
    image: str  # its id
    size: int  # bytes
    repository: str
    tag: str  # made of digests: it names this image alone
    names: tuple[str, ...]  # its other names
    checks: Mapping[str, str]  # check -> what it saw
    places: tuple[Place, ...]  # what registries hold

    @property
    def name(self) -> str:
        """Its name in the engine."""
        return f"{self.repository}:{self.tag}"

    @property
    def all_names(self) -> tuple[str, ...]:
        """All its names in the engine, its own first."""
        return (self.name, *self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """What is to be embedded in which image."""

    job: Job
    packaged: Packaged
    question: Question
    model: SavedModel
    sha256: str  # of the model: its version, its files' names and contents

    @property
    def name(self) -> str:
        """The model's name."""
        return self.question.model

    @property
    def folder(self) -> Path:
        """Where its record is."""
        return embedded_folder(self.job.folder) / self.name

    @property
    def dockerfile(self) -> str:
        """How the image is built."""
        return render("embedded.Dockerfile.j2", image=self.packaged.names[0], model=self.name)

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels beside those of the image that it is made from."""
        variant = self.job.recipe.variant
        served = f"TensorFlow Serving {variant.release_name}, {variant.flavour}, {variant.level}"
        return {
            "org.opencontainers.image.title": f"{self.name} {self.model.version} on {served}",
            "org.opencontainers.image.base.name": self.packaged.names[0],
            "org.opencontainers.image.base.digest": "",  # that of the other image's base is none of this one's
            "org.serving-factory.base.id": self.packaged.image,
            "org.serving-factory.model.name": self.name,
            "org.serving-factory.model.version": str(self.model.version),
            "org.serving-factory.model.sha256": self.sha256,
        }

    @property
    def image_key(self) -> str:
        """The key of the image."""
        return key_of(
            stage=_STAGE, version=VERSION, base=self.packaged.image, dockerfile=self.dockerfile, labels=self.labels
        )

    @property
    def key(self) -> str:
        """The key of the image and of what it is asked."""
        request = self.question.request
        asked = request and [request.body, request.expected, request.tolerance]
        return key_of(image=self.image_key, request=asked)

    @property
    def tag(self) -> str:
        """The variant, the model, and first digits: of the model, the binary and the image's key."""
        digits = map(short, (self.sha256, self.packaged.binary_sha256, self.image_key))
        return "-".join((self.job.recipe.variant.id, self.name, *digits))

    @property
    def reference(self) -> str:
        """Its name in the engine."""
        return f"{self.packaged.repository}:{self.tag}"


def embedded_folder(variant_folder: Path) -> Path:
    """Where the records of a variant's embedded models are, in a folder for each model's name."""
    return variant_folder / _FOLDER


def read_embedded(folder: Path) -> Record[Embedded] | None:
    """Read the record of an embedded model."""
    return read_record(folder, _STAGE, Embedded)


def embedded_models(variant_folder: Path) -> list[Embedded]:
    """Read what was made of a variant's image."""
    folders = sorted(path.parent for path in embedded_folder(variant_folder).glob(f"*/{_STAGE}.json"))
    return [record.outputs for folder in folders if (record := read_embedded(folder))]


def pushed_name(made: Embedded) -> str:
    """The image in a registry, by its digest; empty where it was not pushed under its own tag."""
    return next((f"{one.name}@{one.digests[made.tag]}" for one in made.places if made.tag in one.digests), "")


def plan_embedding(job: Job, place: Path, *, name: str, request: Request | None) -> Embedding:
    """Check the model, all but its ops, and the image; raises ModelError, UsageError, NotBuiltError."""
    packaged = job.record(PACKAGE).outputs
    name = _checked_name(name or place.resolve().name, given=bool(name))
    model = read_saved_model(place)
    embedding = Embedding(
        job=job,
        packaged=packaged,
        model=model,
        sha256=_digest(_digests(model.folder, model), model),
        question=question_for(model, name, job.recipe.release, request),
    )
    if not is_tag(embedding.tag):
        raise UsageError(
            f"{embedding.tag} is too long for a tag: {len(embedding.tag)} characters, and 128 are allowed",
            remedy="give the model a shorter name: --name",
        )
    return embedding


def _checked_name(name: str, *, given: bool) -> str:
    if _NAME.fullmatch(name) and (given or not name.isdecimal()):
        return name
    rule = "it is in the image's tag: letters, digits, and _ . - after the first"
    if given:
        raise UsageError(f"`--name` cannot be a model's name, got {name!r}", why=rule, remedy="write it like my_model")
    raise UsageError(
        f"the folder's name, {name!r}, cannot be the model's",
        why="it is a version's number" if name.isdecimal() else rule,
        remedy="give the model a name: --name NAME" + (", or name the folder above" if name.isdecimal() else ""),
    )


def parse_name(text: str) -> tuple[str, str]:
    """Read what `--tag` gives as repository and tag; raises UsageError."""
    folder, slash, last = text.rpartition("/")
    name, _, tag = last.partition(":")
    repository, tag = f"{folder}{slash}{name}", tag or "latest"
    if "@" in text or not is_tag(tag):
        raise UsageError(
            f"`--tag` must name an image, got {text!r}", remedy="write it like team/model:1, with no digest"
        )
    ImageName.parse(repository)
    return repository, tag


def check_ops(embedding: Embedding) -> str:
    """Look for the names of all ops in the server's binary; say what was found out; raises ModelError."""
    # Of real servers, 1.9.1 and 1.15.0, the binary has the names of all ops that are registered with a name of their
    # own: 2,111 of ops.pbtxt were looked for, and those missing are not linked in (PyFunc, Debug*).
    binary, ops = embedding.job.folder / BINARY, sorted(embedding.model.ops)
    if not binary.is_file() or file_digest(binary) != embedding.packaged.binary_sha256:
        return f"ops were not checked: {binary} is not the binary in the image"
    if missing := not_named(binary, ops):
        raise ModelError(
            f"{embedding.model.folder} needs ops that this server does not have: {', '.join(missing)}.",
            why=f"{binary} does not name {'them' if missing[1:] else 'it'}.",
            remedy="Choose a release or a build that has them, or save the model without them.",
        )
    return f"the server's binary names all {len(ops)} ops"


def up_to_date(embedding: Embedding) -> Embedded | None:
    """The image of the same model and request, where it is still there."""
    record = read_embedded(embedding.folder)
    if record is None or record.key != embedding.key:
        return None
    there = embedding.job.site.engine.image_id(embedding.reference)
    return record.outputs if there == record.outputs.image else None


def make_image(embedding: Embedding, progress: Progress) -> Embedded:
    """Build the image, try it, name it, and write its record."""
    job, packaged, engine = embedding.job, embedding.packaged, embedding.job.site.engine
    if engine.image_id(packaged.names[0]) != packaged.image:
        raise NotBuiltError(
            f"the engine does not have {packaged.names[0]} as it was packaged",
            remedy=f"./factory package --variant {job.recipe.variant.id}, with the same --matrix",
        )
    began, started = time.monotonic(), datetime.now(UTC)
    job.site.strays  # noqa: B018 - looking removes them
    temporary = f"{packaged.repository}:{_STAGE}-{short(embedding.image_key)}"
    with cleaned_up(lambda: engine.remove_image(temporary)):
        image = engine.image_id(*_build(embedding, temporary, progress), temporary) or ""
        checks = _try_image(embedding, image, progress)
        engine.tag(image, packaged.repository, embedding.tag)
    made = Embedded(
        model=embedding.name,
        version=embedding.model.version,
        model_sha256=embedding.sha256,
        base=packaged.image,
        image=image,
        size=engine.image_size(image),
        repository=packaged.repository,
        tag=embedding.tag,
        names=(),
        checks=checks,
        places=(),
    )
    record = Record(
        variant=job.recipe.variant.id,
        stage=_STAGE,
        key=embedding.key,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        outputs=made,
    )
    write_record(embedding.folder, record)
    return made


def _build(embedding: Embedding, temporary: str, progress: Progress) -> tuple[str, ...]:
    job, dockerfile, context = embedding.job, embedding.folder / "Dockerfile", embedding.folder / "context"
    write_atomically(dockerfile, embedding.dockerfile)
    shutil.rmtree(context, ignore_errors=True)  # what a killed run left
    try:
        epoch = job.site.engine.image_created(embedding.packaged.image)
        context.mkdir(parents=True)
        _archive(embedding, context / "model.tar", epoch)
        request = BuildRequest(
            dockerfile=dockerfile,
            context=context,
            build_args=(("SOURCE_DATE_EPOCH", str(epoch)),),
            network="none",
            labels=tuple(sorted(embedding.labels.items())),
            tags=(temporary,),
        )
        log = log_path(embedding.folder, _STAGE)
        return logged_build(request, log, progress=progress, cancel=job.cancel).digests
    except BuildFailed as failed:
        raise PackageError(
            f"the image with {embedding.name} failed to build in {step_title(failed.step)}",
            why="\n".join(failed.tail) or failed.text,
            remedy=f"fix that, and run the same command again; {dockerfile} is what was built",
        ) from None
    finally:
        shutil.rmtree(context, ignore_errors=True)


def _archive(embedding: Embedding, file: Path, epoch: int) -> None:
    """Write the model as it is to be in the image: readable by every user, and the same wherever it is made."""
    # An archive, because BuildKit sets times of folders that it copies when it has last fetched something into them.
    model = embedding.model
    target = PurePosixPath("models", embedding.name, str(model.version))
    paths = [target / name for name in model.files]
    folders = {folder for path in paths for folder in path.parents if folder.name}
    with tarfile.open(file, "w", dereference=True) as archive:
        for folder in sorted(folders):
            archive.add(model.folder, folder, recursive=False, filter=partial(_normalised, epoch=epoch))
        for path, name in zip(paths, model.files, strict=True):
            archive.add(model.folder / name, path, filter=partial(_normalised, epoch=epoch))
    with tarfile.open(file) as archive:
        held = {one.name: cast("BufferedReader", archive.extractfile(one)) for one in archive if one.isfile()}
        digests = {name: file_digest(held[str(path)]) for path, name in zip(paths, model.files, strict=True)}
    if _digest(digests, model) != embedding.sha256:
        raise ModelError(
            f"{model.folder} was changed while it was copied.",
            remedy="Run the same command again when nothing writes to it.",
        )


def _normalised(entry: tarfile.TarInfo, *, epoch: int) -> tarfile.TarInfo:
    entry.mtime, entry.mode = epoch, 0o755 if entry.isdir() else 0o644
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _digests(folder: Path, model: SavedModel) -> Mapping[str, str]:
    return {name: file_digest(folder / name) for name in model.files}


def _digest(digests: Mapping[str, str], model: SavedModel) -> str:
    entries = {quoted(PurePosixPath(str(model.version), name)): ("file", digests[name]) for name in model.files}
    return entries_digest(entries)


def _try_image(embedding: Embedding, image: str, progress: Progress) -> Mapping[str, str]:
    job, gpu = embedding.job, embedding.job.recipe.variant.cuda
    access = gpu_access(job)[0] if gpu else None
    if gpu and access is None:
        progress("not tried on a GPU: the engine can give containers no GPU")
    # An engine whose default runtime is NVIDIA's gives GPUs to all whose environment does not say `void`.
    environment = {"NVIDIA_VISIBLE_DEVICES": "void"} if gpu and not access else {}
    # Stricter than production: nothing writable, no rights, a user that no image knows, and no setting.
    spec = ContainerSpec(
        image=image,
        environment=tuple(environment.items()),
        ports=(GRPC_PORT, REST_PORT),
        read_only=True,
        cap_drop=("ALL",),
        user="12345",
        security_opt=("no-new-privileges",),
        gpu=access,
        health_interval=1.0,
        owner=job.site.owner,
    )
    return ask_embedded(job.site.engine, spec, embedding.question, cancel=job.cancel, progress=progress)


def add_names(embedding: Embedding, made: Embedded, names: Sequence[str]) -> Embedded:
    """Give the image more names, and record them."""
    engine = embedding.job.site.engine
    for name in names:
        engine.tag(made.image, *parse_name(name))
    return _recorded(embedding, replace(made, names=tuple(dict.fromkeys((*made.names, *names)))))


def push_embedded(
    embedding: Embedding, made: Embedded, names: Sequence[str], registries: Sequence[str], progress: Progress
) -> tuple[Embedded, bool]:
    """Push the image to each place, under its own tag and then these names, and record the digests; was it work?"""
    job, model, work = embedding.job, _described(embedding), False
    for name, (local, tags) in _places(made, names, registries).items():
        places = {one.name: one for one in made.places}
        held = places[name].digests if name in places else {}
        expected = {tag: held.get(tag, "") for tag in (embedding.tag, *tags)}
        if name in places and holds(job, replace(places[name], digests=expected), proven=True):
            continue
        new = push_to(
            job,
            name,
            image=made.image,
            full=(embedding.tag,),
            others=tags,
            local=local,
            proven=True,
            model=model,
            progress=progress,
        )
        if local != made.repository:  # its own tag is pushed there, and is no name in the engine
            job.site.engine.remove_image(f"{name}:{embedding.tag}")
        places[name] = replace(new, digests={**held, **new.digests})
        made, work = _recorded(embedding, replace(made, places=tuple(places.values()))), True
    return made, work


def _places(
    made: Embedded, names: Sequence[str], registries: Sequence[str]
) -> Mapping[ImageName, tuple[str, Sequence[str]]]:
    """Where the image is pushed: the repository that it has in the engine, and its tags there beside its own."""
    places: dict[ImageName, tuple[str, list[str]]] = {}
    for name in push_names(made.repository, registries):
        places[name] = made.repository, []
    for text in names:
        repository, tag = parse_name(text)
        # A name that begins with a registry goes there and nowhere else.
        for name in push_names(repository, () if names_registry(repository) else registries):
            places.setdefault(name, (repository, []))[1].append(tag)
    return places


def _described(embedding: Embedding) -> Model | None:
    """The model, as SBOM and provenance name it."""
    if record := read_embedded(embedding.folder):
        made, finished = record.outputs, record.ended.isoformat()
        return Model(name=made.model, version=made.version, sha256=made.model_sha256, finished=finished)
    return None


def _recorded(embedding: Embedding, made: Embedded) -> Embedded:
    record = read_embedded(embedding.folder)
    if record and record.outputs != made:
        write_record(embedding.folder, replace(record, outputs=made))
    return made
