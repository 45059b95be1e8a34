"""From a variant to its recipe: everything needed to build it, as a value. No disk, clock or Docker is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_factory.catalogue.distributions import slim_base
from serving_factory.catalogue.facts import Flavour, Release
from serving_factory.catalogue.levels import LEVELS, Level
from serving_factory.catalogue.releases import UPSTREAM_TARGET, UPSTREAM_URL, releases
from serving_factory.errors import BazelTooOldError, RecipeError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.model import Images
from serving_factory.matrix.settings import Remote
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.dockerfile import needed, without_comments
from serving_factory.recipes.inputs import Inputs, inputs_for, mirrored
from serving_factory.recipes.pins import BAZEL_RELEASES, Base, image_for, is_slim, runtime_base
from serving_factory.recipes.toolchain import Toolchain, check_bazel, check_buildable, toolchain_for

if TYPE_CHECKING:
    from jinja2 import Environment


def key_of(**parts: object) -> str:
    """Hash named parts, independent of their order: 64 hex digits."""
    # Parts are values that JSON has; tuples count as lists, sets of texts as sorted lists.
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def short(key: str) -> str:
    """The first 12 digits of a key or digest: enough to distinguish, short enough for a name."""
    return key.removeprefix("sha256:")[:12]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set) and all(isinstance(item, str) for item in value):
        return sorted(value)
    raise TypeError(f"{value!r} cannot be part of a key")


_DOCKERFILES = Path(__file__).resolve().parents[3] / "dockerfiles"
CONTEXT = _DOCKERFILES / "context"  # The build context of every Dockerfile: all files that one copies
# How the ids of the cache mounts in the templates begin; `-disk` and `-repository` follow
CACHES = "serving-factory-bazel"


def render(name: str, **values: object) -> str:
    """Render a template; a value that the template names and the caller does not give is an error."""
    return _environment().get_template(name).render(**values)


@cache
def context_text(name: str) -> str:
    """Read a file of the build context."""
    return (CONTEXT / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Slow to import, and not needed by every command.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_DOCKERFILES / "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Dockerfiles are no HTML; every value comes from checked data
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything needed to build one variant."""

    variant: Variant
    release: Release
    targets: tuple[str, ...]
    aliases: tuple[str, ...]  # the moving tags of its image; `devel_aliases` of its devel image
    devel_aliases: tuple[str, ...]
    toolchain: Toolchain
    source: Path | str  # the folder with the source tree, or upstream's git URL with a commit
    inputs: Inputs
    remote: Remote  # a cache, or builders, that other machines share; no part of the key
    base: Base  # what it is compiled on
    runtime_base: Base  # what its image stands on, or whose packages a slim one has
    slim: bool  # whether the image has few packages of that base, and not the base itself
    upgrades: tuple[str, ...]  # NAME=VERSION: packages that are upgraded where that base has them in a lower version
    devel: str  # the devel Dockerfile
    runtime: str  # the runtime Dockerfile
    images: Images
    lower_image: str  # the image to use on a CPU that lacks this level; empty where there is none
    build_args: tuple[tuple[str, str], ...]  # of the devel Dockerfile: what differs between variants that share it
    decisive: Mapping[str, Any]  # all that decides the binary, as far as the matrix and the catalogue say

    @property
    def compile_key(self) -> str:
        """The key of all that decides the binary, as far as the matrix and the catalogue say."""
        return key_of(**self.decisive)

    @property
    def upstream(self) -> bool:
        """Whether the sources are upstream's own."""
        return isinstance(self.source, str)

    def contexts(self, staged: Path) -> tuple[tuple[str, str], ...]:
        """The named contexts of the devel Dockerfile; those that are put together for this build lie in `staged`."""
        source = self.source
        if isinstance(source, str):
            source = mirrored(source, self.inputs.git_mirrors)
        return (("source", str(source)), *self.inputs.contexts(staged), *self.base.contexts)

    @property
    def collects(self) -> bool:
        """Whether what the image has beside base and binary is collected on its own base, not in the devel image."""
        return _collects(self.base, self.runtime_base, slim=self.slim, upgrades=self.upgrades)


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """A variant that cannot be built, and why."""

    variant: Variant
    error: RecipeError | BazelTooOldError


def recipes_for(variants: Iterable[Variant], matrix: Matrix) -> tuple[tuple[Recipe, ...], tuple[Unbuildable, ...]]:
    """Make the recipes of variants, and say which cannot be built, and why."""
    recipes: list[Recipe] = []
    unbuildable: list[Unbuildable] = []
    for variant in variants:
        try:
            recipe = recipe_for(variant, matrix, neighbour=recipes[-1] if recipes else None)
            check_buildable(variant, recipe.toolchain)
            if recipe.upstream and not variant.own_release:  # other sources' WORKSPACE checks Bazel when it is loaded
                check_bazel(variant, recipe.release, recipe.toolchain.bazel.version)
            recipes.append(recipe)
        except (RecipeError, BazelTooOldError) as error:
            unbuildable.append(Unbuildable(variant, error))
    return tuple(recipes), tuple(unbuildable)


