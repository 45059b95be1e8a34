"""docs/releases.md: every release and flavour, what compiles it, and what is fixed against upstream's Dockerfiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import Version

from serving_factory.catalogue.distributions import retired_bases
from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Built, Inputs, built, releases
from serving_factory.errors import RecipeError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.recipe import recipe_for
from serving_factory.recipes.toolchain import Toolchain, toolchain_for

Drift = Mapping[str, str]
"""Path, relative to the folder → what is wrong with it: `missing`, `differs` or `nothing makes it`."""


def generated_folder(matrix_file: Path) -> Path:
    """Where a matrix's Dockerfiles lie: `dockerfiles` beside matrix.yaml, `NAME.dockerfiles` beside NAME.yaml."""
    stem = matrix_file.stem
    return matrix_file.parent / ("dockerfiles" if stem == "matrix" else f"{stem}.dockerfiles")


def generated_files(matrix: Matrix, *, every_release: bool = False) -> Mapping[str, str]:
    """Render Dockerfiles: path, relative to their folder → text.

    Args:
        matrix: whose settings hold, and whose variants are meant.
        every_release: whether every release and flavour of the catalogue is meant instead.
    """
    files: dict[str, str] = {}
    for variant in _every_variant() if every_release else matrix.variants:
        devel = f"{variant.release}/{variant.flavour}.devel.Dockerfile"
        if devel in files:
            continue
        try:
            recipe = recipe_for(variant, matrix)
        except RecipeError:  # the matrix chooses what cannot build it; a build tells so
            continue
        files[devel] = recipe.devel
        files[f"{variant.release}/{variant.flavour}.runtime.Dockerfile"] = recipe.runtime
    return files


def _every_variant() -> Iterator[Variant]:
    """A variant of each release and flavour; its level and its capabilities are in no Dockerfile."""
    for release in releases().values():
        for flavour, facts in release.flavours.items():
            cuda = facts.gpu.cuda if facts.gpu else None
            yield Variant(release=release.tag, flavour=flavour, level=Level.V1, cuda=cuda)


def drift(folder: Path, files: Mapping[str, str]) -> Drift:
    """Compare the files in a folder with what the data gives."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("[0-9]*/*.Dockerfile")}
    wrong = {
        name: "differs" if name in found else "missing"
        for name, text in files.items()
        if found.get(name) != text.encode()
    }
    return dict(sorted({**wrong, **{name: "nothing makes it" for name in found if name not in files}}.items()))


OVERVIEW_FILE = "docs/releases.md"

_HEAD = """\
# Releases

Made by `./factory generate` from the catalogue; do not edit. What each devel Dockerfile in `dockerfiles/` compiles
with, and where it departs from upstream's. For all of them: sources by commit and Bazel by checksum, packages from the
distribution and no PPA, no get-pip.py and no API wheel, levels as target options instead of `nativeopt` or `release`,
a runtime image that stops when told and runs as nobody.

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
    return "".join((_HEAD, *map(_built_row, built()), _COLUMNS, *rows))


def _built_row(build: Built) -> str:
    cells = (
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
    return f"| {' | '.join(cells)} |\n"


def _sure(release: Release, flavour: Flavour) -> str:
    proofs = [build for build in built() if (build.release, build.flavour) == (release.tag, flavour.value)]
    bases = sorted({f"{build.base}, {build.compiler}" for build in proofs})
    return f"built, on {' and '.join(bases)}" if bases else "rendered and checked"


def _row(release: Release, flavour: Flavour, matrix: Matrix) -> str:
    facts = release.flavours[flavour]
    cuda = facts.gpu.cuda if facts.gpu else None
    variant = Variant(release=release.tag, flavour=flavour, level=Level.V1, cuda=cuda)
    toolchain = toolchain_for(variant, release, matrix.settings_of(release.tag))
    bazel = toolchain.bazel.version + ("" if toolchain.bazel.sha256 else " (checksum unknown)")
    cells = (
        release.tag,
        flavour.value,
        toolchain.base,
        toolchain.compiler,
        bazel,
        _cuda(toolchain),
        "; ".join(_fixed(release, flavour, toolchain)) or "-",
        _sure(release, flavour),
    )
    return f"| {' | '.join(cells)} |\n"


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
    yield from (fix.why for fix in toolchain.fixes)
