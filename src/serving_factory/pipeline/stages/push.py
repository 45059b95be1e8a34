"""push: full tags first, then their signatures, then the aliases; the registry itself is asked what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from serving_factory.catalogue.levels import Level
from serving_factory.docker.registry import ImageName, names_registry
from serving_factory.errors import RegistryError, TagTakenError, UsageError
from serving_factory.pipeline.job import VARIANT_LABEL, Job, Progress, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.retry import Result, asking_again
from serving_factory.pipeline.stages.package import PACKAGE, PACKAGE_KEY_LABEL, Packaged
from serving_factory.pipeline.stages.smoke import SMOKE
from serving_factory.recipes.labels import RELEASE_LABEL
from serving_factory.recipes.recipe import Recipe

if TYPE_CHECKING:
    from serving_factory.docker.push import PushResult
    from serving_factory.docker.registry import Registry
    from serving_factory.proofs.described import Model

_LAST_PORT = 65535
_PAUSES = (0.5, 1.0, 2.0)  # seconds between two looks: ghcr.io shows what was pushed only after a while
# Without a dot or a port Docker takes the first word for a folder on Docker Hub.
_REGISTRY = re.compile(
    r"(?:localhost|(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+|[A-Za-z0-9-]+(?=:))(?::(?P<port>\d{1,5}))?(?:/[a-z0-9._-]+)*/?"
)


def push_name(repository: str, registry: str | None) -> ImageName:
    """Where a repository is pushed: at the registry given, or its name begins with; UsageError if neither is one."""
    if registry:
        parts = _REGISTRY.fullmatch(registry)
        if parts is None or int(parts["port"] or 0) > _LAST_PORT:
            raise UsageError(
                "--registry is not the name of a registry",
                why="a registry is HOST.DOMAIN, HOST:PORT or localhost, with no scheme, user or password",
                remedy="write it like registry.example.com or 127.0.0.1:5000; `docker login` gives the password",
            )
        return ImageName.parse(f"{registry.rstrip('/')}/{repository}")
    if names_registry(repository):
        return ImageName.parse(repository)
    raise UsageError(
        f"no registry to push {repository} to",
        remedy="give --registry HOST[:PORT], or begin image.repository in the matrix file with the registry's name",
    )


def push_names(repository: str, registries: Sequence[str]) -> tuple[ImageName, ...]:
    """Where a repository is pushed, each place once."""
    return tuple(dict.fromkeys(push_name(repository, registry) for registry in registries or (None,)))


def check_pushable(recipe: Recipe, registries: Sequence[str]) -> tuple[ImageName, ...]:
    """Where a recipe's image would be pushed; UsageError without a registry, or if it is for this machine alone."""
    if recipe.variant.level is Level.NATIVE:
        raise UsageError(
            f"{recipe.variant.id} is made for this machine's CPU and is not published",
            remedy="push a variant of another level, or choose the others with --target or --variant",
        )
    return push_names(recipe.images.repository, registries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one registry holds."""

    registry: str
    repository: str
    digests: Mapping[str, str]  # tag → digest of its manifest
    not_moved: Mapping[str, str]  # alias → the later release that it stays at
    pushed_layers: int  # how many it had not
    signed: tuple[str, ...] = ()  # the digests that were signed, or were before

    @property
    def name(self) -> ImageName:
        """The repository there."""
        return ImageName(self.registry, self.repository)

    @property
    def image(self) -> str:
        """What `docker pull` takes: the name with a digest."""
        return f"{self.name}@{next(iter(self.digests.values()))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Outputs):
    """What registries hold."""

    places: tuple[Place, ...]

    def summary(self) -> Mapping[str, object]:
        """The names of the image in registries, each with its digest; and aliases that stay at a later release."""
        pushed = [f"{one.name}:{tag}@{digest}" for one in self.places for tag, digest in one.digests.items()]
        stay = [f"{one.name}:{tag} stays at {release}" for one in self.places for tag, release in one.not_moved.items()]
        return {"pushed": pushed, **({"not_moved": stay} if stay else {})}


def _inputs(made: Stage[Packaged], job: Job) -> Mapping[str, object]:
    names = check_pushable(job.recipe, job.site.registries)
    packaged = job.record(made).outputs
    return {
        "image": packaged.image,
        "smoke": job.record(SMOKE).key,
        "registries": [name.registry for name in names],
        "repositories": [name.repository for name in names],
        "tags": packaged.tags,
        "aliases": packaged.aliases,
        **({"signer": job.site.signer.identity} if job.site.signer else {}),
    }


def try_pushes(jobs: Iterable[Job], report: Callable[[str], object]) -> None:
    """Begin and cancel an upload to each repository that the jobs push to; raise, before hours of work, what fails."""
    jobs_by_name = {name: job for job in jobs for name in check_pushable(job.recipe, job.site.registries)}
    for name, job in jobs_by_name.items():
        registry = job.site.engine.registry(name.registry, cancel=job.cancel, report=report)
        _try_push(registry, name, job, report)


def _try_push(registry: Registry, name: ImageName, job: Job, report: Callable[[str], object]) -> None:
    asking_again(lambda: registry.try_push(name.repository), report, sleep=job.cancel.wait)


def _run(made: Stage[Packaged], job: Job, progress: Progress) -> Pushed:
    packaged = job.record(made).outputs
    names = push_names(packaged.repository, job.site.registries)
    push = partial(push_to, image=packaged.image, full=packaged.tags, aliases=packaged.aliases, proven=made is PACKAGE)
    return Pushed(places=tuple(push(job, name, local=packaged.repository, progress=progress) for name in names))


def push_to(
    job: Job,
    name: ImageName,
    *,
    image: str,
    full: Sequence[str],  # tags that name one image for ever; at least one
    aliases: Sequence[str] = (),  # tags that move on, but to no earlier release
    others: Sequence[str] = (),  # tags that move in any case
    local: str,  # the repository whose names stay in the engine
    proven: bool,  # whether it serves: then it gets SBOM and provenance where one signs
    model: Model | None = None,  # that was put into it
    progress: Progress,
) -> Place:
    """Push an image under its tags, in this order, and ask the registry what it holds then."""
    registry = job.site.engine.registry(name.registry, cancel=job.cancel, report=progress)
    _try_push(registry, name, job, job.report_retry)
    digests: dict[str, str] = {}
    not_moved: dict[str, str] = {}
    signed: dict[str, str] = {}
    blobs = 0
    for tag in full:
        if held := _held_already(job, registry, name, tag, image):
            digests[tag] = held
            _forget_name(job, name, tag, local=local)  # of a push that was killed when the registry had all
        else:
            pushed = _push_tag(job, name, image, tag, local=local, progress=progress)
            digests[tag] = pushed.digest
            blobs += pushed.pushed_layers
            _confirm(job, registry, name, tag, pushed.digest)
        if job.site.signer and digests[tag] not in signed.values():
            progress(f"sign {digests[tag]}")
            _sign(job, registry, name, digests[tag], image=image if proven else "", model=model)
            signed[tag] = digests[tag]
    for tag in (*aliases, *others):
        if tag in aliases and (later := _later_release(job, registry, name, tag)):
            not_moved[tag] = later
        else:
            # What the engine pushes may have another digest than before: an alias must have the one that is signed.
            digests[tag] = digests[full[0]]
            _move(job, registry, name, tag, digests[tag])
    return Place(
        registry=name.registry,
        repository=name.repository,
        digests=digests,
        not_moved=not_moved,
        pushed_layers=blobs,
        signed=tuple(signed.values()),
    )


def _confirm(job: Job, registry: Registry, name: ImageName, tag: str, digest: str) -> None:
    for pause in (*_PAUSES, None):
        if (held := _held_digest(job, registry, name, tag)) == digest:
            return
        if pause is None:
            raise RegistryError(
                f"{name}:{tag} was pushed as {digest}; the registry holds {held or 'nothing'}",
                remedy="see whether someone else pushes the same tag; then run the same command again",
            )
        job.cancel.wait(pause)


def _sign(job: Job, registry: Registry, name: ImageName, digest: str, *, image: str, model: Model | None) -> None:
    """Sign a digest, and read the signature back; to an image that serves attach SBOM and provenance."""
    # Its libraries are those of the extra `signing`.
    from serving_factory.pipeline.proofs import prove

    signer, repository = job.site.signer, name.repository
    if signer and image:
        prove(job, registry, repository, digest, signer, image=image, model=model)
    elif signer:
        _asking(job, lambda: signer.sign(registry, repository, digest))


def _move(job: Job, registry: Registry, name: ImageName, alias: str, digest: str) -> None:
    """Let an alias stand for a manifest that the registry has."""
    if _held_digest(job, registry, name, alias) == digest:
        return
    if manifest := _asking(job, lambda: registry.manifest(name.repository, digest)):
        _asking(job, lambda: registry.put_manifest(name.repository, alias, manifest))
    _confirm(job, registry, name, alias, digest)


def _asking(job: Job, question: Callable[[], Result]) -> Result:
    return asking_again(question, job.report_retry, sleep=job.cancel.wait)


def _later_release(job: Job, registry: Registry, name: ImageName, alias: str) -> str:
    """The release that a registry has an alias for that names none, where it is later than this one; else empty."""
    if job.recipe.variant.release_name in alias or (held := _held_digest(job, registry, name, alias)) is None:
        return ""
    labels = _asking(job, lambda: registry.labels(name.repository, held))
    release = labels.get(RELEASE_LABEL, "") if VARIANT_LABEL in labels else ""
    with suppress(InvalidVersion):
        return release if Version(release) > job.recipe.variant.version else ""
    return ""


def _held_already(job: Job, registry: Registry, name: ImageName, tag: str, image: str) -> str | None:
    """The digest of a full tag that the registry holds for this image; None for no such tag, else TagTakenError."""
    held = _held_digest(job, registry, name, tag)
    # The engine's id of an image is the digest of its configuration, or with containerd's store of its manifest.
    if held is None or held == image:
        return held
    config = _asking(job, lambda: registry.config_digest(name.repository, held))
    if config == image:
        return held
    if _same_content(job, registry, name, held, image):
        # Made on another machine, or before a clean runner began: what it is called and all that decides it are equal.
        signer = job.site.signer
        signed = signer is None or _asking(job, lambda: signer.is_signed(registry, name.repository, held))
        # What no one signed is not known to be ours: what was tested here takes its place, and is signed.
        return held if signed else None
    raise TagTakenError(
        f"{name}:{tag} is another image in the registry, and a full tag names one image for ever",
        why=f"the registry holds {held}{f' (image {config})' if config else ''}\nto be pushed is the image {image}",
        remedy="put {image} into the full tags at `image: {tags: [...]}` in the matrix file, so that other content has "
        "another tag; or delete the tag in the registry if nothing uses it",
    )


def _same_content(job: Job, registry: Registry, name: ImageName, held: str, image: str) -> bool:
    """Whether an image in the registry was made of the same as one in the engine, at another time."""
    there = _asking(job, lambda: registry.labels(name.repository, held))
    return PACKAGE_KEY_LABEL in there and there == job.site.engine.image_labels(image)


def _push_tag(job: Job, name: ImageName, image: str, tag: str, *, local: str, progress: Progress) -> PushResult:
    repository, engine = str(name), job.site.engine
    engine.tag(image, repository, tag)
    try:
        return asking_again(
            lambda: engine.push(
                repository,
                tag,
                on_status=lambda text: progress(f"{tag}: {text}"),
                on_retry=lambda text: job.report_retry(f"{tag}: {text}"),
                cancel=job.cancel,
            ),
            lambda text: job.report_retry(f"{tag}: {text}"),
            sleep=job.cancel.wait,
        )
    finally:
        _forget_name(job, name, tag, local=local)


def _forget_name(job: Job, name: ImageName, tag: str, *, local: str) -> None:
    # The registry's name is only needed for the push; the image keeps its own names.
    if str(name) != local:
        job.site.engine.remove_image(f"{name}:{tag}")


def _held_digest(job: Job, registry: Registry, name: ImageName, tag: str) -> str | None:
    return asking_again(
        lambda: registry.manifest_digest(name.repository, tag),
        lambda text: job.report_retry(f"{tag}: {text}"),
        sleep=job.cancel.wait,
    )


def _intact(made: Stage[Packaged], job: Job, outputs: Pushed) -> bool:
    return all(holds(job, one, proven=made is PACKAGE) for one in outputs.places)


def holds(job: Job, place: Place, *, proven: bool) -> bool:
    """Whether a registry still holds all that was pushed to it, and what this run's signer leaves beside that."""
    registry, signer = job.site.engine.registry(place.registry, cancel=job.cancel), job.site.signer
    if any(_held_digest(job, registry, place.name, tag) != digest for tag, digest in place.digests.items()):
        return False
    if signer is None:
        return True
    from serving_factory.proofs.signatures import has_proofs  # its libraries are those of the extra `signing`

    questions = (signer.is_signed, *((partial(has_proofs, signer=signer),) if proven else ()))
    return bool(place.signed) and all(
        _asking(job, partial(question, registry, place.repository, digest))
        for digest in place.signed
        for question in questions
    )


def push_stage(name: str, made: Stage[Packaged], *, version: int) -> Stage[Pushed]:
    """Make the stage that pushes the image of another one, once the binary in it has passed the smoke test."""
    return Stage(
        name=name,
        version=version,
        outputs=Pushed,
        inputs=partial(_inputs, made),
        run=partial(_run, made),
        product="image in the registry",
        needs=(made, SMOKE),
        intact=partial(_intact, made),
        pushes=True,
    )


PUSH = push_stage("push", PACKAGE, version=4)
