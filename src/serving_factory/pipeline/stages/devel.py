"""devel: the image to work in, with upstream's paths and tools. The binary in it is the one that was inspected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from serving_factory.docker.buildx import BuildFailed
from serving_factory.matrix.tags import full_tags
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.stages.compile import COMPILE, build_error, logged_build, ready_request
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.pipeline.stages.inspect import INSPECT
from serving_factory.pipeline.stages.package import (
    PACKAGE_KEY_LABEL,
    Packaged,
    built_binary,
    has_names,
    must_be_inspected,
    packaged,
)
from serving_factory.recipes.labels import image_labels
from serving_factory.recipes.recipe import decides, short


def devel_tags(job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compute the devel image's full tags, from the binary's record and all else that is in it, and its aliases."""
    recipe, binary = job.recipe, short(job.record(EXTRACT).outputs.sha256)
    image = short(_image_key(job))
    return full_tags(recipe.images, recipe.variant, binary=binary, image=image, devel=True), recipe.devel_aliases


def _image_key(job: Job) -> str:
    return DEVEL.key_for(_content(job))


def _labels(job: Job) -> Mapping[str, str]:
    return image_labels(job.recipe, built_binary(job), base_id=job.site.base_id(job.recipe.base), devel=True)


def _content(job: Job) -> Mapping[str, object]:
    compiled = job.record(COMPILE)  # whose key covers base, sources, patches and packages
    return {
        **decides(job.recipe.devel, DEVEL.name),
        "compile": compiled.key,
        "artifact": compiled.outputs.artifact,
        "labels": _labels(job),
    }


def _inputs(job: Job) -> Mapping[str, object]:
    return {**_content(job), "names": [job.recipe.images.repository, *devel_tags(job)]}


def _run(job: Job, progress: Progress) -> Packaged:
    binary, log = built_binary(job), job.log(DEVEL.name)
    must_be_inspected(job, binary.sha256)
    full, aliases = devel_tags(job)
    labels = {**_labels(job), PACKAGE_KEY_LABEL: _image_key(job)}
    with ready_request(job, target=DEVEL.name, output=None, runs_bazel=False) as ready:
        request = replace(
            ready,
            contexts=(*ready.contexts, ("artifact", str(job.artifact))),  # so nothing is compiled again
            labels=tuple(sorted(labels.items())),
            tags=tuple(f"{job.recipe.images.repository}:{tag}" for tag in (*full, *aliases)),
        )
        try:
            result = logged_build(request, log, progress=progress, cancel=job.cancel)
        except BuildFailed as failed:
            raise build_error(job, failed, log) from None
    return packaged(job, result, full, aliases, binary_sha256=binary.sha256)


DEVEL = Stage(
    name="devel",
    version=1,
    outputs=Packaged,
    inputs=_inputs,
    run=_run,
    product="devel image",
    needs=(COMPILE, EXTRACT, INSPECT),
    intact=has_names,
    engine=True,
)
