"""package: the slim runtime image. A cheap view of the binary: a new base, entrypoint or label compiles nothing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.errors import ArtifactError, FactoryError, PackageError
from serving_factory.matrix.matrix import alias_tags, full_tags
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.records import Record, file_digest
from serving_factory.pipeline.stages.compile import BINARY, build_image, step_title, write_context
from serving_factory.pipeline.stages.extract import server_version
from serving_factory.recipes.labels import BuiltBinary, image_env, image_json, image_labels
from serving_factory.recipes.recipe import Recipe, key_of, short

_PACKAGE_KEY_LABEL = "org.serving-factory.package.key"


def built_binary(job: Job) -> BuiltBinary:
    """Gather from the records what the image shall tell of its binary."""
    found = job.record(StageName.EXTRACT).outputs
    return BuiltBinary(
        sha256=found["sha256"],
        build_id=found["build_id"],
        version=server_version(found["version"]),
        compiler=found["compiler"],
        bazel=found["bazel"],
        base_digest=found["base_digest"],
        source=str(found["source"]),
        compile_key=found["compile_key"],
        cpu_flags=tuple(job.record(StageName.INSPECT).outputs["cpu_flags"]),
    )


def image_tags(job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compute the image's full tags and its aliases from the binary's record."""
    recipe = job.recipe
    binary = short(job.record(StageName.EXTRACT).outputs["sha256"])
    return (
        full_tags(recipe.images, recipe.variant, binary=binary),
        alias_tags(recipe.images, recipe.variant, recipe.targets),
    )


def _files(recipe: Recipe, binary: BuiltBinary) -> dict[str, str]:
    return {
        "Dockerfile": recipe.runtime,
        **dict(recipe.runtime_files),
        "image.env": image_env(recipe, binary),
        "image.json": image_json(recipe, binary),
    }


def _key(job: Job) -> str:
    recipe, binary = job.recipe, built_binary(job)
    return key_of(
        files=_files(recipe, binary),
        labels=image_labels(recipe, binary),
        names=[recipe.images.repository, *image_tags(job)],
        base=[recipe.base_image, job.site.base_id(recipe)],
        rootfs=job.site.tree(job.artifact / "rootfs"),
    )


def _run(job: Job, progress: Progress) -> Outputs:
    recipe = job.recipe
    _must_be_inspected(job)
    context = write_context(job.folder / "recipe" / "runtime", _files(recipe, built_binary(job)))
    full, aliases = image_tags(job)
    references = [f"{recipe.images.repository}:{tag}" for tag in (*full, *aliases)]
    labels = {**image_labels(recipe, built_binary(job)), _PACKAGE_KEY_LABEL: _key(job)}
    request = BuildRequest(
        dockerfile=context / "Dockerfile",
        context=context,
        contexts=(("artifact", str(job.artifact)), *recipe.base_context),
        network="none" if recipe.inputs.offline else None,
        labels=tuple(sorted(labels.items())),
        tags=tuple(references),
    )
    before = {had for reference in references if (had := job.site.packaged.get(reference))}
    try:
        result = build_image(request, job, StageName.PACKAGE, progress, _error)
    except BaseException:  # one that was ended in the middle may have taken the names already
        with suppress(FactoryError):  # what happened first is what counts
            _remove_unnamed(before, job)
        raise
    _remove_unnamed(before, job)
    return {
        "image": result.image_id or job.site.engine.image_id(references[0]),
        "size": job.site.engine.image_size(references[0]),
        "repository": recipe.images.repository,
        "tags": list(full),
        "aliases": list(aliases),
        "binary_sha256": built_binary(job).sha256,
    }


def _remove_unnamed(images: Iterable[str], job: Job) -> None:
    for image in images:
        job.site.engine.remove_unnamed(image)


def _must_be_inspected(job: Job) -> None:
    """What goes into the image is read once more: its labels and tags tell of one binary, and must not be another's."""
    inspected = built_binary(job).sha256
    found = file_digest(job.artifact / BINARY)
    if found != inspected:
        raise ArtifactError(
            f"{job.recipe.variant.id}: {job.artifact / BINARY} is not the binary that was inspected",
            why=f"inspected: sha256:{inspected}\nthere now: sha256:{found}",
            remedy=f"see who writes to {job.folder}; delete that folder and run `./factory build` again",
        )


def _error(job: Job, failed: BuildFailed) -> FactoryError:
    return PackageError(
        f"{job.recipe.variant.id}: the runtime image failed to build in {step_title(failed.step)}",
        why="\n".join(failed.tail),
        remedy="fix the template in dockerfiles/templates/runtime, or the base image, and run the same command",
    )


def _intact(job: Job, record: Record) -> bool:
    found = record.outputs
    names = (f"{found['repository']}:{tag}" for tag in (*found["tags"], *found["aliases"]))
    return all(job.site.packaged.get(name) == found["image"] for name in names)


PACKAGE = Stage(name=StageName.PACKAGE, key=_key, run=_run, intact=_intact)
