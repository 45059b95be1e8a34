"""One Invoke task per verb: its options, its help, and the command that it calls. No logic lives here.

Each task imports the command that it needs, and no other: `list` waits neither for templates nor for Docker's SDK.
"""

import atexit
import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, Annotated

from invoke.collection import Collection

# Invoke forbids bytecode files, and every task would compile all modules again; PYTHONDONTWRITEBYTECODE still does.
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

from serving_factory.commands.boundary import open_streams  # noqa: E402
from serving_factory.commands.cli import Command  # noqa: E402
from serving_factory.commands.shared import (  # noqa: E402
    Asked,
    BenchOptions,
    CacheOptions,
    Checkout,
    Chosen,
    CombineOptions,
    CompareOptions,
    CompileOptions,
    DeployOptions,
    Driver,
    EmbedOptions,
    InputsOptions,
    Json,
    Option,
    PublishOptions,
    PushOptions,
    Registry,
    RunOptions,
    Serving,
    SmokeOptions,
    StageOptions,
    VariantId,
    VariantIds,
    Whole,
    new_file,
)
from serving_factory.errors import FactoryError  # noqa: E402

open_streams()  # for `python -m invoke`; ./factory has done so already

# What loads now stays to the end: to look through it for garbage at each 700th object takes a twentieth of a short run,
# and once more at its end a seventh.
gc.set_threshold(50_000)
atexit.register(gc.freeze)


# --- See --------------------------------------------------------------------------------------------------------------


@Command
def list_(
    asked: Asked,
    *,
    json: Json = False,
    ids: Annotated[bool, Option("print ids alone, one per line")] = False,
    github: Annotated[bool, Option("print a matrix for GitHub Actions: one line for each 256 jobs")] = False,
) -> None:
    """List the variants of the matrix, and the last stage that each has reached.

    Examples:
        ./factory list
        ./factory list --target cpu-optimized --release ">=2.18"
        ./factory list --flavour gpu --level v3 --ids
        ./factory list --matrix samples/matrix.yaml --json
    """
    from serving_factory.commands.list import list_variants

    list_variants(asked, json=json, ids=ids, github=github)


@Command
def explain(
    asked: Whole,
    *,
    variant: VariantId = "",
    dropped: Annotated[bool, Option("show which variants are dropped, and why")] = False,
    json: Json = False,
) -> None:
    """Show what decides one variant and where each value comes from; with --dropped, which variants are dropped.

    Examples:
        ./factory explain 2.19.1-cpu-v3
        ./factory explain 2.19.1-cpu-v3 --json
        ./factory explain --dropped
        ./factory explain 2.19.1-cpu-v4 --dropped
    """
    from serving_factory.commands.explain import explain_dropped, explain_variant

    (explain_dropped if dropped else explain_variant)(asked, variant, json=json)


@Command
def catalogue(
    *,
    release: Annotated[str, Option("a release, such as 2.19.1 (default: all)", "RELEASE", positional=True)] = "",
    check_upstream: Annotated[
        str,
        Option("compare with this checkout of tensorflow/serving or tensorflow; exit with 8 if they differ", "FOLDER"),
    ] = "",
    json: Json = False,
) -> None:
    """Show what upstream used for each release: Bazel, base images, compilers, flags, CUDA, server features.

    Examples:
        ./factory catalogue
        ./factory catalogue 2.19.1
        ./factory catalogue --json
        ./factory catalogue 2.19.1 --check-upstream ../serving
        ./factory catalogue 2.19.1 --check-upstream ../tensorflow
    """
    from serving_factory.commands import catalogue as upstream

    if check_upstream:
        upstream.check_upstream(Path(check_upstream), release, json=json)
    else:
        upstream.show_catalogue(release, json=json)


@Command
def generate(
    asked: Whole, *, check: Annotated[bool, Option("write nothing; fail if a file is out of date")] = False
) -> None:
    """Write the Dockerfiles of every release and flavour, or of the variants of another matrix file.

    Examples:
        ./factory generate
        ./factory generate --check
        ./factory generate --matrix samples/matrix.yaml
    """
    from serving_factory.commands.generate import generate as write_files

    write_files(asked, check=check)


