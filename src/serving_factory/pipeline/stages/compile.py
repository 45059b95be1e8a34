"""compile: the Bazel build of one variant in Docker. It takes home the folder `artifact`, whole or not at all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from serving_factory.catalogue.levels import Level
from serving_factory.docker.buildx import BuildFailed, BuildRequest, BuildResult, build
from serving_factory.docker.process import Cancel
from serving_factory.docker.solve_status import Step
from serving_factory.errors import ArtifactError, CompileError, FactoryError, FetchError
from serving_factory.pipeline.bazel import (
    ActionSummary,
    BazelProgress,
    bazelrc,
    is_progress,
    read_summary,
    resource_options,
    without_absent_secrets,
)
from serving_factory.pipeline.digests import entries_digest, file_digest, quoted, tree_entries
from serving_factory.pipeline.failures import Kind, classify, failure_error, step_title
from serving_factory.pipeline.inputs import secret_files, secrets_of, stage_inputs
from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs, write_atomically
from serving_factory.recipes.recipe import CONTEXT, Recipe

BINARY = "tensorflow_model_server"
DEBUG = f"{BINARY}.debug"
# What collect.sh writes down in the devel image, a file each in `artifact/facts`
FACTS = ("version", "version.exit", "bazel", "compiler", "glibc", "os-release", "ldd", "packages", "base-libraries")
_STEP = re.compile(r"/factory/bazel\.sh (fetch|build)\b")
_NO_REMOTE = re.compile(r"^factory: no remote: (\S+) does not answer$")
_AGAIN = re.compile(r"^factory: no remote: (Bazel ended with exit code \d+)")
_REFUSED = re.compile(r"^(?:WARNING|ERROR): Failed to query remote execution capabilities: (.+)$")
_TROUBLE = re.compile(r"^WARNING: (?:Reading from |Writing to )?Remote Cache:")
_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL = "disk cache hit", "remote cache hit", "remote", "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled(Outputs):
    """A binary, and how it was made."""

    binary_sha256: str  # of the stripped binary; `debug_sha256` of its symbols
    debug_sha256: str
    artifact: str  # digest of all that was taken home; `rootfs` of the libraries among it
    rootfs: str
    facts: Mapping[str, str]  # what the devel image wrote down: the texts of `FACTS`
    base: str  # the base image's name; `base_digest` its digest or id, empty where neither is known
    base_digest: str
    source: str  # upstream's URL with the commit, or the digest of the source folder
    configs: tuple[str, ...]  # Bazel's
    arguments: Mapping[str, str]  # the build arguments that decide what is built, the level's options among them
    steps: int  # the Dockerfile's instructions; `cached_steps` those that BuildKit had already
    cached_steps: int
    # docs/records.md describes what follows
    bazel_ran: bool  # in this build, and not in an earlier one whose step BuildKit had
    actions: int | None = None
    runners: Mapping[str, int] | None = None
    local_actions: int | None = None
    disk_cache_hits: int | None = None
    remote_cache_hits: int | None = None
    remote_actions: int | None = None
    silent_remote: str | None = None
    remote_trouble: str | None = None
    bytes_fetched: int | None = None
    wall_seconds: float | None = None
    critical_path_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None

    def measures(self) -> Mapping[str, int | None]:
        """The peak is an earlier run's where BuildKit had the step."""
        return {"memory": self.peak_memory_bytes if self.bazel_ran else None, "download": self.bytes_fetched}


def decided_by(job: Job, *, base_id: str, source: str) -> Mapping[str, object]:
    """Give what decides the binary, compiled of this base and these sources."""
    recipe = job.recipe
    return {
        "recipe": recipe.compile_key,
        "base": base_id,
        "cpu": _this_cpu() if recipe.variant.level is Level.NATIVE else None,
        "source": source,
        "bazel": file_digest(recipe.inputs.bazel) if recipe.inputs.bazel else None,
        "overrides": {name: job.site.tree(folder) for name, folder in recipe.inputs.overrides},
        "patches": [job.site.tree(folder) for folder in recipe.inputs.patches],
        **({"cuda": job.site.tree(recipe.inputs.cuda_folder)} if recipe.inputs.cuda_folder else {}),
    }


