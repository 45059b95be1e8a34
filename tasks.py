"""One Invoke task per verb: parses options, calls the package, prints. No logic lives here."""

from __future__ import annotations

import json as json_module
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.program import Program
from invoke.tasks import task

from serving_factory.catalogue.closest import closest_release
from serving_factory.catalogue.describe import describe
from serving_factory.catalogue.releases import Release, releases
from serving_factory.catalogue.upstream_check import check_upstream as compare_upstream
from serving_factory.catalogue.upstream_check import release_of
from serving_factory.errors import (
    CancelledError,
    DriftError,
    FactoryError,
    UnknownNameError,
    UpstreamDiffersError,
    UsageError,
)
from serving_factory.line.cleaning import clean as clean_site
from serving_factory.line.job import Job, Site, Stage, build_name
from serving_factory.line.lock import hold_lock
from serving_factory.line.plan import plan_line
from serving_factory.line.records import write_atomically
from serving_factory.line.results import Status, VariantResult
from serving_factory.line.scheduler import run_line
from serving_factory.line.stages import BUILD, COMPILE, EXTRACT, INSPECT, PACKAGE, SMOKE
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.select import select
from serving_factory.recipes.explain import explain
from serving_factory.recipes.generate import drift, generated_files, generated_folder
from serving_factory.recipes.recipe import Recipe, recipe_for
from serving_factory.ui import catalogue as ui_catalogue
from serving_factory.ui import tables
from serving_factory.ui.errors import render_error
from serving_factory.ui.positional import OptionalPositional
from serving_factory.ui.reporter import choose

ROOT = Path(__file__).resolve().parent
MATRIX = ROOT / "matrix.yaml"
SAMPLE = ROOT / "samples" / "matrix.yaml"
MODELS = ROOT / "samples" / "model_server" / "models"
BUILD_FOLDER = ROOT / "build"

OPTIONS = {
    "matrix": "the matrix file (default: matrix.yaml of this checkout)",
    "target": "a target of the matrix, such as cpu-optimized; may be repeated",
    "release": "an upstream release, such as 2.19.1; may be repeated",
    "variant": "a variant's id, such as 2.19.1-cpu-v3; may be repeated",
    "json": "print JSON for machines: an object per line, or one document",
    "registry": "push to this registry, HOST[:PORT]",
}
CHOICE = ["target", "release", "variant"]


def _help(*names: str, **more: str) -> dict[str, str]:
    return {**{name: OPTIONS[name] for name in names}, **more}


# --- seeing what there is ---------------------------------------------------------------------------------------------


@task(name="list", iterable=CHOICE, help=_help("matrix", *CHOICE, "json"))
def list_(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    json: bool = False,
) -> None:
    """List the variants of the matrix, and what of each is built.

    Examples:
        ./factory list
        ./factory list --target cpu-optimized
        ./factory list --matrix samples/matrix.yaml --json
    """
    with _errors():
        recipes = _recipes(matrix, target, release, variant)
        site = _site(matrix)
        rows = [
            tables.ListRow(
                variant=recipe.variant.id,
                release=recipe.variant.release,
                flavour=recipe.variant.flavour.value,
                level=recipe.variant.level.value,
                targets=recipe.targets,
                state=Job(recipe=recipe, site=site).state,
            )
            for recipe in recipes
        ]
        _print_rows(rows, tables.list_table(rows, width=_width()), json=json)


@task(name="explain", positional=["variant"], help=_help("variant", "matrix", "json"))
def explain_(_c: Context, variant: str, matrix: str = "", json: bool = False) -> None:
    """Tell everything that decides one variant: toolchain, flags, doors, tags, keys.

    Examples:
        ./factory explain 2.19.1-cpu-v3
        ./factory explain 2.19.1-cpu-v3 --json
    """
    if variant in {"--help", "-h"}:  # Invoke takes any word that follows for the variant
        Program(namespace=ns).run(["invoke", "--help", "explain"])
    with _errors():
        (recipe,) = _recipes(matrix, variant=[variant])
        sections = explain(recipe, context=Job(recipe=recipe, site=_site(matrix)).devel_context)
        if json:
            _print_json({title: dict(values) for title, values in sections})
        else:
            page = [tables.Section(title, values) for title, values in sections]
            sys.stdout.write(tables.explain_page(recipe.variant.id, page))


@task(
    klass=OptionalPositional,
    positional=["release"],
    help=_help(
        "json",
        release="an upstream release, such as 2.19.1; all when left out",
        check_upstream="compare the release with this checkout of tensorflow/serving, and exit with 8 if they differ",
    ),
)
def catalogue(_c: Context, release: str | None = None, check_upstream: str = "", json: bool = False) -> None:
    """Tell what upstream used for each release: Bazel, bases, compilers, flags, CUDA, what the server can do.

    Examples:
        ./factory catalogue
        ./factory catalogue 2.19.1
        ./factory catalogue --json
        ./factory catalogue 2.19.1 --check-upstream ../serving
    """
    with _errors():
        if check_upstream:
            _check_upstream(Path(check_upstream), release or "", json=json)
            return
        documents = [describe(one) for one in ([_release(release)] if release else releases().values())]
        if json:
            _print_json(documents)
        elif release:
            sys.stdout.write(ui_catalogue.release_page(documents[0]))
        else:
            sys.stdout.write(ui_catalogue.releases_table(documents, width=_width()))


