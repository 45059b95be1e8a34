"""One Invoke task per verb: parses options and calls a command. No logic lives here.

Each task imports the command that it needs, and no other: `list` waits neither for templates nor for Docker's SDK.
"""

from __future__ import annotations

import atexit
import gc
import json as json_module
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.program import Program
from invoke.tasks import task

# Invoke forbids bytecode files, and every task would compile hundreds of modules again. Whoever wants none says so.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from serving_factory.commands.cli import ManyPositional, OptionalPositional  # noqa: E402
from serving_factory.commands.shared import Asked, Checkout, errors  # noqa: E402

# What loads now stays to the end: to look through it for garbage at each 700th object takes a twentieth of a short run,
# and once more at its end a seventh.
gc.set_threshold(50_000)
atexit.register(gc.freeze)

ROOT = Path(__file__).resolve().parent
BUILD_FOLDER = ROOT / "build"

OPTIONS = {
    "matrix": "the matrix file (default: matrix.yaml of this checkout)",
    "target": "a target of the matrix, such as cpu-optimized; may be repeated",
    "release": 'an upstream release, such as 2.19.1, or a range such as ">=2.18"; may be repeated',
    "variant": "a variant's id, such as 2.19.1-cpu-v3; may be repeated",
    "flavour": "cpu, mkl or gpu; may be repeated",
    "level": "a CPU level, such as x86-64-v3 or v3; may be repeated",
    "platform": "a platform, such as linux/amd64; may be repeated",
    "cuda": 'a CUDA version, such as 12.2, or a range such as ">=12"; may be repeated',
    "json": "print JSON for machines: an object per line, or one document",
    "registry": "push to this registry, HOST[:PORT]",
    "parallel": "work on at most so many variants at once (default: as many as the engine's machine bears)",
    "jobs": "run so many compilers at once in each compile (default: the variants of a wave share the CPUs)",
    "memory": "let each compile use so much memory, such as 16GiB (default: 2GiB a job)",
    "fail_fast": "begin with no other variant once one has failed; what runs goes on to its end",
    "max_minutes": "end the whole run after so many minutes; the same command goes on later",
    "variant_minutes": "end each variant that takes more minutes than this; it counts as failed",
}
CHOICE = ["target", "release", "variant"]
AXES = ["flavour", "level", "platform", "cuda"]
HOW_TO_RUN = ["parallel", "jobs", "memory", "fail_fast", "max_minutes", "variant_minutes"]


def _help(*names: str, **more: str) -> dict[str, str]:
    return {**{name: OPTIONS[name] for name in names}, **more}


def _checkout() -> Checkout:
    return Checkout(ROOT, BUILD_FOLDER)


def _asked(
    matrix: str,
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
) -> Asked:
    return Asked(
        checkout=_checkout(), matrix=matrix, targets=target or (), releases=release or (), variants=variant or ()
    )


# --- seeing what there is ---------------------------------------------------------------------------------------------


@task(
    name="list",
    iterable=[*CHOICE, *AXES],
    help=_help(
        "matrix",
        *CHOICE,
        *AXES,
        "json",
        ids="print ids alone, one per line",
        github="print a matrix for GitHub Actions; one more in a line of its own for each 256 jobs",
    ),
)
def list_(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    flavour: Sequence[str] | None = None,
    level: Sequence[str] | None = None,
    platform: Sequence[str] | None = None,
    cuda: Sequence[str] | None = None,
    json: bool = False,
    ids: bool = False,
    github: bool = False,
) -> None:
    """List the variants of the matrix, and the last stage that each has reached.

    Examples:
        ./factory list
        ./factory list --target cpu-optimized --release ">=2.18"
        ./factory list --flavour gpu --level v3 --ids
        ./factory list --matrix samples/matrix.yaml --json
    """
    with errors():
        from serving_factory.commands.list import list_variants

        asked = replace(
            _asked(matrix, target, release, variant),
            flavours=flavour or (),
            levels=level or (),
            platforms=platform or (),
            cuda=cuda or (),
        )
        list_variants(asked, json=json, ids=ids, github=github)


