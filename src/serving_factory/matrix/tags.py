"""Tags: computed from what a variant and its proven binary are, never typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from serving_factory.catalogue.levels import level_facts
from serving_factory.matrix.matrix import Images
from serving_factory.matrix.variant import Variant

__all__ = ["alias_tags", "fill", "full_tags"]


def full_tags(images: Images, variant: Variant, *, binary: str) -> tuple[str, ...]:
    """Compute the full tags of an image.

    Args:
        images: how images are named.
        variant: what the image is.
        binary: the first 12 digits of its binary's sha256.
    """
    return _each_once(fill(template, variant, binary=binary) for template in images.tags)


def alias_tags(images: Images, variant: Variant, targets: Sequence[str]) -> tuple[str, ...]:
    """Compute the moving tags of an image that these targets select."""
    return _each_once(fill(template, variant, targets=targets) for template in images.aliases)


def fill(template: str, variant: Variant, *, binary: str = "", targets: Sequence[str] = ()) -> tuple[str, ...]:
    """Fill a template that `template_rule` has passed; one with {target} gives one tag for each target."""
    words = {
        "id": variant.id,
        "release": variant.release,
        "flavour": variant.flavour.value,
        "level": level_facts(variant.level).short,
        "binary": binary,
    }
    if "{target}" not in template:
        return (template.format_map(words),)
    return tuple(template.format_map({**words, "target": target}) for target in targets)


def _each_once(filled: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(filled)))