def _inputs(job: Job) -> Mapping[str, object]:
    return decided_by(job, base_id=job.site.base_id(job.recipe.base), source=_source(job))


def _shown(job: Job, inputs: Mapping[str, Any]) -> Mapping[str, object]:
    """What decides the binary, in the words of the matrix file and of a Dockerfile."""
    parts = job.recipe.decisive
    arguments = {"flags" if name == "COPTS" else name: value for name, value in parts["arguments"]}
    return {
        **arguments,
        "Dockerfile": parts["devel"]["instructions"],
        **parts["devel"]["files"],
        "base image": [parts["base"], inputs["base"]],
        "sources": [parts["source"], inputs["source"]],
        "platform": parts["platform"],
        "CPU": inputs["cpu"],
        "Bazel": inputs["bazel"],
        **{name: inputs[name] for name in ("overrides", "patches")},
    }


def _source(job: Job) -> str:
    source = job.recipe.source
    return job.site.tree(source) if isinstance(source, Path) else source


def _this_cpu() -> str:
    """What `-march=native` depends on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "")


class BazelSteps:
    """Watches a build for the steps that run Bazel."""

    # A step that BuildKit took from its own cache leaves the files of an earlier run, which must not count again.

    def __init__(self, on_built: Callable[[], None]) -> None:  # what is left of the stage then compiles nothing
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
    """Gather what is known of the run that made a binary; None where it is not known."""
    summary = read_summary(facts / "bazel-events.json") or ActionSummary(executed=None, runners={})
    fetch, build = (read_measures(facts / "measures" / name) for name in ("fetch", "build"))
    runners = _runners(summary.runners, remote=bool(build.get("remote")))
    local = {name: n for name, n in runners.items() if name not in {_DISK_HIT, _REMOTE_HIT, _REMOTE, _INTERNAL}}
    fetched = [
        measures.get("bytes_fetched") for name, measures in (("fetch", fetch), ("build", build)) if name in steps.ran
    ]
    return {
        "bazel_ran": "build" in steps.ran,
        "actions": summary.executed,
        "runners": dict(runners) or None,
        "local_actions": sum(local.values()) if runners else None,
        "disk_cache_hits": runners.get(_DISK_HIT, 0) if runners else None,
        "remote_cache_hits": runners.get(_REMOTE_HIT, 0) if runners else None,
        "remote_actions": runners.get(_REMOTE, 0) if runners else None,
        "silent_remote": steps.silent_remote,
        "remote_trouble": steps.remote_trouble,
        "bytes_fetched": None if None in fetched else sum(size for size in fetched if size is not None),
        "wall_seconds": summary.wall_seconds,
        "critical_path_seconds": summary.critical_path_seconds,
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


def _runners(reported: Mapping[str, int], *, remote: bool) -> Mapping[str, int]:
    """Name the hits of a disk cache so: before 5, Bazel calls them remote ones, even where there is nothing remote."""
    if remote or _DISK_HIT in reported:
        return reported
    return {_DISK_HIT if name == _REMOTE_HIT else name: count for name, count in reported.items()}


def devel_request(
    recipe: Recipe,
    *,
    dockerfile: Path,
    staged: Path,
    target: str,
    secrets: tuple[tuple[str, Path], ...] = (),
    resources: str = "",
    tags: tuple[str, ...] = (),
    output: Path | None = None,
) -> BuildRequest:
    """How a stage of the devel Dockerfile is built: by the compile stage, the bake file, or a user's own command."""
    return BuildRequest(
        dockerfile=dockerfile,
        context=CONTEXT,
        target=target,
        build_args=(*recipe.build_args, *([("BAZEL_RESOURCES", resources)] if resources else ())),
        contexts=recipe.contexts(staged),
        secrets=secrets,
        network="none" if recipe.inputs.offline else None,
        tags=tags,
        output=output,
    )


def devel_image_command(recipe: Recipe, folder: Path) -> str:
    """The command that makes an image to work in, of the files that the compile stage wrote to the folder."""
    # With the resources of that build all its steps are in BuildKit's cache.
    resources = folder / "recipe" / "resources"
    request = devel_request(
        recipe,
        dockerfile=folder / "recipe" / "devel.Dockerfile",
        staged=folder / "recipe" / "inputs",
        target="binary_build",
        resources=resources.read_text(encoding="utf-8") if resources.is_file() else "",
        tags=(f"serving-factory/devel:{recipe.variant.id}",),
    )
    return shlex.join(request.command())


