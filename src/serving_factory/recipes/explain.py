"""Everything that decides one variant, in the order in which a reader asks for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from serving_factory.catalogue.levels import level_facts
from serving_factory.catalogue.releases import UPSTREAM_TARGET
from serving_factory.matrix.tags import alias_tags, full_tags
from serving_factory.recipes.recipe import Recipe

__all__ = ["Explanation", "explain"]

Explanation = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Sections: a title, and pairs of name and value."""


def explain(recipe: Recipe, *, context: Path) -> Explanation:
    """Explain a recipe.

    Args:
        recipe: the recipe.
        context: the folder in which the compile stage writes the devel Dockerfile and its files.
    """
    variant, toolchain = recipe.variant, recipe.toolchain
    bazel = toolchain.bazel
    repository = recipe.images.repository
    return (
        (
            "Variant",
            (
                ("id", variant.id),
                ("release", variant.release),
                ("flavour", variant.flavour.value),
                ("level", variant.level.value),
                ("platform", variant.platform.value),
                ("targets", ", ".join(recipe.targets)),
            ),
        ),
        (
            "Compile",
            (
                ("source", str(recipe.source)),
                ("Bazel target", UPSTREAM_TARGET),
                ("configs", " ".join(f"--config={name}" for name in toolchain.configs) or "none"),
                ("copts", " ".join(variant.all_copts) or "none"),
                ("CPU must have", " ".join(level_facts(variant.level).cpuinfo) or "nothing beyond x86-64"),
                ("key", recipe.compile_key),
            ),
        ),
        (
            "Toolchain",
            (
                ("base", toolchain.base),
                ("base image used", recipe.base_image),
                ("compiler", toolchain.compiler),
                ("Bazel", f"{bazel.version}, {bazel.package or f'release asset sha256:{bazel.sha256}'}"),
                ("packages", " ".join(toolchain.packages)),
            ),
        ),
        (
            "Image",
            (
                ("full tags", _names(repository, full_tags(recipe.images, variant, binary="BINARY"))),
                ("aliases", _names(repository, alias_tags(recipe.images, variant, recipe.targets)) or "none"),
                ("on a lesser CPU use", recipe.lower_image or "no image of this matrix"),
            ),
        ),
        (
            "Devel image",
            (("made by, after compile", _devel_command(recipe, context)),),
        ),
    )


def _devel_command(recipe: Recipe, context: Path) -> str:
    """The command that turns the devel Dockerfile into an image to work in."""
    contexts = (("source", str(recipe.source)), *recipe.base_context)
    options = [
        *("--build-arg=" + "=".join(pair) for pair in recipe.build_args),
        *("--build-context=" + "=".join(pair) for pair in contexts),
    ]
    tag = f"serving-factory/devel:{recipe.variant.id}"
    return shlex.join(
        ["docker", "buildx", "build", "--target=binary_build", "--load", f"--tag={tag}", *options, str(context)]
    )


def _names(repository: str, tags: Sequence[str]) -> str:
    return "\n".join(f"{repository}:{tag}" for tag in tags)
