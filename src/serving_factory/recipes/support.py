"""What this factory has recipes for. The catalogue knows every release; a recipe is a claim that it builds."""

from __future__ import annotations

from collections.abc import Mapping

from serving_factory.catalogue.releases import Flavour
from serving_factory.errors import RecipeError
from serving_factory.matrix.variant import Variant

__all__ = ["RECIPES", "check_supported", "is_supported"]

RECIPES: Mapping[Flavour, tuple[str, ...]] = {
    Flavour.CPU: ("2.19.1",),
    Flavour.MKL: ("2.19.1",),
}
"""Flavour -> the releases whose recipe exists."""


def is_supported(variant: Variant) -> bool:
    """Whether there is a recipe for a variant."""
    known = RECIPES.get(variant.flavour)
    return known is not None and variant.release in known


def check_supported(variant: Variant) -> None:
    """Pass a variant that there is a recipe for.

    Raises:
        RecipeError: there is none; the message tells what there are recipes for.
    """
    if is_supported(variant):
        return
    of = f" of {variant.release}" if variant.flavour in RECIPES else ""
    missing = f"flavour {variant.flavour}{of}"
    raise RecipeError(
        f"{variant.id}: there is no recipe for {missing} yet",
        why="recipes: " + "; ".join(f"{flavour} {', '.join(releases)}" for flavour, releases in RECIPES.items()),
        remedy=f"take another release or flavour; `./factory catalogue {variant.release}` tells what upstream did",
    )
