"""compile: the Bazel build of one variant in Docker. It takes home the folder `artifact`, whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from serving_factory.catalogue.levels import Level
from serving_factory.engine.buildx import BuildFailed, BuildRequest, BuildResult, Step, build
from serving_factory.engine.cancel import Cancel
from serving_factory.errors import CompileError, FactoryError, FetchError
from serving_factory.line.bazel_events import BazelProgress, is_progress
from serving_factory.line.bazel_run import BazelSteps, run_facts
from serving_factory.line.digests import file_digest
from serving_factory.line.doors import secret_files, secrets_of, stage_doors
from serving_factory.line.events import StageName
from serving_factory.line.failure_errors import failure_error
from serving_factory.line.failures import Kind, classify
from serving_factory.line.job import Job, Outputs, Stage, Tell
from serving_factory.line.logs import put_aside
from serving_factory.line.records import Record
from serving_factory.line.run_options import bazelrc, dockerfile_here
from serving_factory.line.stages.attempts import with_second_chances
from serving_factory.recipes.keys import key_of

__all__ = [
    "BINARY",
    "COMPILE",
    "build_error",
    "build_image",
    "devel_request",
    "logged_build",
    "step_title",
    "write_context",
]

BINARY = "tensorflow_model_server"

_STEP_WIDTH = 90
_RUN_FLAGS = re.compile(r"(?<=\] RUN )(?:--\S+\s+)+")


def _key(job: Job) -> str:
    recipe = job.recipe
    return key_of(
        recipe=recipe.compile_key,
        base=job.site.base_id(recipe),
        cpu=_this_cpu() if recipe.variant.level is Level.NATIVE else None,
        source=job.site.tree(recipe.source) if isinstance(recipe.source, Path) else recipe.source,
        bazel=file_digest(recipe.doors.bazel) if recipe.doors.bazel else None,
        overrides={name: job.site.tree(folder) for name, folder in recipe.doors.overrides},
        patches=[job.site.tree(folder) for folder in recipe.doors.patches],
    )


@contextmanager
def devel_request(job: Job, *, target: str, output: Path) -> Iterator[BuildRequest]:
    """Give the request that takes the files of a stage of the devel Dockerfile home; it is good within the block.

    Args:
        job: the variant.
        target: the stage.
        output: the folder that gets its files.
    """
    recipe = job.recipe
    stage_doors(recipe.doors, job.staged_doors)
    with secret_files(job.folder, {**secrets_of(recipe.doors), "bazelrc": bazelrc(recipe)}) as secrets:
        dockerfile = dockerfile_here(job, dict(secrets))
        context = write_context(job.devel_context, {"Dockerfile": dockerfile, **dict(recipe.devel_files)})
        yield BuildRequest(
            dockerfile=context / "Dockerfile",
            context=context,
            target=target,
            build_args=recipe.build_args,
            contexts=recipe.contexts(job.staged_doors),
            secrets=secrets,
            network="none" if recipe.doors.offline else None,
            output=output,
        )


def _run(job: Job, tell: Tell) -> Outputs:
    recipe = job.recipe
    steps = BazelSteps(job.release_share)
    result = with_second_chances(job, lambda job: _build(job, tell, steps), has_built=lambda: steps.built)
    return {
        "binary_sha256": file_digest(job.artifact / BINARY),
        "base": recipe.base_image,
        "base_digest": job.site.base_id(recipe),
        "source": job.site.tree(recipe.source) if isinstance(recipe.source, Path) else recipe.source,
        "steps": result.steps,
        "cached_steps": result.cached,
        **run_facts(job.artifact / "facts", steps),
    }


def _build(job: Job, tell: Tell, steps: BazelSteps) -> BuildResult:
    with devel_request(job, target="artifact", output=job.artifact) as request:
        return build_image(request, job, StageName.COMPILE, tell, _compile_error, see=steps.see)


def _this_cpu() -> str:
    """What `-march=native` depends on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "")


