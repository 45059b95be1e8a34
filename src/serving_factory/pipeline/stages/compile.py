"""compile: the Bazel build of one variant in Docker. It takes home the folder `artifact`, whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from serving_factory.catalogue.levels import Level
from serving_factory.docker.buildx import BuildFailed, BuildRequest, BuildResult, build
from serving_factory.docker.caches import drop_cache_mounts
from serving_factory.docker.process import Cancel
from serving_factory.docker.solve_status import Step
from serving_factory.errors import (
    CacheCorruptError,
    CompileError,
    EngineError,
    FactoryError,
    FetchError,
    OutOfMemoryError,
)
from serving_factory.pipeline.bazel import BazelProgress, bazelrc, dockerfile_here, is_progress, read_summary
from serving_factory.pipeline.budget import count_jobs
from serving_factory.pipeline.caches import empty_cache
from serving_factory.pipeline.events import StageName
from serving_factory.pipeline.failures import Kind, classify, failure_error
from serving_factory.pipeline.inputs import secret_files, secrets_of, stage_inputs
from serving_factory.pipeline.job import Job, Outputs, Progress, Stage
from serving_factory.pipeline.records import Record, file_digest, put_aside
from serving_factory.pipeline.retry import retrying
from serving_factory.recipes.recipe import CACHES, key_of

_STEP = re.compile(r"/factory/bazel\.sh (fetch|build) ")
_NO_REMOTE = re.compile(r"^factory: no remote: (\S+) does not answer$")
_AGAIN = re.compile(r"^factory: no remote: (Bazel ended with exit code \d+)")
_REFUSED = re.compile(r"^(?:WARNING|ERROR): Failed to query remote execution capabilities: (.+)$")
_TROUBLE = re.compile(r"^WARNING: (?:Reading from|Writing to) Remote Cache:")
_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL = "disk cache hit", "remote cache hit", "remote", "internal"


class BazelSteps:
    """Watches a build for the steps that run Bazel.

    A step that BuildKit took from its own cache leaves the files of an earlier run, which must not count again.

    Args:
        on_built: called once Bazel has built; what is left of the compile stage compiles nothing.
    """

    def __init__(self, on_built: Callable[[], None]) -> None:
        self._on_built = on_built
        self.built = False
        self.ran: set[str] = set()
        self.silent_remote: str | None = None
        self.remote_trouble: str | None = None

    def see(self, step: Step) -> None:
        """Note a step's start and end, and that a remote cache or executor did not answer, or was of no use."""
        if step.kind in {"started", "done", "cached"} and (found := _STEP.search(step.name)):
            if step.kind == "started":
                self.ran.add(found[1])
            elif found[1] == "build":
                self.built = True
                self._on_built()
        elif step.kind == "log":
            self._hear(step.text)

    def _hear(self, line: str) -> None:
        if silent := _NO_REMOTE.match(line):
            self.silent_remote = silent[1]
        elif refused := _REFUSED.match(line):
            self.remote_trouble = refused[1]
        elif retried := _AGAIN.match(line):
            self.remote_trouble = self.remote_trouble or retried[1]
        elif _TROUBLE.match(line):
            self.remote_trouble = self.remote_trouble or "some of its answers were errors"


def run_facts(facts: Path, steps: BazelSteps) -> Mapping[str, Any]:
    """Gather what is known of the run that made a binary; None where it is not known.

    Args:
        facts: the artifact's folder of that name.
        steps: what was seen of the build.
    """
    summary = read_summary(facts / "bazel-events.json")
    fetch, build = (read_measures(facts / "measures" / name) for name in ("fetch", "build"))
    runners = _runners(summary.runners if summary else {}, remote=bool(build.get("remote")))
    local = {name: n for name, n in runners.items() if name not in {_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL}}
    fetched = [
        measures.get("bytes_fetched") for name, measures in (("fetch", fetch), ("build", build)) if name in steps.ran
    ]
    return {
        "bazel_ran": "build" in steps.ran,
        "actions": summary.executed if summary else None,
        "runners": dict(runners) or None,
        "local_actions": sum(local.values()) if runners else None,
        "disk_cache_hits": runners.get(_DISK_HIT, 0) if runners else None,
        "remote_cache_hits": runners.get(_REMOTE_HIT, 0) if runners else None,
        "remote_actions": runners.get(_REMOTE, 0) if runners else None,
        "silent_remote": steps.silent_remote,
        "remote_trouble": steps.remote_trouble,
        "bytes_fetched": None if None in fetched else sum(size for size in fetched if size is not None),
        "wall_seconds": summary.wall_seconds if summary else None,
        "critical_path_seconds": summary.critical_path_seconds if summary else None,
        "cpu_seconds": build["cpu_microseconds"] / 1_000_000 if "cpu_microseconds" in build else None,
        "peak_memory_bytes": build.get("peak_memory_bytes"),
    }


