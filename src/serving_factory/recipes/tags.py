"""Tags: computed from what a variant and its proven binary are, never typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Formatter

from serving_factory.errors import RecipeError
from serving_factory.matrix.matrix import Images

__all__ = ["TagFacts", "alias_tags", "full_tags"]

# OCI distribution spec, section "Pulling manifests": what a tag may look like.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFacts:
    """What a tag may be made of.

    Args:
        id: the variant's id.
        release: upstream's full tag.
        flavour: cpu, mkl or gpu.
        level: the level's short form, `v3`.
        binary: the first digits of the binary's sha256; empty where only aliases are asked for.
        targets: the targets that select the variant.
    """

    id: str
    release: str
    flavour: str
    level: str
    binary: str
    targets: tuple[str, ...]


def full_tags(images: Images, facts: TagFacts) -> tuple[str, ...]:
    """Compute the full tags of an image."""
    return _expand(images.tags, facts)


def alias_tags(images: Images, facts: TagFacts) -> tuple[str, ...]:
    """Compute the moving tags of an image; a template with {target} gives one for each target."""
    return _expand(images.aliases, facts)


def _expand(templates: Sequence[str], facts: TagFacts) -> tuple[str, ...]:
    tags: dict[str, None] = {}
    for template in templates:
        for tag in _fill(template, facts):
            if not _TAG.fullmatch(tag):
                raise RecipeError(
                    f"{facts.id}: {tag!r}, from the tag template {template!r}, is no valid OCI tag",
                    remedy="use letters, digits, '_', '.' and '-' in the matrix file's image section, 128 at most",
                )
            tags[tag] = None
    return tuple(tags)


def _fill(template: str, facts: TagFacts) -> Iterable[str]:
    values = {
        "id": facts.id,
        "release": facts.release,
        "flavour": facts.flavour,
        "level": facts.level,
        "binary": facts.binary,
    }
    names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if unknown := names - {*values, "target"}:
        raise RecipeError(
            f"{facts.id}: the tag template {template!r} names {', '.join(sorted(unknown))}, which no image has",
            remedy=f"use the placeholders {', '.join([*values, 'target'])} in the matrix file's image section",
        )
    if "target" not in names:
        return [template.format(**values)]
    return [template.format(**values, target=target) for target in facts.targets]