@Command
def lock(
    asked: Whole,
    *,
    update: Annotated[
        str | bool | None,
        Option("lock what upstream has now: of all, or of one base image or Bazel version", "NAME", optional=True),
    ] = None,
    check: Annotated[bool, Option("write nothing; fail if anything has moved or vanished upstream")] = False,
    dry_run: Annotated[bool, Option("print what would be locked, and write nothing")] = False,
    json: Json = False,
) -> None:
    """Pin what builds start from, in matrix.lock: base images by digest, Bazel by checksum.

    What is locked stays; --update takes what upstream has now. With a lock file, `generate` writes the digests into
    the Dockerfiles, and `build --locked` refuses what is not pinned.

    Examples:
        ./factory lock
        ./factory lock --update ubuntu:20.04
        ./factory lock --update --dry-run
        ./factory lock --check
    """
    from serving_factory.commands import lock as locking

    (locking.check if check else locking.lock)(asked, json=json, update=update, dry_run=dry_run)


@Command
def bake_file(
    asked: Chosen,
    *,
    output: Annotated[str, Option("the file to write (default: docker-bake.json)", "FILE", new_file)] = "",
) -> None:
    """Write a file for `docker buildx bake` that builds the variants without this factory.

    Examples:
        ./factory bake-file
        ./factory bake-file --target cpu-optimized --output docker-bake.json
        ./factory bake-file --matrix samples/matrix.yaml
    """
    from serving_factory.commands.bake import bake_file as write_file

    write_file(asked, output=output)


@Command
def history(
    *,
    run: Annotated[str, Option("a run's number (default: the latest runs)", "RUN", positional=True)] = "",
    other: Annotated[str, Option("compare with this run", "OTHER", positional=True)] = "",
    matrix: Annotated[str, Option("list only the runs of this matrix file", "FILE")] = "",
    json: Json = False,
) -> None:
    """Show what earlier runs did: the latest ones, one of them, or what changed between two.

    Examples:
        ./factory history
        ./factory history --matrix samples/matrix.yaml
        ./factory history 12
        ./factory history 11 12 --json
    """
    from serving_factory.commands.history import show_history

    show_history(Asked(matrix=matrix), [word for word in (run, other) if word], json=json)


@Command
def changes(
    *,
    images: Annotated[tuple[str, ...], Option("the older image, then the newer", "IMAGE", positional=True)] = (),
    since: Annotated[str, Option("compare with this run, or an image with this digest", "RUN|DIGEST")] = "",
    json: Json = False,
) -> None:
    """Show in what an image differs from an earlier one, and why, as Markdown for a release note.

    It names sources, flags, compiler, bases, packages and labels, and what Bazel compiled in. An image that is named
    with its registry is read from there, without an engine; others are the engine's. None is started (docs/images.md).

    Examples:
        ./factory changes serving:2.19.1-cpu-v3-0123456789ab-ba9876543210 serving:2.19.1-cpu-v3
        ./factory changes registry.example.com/team/serving:2.19.1-cpu-v3 --since sha256:45f4…
        ./factory changes registry.example.com/team/serving:2.19.0 registry.example.com/team/serving:2.19.1
        ./factory changes --since 12
        ./factory changes --since 12 --json
    """
    from serving_factory.commands.changes import show_changes

    show_changes(images, since=since, json=json)


@Command
def report(
    asked: Chosen,
    *,
    html: Annotated[str, Option("write a page for browsers to this file instead", "FILE", new_file)] = "",
    json: Json = False,
) -> None:
    """Show what the records say of each variant: actions, cache hits, downloads, times, memory, sizes.

    The page is one file that loads nothing: the matrix by CPU level, the numbers of each variant, how its builds went
    from run to run, and what is not built.

    Examples:
        ./factory report --variant 2.19.1-cpu-v3
        ./factory report --matrix samples/matrix.yaml --json
        ./factory report --html report.html
    """
    from serving_factory.commands.report import show_report

    show_report(asked, json=json, html=html)


@Command
def doctor(asked: Chosen, *, driver: Driver = "", json: Json = False) -> None:
    """Check whether this machine can build the chosen variants: engine, memory, disk, network, CPU, GPU.

    With --driver, check only whether a machine with that NVIDIA driver can serve the chosen gpu variants.

    Examples:
        ./factory doctor
        ./factory doctor --target cpu-optimized --json
        ./factory doctor --target gpu-optimized
        ./factory doctor --target gpu-optimized --driver 535.54.03
    """
    from serving_factory.commands.doctor import examine

    examine(asked, driver=driver, json=json)