def read_measures(file: Path) -> Mapping[str, int]:
    """Read what bazel.sh measured of a step: a line `NAME NUMBER` each; nothing where there is no such file."""
    try:
        words = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return {}
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}  # noqa: PLR2004


def _runners(told: Mapping[str, int], *, remote: bool) -> Mapping[str, int]:
    """Name the hits of a disk cache so: before 5, Bazel calls them remote ones, even where there is nothing remote."""
    if remote or _DISK_HIT in told:
        return told
    return {_DISK_HIT if name == _REMOTE_HIT else name: count for name, count in told.items()}


_FETCHES = 4
_FIRST_DELAY = 3.0  # seconds; Bazel, git and apt have tried for a while themselves


def with_second_chances(
    job: Job, attempt: Callable[[Job], BuildResult], *, has_built: Callable[[], bool]
) -> BuildResult:
    """Build, and try again what can end otherwise.

    A download that failed is tried four times, with waits that double; once where there is no network to wait for. A
    Bazel that ran out of memory is tried once more with half its jobs, on what the first try left in its disk cache;
    what comes after it has no jobs to halve. A damaged cache is dropped, or emptied where another build holds it, and
    the build tried once more. Nothing else is: a wrong checksum, least of all. `job.report_retry` is told what failed
    before each try, and how it is done.

    Args:
        job: the variant.
        attempt: builds once.
        has_built: whether Bazel's part of the build was done.
    """
    try:
        return _with_patience(job, attempt)
    except OutOfMemoryError as error:
        if job.share.jobs == 1 or has_built():
            raise
        fewer = job.share.halved()
        job.report_retry(f"{_said(error, job)}; once more with {count_jobs(fewer.jobs)}, on the warm cache")
        try:
            return _with_patience(replace(job, share=fewer), attempt)
        except OutOfMemoryError as again:
            raise OutOfMemoryError(
                f"{again.what}; before that, with {job.share.jobs}", why=again.why, remedy=again.remedy
            ) from error
    except CacheCorruptError as error:
        _drop(error, job)
        return _with_patience(job, attempt)


def _drop(damaged: CacheCorruptError, job: Job) -> None:
    """Take a damaged cache away: the whole mount, or what is in it where another build holds the mount.

    Raises:
        CacheCorruptError: neither can be done, and a build with it would end in the same way.
    """
    if not drop_cache_mounts(f"{CACHES}-{damaged.cache}").used:
        job.report_retry(f"{_said(damaged, job)}; once more without it")
        return
    job.report_retry(f"{_said(damaged, job)}, and another build uses it; once more, with its entries removed")
    try:
        empty_cache(job.recipe.base_image, damaged.cache)
    except EngineError as error:
        raise CacheCorruptError(
            f"{damaged.what}; another build uses it, so that it cannot be dropped, and it cannot be emptied",
            why=f"{damaged.why}\n{error.why}",
            remedy="run the same command again once that build has ended",
            cache=damaged.cache,
        ) from error


def _said(error: FactoryError, job: Job) -> str:
    """What happened, without the variant's name, which stands beside it already."""
    return error.what.removeprefix(f"{job.recipe.variant.id}: ")


