"""push: full tags first, then the aliases; then the registry itself is asked what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_factory.catalogue.levels import Level
from serving_factory.docker.registry import ImageName
from serving_factory.errors import RegistryError, TagTakenError, UsageError
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.retry import asking_again
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.pipeline.stages.smoke import SMOKE
from serving_factory.recipes.recipe import Recipe

if TYPE_CHECKING:
    from serving_factory.docker.push import PushResult
    from serving_factory.docker.registry import Registry

_LAST_PORT = 65535
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
    first = repository.partition("/")[0]
    if "/" in repository and ("." in first or ":" in first or first == "localhost"):
        return ImageName.parse(repository)
    raise UsageError(
        f"no registry to push {repository} to",
        remedy="give --registry HOST[:PORT], or begin image.repository in the matrix file with the registry's name",
    )


def check_pushable(recipe: Recipe, registry: str | None) -> ImageName:
    """Where a recipe's image would be pushed; UsageError without a registry, or if it is for this machine alone."""
    if recipe.variant.level is Level.NATIVE:
        raise UsageError(
            f"{recipe.variant.id} is made for this machine's CPU and is not published",
            remedy="push a variant of another level, or choose the others with --target or --variant",
        )
    return push_name(recipe.images.repository, registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Outputs):
    """What a registry holds: tag → digest of its manifest; and how many layers it had not."""

    registry: str
    repository: str
    digests: Mapping[str, str]
    pushed_layers: int

    def summary(self) -> Mapping[str, object]:
        """The names under which the registry holds the image, each with its digest."""
        where = f"{self.registry}/{self.repository}"
        return {"pushed": [f"{where}:{tag}@{digest}" for tag, digest in self.digests.items()]}


def _inputs(job: Job) -> Mapping[str, object]:
    name = check_pushable(job.recipe, job.site.registry)
    packaged = job.record(PACKAGE).outputs
    return {
        "image": packaged.image,
        "smoke": job.record(SMOKE).key,
        "registry": name.registry,
        "repository": name.repository,
        "tags": packaged.tags,
        "aliases": packaged.aliases,
    }


def try_pushes(jobs: Iterable[Job], report: Callable[[str], object]) -> None:
    """Begin and cancel an upload to each repository that the jobs push to; raise, before hours of work, what fails."""
    jobs_by_name = {check_pushable(job.recipe, job.site.registry): job for job in jobs}
    for name, job in jobs_by_name.items():
        registry = job.site.engine.registry(name.registry, cancel=job.cancel, report=report)
        _try_push(registry, name, job, report)


def _try_push(registry: Registry, name: ImageName, job: Job, report: Callable[[str], object]) -> None:
    asking_again(lambda: registry.try_push(name.repository), report, sleep=job.cancel.wait)


def _run(job: Job, progress: Progress) -> Pushed:
    packaged = job.record(PACKAGE).outputs
    image = packaged.image
    name = push_name(packaged.repository, job.site.registry)
    registry = job.site.engine.registry(name.registry, cancel=job.cancel, report=progress)
    _try_push(registry, name, job, job.report_retry)
    digests: dict[str, str] = {}
    blobs = 0
    for tag in (*packaged.tags, *packaged.aliases):
        if tag in packaged.tags and (held := _held_already(job, registry, name, tag, image)):
            digests[tag] = held
            continue
        pushed = _push_tag(job, name, image, tag, progress)
        digests[tag] = pushed.digest
        blobs += pushed.pushed_layers
        if (held := _held_digest(job, registry, name, tag)) != pushed.digest:
            raise RegistryError(
                f"{name}:{tag} was pushed as {pushed.digest}; the registry holds {held or 'nothing'}",
                remedy="see whether someone else pushes the same tag; then run the same command again",
            )
    return Pushed(registry=name.registry, repository=name.repository, digests=digests, pushed_layers=blobs)


def _held_already(job: Job, registry: Registry, name: ImageName, tag: str, image: str) -> str | None:
    """The digest of a full tag that the registry holds for this image; None for no such tag, else TagTakenError."""
    held = _held_digest(job, registry, name, tag)
    # The engine's id of an image is the digest of its configuration, or with containerd's store of its manifest.
    if held is None or held == image:
        return held
    config = asking_again(
        lambda: registry.config_digest(name.repository, held), job.report_retry, sleep=job.cancel.wait
    )
    if config == image:
        return held
    raise TagTakenError(
        f"{name}:{tag} is another image in the registry, and a full tag names one image for ever",
        why=f"the registry holds {held}{f' (image {config})' if config else ''}\nto be pushed is the image {image}",
        remedy="give the new image another full tag at `image: {tags: [...]}` in the matrix file, such as one that "
        "ends in -r2; or delete the tag in the registry if nothing uses it",
    )


def _push_tag(job: Job, name: ImageName, image: str, tag: str, progress: Progress) -> PushResult:
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
        # The registry's name is only needed for the push; the image keeps the names that package gave it.
        if repository != job.record(PACKAGE).outputs.repository:
            engine.remove_image(f"{repository}:{tag}")


def _held_digest(job: Job, registry: Registry, name: ImageName, tag: str) -> str | None:
    return asking_again(
        lambda: registry.manifest_digest(name.repository, tag),
        lambda text: job.report_retry(f"{tag}: {text}"),
        sleep=job.cancel.wait,
    )


def _intact(job: Job, outputs: Pushed) -> bool:
    name = ImageName(outputs.registry, outputs.repository)
    registry = job.site.engine.registry(name.registry, cancel=job.cancel)
    return all(_held_digest(job, registry, name, tag) == digest for tag, digest in outputs.digests.items())


PUSH = Stage(
    name="push",
    version=1,
    outputs=Pushed,
    inputs=_inputs,
    run=_run,
    product="image in the registry",
    needs=(PACKAGE, SMOKE),
    intact=_intact,
)