@Command
def which(
    asked: Serving,
    *,
    cpuinfo: Annotated[str, Option("/proc/cpuinfo of the machine that serves (default: this machine's)", "FILE")] = "",
    driver: Driver = "",
    json: Json = False,
) -> None:
    """Show which image to run on a machine, by its CPU and its NVIDIA driver, and how to run it.

    Of the newest release a gpu image where the driver serves it, else a cpu one, of the highest level that the CPU has;
    an mkl image where --flavour asks for it. It prints what it read.

    Examples:
        ./factory which
        ./factory which --release 2.19.1 --flavour cpu
        ./factory which --cpuinfo node7.cpuinfo --driver 535.54.03
        ./factory which --json
    """
    from serving_factory.commands.which import show_which

    show_which(asked, cpuinfo=cpuinfo, driver=driver, json=json)


# --- Fill inputs ------------------------------------------------------------------------------------------------------


@Command
def preflight(asked: Whole, *, variants: VariantIds = (), json: Json = False) -> None:
    """Ask Bazel which archives and repositories are missing, all at once, before anything is compiled.

    Examples:
        ./factory preflight 2.19.1-cpu-v3
        ./factory preflight 1.9.1-cpu-v1 1.15.0-cpu-v1 --json
    """
    from serving_factory.commands.preflight import preflight as run_preflight

    run_preflight(asked, variants, json=json)


@Command
def inputs(
    options: InputsOptions,
    *,
    words: Annotated[
        tuple[str, ...],
        Option("archive GIT_DIR REF..., fill VARIANT..., override NAME, packages VARIANT...", "WORD", positional=True),
    ] = (),
) -> None:
    """Fill what a build without a network needs: archives from git mirrors, folders for repositories, packages.

    archive makes a code host's archives and compares them with their pins. fill asks Bazel what is missing and makes
    it, until nothing is missing. override makes the folder that replaces a repository, as the repository's rule would.
    packages downloads what toolchains install.

    Examples:
        ./factory inputs packages 1.9.1-cpu-v1 --matrix closed/matrix.yaml
        ./factory inputs fill 1.9.1-cpu-v1 --mirrors mirrors --matrix closed/matrix.yaml
        ./factory inputs override zlib_archive --debian-source zlib --variant 1.9.1-cpu-v1 --matrix closed/matrix.yaml
        ./factory inputs override eigen_archive --from mirrors/eigen#3f3e5e3 --variant 1.9.1-cpu-v1
        ./factory inputs archive mirrors/abseil-cpp 9d0c5b7 --pinned build/1.9.1-cpu-v1/preflight/report.json
    """
    from serving_factory.commands.inputs import inputs as fill_inputs

    fill_inputs(words, options)


# --- Build ------------------------------------------------------------------------------------------------------------


@Command
def demo(*, registry: Registry = (), json: Json = False) -> None:
    """Run the whole pipeline on the offline sample, and show how to run the images.

    Examples:
        ./factory demo
        ./factory demo --registry 127.0.0.1:5000
    """
    from serving_factory.commands.build import demo as run_demo

    run_demo(RunOptions(asked=Asked(matrix=str(Checkout.here().sample)), registry=registry, json=json))


@Command
def build(options: RunOptions) -> None:
    """Compile, inspect, package and smoke-test; with --registry, push as well. What is up to date is skipped.

    Examples:
        ./factory build --release 2.19.1 --target cpu-optimized
        ./factory build --release 2.19.1 --registry registry.example.com
        ./factory build --variant 2.19.1-cpu-v3 --dry-run
        ./factory build --parallel 4 --memory 16GiB --max-minutes 480
        ./factory build --locked
    """
    from serving_factory.commands.build import build as run_build

    run_build(options)


@Command
def compile_(options: CompileOptions) -> None:
    """Compile the binaries in Docker, and read their facts.

    Examples:
        ./factory compile
        ./factory compile --variant 2.19.1-cpu-v3 --jobs 8
    """
    from serving_factory.commands.build import run_stage

    run_stage("compile", options)


@Command
def inspect(options: StageOptions) -> None:
    """Compare the binaries with what their variants require.

    Examples:
        ./factory inspect
        ./factory inspect --variant 2.19.1-cpu-v3
    """
    from serving_factory.commands.build import run_stage

    run_stage("inspect", options)


@Command
def package(options: StageOptions) -> None:
    """Put inspected binaries into slim runtime images.

    Examples:
        ./factory package
        ./factory package --variant 2.19.1-cpu-v3
    """
    from serving_factory.commands.build import run_stage

    run_stage("package", options)