@contextmanager
def ready_request(job: Job, *, target: str, output: Path | None, runs_bazel: bool = True) -> Iterator[BuildRequest]:
    """Give the request for the files of a stage; its inputs and secrets are in place for as long as the block lasts."""
    recipe = job.recipe
    stage_inputs(recipe.inputs, job.staged_inputs)
    with secret_files(job.folder, secrets_of(recipe.inputs, bazelrc(recipe))) as secrets:
        resources = resource_options(job) if runs_bazel else ""
        write_atomically(job.dockerfile, without_absent_secrets(recipe.devel, dict(secrets)))
        if runs_bazel:
            write_atomically(job.resources, resources)
        yield devel_request(
            recipe,
            dockerfile=job.dockerfile,
            staged=job.staged_inputs,
            target=target,
            secrets=secrets,
            resources=resources,
            output=output,
        )


def _run(job: Job, progress: Progress) -> Compiled:
    steps = BazelSteps(job.release_share)
    log = job.log(COMPILE.name)
    with ready_request(job, target="artifact", output=job.artifact) as request:
        try:
            result = logged_build(request, log, progress=progress, see=steps.see, cancel=job.cancel)
        except BuildFailed as failed:
            raise build_error(job, failed, log) from None
    return Compiled(
        **read_artifact(job),
        **made_of(job),
        base_digest=job.site.base_id(job.recipe.base),
        source=_source(job),
        steps=result.steps,
        cached_steps=result.cached,
        **run_facts(job.artifact / "facts", steps),
    )


def made_of(job: Job) -> dict[str, Any]:
    """What the record says of the recipe."""
    recipe = job.recipe
    return {
        "base": recipe.base.image,
        "configs": recipe.toolchain.configs,
        "arguments": dict(pair for pair in recipe.build_args if pair not in recipe.inputs.free_args),
    }


def read_artifact(job: Job) -> dict[str, Any]:
    """What the record says of the artifact; ArtifactError if a file is missing in it."""
    entries = tree_entries(job.artifact)
    names = {name: quoted(PurePath(name)) for name in (BINARY, DEBUG, *(f"facts/{fact}" for fact in FACTS))}
    if missing := [name for name, entry in names.items() if entry not in entries]:
        raise ArtifactError(
            f"{job.recipe.variant.id}: the build left no {', '.join(missing)}",
            remedy=f"read {job.log(COMPILE.name)}, fix the cause, and run the same command",
        )
    facts = {name: (job.artifact / "facts" / name).read_text(encoding="utf-8", errors="replace") for name in FACTS}
    return {
        "binary_sha256": entries[names[BINARY]][1],
        "debug_sha256": entries[names[DEBUG]][1],
        "artifact": entries_digest(entries),
        "rootfs": entries_digest({name: entry for name, entry in entries.items() if name[1:].startswith("rootfs/")}),
        "facts": {name: text.rstrip("\n") for name, text in facts.items()},
    }


def _intact(job: Job, outputs: Compiled) -> bool:
    return job.artifact.is_dir() and job.site.memory.digest(job.artifact) == outputs.artifact


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
            f"{recipe.variant.id}: the engine has no image {recipe.base.image}, and none can be fetched",
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
        step=failed.step,
        tail=tuple(line for line in failed.tail if not is_progress(line)),
        share=job.share,
    )


def logged_build(
    request: BuildRequest,
    log: Path,
    *,
    progress: Progress,
    see: Callable[[Step], None] = lambda _step: None,
    cancel: Cancel | None = None,
) -> BuildResult:
    """Run one buildx build, with its whole output in a log, also where it raises BuildFailed."""
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
        return build(request, on_step=on_step, log=stream, cancel=cancel)


COMPILE = Stage(
    name="compile",
    version=1,
    outputs=Compiled,
    inputs=_inputs,
    run=_run,
    shown=_shown,
    product="artifact",
    intact=_intact,
    compiles=True,
    engine=True,
)
