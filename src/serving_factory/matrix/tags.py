"""Tags: computed from what a variant and its proven binary are, never typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from string import Formatter

from serving_factory.catalogue.levels import level_facts
from serving_factory.matrix.matrix import Images
from serving_factory.matrix.variant import Variant

__all__ = ["ALIAS_WORDS", "TAG_WORDS", "alias_tags", "fill", "full_tags", "is_tag", "template_rule"]

# OCI distribution spec, section "Pulling manifests": what a tag may look like.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_WORDS = ("id", "release", "flavour", "level")
TAG_WORDS = (*_WORDS, "binary")
"""The placeholders of full tags; `binary` stands for the first 12 digits of the binary's sha256."""
ALIAS_WORDS = (*_WORDS, "target")
"""The placeholders of aliases; `target` gives one alias for each target that selects the variant."""


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


def is_tag(text: str) -> bool:
    """Whether a registry takes this as a tag."""
    return _TAG.fullmatch(text) is not None


def template_rule(words: Sequence[str], *, required: str = "") -> Callable[[str], str]:
    """Make the check of a tag template, for the matrix file's model.

    Args:
        words: the placeholders that it may hold.
        required: the one that it must hold.

    Returns:
        A function that gives the template back, or raises ValueError with the rule that it breaks.
    """
    known = ", ".join(f"{{{word}}}" for word in words)

    def check(template: str) -> str:
        try:
            fields = [field for field in Formatter().parse(template) if field[1] is not None]
        except ValueError:
            raise ValueError("a brace has no partner") from None
        for _, name, form, conversion in fields:
            if name not in words or form or conversion:
                raise ValueError(f"a placeholder is one of {known}")
        if not is_tag(template.format_map(dict.fromkeys(words, "x"))):
            raise ValueError(
                "a tag holds letters, digits, '_', '.' and '-', 128 at most, and begins with no '.' or '-'"
            )
        if required and required not in {name for _, name, _, _ in fields}:
            raise ValueError(f"a full tag names one binary: it must hold {{{required}}}")
        return template

    return check


def _each_once(filled: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(filled)))