@task(help=_help("matrix", check="change nothing; fail when a file is not what the data gives"))
def generate(_c: Context, matrix: str = "", check: bool = False) -> None:
    """Write the Dockerfiles of every release and flavour beside the matrix file.

    Examples:
        ./factory generate
        ./factory generate --check
        ./factory generate --matrix samples/matrix.yaml
    """
    with _errors():
        file = _matrix_file(matrix)
        files = generated_files(load_matrix(file))
        folder = generated_folder(file)
        wrong = drift(folder, files)
        if check and wrong:
            raise DriftError(
                f"{len(wrong)} generated files are not what the templates and the data give",
                why="\n".join(f"{folder / name}: {what}" for name, what in wrong.items()),
                remedy=f"run `./factory generate --matrix {file}` and commit what it changes",
            )
        for name in wrong if not check else ():
            path = folder / name
            if name in files:
                write_atomically(path, files[name])
            else:
                path.unlink()
            sys.stdout.write(f"{'wrote' if name in files else 'removed'} {path}\n")
        sys.stdout.write(f"{len(files)} files are up to date\n")


# --- the line ---------------------------------------------------------------------------------------------------------


@task(
    iterable=CHOICE,
    help=_help("matrix", *CHOICE, "json", "registry", dry_run="print what would be done, and do nothing"),
)
def build(
    _c: Context,
    matrix: str = "",
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
    registry: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Compile, inspect, package and smoke-test; with --registry, push as well. What is up to date is skipped.

    Examples:
        ./factory build --target cpu-optimized
        ./factory build --release 2.19.1 --registry registry.example.com
        ./factory build --variant 2.19.1-cpu-v3 --dry-run
    """
    with _errors():
        recipes = _recipes(matrix, target, release, variant)
        stages = (*BUILD, *_push_stages()) if registry else BUILD
        site = _site(matrix, registry)
        if dry_run:
            _print_plan(recipes, site, stages, json=json)
        else:
            _run(recipes, site, stages, json=json)


def _stage_task(name: str, stages: tuple[Stage, ...], text: str) -> object:
    """Make the task that runs one stage alone."""

    def run(
        _c: Context,
        matrix: str = "",
        target: Sequence[str] | None = None,
        release: Sequence[str] | None = None,
        variant: Sequence[str] | None = None,
        json: bool = False,
    ) -> None:
        with _errors():
            _run(_recipes(matrix, target, release, variant), _site(matrix), stages, json=json)

    run.__doc__ = f"{text}\n\n    Examples:\n        ./factory {name}\n        ./factory {name} --variant 2.19.1-cpu-v3"
    return task(run, name=name, iterable=CHOICE, help=_help("matrix", *CHOICE, "json"))


compile_ = _stage_task("compile", (COMPILE, EXTRACT), "Compile the binaries in Docker and read their facts.")
inspect_ = _stage_task("inspect", (INSPECT,), "Compare what the binaries are with what was asked for.")
package = _stage_task("package", (PACKAGE,), "Put inspected binaries into slim runtime images.")
smoke = _stage_task("smoke", (SMOKE,), "Run the images and check everything that a user relies on.")


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
    with _errors():
        _run(_recipes(matrix, target, release, variant), _site(matrix, registry), _push_stages(), json=json)


@task(help=_help("json", "registry"))
def demo(_c: Context, json: bool = False, registry: str = "") -> None:
    """Run the whole line on the offline sample, and show how to run what it made.

    Examples:
        ./factory demo
        ./factory demo --registry 127.0.0.1:5000
    """
    with _errors():
        stages = (*BUILD, *_push_stages()) if registry else BUILD
        results = _run(_recipes(str(SAMPLE)), _site(str(SAMPLE), registry), stages, json=json)
        if not json:
            sys.stdout.write("\n" + tables.demo_table(results, models=MODELS, width=_width()))


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
    with _errors(), hold_lock(BUILD_FOLDER):
        for line in clean_site(_site(matrix), images=images, caches=caches):
            sys.stdout.write(f"{line}\n")


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
    _step(c, f"pytest tests/unit{chosen}")
    if not unit:
        _step(c, f"pytest tests/integration{chosen}")


_CHECKS = (
    "ruff check .",
    "ruff format --check .",
    "mypy",
    "shellcheck factory .ci/run scripts/*.sh dockerfiles/templates/*/*.sh",
    "hadolint --config .hadolint.yaml dockerfiles/*/*.Dockerfile samples/dockerfiles/*/*.Dockerfile",
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
    "See": ["list", "explain", "catalogue", "generate"],
    "Build": ["demo", "build", "compile", "inspect", "package", "smoke", "push"],
    "Keep house": ["setup", "test", "clean"],
}
_ALONE = {"setup": "Make the machine ready: environment, Docker engine, the sample's base image."}


# --- glue -------------------------------------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors that a user can meet into a message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except FactoryError as error:
        raise Exit(render_error(error).rstrip(), code=error.exit_code) from None
    except PermissionError as error:
        told = FactoryError(f"this user may not: {error}", remedy="see who owns that file, and run the command as them")
        raise Exit(render_error(told).rstrip(), code=told.exit_code) from None
    except KeyboardInterrupt:
        raise Exit("Cancelled.", code=CancelledError.exit_code) from None


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _release(tag: str) -> Release:
    found = releases().get(tag)
    if found is None:
        other = closest_release(tag, releases())
        raise UnknownNameError(
            f"no release is named {tag!r}; did you mean {other.tag!r}?",
            why=other.reason,
            remedy="`invoke catalogue` lists all releases",
        )
    return found


def _check_upstream(folder: Path, tag: str, *, json: bool) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", remedy="name a checkout of tensorflow/serving, at the release's tag")
    tag = tag or release_of(folder, releases()) or ""
    if not tag:
        raise UsageError(
            f"nothing in {folder} tells which release it is", remedy="name the release: catalogue RELEASE ..."
        )
    found = compare_upstream(folder, _release(tag))
    if not found.read:
        raise UsageError(
            f"{folder} is no checkout of tensorflow/serving",
            why=f"it has none of {', '.join(found.absent)}",
            remedy="name the checkout's root",
        )
    differences = [asdict(one) for one in found.differences]
    if json:
        _print_json(differences)
    if differences:
        raise UpstreamDiffersError(
            f"{folder} and the catalogue's entry of {tag} differ in {_count(len(differences), 'place')}",
            why="" if json else ui_catalogue.differences_text(differences),
            remedy="look at each; docs/new-release.md tells how an entry is written",
        )
    if not json:
        absent = f"; not there to be compared: {', '.join(found.absent)}" if found.absent else ""
        sys.stdout.write(f"{folder} is what the catalogue says of {tag}{absent}\n")


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _matrix_file(given: str) -> Path:
    return Path(given) if given else MATRIX


def _recipes(
    matrix: str,
    target: Sequence[str] | None = None,
    release: Sequence[str] | None = None,
    variant: Sequence[str] | None = None,
) -> tuple[Recipe, ...]:
    loaded: Matrix = load_matrix(_matrix_file(matrix))
    chosen = select(loaded, targets=target or (), releases=release or (), variants=variant or ())
    return tuple(recipe_for(variant, loaded) for variant in chosen)


def _site(matrix: str, registry: str = "") -> Site:
    folder = BUILD_FOLDER / build_name(_matrix_file(matrix).resolve(), ROOT)
    return Site(build=folder, models=MODELS, registry=registry or None)


def _push_stages() -> tuple[Stage, ...]:
    # It brings the Docker SDK, which takes half a second to import: only who pushes waits for it.
    from serving_factory.line.stages.push import PUSH  # noqa: PLC0415

    return (PUSH,)


def _run(recipes: Sequence[Recipe], site: Site, stages: Sequence[Stage], *, json: bool) -> tuple[VariantResult, ...]:
    reporter = choose(
        json=json,
        stdout=sys.stdout,
        stderr=sys.stderr,
        environ=os.environ,
        variants=[recipe.variant.id for recipe in recipes],
        last_stage=stages[-1].name,
    )
    with hold_lock(BUILD_FOLDER):
        with reporter:
            results = run_line(_jobs(recipes, site), stages, reporter.handle, before=_before(stages))
        reporter.summary(results)
    _end(results)
    return results


def _end(results: Sequence[VariantResult]) -> None:
    """Exit as the run deserves; its errors are printed already."""
    if any(result.status is Status.CANCELLED for result in results):
        raise Exit(code=CancelledError.exit_code)
    for result in results:
        if result.error:
            raise Exit(code=result.error.exit_code)


def _jobs(recipes: Sequence[Recipe], site: Site) -> list[Job]:
    return [Job(recipe=recipe, site=site) for recipe in recipes]


def _before(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages of the line before these."""
    return BUILD[: BUILD.index(stages[0])] if stages[0] in BUILD else BUILD


def _print_plan(recipes: Sequence[Recipe], site: Site, stages: Sequence[Stage], *, json: bool) -> None:
    planned = plan_line(_jobs(recipes, site), stages)
    rows = [
        tables.PlanRow(
            variant=one.variant,
            run=tuple(map(str, one.run)),
            up_to_date=tuple(map(str, one.up_to_date)),
            because=one.because,
        )
        for one in planned
    ]
    _print_rows(rows, tables.plan_table(rows, width=_width()), json=json)


def _print_rows(rows: Sequence[tables.ListRow | tables.PlanRow], text: str, *, json: bool) -> None:
    if json:
        _print_json([asdict(row) for row in rows])
    else:
        sys.stdout.write(text)


def _print_json(document: object) -> None:
    sys.stdout.write(json_module.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


ns = Collection.from_module(sys.modules[__name__])
