"""push: full tags first, then the aliases; then the registry itself is asked what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable

from serving_factory.catalogue.levels import Level
from serving_factory.docker.engine import PushResult
from serving_factory.docker.registry import ImageName, Registry, credentials_for
from serving_factory.errors import RegistryError, RegistryFaultError, UsageError
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.records import Record
from serving_factory.pipeline.retry import retrying
from serving_factory.recipes.recipe import Recipe, key_of

_ATTEMPTS = 4
_LAST_PORT = 65535
# Without a dot or a port Docker takes the first word for a folder on Docker Hub.
_REGISTRY = re.compile(
    r"(?:localhost|(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+|[A-Za-z0-9-]+(?=:))(?::(?P<port>\d{1,5}))?(?:/[a-z0-9._-]+)*/?"
)


def push_name(repository: str, registry: str | None) -> ImageName:
    """Where a repository is pushed: at the registry given, else at the one that its own name begins with.

    Raises:
        UsageError: neither names a registry.
    """
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
    """Say where a recipe's image would be pushed.

    Raises:
        UsageError: it can be pushed nowhere: there is no registry, or the image is for this machine alone.
    """
    if recipe.variant.level is Level.NATIVE:
        raise UsageError(
            f"{recipe.variant.id} is made for this machine's CPU and is not published",
            remedy="push a variant of another level, or choose the others with --target or --variant",
        )
    return push_name(recipe.images.repository, registry)


def _key(job: Job) -> str:
    name = check_pushable(job.recipe, job.site.registry)
    packaged = job.record(StageName.PACKAGE).outputs
    return key_of(
        image=packaged["image"],
        smoke=job.record(StageName.SMOKE).key,
        registry=name.registry,
        repository=name.repository,
        tags=packaged["tags"],
        aliases=packaged["aliases"],
    )


def _run(job: Job, progress: Progress) -> Outputs:
    packaged = job.record(StageName.PACKAGE).outputs
    name = push_name(packaged["repository"], job.site.registry)
    digests: dict[str, str] = {}
    blobs = 0
    for tag in (*packaged["tags"], *packaged["aliases"]):
        pushed = _push_tag(job, name, packaged["image"], tag, progress)
        digests[tag] = _ask_digest(name, tag, pushed.digest, job.report_retry)
        blobs += pushed.pushed_layers
    return {
        "registry": name.registry,
        "repository": name.repository,
        "digests": digests,
        "pushed_layers": blobs,
    }


def _push_tag(job: Job, name: ImageName, image: str, tag: str, progress: Progress) -> PushResult:
    repository = f"{name.registry}/{name.repository}"
    engine = job.site.engine
    engine.tag(image, repository, tag)
    try:
        return retrying(
            lambda: engine.push(repository, tag, on_status=lambda status: progress(f"{tag}: {status}")),
            transient=(RegistryFaultError,),
            attempts=_ATTEMPTS,
            on_retry=_report_retry(job.report_retry, tag),
        )
    finally:
        # The registry's name is only needed for the push; the image keeps the names that package gave it.
        if repository != job.record(StageName.PACKAGE).outputs["repository"]:
            engine.remove_image(f"{repository}:{tag}")


def _report_retry(progress: Progress, tag: str) -> Callable[[int, float, RegistryFaultError], None]:
    def on_retry(attempt: int, delay: float, error: RegistryFaultError) -> None:
        progress(f"{tag}: attempt {attempt} failed ({error.what}); again in {delay:.1f} s")

    return on_retry


def _ask_digest(name: ImageName, tag: str, pushed: str, progress: Progress) -> str:
    """Ask the registry for a tag's digest, and compare it with what the engine says it pushed."""
    held = _held_digest(name, tag, progress)
    if held != pushed:
        raise RegistryError(
            f"{name.registry}/{name.repository}:{tag} was pushed as {pushed}; the registry holds {held or 'nothing'}",
            remedy="see whether someone else pushes the same tag; then run the same command again",
        )
    return held


def _held_digest(name: ImageName, tag: str, progress: Progress) -> str | None:
    registry = Registry(name.registry, credentials=credentials_for(name.registry))
    return retrying(
        lambda: registry.manifest_digest(name.repository, tag),
        transient=(RegistryFaultError,),
        attempts=_ATTEMPTS,
        on_retry=_report_retry(progress, tag),
    )


def _intact(_job: Job, record: Record) -> bool:
    outputs = record.outputs
    name = ImageName(outputs["registry"], outputs["repository"])
    return all(_held_digest(name, tag, lambda _: None) == digest for tag, digest in outputs["digests"].items())


PUSH = Stage(name=StageName.PUSH, key=_key, run=_run, intact=_intact)