def _intact(job: Job, _record: Record) -> bool:
    return all((job.artifact / name).exists() for name in (BINARY, f"{BINARY}.debug", "rootfs", "facts"))


def _compile_error(job: Job, failed: BuildFailed) -> FactoryError:
    return build_error(job, failed, job.log(StageName.COMPILE))


def build_error(job: Job, failed: BuildFailed, log: Path) -> FactoryError:
    """Say what happened to a build of the devel Dockerfile; its whole output is in the log."""
    text, recipe = log.read_text(encoding="utf-8", errors="replace"), job.recipe
    absent = dict.fromkeys(re.findall(r"E: Unable to locate package (\S+)", text))
    if absent and recipe.doors.apt:
        return CompileError(
            f"{recipe.variant.id}: packages are missing in {recipe.doors.apt}",
            why=", ".join(absent),
            remedy="docs/matrix.md, The network, has the command that fills a folder with all packages of a variant",
        )
    failure = classify(f"{text}\n{failed.text}", exit_code=failed.exit_code, place=failed.place)
    if failure.kind is Kind.FETCH and f"[context {recipe.toolchain.base}]" in failed.step:
        return FetchError(
            f"{recipe.variant.id}: the engine has no image {recipe.base_image}, and none can be fetched",
            why="\n".join(failure.lines),
            remedy=f"load or make it, or name another image for {recipe.toolchain.base} at network.base_images",
        )
    if failure.kind is Kind.FETCH and recipe.doors.offline:
        step = step_title(failed.step)
        return FetchError(
            f"{recipe.variant.id}: {step} wants to download something, and builds have no network here",
            why="\n".join(failure.lines),
            remedy="fill the door that it comes through: packages at network.apt.mirror, archives at bazel.distdir "
            f"(`./factory preflight {recipe.variant.id}` lists them); or take network.offline away",
        )
    return failure_error(
        failure,
        variant=job.recipe.variant.id,
        step=step_title(failed.step),
        tail=tuple(line for line in failed.tail if not is_progress(line)),
        share=job.share,
    )


def step_title(step: str) -> str:
    """Name a step in a part of a line, by what it does and not what it mounts; its whole command is in the log."""
    return shorten(_RUN_FLAGS.sub("", step), _STEP_WIDTH, placeholder=" ...") or "docker buildx build"


def write_context(folder: Path, files: dict[str, str]) -> Path:
    """Make a build context that holds just these files; shell scripts can be executed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
    return folder


def build_image(
    request: BuildRequest,
    job: Job,
    stage: StageName,
    tell: Tell,
    error: Callable[[Job, BuildFailed], FactoryError],
    *,
    see: Callable[[Step], None] = lambda _step: None,
) -> BuildResult:
    """Run one buildx build of a stage: its log goes to the stage's file, its progress to `tell`, each step to `see`."""
    log = job.log(stage)
    put_aside(log)
    return logged_build(request, log, tell=tell, error=lambda failed: error(job, failed), see=see, cancel=job.cancel)


def logged_build(
    request: BuildRequest,
    log: Path,
    *,
    tell: Tell,
    error: Callable[[BuildFailed], FactoryError],
    see: Callable[[Step], None] = lambda _step: None,
    cancel: Cancel | None = None,
) -> BuildResult:
    """Run one buildx build.

    Args:
        request: what to build.
        log: the file that gets its whole output.
        tell: is told of steps that start, and of Bazel's actions.
        error: says what a failure means, once the log is whole.
        see: is given each step.
        cancel: stops the build when asked.
    """
    progress = BazelProgress()

    def on_step(step: Step) -> None:
        see(step)
        if step.kind == "log":
            if action := progress.see(step.text):
                tell(action)
        elif step.kind == "started" and not step.name.startswith("[internal]"):
            tell(step_title(step.name))

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        try:
            return build(request, on_step=on_step, log=stream, cancel=cancel)
        except BuildFailed as failed:
            stream.flush()
            raise error(failed) from None


COMPILE = Stage(name=StageName.COMPILE, key=_key, run=_run, intact=_intact)
