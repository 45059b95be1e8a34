"""package: the slim runtime image. A cheap view of the binary: a new base, entrypoint or label compiles nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.buildx import BuildFailed, BuildResult
from serving_factory.errors import ArtifactError, PackageError, cleaned_up
from serving_factory.matrix.tags import full_tags
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.failures import step_title
from serving_factory.pipeline.inputs import secret_files, secrets_of
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs, write_atomically
from serving_factory.pipeline.stages.compile import BINARY, COMPILE, build_error, logged_build, ready_request
from serving_factory.pipeline.stages.extract import EXTRACT, server_version
from serving_factory.pipeline.stages.inspect import INSPECT
from serving_factory.pipeline.stages.libraries import LIBRARIES, instructions, libraries_folder, runtime_request
from serving_factory.recipes.labels import BuiltBinary, HigherBinary, image_env, image_json, image_labels
from serving_factory.recipes.recipe import Recipe, decides, key_of, short

LAUNCHER = "launcher"  # a target of the devel Dockerfile: what starts the server in the image
PACKAGE_KEY_LABEL = "org.serving-factory.package.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged(Outputs):
    """An image in the engine."""

    image: str  # its id
    size: int  # bytes
    repository: str  # its name, without a tag
    tags: tuple[str, ...]  # its full tags, each of which names this image alone
    aliases: tuple[str, ...]  # its other tags, which move from image to image
    binary_sha256: str  # of the binary in it

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the image, the full ones first."""
        return tuple(f"{self.repository}:{tag}" for tag in (*self.tags, *self.aliases))

    def summary(self) -> Mapping[str, object]:
        """The image's size in bytes, and the shortest name to run it by."""
        return {"image": f"{self.repository}:{(*self.aliases, *self.tags)[0]}", "image_size": self.size}


def built_binary(job: Job) -> BuiltBinary:
    """Gather from the records what the image says of its binary."""
    compiled, found = job.record(COMPILE), job.record(EXTRACT).outputs
    return BuiltBinary(
        sha256=found.sha256,
        build_id=found.build_id,
        version=server_version(found.version),
        compiler=found.compiler,
        bazel=found.bazel,
        base_digest=compiled.outputs.base_digest,
        source=compiled.outputs.source,
        compile_key=compiled.key,
        device_code=found.device_code.throughout,
        cpu_flags=job.record(INSPECT).outputs.cpu_flags,
        higher=tuple(
            HigherBinary(
                level=one.recipe.variant.level.value,
                sha256=one.record(EXTRACT).outputs.sha256,
                cpu_flags=one.record(INSPECT).outputs.cpu_flags,
            )
            for one in job.higher
        ),
    )


def image_tags(job: Job) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compute the image's full tags, from the binary's record and all else that is in the image, and its aliases."""
    recipe, digests = job.recipe, [one.record(EXTRACT).outputs.sha256 for one in (job, *job.higher)]
    binary = short(key_of(binaries=digests)) if job.higher else short(digests[0])
    return full_tags(recipe.images, recipe.variant, binary=binary, image=short(_image_key(job))), recipe.aliases


def _image_key(job: Job) -> str:
    # Without the names: another alias must not make another image of the same full tag.
    return PACKAGE.key_for(_content(job))


def _facts(recipe: Recipe, binary: BuiltBinary) -> dict[str, str]:
    return {"image.env": image_env(recipe, binary), "image.json": image_json(recipe, binary)}


def _labels(job: Job) -> Mapping[str, str]:
    return image_labels(job.recipe, built_binary(job), base_id=job.site.base_id(job.recipe.runtime_base))


def _content(job: Job) -> Mapping[str, object]:
    recipe, binary = job.recipe, built_binary(job)
    return {
        **instructions(recipe, ""),
        "facts": _facts(recipe, binary),
        "labels": _labels(job),
        "base": recipe.runtime_base.image,
        "rootfs": job.record(LIBRARIES).outputs.rootfs,
        "launcher": _of_launcher(job),
    }


def _of_launcher(job: Job) -> Mapping[str, object]:
    """What decides the launcher."""
    base = job.recipe.base
    return {**decides(job.recipe.devel, LAUNCHER), "base": [base.image, job.site.base_id(base)]}


def built_launcher(job: Job, progress: Progress) -> Path:
    """Compile the launcher, unless the variant's folder has it already; give its folder."""
    # By the devel image's compiler, which BuildKit has after a compile. It is kept: another label needs no toolchain.
    folder = job.folder / LAUNCHER / short(key_of(**_of_launcher(job)))
    if not folder.is_dir():
        shutil.rmtree(folder.parent, ignore_errors=True)
        log = job.log(LAUNCHER)
        with ready_request(job, target=LAUNCHER, output=folder, runs_bazel=False) as request:
            try:
                logged_build(request, log, progress=progress, cancel=job.cancel)
            except BuildFailed as failed:
                raise build_error(job, failed, log) from None
    return folder


