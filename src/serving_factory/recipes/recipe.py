"""From a variant to its recipe: everything needed to build it, as a value. No disk, clock or Docker is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.levels import LEVELS, Level
from serving_factory.catalogue.releases import UPSTREAM_TARGET, UPSTREAM_URL, releases
from serving_factory.errors import BazelTooOldError, RecipeError
from serving_factory.matrix.matrix import Matrix, alias_tags
from serving_factory.matrix.model import Images
from serving_factory.matrix.settings import Remote
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.inputs import Inputs, inputs_for, mirrored
from serving_factory.recipes.pins import BAZEL_RELEASES, image_for
from serving_factory.recipes.toolchain import Toolchain, check_bazel, check_buildable, toolchain_for


def key_of(**parts: object) -> str:
    """Hash named parts, independent of their order.

    Args:
        parts: values that JSON knows; tuples count as lists, sets of texts as sorted lists.

    Returns:
        64 hex digits.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def short(key: str) -> str:
    """The first 12 digits of a key or digest: enough to tell apart, short enough for a name."""
    return key.removeprefix("sha256:")[:12]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set) and all(isinstance(item, str) for item in value):
        return sorted(value)
    raise TypeError(f"{value!r} cannot be part of a key")


if TYPE_CHECKING:
    from jinja2 import Environment


TEMPLATES = Path(__file__).resolve().parents[3] / "dockerfiles" / "templates"
PATCHES = TEMPLATES.parent / "patches"

CACHES = "serving-factory-bazel"
"""How the ids of the cache mounts in the templates begin; `-disk` and `-repository` follow."""


def render(name: str, **values: object) -> str:
    """Render a template; a value that the template names and the caller does not give is an error."""
    return _environment().get_template(name).render(**values)


@cache
def template_text(name: str) -> str:
    """Read a file that goes into an image as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def patch_text(name: str) -> str:
    """Read a script of dockerfiles/patches."""
    return (PATCHES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # It takes a while to import: only who renders waits for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Dockerfiles are no HTML; every value comes from checked data
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


_BINARY_PATH = UPSTREAM_TARGET.removeprefix("//").replace(":", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything needed to build one variant.

    Args:
        variant: what is built.
        release: what the catalogue says of its release.
        targets: the targets that select it.
        toolchain: what compiles it.
        source: the folder with the source tree, or upstream's git URL with a commit.
        inputs: how the other outer inputs enter.
        remote: a cache, or builders, that other machines share; no part of the key.
        base_image: the image that stands for the toolchain's base on this network.
        devel: the devel Dockerfile.
        devel_files: name → text of the files in its build context.
        runtime: the runtime Dockerfile.
        runtime_files: name → text of the files in its build context, those apart that only the built binary decides.
        images: how the image is named.
        lower_image: the image to use on a CPU that lacks this level; empty where there is none.
        build_args: of the devel Dockerfile: what differs between variants that share it.
        compile_key: over all that decides the binary, as far as the matrix and the catalogue tell.
    """

    variant: Variant
    release: Release
    targets: tuple[str, ...]
    toolchain: Toolchain
    source: Path | str
    inputs: Inputs
    remote: Remote
    base_image: str
    devel: str
    devel_files: tuple[tuple[str, str], ...]
    runtime: str
    runtime_files: tuple[tuple[str, str], ...]
    images: Images
    lower_image: str
    build_args: tuple[tuple[str, str], ...]
    compile_key: str

    @property
    def upstream(self) -> bool:
        """Whether the sources are upstream's own."""
        return isinstance(self.source, str)

    def contexts(self, staged: Path) -> tuple[tuple[str, str], ...]:
        """The named contexts of the devel Dockerfile.

        Args:
            staged: the folder below which those lie that are put together for this build.
        """
        source = str(self.source)
        if isinstance(self.source, str):
            source = mirrored(self.source, self.inputs.git_mirrors)
        return (("source", source), *self.inputs.contexts(staged), *self.base_context)

    @property
    def base_context(self) -> tuple[tuple[str, str], ...]:
        """The named context that swaps the base image, where this network has another one for it."""
        if self.base_image == self.toolchain.base:
            return ()
        return ((self.toolchain.base, f"docker-image://{self.base_image}"),)


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """A variant that cannot be built, and why."""

    variant: Variant
    error: RecipeError | BazelTooOldError


def recipes_for(variants: Iterable[Variant], matrix: Matrix) -> tuple[tuple[Recipe, ...], tuple[Unbuildable, ...]]:
    """Make the recipes of variants, and tell which cannot be built, and why."""
    recipes: list[Recipe] = []
    unbuildable: list[Unbuildable] = []
    for variant in variants:
        try:
            recipe = recipe_for(variant, matrix, neighbour=recipes[-1] if recipes else None)
            check_buildable(variant, recipe.toolchain)
            if recipe.upstream:  # another tree has a WORKSPACE of its own, which says what it wants when it is loaded
                check_bazel(variant, recipe.release, recipe.toolchain.bazel.version)
            recipes.append(recipe)
        except (RecipeError, BazelTooOldError) as error:
            unbuildable.append(Unbuildable(variant, error))
    return tuple(recipes), tuple(unbuildable)


