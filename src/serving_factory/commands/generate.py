"""`generate`: the Dockerfiles beside a matrix file, the table of releases, and the schema of matrix files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from packaging.version import Version

from serving_factory.catalogue.distributions import retired_bases
from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.releases import Built, Inputs, built, releases
from serving_factory.commands.catalogue import any_variant
from serving_factory.commands.shared import Asked, write
from serving_factory.docker.buildx import BuildRequest
from serving_factory.errors import DriftError, RecipeError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.model import SCHEMA_FILE, matrix_schema
from serving_factory.matrix.settings import Network
from serving_factory.output.text import clean, count
from serving_factory.pipeline.records import encoded, write_atomically
from serving_factory.pipeline.stages.compile import devel_request
from serving_factory.pipeline.stages.libraries import runtime_request
from serving_factory.pipeline.stages.package import LAUNCHER
from serving_factory.recipes.recipe import CONTEXT, Recipe, recipe_for
from serving_factory.recipes.toolchain import Toolchain, toolchain_for

OVERVIEW_FILE = "docs/releases.md"
_ROOT = CONTEXT.parents[1]


def generate(asked: Asked, *, check: bool) -> None:
    """Write the Dockerfiles of a matrix file's variants, and remove those that nothing generates any more.

    The checkout's own matrix gets those of every release and flavour, the overview in docs/, and the schema.
    """
    matrix, folder = asked.load(), generated_folder(asked.file)
    schema = asked.checkout.root / SCHEMA_FILE
    is_own = asked.file.resolve().parent == schema.parent
    dockerfiles = generated_files(matrix, root=asked.checkout.root, every_release=is_own)
    files = {folder / name: text for name, text in dockerfiles.items()}
    wrong = {folder / name: what for name, what in drift(folder, dockerfiles).items()}
    if is_own:
        page = asked.checkout.root / OVERVIEW_FILE
        for path, text in ((schema, matrix_schema()), (page, overview(matrix))):
            files[path] = text
            if not path.is_file() or path.read_bytes() != encoded(text):
                wrong[path] = "differs" if path.is_file() else "missing"
    if check and wrong:
        raise DriftError(
            f"{count(len(wrong), 'generated file')} out of date",
            why="\n".join(f"{path}: {what}" for path, what in wrong.items()),
            remedy=f"run `./factory generate --matrix {asked.file}` and commit what it changes",
        )
    for path in wrong:
        if path in files:
            write_atomically(path, files[path])
        else:
            path.unlink()
        write(f"{'wrote' if path in files else 'removed'} {clean(str(path))}\n")
    write(f"{len(files)} files are up to date\n")


def generated_folder(matrix_file: Path) -> Path:
    """Where a matrix's Dockerfiles lie: `dockerfiles` beside matrix.yaml, `NAME.dockerfiles` beside NAME.yaml."""
    stem = matrix_file.stem
    return matrix_file.parent / ("dockerfiles" if stem == "matrix" else f"{stem}.dockerfiles")


def generated_files(matrix: Matrix, *, root: Path = _ROOT, every_release: bool = False) -> Mapping[str, str]:
    """Render Dockerfiles: path, relative to the matrix's folder of them → text.

    The matrix's settings hold, but not its network, which is another one on each machine. Paths in headers start from
    `root`. `every_release` is every release and flavour of the catalogue, instead of the matrix's variants.
    """
    folder = generated_folder(matrix.file.absolute())
    matrix = replace(matrix, network=Network(base_images=matrix.network.base_images, git_mirrors={}))
    files: dict[str, str] = {}
    # A variant of each release and flavour: its level and its capabilities are in no Dockerfile.
    every = (any_variant(release, flavour) for release in releases().values() for flavour in release.flavours)
    for variant in every if every_release else matrix.variants:
        devel, runtime = (
            f"{variant.release_name}/{variant.flavour}.{kind}.Dockerfile" for kind in ("devel", "runtime")
        )
        if devel in files:
            continue
        try:
            recipe = recipe_for(variant, matrix)
        except RecipeError:  # what the matrix chooses cannot build it; `build` says so
            continue
        exported = Path("build", "by-hand", f"{variant.release_name}-{variant.flavour}")
        files[devel] = _with_command(recipe.devel, _devel_request(recipe, folder / devel, exported), root)
        files[runtime] = _with_command(recipe.runtime, _runtime_request(recipe, folder / runtime, exported), root)
    return files


def _devel_request(recipe: Recipe, dockerfile: Path, exported: Path) -> BuildRequest:
    staged = Path("build", recipe.variant.id, "recipe", "inputs")
    request = devel_request(recipe, dockerfile=dockerfile, staged=staged, target="export", output=exported)
    # What a variant chooses has a default in the Dockerfile: no level, upstream's capabilities.
    of_all = tuple(pair for pair in request.build_args if pair[0] in dict(recipe.inputs.key_args))
    return replace(request, build_args=of_all)


def _runtime_request(recipe: Recipe, dockerfile: Path, exported: Path) -> BuildRequest:
    tag = f"{recipe.images.repository}:{exported.name}"
    launcher = str(exported / LAUNCHER)
    return runtime_request(recipe, dockerfile=dockerfile, artifact=str(exported), launcher=launcher, tags=[tag])