@Command
def smoke(options: SmokeOptions) -> None:
    """Run the images, and check everything that a user relies on.

    A gpu image is also tried on a GPU where the engine can give one (docs/gpu.md). Where qemu-x86_64-static is there,
    the server must serve on an emulated CPU of its level, and die on one of the level below (docs/smoke.md).

    Examples:
        ./factory smoke
        ./factory smoke --variant 2.19.1-cpu-v3
        ./factory smoke --target gpu-optimized --gpu require
        ./factory smoke --emulate require
    """
    from serving_factory.commands.build import run_stage

    run_stage("smoke", options)


@Command
def refresh(
    options: SmokeOptions,
    *,
    check: Annotated[bool, Option("only report; exit with 74 if an image is outdated")] = False,
) -> None:
    """Make images again whose packages the distribution has fixed since; with --check, only name them.

    Nothing is compiled. The versions are kept in the lock file, so that every later build has at least these.

    Examples:
        ./factory refresh --check
        ./factory refresh --release 2.19.1
        ./factory refresh --check --json
    """
    from serving_factory.commands.refresh import refresh as refresh_images

    refresh_images(options, check=check)


@Command
def push(options: PushOptions) -> None:
    """Push images that passed their smoke test: full tags first, aliases last; read their digests back.

    Credentials are those of `docker login`. With --devel, makes and pushes the images to work in instead: the
    toolchain, the sources and the same binary, at upstream's paths, as 2.19.1-devel and so on.

    Examples:
        ./factory push --registry registry.example.com
        ./factory push --devel --registry registry.example.com --dry-run
        ./factory push --registry registry.example.com --registry mirror.example.com --target cpu-optimized
    """
    from serving_factory.commands.build import push as run_push

    run_push(options)


@Command
def combine(options: CombineOptions) -> None:
    """Make one image with all levels of a release and flavour, which starts the best one for the CPU.

    Of cpu and mkl variants that are built and smoke-tested. The image is smoke-tested, too, and with --registry pushed
    (docs/one-name.md).

    Examples:
        ./factory combine --release 2.19.1
        ./factory combine --release 2.19.1 --registry registry.example.com
        ./factory combine --release 2.19.1 --dry-run
        ./factory combine --target cpu-optimized --json
    """
    from serving_factory.commands.combine import combine as combine_levels

    combine_levels(options)


@Command
def publish(options: PublishOptions) -> None:
    """Publish one name for all CPU levels of a release and flavour: an OCI index of pushed images.

    Pushes what is not pushed yet. The index of a chosen variant has all levels that the matrix has for it, and is
    refused while one is missing. What other publishers have put into it stays (docs/one-name.md).

    Examples:
        ./factory publish --release 2.19.1 --registry registry.example.com
        ./factory publish --target cpu-optimized --registry registry.example.com --dry-run
        ./factory publish --release 2.19.1 --registry registry.example.com --partial
        ./factory publish --registry registry.example.com --json
    """
    from serving_factory.commands.publish import publish as put_indexes

    put_indexes(options)


@Command
def keys(
    *,
    verb: Annotated[str, Option("new", "VERB", positional=True)] = "",
    output: Annotated[str, Option("the folder to write to (default: this one)", "DIR")] = "",
) -> None:
    """Make a key pair that signs what is pushed: cosign.key and cosign.pub, as cosign has them.

    The password is that in COSIGN_PASSWORD; without it, it is asked for.

    Examples:
        ./factory keys new
        ./factory keys new --output ../keys
    """
    from serving_factory.commands.keys import keys as make_keys

    make_keys(verb, output=output)


@Command
def verify(
    asked: Whole,
    *,
    image: Annotated[str, Option("an image in a registry, or a pushed variant", "IMAGE", positional=True)] = "",
    key: Annotated[str, Option("the public key of who signs", "FILE")] = "",
    deep: Annotated[bool, Option("read the binary's CPU level and code for GPUs again")] = False,
    json: Json = False,
) -> None:
    """Check an image in a registry, without Docker: digests, labels, binary, base, signature, SBOM, provenance.

    The base is compared with the matrix file's lock file. Checks whose evidence is not there are skipped, and say so.

    Examples:
        ./factory verify registry.example.com/team/serving:2.19.1-cpu-v3 --key cosign.pub
        ./factory verify 127.0.0.1:5000/team/serving:2.19.1-cpu-v3 --deep --json
        ./factory verify 2.19.1-cpu-v3
    """
    from serving_factory.commands.verify import verify as check

    check(asked, image, key=key, deep=deep, json=json)