@task(
    name="explain",
    klass=OptionalPositional,
    positional=["variant"],
    help=_help(
        "matrix",
        "json",
        variant="a variant's id, such as 2.19.1-cpu-v3",
        dropped="show which variants are dropped, and why",
    ),
)
def explain_(
    _c: Context, variant: str | None = None, matrix: str = "", dropped: bool = False, json: bool = False
) -> None:
    """Show what decides one variant and where each value comes from; with --dropped, which variants are dropped.

    Examples:
        ./factory explain 2.19.1-cpu-v3
        ./factory explain 2.19.1-cpu-v3 --json
        ./factory explain --dropped
        ./factory explain 2.19.1-cpu-v4 --dropped
    """
    if variant in {"--help", "-h"}:  # Invoke takes any word that follows for the variant
        Program(namespace=ns).run(["invoke", "--help", "explain"])
    with errors():
        from serving_factory.commands.explain import explain_dropped, explain_variant

        if dropped:
            explain_dropped(_asked(matrix), variant or "", json=json)
        else:
            explain_variant(_asked(matrix), variant or "", json=json)


@task(
    klass=OptionalPositional,
    positional=["release"],
    help=_help(
        "json",
        release="an upstream release, such as 2.19.1; all when left out",
        check_upstream="compare the release with this checkout of tensorflow/serving, or look through this one of its "
        "TensorFlow; exit with 8 if they differ",
    ),
)
def catalogue(_c: Context, release: str | None = None, check_upstream: str = "", json: bool = False) -> None:
    """Show what upstream used for each release: Bazel, bases, compilers, flags, CUDA, what the server can do.

    Examples:
        ./factory catalogue
        ./factory catalogue 2.19.1
        ./factory catalogue --json
        ./factory catalogue 2.19.1 --check-upstream ../serving
        ./factory catalogue 2.19.1 --check-upstream ../tensorflow
    """
    with errors():
        from serving_factory.commands import catalogue as upstream

        if check_upstream:
            upstream.check_upstream(Path(check_upstream), release or "", json=json)
        else:
            upstream.show_catalogue(release or "", json=json)


@task(
    klass=ManyPositional,
    positional=["variants"],
    help=_help("matrix", "json", variants="ids of variants, such as 1.9.1-cpu-v1"),
)
def preflight(_c: Context, variants: Sequence[str] | None = None, matrix: str = "", json: bool = False) -> None:
    """Ask Bazel what archives and repositories of variants are missing, all at once, before anything is compiled.

    Examples:
        ./factory preflight 2.19.1-cpu-v3
        ./factory preflight 1.9.1-cpu-v1 1.15.0-cpu-v1 --json
    """
    with errors():
        from serving_factory.commands.preflight import preflight as run_preflight

        run_preflight(_asked(matrix), variants or (), json=json)


@task(
    klass=ManyPositional,
    positional=["words"],
    iterable=["pinned"],
    help=_help(
        "matrix",
        "json",
        words="what to do: archive GIT_DIR REF..., fill VARIANT..., override NAME, packages VARIANT...",
        output="archive, override: the folder to put it in (default: this one; what the matrix file names)",
        pinned="archive: what it must be: a preflight's report, REF=SHA256 or FILE_NAME=SHA256; may be repeated",
        repository="archive: the repository's name at the code host (default: as the report or the mirror has it)",
        zip_="archive: make zip files instead of tar.gz",
        mirrors="fill: a folder that holds git repositories: clones or mirrors, of any owner",
        archives="fill: a folder with archives from elsewhere; what fits by its sha256 is taken",
        overrides="fill: make a folder for what a mirror has and cannot give byte for byte",
        from_="override: the sources: an archive, a folder, or GIT_DIR#REF",
        debian_source="override: the sources: a source package of this machine's distribution, NAME or NAME=VERSION",
        variant="override: the variant whose sources declare the repository",
    ),
)
def inputs(
    _c: Context,
    words: Sequence[str] | None = None,
    matrix: str = "",
    output: str = "",
    pinned: Sequence[str] | None = None,
    repository: str = "",
    zip_: bool = False,
    mirrors: str = "",
    archives: str = "",
    overrides: bool = False,
    from_: str = "",
    debian_source: str = "",
    variant: str = "",
    json: bool = False,
) -> None:
    """Fill what a build without a network needs: archives out of git mirrors, folders for repositories, packages.

    archive makes a code host's archives and says whether they are the pinned ones. fill asks Bazel what is missing
    and makes it, until nothing is missing. override makes the folder that takes a repository's place, as its rule
    would have made it. packages downloads what toolchains install.

    Examples:
        ./factory inputs packages 1.9.1-cpu-v1 --matrix closed/matrix.yaml
        ./factory inputs fill 1.9.1-cpu-v1 --mirrors mirrors --matrix closed/matrix.yaml
        ./factory inputs override zlib_archive --debian-source zlib --variant 1.9.1-cpu-v1 --matrix closed/matrix.yaml
        ./factory inputs override eigen_archive --from mirrors/eigen#3f3e5e3 --variant 1.9.1-cpu-v1
        ./factory inputs archive mirrors/abseil-cpp 9d0c5b7 --pinned build/1.9.1-cpu-v1/preflight/report.json
    """
    with errors():
        from serving_factory.commands.inputs import InputsOptions
        from serving_factory.commands.inputs import inputs as fill_inputs

        options = InputsOptions(
            asked=_asked(matrix),
            output=output,
            pinned=pinned or (),
            repository=repository,
            as_zip=zip_,
            mirrors=mirrors,
            archives=archives,
            overrides=overrides,
            source=from_,
            debian_source=debian_source,
            variant=variant,
            json=json,
        )
        fill_inputs(words or (), options)