def recipe_for(variant: Variant, matrix: Matrix, *, neighbour: Recipe | None = None) -> Recipe:
    """Make the recipe of a variant.

    Args:
        variant: the variant.
        matrix: its matrix.
        neighbour: any recipe of the same matrix; where it is of another level of the same, its Dockerfiles are taken.

    Raises:
        RecipeError: there is no recipe for it; the message says why.
    """
    release = releases()[variant.release]
    settings = matrix.settings_of(variant.release)
    toolchain = toolchain_for(variant, release, settings, matrix.lock)
    source = settings.source or f"{UPSTREAM_URL}#{release.commit}"
    inputs = inputs_for(settings, matrix.network, bazel=toolchain.bazel.version)
    base_image = image_for(toolchain.base, matrix.network.base_images)
    rendered_from = (variant.flavour, release, toolchain)
    if neighbour and (neighbour.variant.flavour, neighbour.release, neighbour.toolchain) == rendered_from:
        devel, runtime = neighbour.devel, neighbour.runtime
    else:
        devel, runtime = _devel(*rendered_from), _runtime(*rendered_from)
    devel_files = _devel_files(toolchain)
    arguments = _arguments(variant, toolchain, inputs, tensorrt=settings.toolchain.tensorrt)
    key = key_of(
        devel=devel,
        files=devel_files,
        arguments=arguments,
        base=base_image,
        source=None if settings.source else source,
        platform=variant.platform,
    )
    return Recipe(
        variant=variant,
        release=release,
        targets=matrix.targets_of(variant),
        toolchain=toolchain,
        source=source,
        inputs=inputs,
        remote=settings.bazel.remote,
        base_image=base_image,
        devel=devel,
        devel_files=devel_files,
        runtime=runtime,
        runtime_files=_files("runtime/tf_serving_entrypoint.sh", "runtime/tf_serving_health.sh"),
        images=matrix.images,
        lower_image=_lower_image(variant, matrix),
        build_args=(*arguments, *inputs.free_args),
        compile_key=key,
    )


def _arguments(
    variant: Variant, toolchain: Toolchain, inputs: Inputs, *, tensorrt: bool | None
) -> tuple[tuple[str, str], ...]:
    """The build arguments that decide what is built."""
    arguments = {"COPTS": " ".join(f"--copt={option}" for option in variant.all_copts)}
    if toolchain.gpu:
        arguments["CUDA_CAPABILITIES"] = ",".join(variant.capabilities)
        if toolchain.gpu.tensorrt and tensorrt is False:
            arguments["TENSORRT"] = "0"
    return (*arguments.items(), *inputs.key_args)


def _devel_files(toolchain: Toolchain) -> tuple[tuple[str, str], ...]:
    """Files of the build context: those of every build, and those that this one's Dockerfile names beyond."""
    names = [
        *(f"devel/{name}.sh" for name in ("apply_patches", "bazel", "collect", "inputs", "preflight")),
        "runtime/init.c",
    ]
    if toolchain.llvm or (toolchain.gpu and toolchain.gpu.repositories):
        names.append("devel/apt_key.sh")
    if toolchain.llvm:
        names.append("devel/llvm-snapshot.asc")
    return (*_files(*names), *((fix.script, patch_text(fix.script)) for fix in toolchain.fixes))


def _files(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name.rpartition("/")[2], template_text(name)) for name in names)


def _devel(flavour: Flavour, release: Release, toolchain: Toolchain) -> str:
    return render(
        "devel/devel.Dockerfile.j2",
        release=release,
        flavour=flavour,
        toolchain=toolchain,
        upstream=UPSTREAM_URL,
        bazel_releases=BAZEL_RELEASES,
        bazel_target=UPSTREAM_TARGET,
        binary_path=_BINARY_PATH,
    )


def _runtime(flavour: Flavour, release: Release, toolchain: Toolchain) -> str:
    return render(
        "runtime/runtime.Dockerfile.j2",
        release=release,
        flavour=flavour,
        base=toolchain.base,
        gpu=toolchain.gpu,
    )


def _lower_image(variant: Variant, matrix: Matrix) -> str:
    """The image of the highest level below, same release; the same flavour before another."""
    if variant.level not in LEVELS:
        return ""
    lower = [
        other
        for other in matrix.variants
        if other.release == variant.release
        and other.flavour in {variant.flavour, Flavour.CPU}
        and other.level in LEVELS
        and _rank(other.level) < _rank(variant.level)
    ]
    if not lower:
        return ""
    best = max(lower, key=lambda other: (other.flavour == variant.flavour, _rank(other.level)))
    aliases = alias_tags(matrix.images, best, matrix.targets_of(best))
    return f"{matrix.images.repository}:{aliases[0]}" if aliases else ""


def _rank(level: Level) -> int:
    return LEVELS.index(level)