def _with_patience(job: Job, attempt: Callable[[Job], BuildResult]) -> BuildResult:
    def on_retry(number: int, delay: float, error: FetchError) -> None:
        job.report_retry(f"{_said(error, job)}; try {number + 1} of {_FETCHES} in {delay:.0f} s")

    return retrying(
        lambda: attempt(job),
        transient=() if job.recipe.inputs.offline else (FetchError,),
        on_retry=on_retry,
        attempts=_FETCHES,
        first_delay=_FIRST_DELAY,
        sleep=job.cancel.wait,
    )


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
        bazel=file_digest(recipe.inputs.bazel) if recipe.inputs.bazel else None,
        overrides={name: job.site.tree(folder) for name, folder in recipe.inputs.overrides},
        patches=[job.site.tree(folder) for folder in recipe.inputs.patches],
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
    stage_inputs(recipe.inputs, job.staged_inputs)
    with secret_files(job.folder, {**secrets_of(recipe.inputs), "bazelrc": bazelrc(recipe)}) as secrets:
        dockerfile = dockerfile_here(job, dict(secrets))
        context = write_context(job.devel_context, {"Dockerfile": dockerfile, **dict(recipe.devel_files)})
        yield BuildRequest(
            dockerfile=context / "Dockerfile",
            context=context,
            target=target,
            build_args=recipe.build_args,
            contexts=recipe.contexts(job.staged_inputs),
            secrets=secrets,
            network="none" if recipe.inputs.offline else None,
            output=output,
        )


def _run(job: Job, progress: Progress) -> Outputs:
    recipe = job.recipe
    steps = BazelSteps(job.release_share)
    result = with_second_chances(job, lambda job: _build(job, progress, steps), has_built=lambda: steps.built)
    return {
        "binary_sha256": file_digest(job.artifact / BINARY),
        "base": recipe.base_image,
        "base_digest": job.site.base_id(recipe),
        "source": job.site.tree(recipe.source) if isinstance(recipe.source, Path) else recipe.source,
        "steps": result.steps,
        "cached_steps": result.cached,
        **run_facts(job.artifact / "facts", steps),
    }


def _build(job: Job, progress: Progress, steps: BazelSteps) -> BuildResult:
    with devel_request(job, target="artifact", output=job.artifact) as request:
        return build_image(request, job, StageName.COMPILE, progress, _compile_error, see=steps.see)


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
    if absent and recipe.inputs.apt:
        return CompileError(
            f"{recipe.variant.id}: packages are missing in {recipe.inputs.apt}",
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
    if failure.kind is Kind.FETCH and recipe.inputs.offline:
        step = step_title(failed.step)
        return FetchError(
            f"{recipe.variant.id}: {step} wants to download something, and builds have no network here",
            why="\n".join(failure.lines),
            remedy="fill the input that it comes through: packages at network.apt.mirror, archives at bazel.distdir "
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
    progress: Progress,
    error: Callable[[Job, BuildFailed], FactoryError],
    *,
    see: Callable[[Step], None] = lambda _step: None,
) -> BuildResult:
    """Run one buildx build of a stage: its log goes to the stage's file, its progress to `tell`, each step to `see`."""
    log = job.log(stage)
    put_aside(log)
    return logged_build(
        request, log, progress=progress, error=lambda failed: error(job, failed), see=see, cancel=job.cancel
    )


def logged_build(
    request: BuildRequest,
    log: Path,
    *,
    progress: Progress,
    error: Callable[[BuildFailed], FactoryError],
    see: Callable[[Step], None] = lambda _step: None,
    cancel: Cancel | None = None,
) -> BuildResult:
    """Run one buildx build.

    Args:
        request: what to build.
        log: the file that gets its whole output.
        progress: is told of steps that start, and of Bazel's actions.
        error: says what a failure means, once the log is whole.
        see: is given each step.
        cancel: stops the build when asked.
    """
    bazel = BazelProgress()

    def on_step(step: Step) -> None:
        see(step)
        if step.kind == "log":
            if action := bazel.see(step.text):
                progress(action)
        elif step.kind == "started" and not step.name.startswith("[internal]"):
            progress(step_title(step.name))

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as stream:
        try:
            return build(request, on_step=on_step, log=stream, cancel=cancel)
        except BuildFailed as failed:
            stream.flush()
            raise error(failed) from None


COMPILE = Stage(name=StageName.COMPILE, key=_key, run=_run, intact=_intact)