@Command
def embed(options: EmbedOptions) -> None:
    """Put a model into a variant's image: checked, tried with its own signature, and only then tagged.

    Nothing in it needs to be writable, and MODEL_NAME is set: it serves as it is. The same model and image are no work.

    Examples:
        ./factory embed models/half_plus_two --variant 2.19.1-cpu-v3
        ./factory embed models/half_plus_two --variant 2.19.1-cpu-v3 --dry-run
        ./factory embed export/1712 --name ranker --variant 2.19.1-cpu-v3 --request request.json --tag team/ranker:7
        ./factory embed models/half_plus_two --variant 2.19.1-cpu-v3 --registry registry.example.com
    """
    from serving_factory.commands.embed import embed as embed_model

    embed_model(options)


@Command
def deploy(
    options: DeployOptions,
    *,
    words: Annotated[
        tuple[str, ...], Option("kubernetes VARIANT..., compose VARIANT...", "WORD", positional=True)
    ] = (),
) -> None:
    """Write what serves pushed images, by digest: a Kustomize base with overlays, or files for compose.

    kubernetes also writes a runtime for KServe. compose puts examples/gateway before the server, and writes a second
    file with both in one container. Files that someone else wrote, or changed, are never overwritten.

    Examples:
        ./factory deploy kubernetes 2.19.1-cpu-v3
        ./factory deploy kubernetes 2.19.1-cpu-v3 2.19.1-gpu-cuda12.2-v3 --output manifests
        ./factory deploy compose 2.19.1-cpu-v3 --dry-run
        ./factory deploy kubernetes 2.19.1-cpu-v3 --model embedded
    """
    from serving_factory.commands.deploy import deploy as write_files

    write_files(words, options)


@Command
def compare(
    options: CompareOptions,
    *,
    images: Annotated[tuple[str, ...], Option("variants' ids, or images' names", "IMAGE", positional=True)] = (),
) -> None:
    """Measure images side by side under load, and write a page with charts: latency, throughput, start, size.

    Each image serves a model with the same limits, and is asked over REST and gRPC: without pause, and at set rates.
    Images take turns, in rounds; each figure has its interval, and what the machine is too noisy to show is said.

    Examples:
        ./factory compare 2.19.1-cpu-v1 2.19.1-cpu-v3
        ./factory compare 2.19.1-cpu-v3 tensorflow/serving:2.19.1 --cpus 1,8 --sizes 128,256 --output report.html
        ./factory compare 2.19.1-cpu-v3 2.19.1-gpu-cuda12.2-v3 --cpus 8 --gpus
        ./factory compare 2.19.1-cpu-v1 2.19.1-cpu-v3 --model models/resnet --sizes 1,16 --rates 50,100
        ./factory compare 2.19.1-cpu-v1 2.19.1-cpu-v3 --dry-run
    """
    from serving_factory.commands.compare import compare as compare_images

    compare_images(images, options)


@Command
def bench(options: BenchOptions, *, variants: VariantIds = ()) -> None:
    """Measure what each CPU level of a release answers, against the lowest level and the one below.

    All levels of a release and flavour take turns in one run, each with one CPU: the dense model over REST and gRPC,
    1 row and 32. A difference that the machine is too noisy to show is said to be uncertain. The history keeps it.

    Examples:
        ./factory bench 2.19.1-cpu-v3
        ./factory bench --release 2.19.1 --gate 0.9
        ./factory bench --matrix samples/matrix.yaml --flavour cpu --json
        ./factory bench --dry-run
    """
    from serving_factory.commands.bench import bench as measure_levels

    measure_levels(variants, options)


# --- Maintain ---------------------------------------------------------------------------------------------------------

_CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("sh", "-c", "shellcheck factory .ci/run scripts/*.sh dockerfiles/context/*.sh"),
    ("sh", "-c", "actionlint .github/workflows/*.yml"),
    ("zizmor", "--offline", "--no-progress", "--quiet", ".github"),
    ("sh", "-c", "check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml"),
)


_NOTHING_MATCHES = 5  # pytest's exit code where -k selects nothing: the other suite may have what matches