def _inputs(job: Job) -> Mapping[str, object]:
    return {**_content(job), "names": [job.recipe.images.repository, *image_tags(job)]}


def _run(job: Job, progress: Progress) -> Packaged:
    recipe, binary = job.recipe, built_binary(job)
    must_be_inspected(job, binary.sha256)
    for one in job.higher:
        must_be_inspected(one, one.record(EXTRACT).outputs.sha256)
    dockerfile, facts = job.folder / "recipe" / "runtime.Dockerfile", job.folder / "recipe" / "facts"
    write_atomically(dockerfile, recipe.runtime)
    for name, text in _facts(recipe, binary).items():
        write_atomically(facts / name, text)
    full, aliases = image_tags(job)
    references = [f"{recipe.images.repository}:{tag}" for tag in (*full, *aliases)]
    labels = {**_labels(job), PACKAGE_KEY_LABEL: _image_key(job)}
    launcher = built_launcher(job, progress)
    before = {had for reference in references if (had := job.site.packaged.get(reference))}
    # Also after a build that was ended in the middle: it may have taken the names already.
    with (
        cleaned_up(lambda: _remove_unnamed(before, job)),
        secret_files(job.folder, secrets_of(recipe.inputs) if recipe.upgrades else {}) as secrets,
    ):
        request = runtime_request(
            recipe,
            dockerfile=dockerfile,
            artifact=str(job.artifact),
            launcher=str(launcher),
            facts=facts,
            secrets=secrets,
            labels=labels,
            tags=references,
            libraries=libraries_folder(job) if recipe.collects else None,
            higher={one.recipe.variant.level.value: one.artifact for one in job.higher},
        )
        try:
            result = logged_build(request, job.log(PACKAGE.name), progress=progress, cancel=job.cancel)
        except BuildFailed as failed:
            raise PackageError(
                f"{recipe.variant.id}: the runtime image failed to build in {step_title(failed.step)}",
                why="\n".join(failed.tail),
                remedy="fix dockerfiles/templates/runtime.Dockerfile.j2, or the base image, and run the same command",
            ) from None
    return packaged(job, result, full, aliases, binary_sha256=binary.sha256)


def packaged(
    job: Job, result: BuildResult, full: tuple[str, ...], aliases: tuple[str, ...], *, binary_sha256: str
) -> Packaged:
    """Say what a build has put into the engine under these tags."""
    repository, engine = job.recipe.images.repository, job.site.engine
    name = f"{repository}:{full[0]}"
    return Packaged(
        image=engine.image_id(*result.digests, name) or "",
        size=engine.image_size(name),
        repository=repository,
        tags=full,
        aliases=aliases,
        binary_sha256=binary_sha256,
    )


def _remove_unnamed(images: Iterable[str], job: Job) -> None:
    for image in images:
        job.site.engine.remove_unnamed(image)


def must_be_inspected(job: Job, inspected: str) -> None:
    """Read the binary once more: the labels and tags of its image must not describe another one."""
    found = file_digest(job.artifact / BINARY)
    if found != inspected:
        raise ArtifactError(
            f"{job.recipe.variant.id}: {job.artifact / BINARY} is not the binary that was inspected",
            why=f"inspected: sha256:{inspected}\nthere now: sha256:{found}",
            remedy=f"see who writes to {job.folder}; then run `./factory build` again",
        )


def has_names(job: Job, outputs: Packaged) -> bool:
    """Whether the engine has the image under all its names."""
    return all(job.site.packaged.get(name) == outputs.image for name in outputs.names)


PACKAGE = Stage(
    name="package",
    version=3,
    outputs=Packaged,
    inputs=_inputs,
    run=_run,
    product="image",
    needs=(COMPILE, EXTRACT, LIBRARIES, INSPECT),
    intact=has_names,
    engine=True,
)
