"""How Bazel runs in a build, as a bazelrc. What it builds is no part of it: that is in the recipe, and in its key."""

from __future__ import annotations

from serving_factory.recipes.doors import DOWNLOADER_CONFIG
from serving_factory.recipes.recipe import Recipe

__all__ = ["bazelrc"]


def bazelrc(recipe: Recipe) -> str:
    """Write the bazelrc of a variant's build; empty where nothing is to be said."""
    options: list[str] = []
    if recipe.doors.downloader_config:
        options.append(f"--experimental_downloader_config={DOWNLOADER_CONFIG}")
    return "".join(f"build {option}\n" for option in options)