@Command
def test(
    *,
    unit: Annotated[bool, Option("only what needs no Docker: linters, types and unit tests")] = False,
    k: Annotated[str, Option("pytest's -k expression", "EXPRESSION")] = "",
) -> None:
    """Run linters, type checks and tests; a whole run prints what the unit tests cover, and fails under 95 %.

    Examples:
        ./factory test --unit
        ./factory test
        ./factory test -k registry
    """
    chosen = ("-k", k) if k else () if unit else ("--cov",)
    suites = [("pytest", "-n", "auto", "tests/unit", *chosen)]
    if not unit:  # those with an engine hold servers to their times: the others take what these leave of the CPUs
        suites = [("nice", *suites[0]), ("pytest", "-n", "2", "tests/integration", *(chosen if k else ()))]
    for commands, fine in ((_CHECKS, {0}), (suites, {0, _NOTHING_MATCHES} if k else {0})):
        codes = _run(*commands)
        if failed := [" ".join(command) for command, code in zip(commands, codes, strict=True) if code not in fine]:
            raise FactoryError(f"failed: {', '.join(failed)}")
        if set(codes) == {_NOTHING_MATCHES}:
            raise FactoryError(f"no test matches -k {k}", remedy="name a part of a test's name, or of its file's")


def _run(*commands: tuple[str, ...]) -> list[int]:
    """Run programs of the environment at once, and show what each prints after that of the one before it."""
    from tempfile import TemporaryFile

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    processes: list[subprocess.Popen[bytes]] = []
    _title(commands[0])
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile()) for _ in commands[1:]]
        try:
            for command, output in zip(commands, (None, *files), strict=True):
                processes.append(
                    subprocess.Popen(
                        command,
                        cwd=Checkout.here().root,
                        env=environment,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
            processes[0].wait()
            for command, process, file in zip(commands[1:], processes[1:], files, strict=True):
                _title(command)
                _follow(process, file)
        except BaseException:
            _end(processes)
            raise
    return [process.wait() for process in processes]


def _title(command: tuple[str, ...]) -> None:
    sys.stdout.write(f"+ {' '.join(command)}\n")
    sys.stdout.flush()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Interrupt programs, which then take away what they have made; a second interrupt ends them at once."""
    # They have sessions of their own: a Ctrl-C at the terminal reaches only us, as SIGTERM does.
    try:
        _signal(processes, signal.SIGINT)
        for process in processes:
            process.wait()
    finally:
        _signal(processes, signal.SIGKILL)
        for process in processes:
            process.wait()


def _signal(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _follow(process: subprocess.Popen[bytes], file: IO[bytes]) -> None:
    """Show what a process prints into a file, until its end."""
    place, ended = 0, False
    while not ended:
        ended = process.poll() is not None
        while text := os.pread(file.fileno(), 1 << 16, place):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
            place += len(text)
        if not ended:
            time.sleep(0.2)


@Command
def cache(options: CacheOptions) -> None:
    """Show Bazel's caches in the engine, prune them, or carry them to another machine.

    Examples:
        ./factory cache show
        ./factory cache prune --max-size 20GiB
        ./factory cache export caches.tar
        ./factory cache import caches.tar
    """
    from serving_factory.commands.cache import cache as work_on_caches

    work_on_caches(options)


@Command
def clean(
    asked: Whole,
    *,
    images: Annotated[bool, Option("also remove the images that this factory packaged, and stray containers")] = False,
    caches: Annotated[bool, Option("also remove Bazel's caches: the next build starts from nothing")] = False,
) -> None:
    """Remove what builds of the matrix left in the build folder.

    Examples:
        ./factory clean
        ./factory clean --images --caches
    """
    from serving_factory.commands.build import clean as run_clean

    run_clean(asked, images=images, caches=caches)


_GROUPS = {
    "See": [
        *("list", "explain", "catalogue", "generate", "lock", "bake-file"),
        *("history", "changes", "report", "doctor", "which"),
    ],
    "Fill inputs": ["preflight", "inputs"],
    "Build": [
        *("demo", "build", "compile", "inspect", "package", "smoke", "refresh"),
        *("push", "publish", "combine", "embed", "deploy"),
        *("keys", "verify"),
    ],
    "Measure": ["compare", "bench"],
    "Maintain": ["setup", "test", "cache", "clean"],
}
_ALONE = {"setup": "Make the machine ready: environment, Docker engine, the sample's base image, an emulator of CPUs."}


@partial(Command, default=True)
def tasks() -> None:
    """List the tasks, grouped."""
    lines = ["serving-factory builds, proves, packages and publishes TensorFlow Serving images."]
    for title, members in _GROUPS.items():
        lines += ["", title]
        for name in members:
            lines.append(f"  {name:<10} {_ALONE.get(name) or ns[name].__doc__.splitlines()[0]}")
    sys.stdout.write("\n".join([*lines, "", "./factory TASK --help shows a task's options, with examples.", ""]))


ns = Collection.from_module(sys.modules[__name__])
