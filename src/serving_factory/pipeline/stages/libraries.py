"""libraries: what the image needs beyond its base and the binary.

Where the image stands on the base that the binary was compiled on, that is what the compile took home from the devel
image. On any other base it is collected there, from the packages of that base's own distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.errors import ArtifactError, FactoryError, FetchError, PackageError
from serving_factory.pipeline.digests import entries_digest, tree_entries
from serving_factory.pipeline.failures import Kind, classify, failure_error, step_title
from serving_factory.pipeline.inputs import secret_files, secrets_of
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs, write_atomically
from serving_factory.pipeline.stages.compile import COMPILE, logged_build
from serving_factory.recipes.dockerfile import needed
from serving_factory.recipes.recipe import CONTEXT, Recipe, context_text

_TARGET = "libraries"
_FACTS = ("glibc", "os-release", "packages", "base-libraries")  # of what collect.sh and libraries.sh write down

_SHOWN = 5  # last lines of a step that says nothing of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries(Outputs):
    """What goes into an image beside the binary."""

    collected: bool  # on the image's own base; else the compile's are taken
    rootfs: str  # digest of the files
    packages: tuple[str, ...]  # those that the files come from, NAME=VERSION
    base: (
        str  # the image that the runtime image stands on; `base_digest` its digest or id, empty where neither is known
    )
    base_digest: str
    distribution: str  # its distribution's name; `glibc` its C library, as ldd names it
    glibc: str
    base_libraries: tuple[str, ...]  # the libraries that it has itself


def libraries_folder(job: Job) -> Path:
    """Where the files are, in `rootfs`."""
    return job.folder / _TARGET if job.recipe.collects else job.artifact


def instructions(recipe: Recipe, target: str) -> Mapping[str, object]:
    """What of the runtime Dockerfile decides a stage of it: instructions, and the files that these copy."""
    stages = needed(recipe.runtime, target)
    return {
        "dockerfile": [stage.instructions for stage in stages],
        "files": {name: context_text(name) for stage in stages for name in stage.files},
    }


def runtime_request(
    recipe: Recipe,
    *,
    dockerfile: Path,
    artifact: str,
    launcher: str | None = None,
    facts: Path | None = None,
    libraries: Path | None = None,
    higher: Mapping[str, Path] | None = None,
    secrets: tuple[tuple[str, Path], ...] = (),
    target: str | None = None,
    output: Path | None = None,
    labels: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
) -> BuildRequest:
    """Say how the runtime Dockerfile is built, for the stages, the bake file, or a user's own command."""
    # `libraries` is the folder of those that were collected already; else the build does that, as it upgrades packages.
    installs = recipe.collects and (libraries is None or (bool(recipe.upgrades) and not recipe.slim))
    places = {
        "artifact": artifact,
        "launcher": launcher,
        "libraries": libraries,
        "facts": facts,
        "apt": recipe.inputs.apt if installs else None,
        **(higher or {}),  # of an image with several levels: each level's artifact
    }
    return BuildRequest(
        dockerfile=dockerfile,
        context=CONTEXT,
        target=target,
        build_args=recipe.inputs.apt_args if installs else (),
        contexts=(*((name, str(place)) for name, place in places.items() if place), *recipe.runtime_base.contexts),
        secrets=secrets if installs else (),
        network="none" if recipe.inputs.offline else None,
        output=output,
        labels=tuple(sorted((labels or {}).items())),
        tags=tuple(tags),
    )


def _inputs(job: Job) -> Mapping[str, object]:
    recipe, compiled = job.recipe, job.record(COMPILE).outputs
    if not recipe.collects:
        return {"rootfs": compiled.rootfs, "facts": {name: compiled.facts[name] for name in _FACTS}}
    return {
        **instructions(recipe, _TARGET),
        "base": [recipe.runtime_base.image, job.site.base_id(recipe.runtime_base)],
        "arguments": recipe.inputs.apt_args,
        "binary": compiled.binary_sha256,
        "rootfs": compiled.rootfs,
        "packages": compiled.facts["packages"],
    }


def _run(job: Job, progress: Progress) -> Libraries:
    recipe, compiled = job.recipe, job.record(COMPILE).outputs
    if not recipe.collects:
        return _made(job, compiled.rootfs, compiled.facts)
    folder, dockerfile = libraries_folder(job), job.folder / "recipe" / "runtime.Dockerfile"
    write_atomically(dockerfile, recipe.runtime)
    with secret_files(job.folder, secrets_of(recipe.inputs)) as secrets:
        request = runtime_request(
            recipe,
            dockerfile=dockerfile,
            artifact=str(job.artifact),
            secrets=secrets,
            target=_TARGET,
            output=folder,
        )
        try:
            logged_build(request, job.log(LIBRARIES.name), progress=progress, cancel=job.cancel)
        except BuildFailed as failed:
            raise _error(job, failed) from None
    entries = tree_entries(folder)
    try:
        facts = {name: (folder / "facts" / name).read_text(encoding="utf-8").rstrip("\n") for name in _FACTS}
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{recipe.variant.id}: collecting its libraries left no {error.filename}",
            remedy=f"read {job.log(LIBRARIES.name)}, fix the cause, and run the same command",
        ) from None
    return _made(job, entries_digest(entries), facts)


def _made(job: Job, rootfs: str, facts: Mapping[str, str]) -> Libraries:
    base = job.recipe.runtime_base
    return Libraries(
        collected=job.recipe.collects,
        rootfs=rootfs,
        packages=tuple(facts["packages"].splitlines()),
        base=base.image,
        base_digest=job.site.base_id(base),
        distribution=facts["os-release"],
        glibc=facts["glibc"],
        base_libraries=tuple(facts["base-libraries"].splitlines()),
    )


def _error(job: Job, failed: BuildFailed) -> FactoryError:
    recipe, text = job.recipe, job.log(LIBRARIES.name).read_text(encoding="utf-8", errors="replace")
    base = recipe.runtime_base
    failure = classify(f"{text}\n{failed.text}", exit_code=failed.exit_code, place=failed.place)
    if failure.kind is Kind.FETCH and f"[context {base.name}]" in failed.step:
        return FetchError(
            f"{recipe.variant.id}: the engine has no image {base.image}, and none can be fetched",
            why="\n".join(failure.lines),
            remedy=f"load or make it, or name another image for {base.name} at network.base_images",
        )
    if failure.kind in {Kind.COMPILE, Kind.PROGRAM_MISSING}:
        said = [line for line in failed.tail if "libraries: " in line] or failed.tail[-_SHOWN:]
        return PackageError(
            f"{recipe.variant.id}: what the image needs beside its base {base.name} could not be collected",
            why="\n".join(said),
            remedy="image.base takes images of Debian and Ubuntu, with bash, whose packages this network reaches: name "
            f"another one, or fix the cause; the whole log is {job.log(LIBRARIES.name)}",
        )
    return failure_error(
        failure, variant=recipe.variant.id, step=step_title(failed.step), tail=failed.tail, share=job.share
    )


def _intact(job: Job, outputs: Libraries) -> bool:
    """The compile's files were looked at by its own stage."""
    return not outputs.collected or job.site.memory.digest(libraries_folder(job)) == outputs.rootfs


LIBRARIES: Stage[Libraries] = Stage(
    name="libraries",
    version=1,
    outputs=Libraries,
    inputs=_inputs,
    run=_run,
    product="libraries",
    needs=(COMPILE,),
    intact=_intact,
    engine=True,
)