def _with_command(text: str, request: BuildRequest, root: Path) -> str:
    """Put the command that builds a Dockerfile into its header, with paths from the checkout's root."""
    command = shlex.join(request.command()).replace(f"{root}/", "").replace(f"{_ROOT}/", "")
    title, rest = text.split("\n#\n", 1)
    return f"{title}\n#\n# Build it, in the root of the repository:\n#   {command}\n#\n{rest}"


def drift(folder: Path, files: Mapping[str, str]) -> Mapping[str, str]:
    """What is wrong with a folder: path in it → `missing`, `differs` or `nothing makes it`."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*.*.Dockerfile")}
    wrong = {
        name: "differs" if name in found else "missing"
        for name, text in files.items()
        if found.get(name) != encoded(text)
    }
    return dict(sorted({**wrong, **{name: "nothing makes it" for name in found if name not in files}}.items()))


_HEAD = """\
# Releases

Made by `./factory generate` from the catalogue; do not edit. What each devel Dockerfile in `dockerfiles/` compiles
with, and where it departs from upstream's. For all of them: sources by commit and Bazel by checksum, packages from the
distribution and no PPA, no get-pip.py and no API wheel, levels as target options instead of `nativeopt` or `release`,
a runtime image that stops on SIGTERM and does not run as root. gpu images hold what the server opens and runs of CUDA,
with its licences: [gpu.md](gpu.md#what-is-in-a-gpu-image).

How sure: every file is rendered from data that was read from upstream's own files, and checked by hadolint and by the
rules in `tests/unit/test_golden_dockerfiles.py`. What was really built with this factory, from upstream's sources
through all stages to smoke, is in this table. It is on the base that is named here: no registry that has those of the
second table was within reach. What a build of your own proves is in its records.

| built | level | base | compiler | Bazel | inputs | on | actions | compiled in |
|---|---|---|---|---|---|---|---|---|
"""


_INPUTS = {Inputs.FOLDERS: "folders, no network", Inputs.NETWORK: "by network, from stand-ins for the internet"}
_COLUMNS = """
| release | flavour | base | compiler | Bazel | CUDA | fixed | how sure |
|---|---|---|---|---|---|---|---|
"""


def overview(matrix: Matrix) -> str:
    """Write the page, with the settings of a matrix."""
    rows = (_row(release, flavour, matrix) for release in releases().values() for flavour in release.flavours)
    lines = [[f"| {' | '.join(cells)} |\n" for cells in table] for table in (map(_built_row, built()), rows)]
    return "".join((_HEAD, *lines[0], _COLUMNS, *lines[1]))


def _built_row(build: Built) -> Sequence[str]:
    return (
        f"{build.release} {build.flavour}",
        build.level,
        build.base,
        build.compiler,
        build.bazel,
        _INPUTS[build.inputs],
        build.date,
        f"{build.actions:,}, {build.cached:,} from the disk cache",
        f"{build.minutes} min on {build.processors} processors",
    )


def _row(release: Release, flavour: Flavour, matrix: Matrix) -> Sequence[str]:
    toolchain = toolchain_for(any_variant(release, flavour), release, matrix.settings.of(release.tag))
    proofs = [build for build in built() if (build.release, build.flavour) == (release.tag, flavour.value)]
    bases = sorted({f"{build.base}, {build.compiler}" for build in proofs})
    return (
        release.tag,
        flavour.value,
        toolchain.base,
        toolchain.compiler,
        toolchain.bazel.version + ("" if toolchain.bazel.sha256 else " (checksum unknown)"),
        _cuda(toolchain),
        "; ".join(_fixed(release, flavour, toolchain)) or "-",
        f"built, on {' and '.join(bases)}" if bases else "rendered and checked",
    )


def _cuda(toolchain: Toolchain) -> str:
    gpu = toolchain.gpu
    if gpu is None:
        return "-"
    tensorrt = f", TensorRT {gpu.tensorrt_version}" if gpu.tensorrt else ""
    return f"{gpu.version} {'of apt' if gpu.cuda.packages else 'by Bazel'}{tensorrt}"


def _fixed(release: Release, flavour: Flavour, toolchain: Toolchain) -> Iterator[str]:
    facts = release.flavours[flavour]
    if facts.base in retired_bases():
        yield f"{facts.base} was deleted"
    if facts.runtime_base is None:
        yield "upstream has no runtime image"
    if flavour is Flavour.GPU and release.version < Version("1.8"):
        yield "upstream builds its default branch"
    if facts.gpu and not facts.gpu.cudnn.replace(".", "").isdigit():
        yield f"cuDNN {facts.gpu.cudnn} pinned"
    if release.tag == "2.2.0" and flavour is Flavour.GPU:
        yield "NVRTC, without which the server does not start"
    if facts.gpu and facts.gpu.tensorrt_packages and not facts.gpu.tensorrt:
        yield "TensorRT, which is not compiled in, left out"
    if toolchain.gpu:
        # Upstream's runtime images have nvcc's package from 2.15 on, and start from CUDA's devel image in 2.4.
        if release.version < Version("2.15") and "devel" not in (facts.runtime_base or "") and toolchain.gpu.cuda.tools:
            tools = (tool.rpartition("/")[2].partition(".")[0] for tool in toolchain.gpu.cuda.tools)
            yield f"{', '.join(tools)} in the image"
        yield from (f"{name}, which cuDNN opens, in the image" for name in toolchain.gpu.cuda.links)
        if "libcurand" in toolchain.gpu.cuda.unopened:
            yield "libcurand, which no server opens, left out"
    yield from (fix.why for fix in toolchain.fixes)