@task(help=_help("matrix", check="change nothing; fail when a file is not what the data gives"))
def generate(_c: Context, matrix: str = "", check: bool = False) -> None:
    """Write the Dockerfiles of every release and flavour, or of another matrix file's, beside that file.

    Examples:
        ./factory generate
        ./factory generate --check
        ./factory generate --matrix samples/matrix.yaml
    """
    with errors():
        from serving_factory.commands.generate import generate as write_files

        write_files(_asked(matrix), check=check)


@task(
    optional=["update"],
    help=_help(
        "matrix",
        "json",
        update="take what there is now instead of what is locked: of all, or of this base image or Bazel version",
        check="change nothing; tell what has moved or vanished upstream, and fail if anything has",
        dry_run="ask, print what would be locked, and write nothing",
    ),
)
def lock(
    _c: Context,
    matrix: str = "",
    update: str | None = None,
    check: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Pin what builds start from: base images by digest, and Bazel checksums that are unknown, in matrix.lock.

    What is locked stays; --update takes what there is now. With a lock file, `generate` writes the digests into the
    Dockerfiles, and `build --locked` refuses what is not pinned.

    Examples:
        ./factory lock
        ./factory lock --update ubuntu:20.04
        ./factory lock --update --dry-run
        ./factory lock --check
    """
    with errors():
        from serving_factory.commands import lock as locking

        if check:
            locking.check(_asked(matrix), json=json, update=update, dry_run=dry_run)
        else:
            locking.lock(_asked(matrix), json=json, update=update, dry_run=dry_run)


@task(
    klass=OptionalPositional,
    positional=["run", "other"],
    help=_help(
        "json",
        run="a run's number; the latest runs when left out",
        other="compare with this run",
        matrix="list the runs of this matrix file alone",
    ),
)
def history(
    _c: Context, run: str | None = None, other: str | None = None, matrix: str = "", json: bool = False
) -> None:
    """Show what earlier runs did: the latest, one of them, or what changed between two.

    Examples:
        ./factory history
        ./factory history --matrix samples/matrix.yaml
        ./factory history 12
        ./factory history 11 12 --json
    """
    with errors():
        from serving_factory.commands.history import show_history

        show_history(_asked(matrix), [word for word in (run, other) if word], json=json)


@task(iterable=CHOICE, help=_help("matrix", *CHOICE, "json"))
def report(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    json: bool = False,
) -> None:
    """Show what the records say of each variant: actions, cache hits, downloads, times, memory, sizes.

    Examples:
        ./factory report --variant 2.19.1-cpu-v3
        ./factory report --matrix samples/matrix.yaml --json
    """
    with errors():
        from serving_factory.commands.history import show_report

        show_report(_asked(matrix, target, release, variant), json=json)


@task(iterable=CHOICE, help=_help("matrix", *CHOICE, "json"))
def doctor(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    json: bool = False,
) -> None:
    """Look whether this machine can build what is chosen: engine, memory, disk, network, CPU, GPU.

    Examples:
        ./factory doctor
        ./factory doctor --target cpu-optimized --json
    """
    with errors():
        from serving_factory.commands.doctor import examine

        examine(_asked(matrix, target, release, variant), json=json)


@task(
    name="bake-file",
    iterable=CHOICE,
    help=_help("matrix", *CHOICE, output="the file to write (default: docker-bake.json in this checkout)"),
)
def bake_file(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    output: str = "",
) -> None:
    """Write a file for `docker buildx bake` that builds the variants without this factory.

    Examples:
        ./factory bake-file
        ./factory bake-file --target cpu-optimized --output docker-bake.json
        ./factory bake-file --matrix samples/matrix.yaml
    """
    with errors():
        from serving_factory.commands.bake import bake_file as write_file

        write_file(_asked(matrix, target, release, variant), output=output)


# --- the line ---------------------------------------------------------------------------------------------------------


@task(
    iterable=CHOICE,
    help=_help(
        "matrix",
        *CHOICE,
        "json",
        "registry",
        *HOW_TO_RUN,
        dry_run="print what would be done, and do nothing",
        locked="refuse, before any work, what `lock` has not pinned: base images by digest, Bazel by checksum",
    ),
)
def build(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    registry: str = "",
    dry_run: bool = False,
    locked: bool = False,
    json: bool = False,
    parallel: str = "",
    jobs: str = "",
    memory: str = "",
    fail_fast: bool = False,
    max_minutes: str = "",
    variant_minutes: str = "",
) -> None:
    """Compile, inspect, package and smoke-test; with --registry, push as well. What is up to date is skipped.

    Examples:
        ./factory build --release 2.19.1 --target cpu-optimized
        ./factory build --release 2.19.1 --registry registry.example.com
        ./factory build --variant 2.19.1-cpu-v3 --dry-run
        ./factory build --parallel 4 --memory 16GiB --max-minutes 480
        ./factory build --locked
    """
    with errors():
        from serving_factory.commands.build import build as run_build
        from serving_factory.commands.plan import RunOptions

        options = RunOptions(
            asked=_asked(matrix, target, release, variant),
            registry=registry,
            dry_run=dry_run,
            json=json,
            locked=locked,
            parallel=parallel,
            jobs=jobs,
            memory=memory,
            fail_fast=fail_fast,
            max_minutes=max_minutes,
            variant_minutes=variant_minutes,
        )
        run_build(options)


def _stage_task(name: str, text: str) -> object:
    """Make the task that runs one stage alone."""

    def run(
        _c: Context,
        matrix: str = "",
        target: Sequence[str] | None = None,
        release: Sequence[str] | None = None,
        variant: Sequence[str] | None = None,
        json: bool = False,
    ) -> None:
        with errors():
            from serving_factory.commands.build import run_stage
            from serving_factory.commands.plan import RunOptions

            run_stage(name, RunOptions(asked=_asked(matrix, target, release, variant), json=json))

    run.__doc__ = f"{text}\n\n    Examples:\n        ./factory {name}\n        ./factory {name} --variant 2.19.1-cpu-v3"
    return task(run, name=name, iterable=CHOICE, help=_help("matrix", *CHOICE, "json"))


@task(name="compile", iterable=CHOICE, help=_help("matrix", *CHOICE, "json", *HOW_TO_RUN))
def compile_(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    json: bool = False,
    parallel: str = "",
    jobs: str = "",
    memory: str = "",
    fail_fast: bool = False,
    max_minutes: str = "",
    variant_minutes: str = "",
) -> None:
    """Compile the binaries in Docker and read their facts.

    Examples:
        ./factory compile
        ./factory compile --variant 2.19.1-cpu-v3 --jobs 8
    """
    with errors():
        from serving_factory.commands.build import run_stage
        from serving_factory.commands.plan import RunOptions

        options = RunOptions(
            asked=_asked(matrix, target, release, variant),
            json=json,
            parallel=parallel,
            jobs=jobs,
            memory=memory,
            fail_fast=fail_fast,
            max_minutes=max_minutes,
            variant_minutes=variant_minutes,
        )
        run_stage("compile", options)


inspect_ = _stage_task("inspect", "Compare what the binaries are with what was asked for.")
package = _stage_task("package", "Put inspected binaries into slim runtime images.")
smoke = _stage_task("smoke", "Run the images and check everything that a user relies on.")


@task(iterable=CHOICE, help=_help("registry", "matrix", *CHOICE, "json"))
def push(
    _c: Context,
    registry: str = "",
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    json: bool = False,
) -> None:
    """Push images that passed their smoke test: full tags first, aliases last, digests asked from the registry.

    Credentials are those of `docker login`.

    Examples:
        ./factory push --registry registry.example.com
        ./factory push --registry 127.0.0.1:5000 --target cpu-optimized
    """
    with errors():
        from serving_factory.commands.build import push as run_push
        from serving_factory.commands.plan import RunOptions

        run_push(RunOptions(asked=_asked(matrix, target, release, variant), registry=registry, json=json))


@task(help=_help("json", "registry"))
def demo(_c: Context, json: bool = False, registry: str = "") -> None:
    """Run the whole line on the offline sample, and show how to run what it made.

    Examples:
        ./factory demo
        ./factory demo --registry 127.0.0.1:5000
    """
    with errors():
        from serving_factory.commands.build import demo as run_demo
        from serving_factory.commands.plan import RunOptions

        run_demo(RunOptions(asked=_asked(str(_checkout().sample)), registry=registry, json=json))


@task(
    help=_help(
        "matrix",
        images="remove the images that this factory packaged, and stray containers, too",
        caches="drop Bazel's caches from the engine, too: the next build starts from nothing",
    )
)
def clean(_c: Context, matrix: str = "", images: bool = False, caches: bool = False) -> None:
    """Remove what builds of the matrix left in the build folder.

    Examples:
        ./factory clean
        ./factory clean --images --caches
    """
    with errors():
        from serving_factory.commands.build import clean as run_clean

        run_clean(_asked(matrix), images=images, caches=caches)


@task(
    klass=OptionalPositional,
    positional=["verb", "file"],
    help=_help(
        "matrix",
        "json",
        verb="show, prune, export or import",
        file="the tarball, of export and import",
        max_size="prune: what may stay, such as 20GiB; default: resources.cache of the matrix",
        toolchain="prune: only this toolchain's folder; without --max-size it goes as a whole",
    ),
)
def cache(
    _c: Context,
    verb: str | None = None,
    file: str | None = None,
    max_size: str = "",
    toolchain: str = "",
    matrix: str = "",
    json: bool = False,
) -> None:
    """Show Bazel's caches in the engine, prune them, or carry them to another machine.

    Examples:
        ./factory cache show
        ./factory cache prune --max-size 20GiB
        ./factory cache export caches.tar
        ./factory cache import caches.tar
    """
    with errors():
        from serving_factory.commands.cache import CacheOptions
        from serving_factory.commands.cache import cache as work_on_caches

        asked = _asked(matrix)
        options = CacheOptions(
            asked=asked, verb=verb or "", file=file or "", max_size=max_size, toolchain=toolchain, json=json
        )
        work_on_caches(options)


# --- keeping the house ------------------------------------------------------------------------------------------------


@task(help={"unit": "only what needs no Docker: linters, types and unit tests", "k": "pytest's -k expression"})
def test(c: Context, unit: bool = False, k: str = "") -> None:
    """Run linters, type checks and tests.

    Examples:
        ./factory test --unit
        ./factory test
        ./factory test -k registry
    """
    for command in _CHECKS:
        _step(c, command)
    chosen = f" -k {json_module.dumps(k)}" if k else ""
    _step(c, f"pytest -n auto tests/unit{chosen}")
    if not unit:
        _step(c, f"pytest tests/integration{chosen}")


_CHECKS = (
    "ruff check .",
    "ruff format --check .",
    "mypy",
    "shellcheck factory .ci/run scripts/*.sh dockerfiles/templates/*/*.sh",
)


def _step(c: Context, command: str) -> None:
    sys.stdout.write(f"+ {command}\n")
    sys.stdout.flush()
    with c.cd(str(ROOT)):
        result = c.run(command, warn=True, env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    if result.exited:
        raise Exit(f"failed: {command}", code=1)


@task(default=True)
def tasks(_c: Context) -> None:
    """List the tasks, grouped."""
    sys.stdout.write("serving-factory builds, proves, packages and publishes TensorFlow Serving images.\n")
    for title, members in _GROUPS.items():
        sys.stdout.write(f"\n{title}\n")
        for name in members:
            doc = _ALONE.get(name) or str(ns[name].__doc__).strip().partition("\n")[0]
            sys.stdout.write(f"  {name:<10} {doc}\n")
    sys.stdout.write("\n./factory TASK --help shows a task's options, with examples.\n")


_GROUPS = {
    "See": ["list", "explain", "catalogue", "generate", "lock", "bake-file", "history", "report", "doctor"],
    "Fill inputs": ["preflight", "inputs"],
    "Build": ["demo", "build", "compile", "inspect", "package", "smoke", "push"],
    "Maintain": ["setup", "test", "cache", "clean"],
}
_ALONE = {"setup": "Make the machine ready: environment, Docker engine, the sample's base image."}


ns = Collection.from_module(sys.modules[__name__])