def recipe_for(variant: Variant, matrix: Matrix, *, neighbour: Recipe | None = None) -> Recipe:
    """Make the recipe of a variant; RecipeError says why there is none."""
    # `neighbour` is any recipe of the same matrix: where it differs in the level only, its Dockerfiles are taken.
    release, settings = _release(variant, matrix), matrix.settings_of(variant)
    toolchain = toolchain_for(variant, release, settings, matrix.lock)
    source = settings.source or f"{UPSTREAM_URL}#{release.commit}"
    cuda = toolchain.gpu.version if toolchain.gpu and toolchain.gpu.local else ""
    inputs = inputs_for(settings, matrix.network, bazel=toolchain.bazel.version, cuda=cuda)
    base, on = (
        Base(name, image_for(name, matrix.network.base_images))
        for name in (toolchain.base, matrix.lock.pinned(runtime_base(variant, settings)))
    )
    slim, upgrades = is_slim(variant, settings), matrix.lock.upgrades(runtime_base(variant, settings))
    rendered_from = (variant.flavour, release, toolchain)
    if neighbour and (neighbour.variant.flavour, neighbour.release, neighbour.toolchain) == rendered_from:
        devel, runtime = neighbour.devel, neighbour.runtime
    else:
        devel = _devel(release, variant, toolchain)
        runtime = render(
            "runtime.Dockerfile.j2",
            release=release,
            flavour=variant.flavour,
            base=on.name,
            collects=_collects(base, on, slim=slim, upgrades=upgrades),
            slim=slim_base() if slim else None,
            upgrades=upgrades,
            gpu=toolchain.gpu,
            images=matrix.images,
        )
    arguments = _arguments(variant, toolchain, inputs, tensorrt=settings.toolchain.tensorrt)
    decisive = {
        "devel": decides(devel, "artifact"),
        "arguments": arguments,
        "base": base.image,
        "source": None if settings.source else source,
        "platform": variant.platform,
    }
    return Recipe(
        variant=variant,
        release=release,
        targets=matrix.targets_of(variant),
        aliases=matrix.aliases_of(variant),
        devel_aliases=matrix.devel_aliases.get(variant.id, ()),
        toolchain=toolchain,
        source=source,
        inputs=inputs,
        remote=settings.bazel.remote,
        base=base,
        runtime_base=on,
        slim=slim,
        upgrades=upgrades,
        devel=devel,
        runtime=runtime,
        images=matrix.images,
        lower_image=_lower_image(variant, matrix),
        build_args=(*arguments, *inputs.free_args),
        decisive=decisive,
    )


def _collects(base: Base, runtime_base: Base, *, slim: bool, upgrades: tuple[str, ...]) -> bool:
    return slim or bool(upgrades) or runtime_base.image != base.image


def _release(variant: Variant, matrix: Matrix) -> Release:
    """What is known of a variant's release; of the file's own release as of the one that it is like."""
    release, own = releases()[variant.release], matrix.own.get(variant.own_release)
    if own is None:
        return release
    return replace(release, own_name=own.name, commit=own.commit or release.commit, reported=own.reports or "")


def _devel(release: Release, variant: Variant, toolchain: Toolchain) -> str:
    return render(
        "devel.Dockerfile.j2",
        release=release,
        flavour=variant.flavour,
        toolchain=toolchain,
        upstream=UPSTREAM_URL,
        bazel_releases=BAZEL_RELEASES,
        bazel_target=UPSTREAM_TARGET,
        binary_path=UPSTREAM_TARGET.removeprefix("//").replace(":", "/"),
    )


_COPY = "COPY --link --chmod=0755 --from={0} tensorflow_model_server /usr/lib/serving-factory/{1}\n"


def combined_recipe(recipe: Recipe, higher: tuple[Level, ...], aliases: tuple[str, ...]) -> Recipe:
    """Make the recipe of an image with all levels, from that of the lowest."""
    # Beside the line of the template that copies the server: no other image's Dockerfile knows of it.
    server = _COPY.format("artifact", "")
    more = "".join(_COPY.format(level.value, f"{level.value}/") for level in higher)
    runtime = recipe.runtime.replace(server, server + more)
    return replace(recipe, variant=replace(recipe.variant, combined=True), aliases=aliases, runtime=runtime)


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


@cache
def decides(devel: str, target: str) -> Mapping[str, object]:
    """What of a devel Dockerfile decides a target: instructions and files of the stages that lead to it."""
    found = needed(devel, target)
    files = sorted({file for stage in found for file in stage.files})
    return {
        "instructions": [stage.instructions for stage in found],
        "files": {file: without_comments(file, context_text(file)) for file in files},
    }


def _lower_image(variant: Variant, matrix: Matrix) -> str:
    """The image of the highest level below, same release; the same flavour before another."""
    rank = LEVELS.index(variant.level) if variant.level in LEVELS else 0
    lower = [
        other
        for other in matrix.variants
        if other.release_name == variant.release_name
        and other.flavour in {variant.flavour, Flavour.CPU}
        and other.level in LEVELS[:rank]
    ]
    if not lower:
        return ""
    best = max(lower, key=lambda other: (other.flavour == variant.flavour, LEVELS.index(other.level)))
    aliases = matrix.aliases_of(best)
    return f"{matrix.images.repository}:{aliases[0]}" if aliases else ""
