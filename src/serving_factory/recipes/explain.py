"""Everything that decides one variant, in the order in which a reader asks for it, and where each value comes from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving_factory.catalogue.levels import level_facts
from serving_factory.catalogue.releases import UPSTREAM_TARGET, releases
from serving_factory.matrix.expand import uncertain_pairs
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.origins import CATALOGUE, origin, release_origin, rules_about, variant_origins
from serving_factory.matrix.problems import KeyPath, without_password
from serving_factory.matrix.tags import alias_tags, full_tags
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.recipe import Recipe

__all__ = ["Explained", "Explanation", "explain", "explain_matrix"]

Explained = tuple[str, str, str]
"""A name, a value, and where it comes from; empty where it follows from the others."""

Explanation = tuple[tuple[str, tuple[Explained, ...]], ...]
"""Sections: a title, and what is explained."""


def explain_matrix(variant: Variant, matrix: Matrix, *, file_from: str) -> Explanation:
    """Explain what the matrix says of a variant, whether or not there is a recipe for it.

    Args:
        variant: one of the matrix.
        matrix: the matrix.
        file_from: where the name of the matrix file comes from.
    """
    origins = variant_origins(matrix, variant)
    gpu = (
        ("cuda", variant.cuda or "", origins["cuda"]),
        ("capabilities", " ".join(variant.capabilities) or "TensorFlow's default", origins["capabilities"]),
    )
    values = (
        ("id", variant.id, ""),
        ("matrix file", str(matrix.file), file_from),
        ("targets", ", ".join(matrix.targets_of(variant)), ""),
        ("release", variant.release, origins["release"]),
        ("flavour", variant.flavour.value, origins["flavour"]),
        ("level", variant.level.value, origins["level"]),
        ("platform", variant.platform.value, origins["platform"]),
        *(gpu if variant.cuda else ()),
        ("copts", " ".join(variant.all_copts) or "none", origins["copts"]),
    )
    rules = tuple((where, what, "") for where, what in rules_about(matrix, variant))
    sections = (("Variant", values), ("Rules", rules), ("Reported", tuple(_doubts(variant, matrix))))
    return tuple(section for section in sections if section[1])


def explain(recipe: Recipe, matrix: Matrix, *, context: Path) -> Explanation:
    """Explain a recipe.

    Args:
        recipe: the recipe.
        matrix: the matrix that its variant is of.
        context: the folder in which the compile stage writes the devel Dockerfile and its files.
    """
    return (
        ("Compile", _compile(recipe, matrix)),
        ("Toolchain", _toolchain(recipe, matrix)),
        ("Doors", _doors(recipe, matrix)),
        ("Image", _image(recipe, matrix)),
        ("Devel image", (("made by, after compile", _devel_command(recipe, context), ""),)),
    )


def _compile(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    variant, upstream = recipe.variant, _upstream(recipe)
    configs = " ".join(f"--config={name}" for name in recipe.toolchain.configs) or "none"
    needs = " ".join(level_facts(variant.level).cpuinfo) or "nothing beyond x86-64"
    return (
        ("source", str(recipe.source), origin(matrix, ("source",), otherwise=upstream)),
        ("Bazel target", UPSTREAM_TARGET, ""),
        ("configs", configs, origin(matrix, ("toolchain", "configs", variant.flavour.value), otherwise=upstream)),
        ("copts", " ".join(variant.all_copts) or "none", ""),
        ("CPU must have", needs, f"{CATALOGUE}, level {variant.level}"),
        ("key", recipe.compile_key, ""),
    )


def _toolchain(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    toolchain, upstream = recipe.toolchain, _upstream(recipe)
    bazel = f"{toolchain.bazel.version}, {toolchain.bazel.package or f'release asset sha256:{toolchain.bazel.sha256}'}"
    stand_in: KeyPath = ("network", "base_images", toolchain.base)
    return (
        ("base", toolchain.base, origin(matrix, ("toolchain", "base"), otherwise=upstream)),
        ("base image used", recipe.base_image, origin(matrix, stand_in, otherwise="as named")),
        ("compiler", toolchain.compiler, origin(matrix, ("toolchain", "compiler"), otherwise=upstream)),
        ("Bazel", bazel, origin(matrix, ("bazel", "version"), otherwise=upstream)),
        ("packages", " ".join(toolchain.packages), _packages_origin(matrix)),
    )


def _doors(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    """The doors that are in use; passwords are blotted out."""
    network, doors = matrix.network, recipe.doors
    entries: list[tuple[str, object, KeyPath]] = [
        ("Bazel binary", doors.bazel, ("bazel", "binary")),
        ("Bazel mirror", network.bazel_mirror, ("network", "bazel_mirror")),
        ("distdir", doors.distdir, ("bazel", "distdir")),
        *((f"override {name}", folder, ("bazel", "overrides", name)) for name, folder in doors.overrides),
        *((f"patches {index + 1}", folder, ("patches", index)) for index, folder in enumerate(doors.patches)),
        ("downloader config", network.downloader_config, ("network", "downloader_config")),
        ("apt", network.apt_folder or network.apt_mirror, ("network", "apt", "mirror")),
        ("apt snapshot", network.apt_snapshot, ("network", "apt", "snapshot")),
        ("pip index", network.pip_index, ("network", "pip_index")),
        *((f"git {url}", to, ("network", "git_mirrors", url)) for url, to in network.git_mirrors.items()),
        ("proxy for http", network.http_proxy, ("network", "proxies", "http")),
        ("proxy for https", network.https_proxy, ("network", "proxies", "https")),
        ("no proxy for", network.no_proxy, ("network", "proxies", "no")),
        ("certificates", network.ca_certificates, ("network", "ca_certificates")),
        ("network", "none" if network.offline else None, ("network", "offline")),
    ]
    unused = f"Bazel {recipe.toolchain.bazel.version} knows no such rules: not used"
    return tuple(
        (
            name,
            unused
            if value is network.downloader_config is not doors.downloader_config
            else without_password(str(value)),
            release_origin(matrix, recipe.release.tag, path),
        )
        for name, value, path in entries
        if value is not None
    )


def _image(recipe: Recipe, matrix: Matrix) -> tuple[Explained, ...]:
    images, variant = recipe.images, recipe.variant
    tags = _names(images.repository, full_tags(images, variant, binary="BINARY"))
    aliases = _names(images.repository, alias_tags(images, variant, recipe.targets))
    return (
        ("full tags", tags, origin(matrix, ("image", "tags"))),
        ("aliases", aliases or "none", origin(matrix, ("image", "aliases"))),
        ("on a lesser CPU use", recipe.lower_image or "no image of this matrix", ""),
    )


def _upstream(recipe: Recipe) -> str:
    return f"{CATALOGUE}, release {recipe.release.tag}"


def _packages_origin(matrix: Matrix) -> str:
    base = f"{CATALOGUE}, base and compiler"
    return f"{base}; {more}" if (more := origin(matrix, ("toolchain", "packages"), otherwise="")) else base


def _doubts(variant: Variant, matrix: Matrix) -> Iterator[Explained]:
    """What was reported of the release's branch, and may or may not hold of the release: it is built all the same."""
    compiler = matrix.settings_of(variant.release).toolchain.compiler_of(
        releases()[variant.release].flavours[variant.flavour]
    )
    for pair in uncertain_pairs(variant, compiler):
        yield (f"may not {pair.fails}", pair.reason, " ".join(pair.references))


def _devel_command(recipe: Recipe, context: Path) -> str:
    """The command that turns the devel Dockerfile into an image to work in."""
    options = [
        *("--build-arg=" + "=".join(pair) for pair in recipe.build_args),
        *("--build-context=" + "=".join(pair) for pair in recipe.contexts(context.parent / "doors")),
        *(["--network=none"] if recipe.doors.offline else ()),
    ]
    tag = f"serving-factory/devel:{recipe.variant.id}"
    return shlex.join(
        ["docker", "buildx", "build", "--target=binary_build", "--load", f"--tag={tag}", *options, str(context)]
    )


def _names(repository: str, tags: Sequence[str]) -> str:
    return "\n".join(f"{repository}:{tag}" for tag in tags)
