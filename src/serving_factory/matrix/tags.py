"""The tags of images: what templates give, which variant an alias goes to, and what is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import level_facts
from serving_factory.matrix.document import Document
from serving_factory.matrix.model import Alias, Images, MatrixFile
from serving_factory.matrix.problems import Broken, KeyPath, Problem
from serving_factory.matrix.variant import Candidate, Variant
from serving_factory.matrix.words import is_tag

_NAMES_A_RELEASE = ("{id}", "{release}")
_ZEROS = "0" * 12
_LONGEST = 128


def full_tags(images: Images, variant: Variant, *, binary: str, image: str) -> tuple[str, ...]:
    """Compute the full tags of an image: first digits of its binary's sha256, and of the image's key."""
    filled = (_fill(template, variant, binary=binary, image=image) for template in images.tags)
    return tuple(dict.fromkeys(filled))


def alias_tags(images: Images, kept: Sequence[Candidate]) -> Mapping[str, tuple[str, ...]]:
    """Compute the moving tags of all images: variant's id → its aliases, in the order of their templates."""
    found: dict[str, dict[str, None]] = {}
    for alias in images.aliases:
        for tag, variant in _aliased(alias, kept):
            found.setdefault(variant.id, {})[tag] = None
    return {id_: tuple(tags) for id_, tags in found.items()}


def tag_findings(document: Document, model: MatrixFile, kept: Sequence[Candidate], broken: Broken) -> Iterator[Problem]:
    """Find tags that are too long, or two variants': the image pushed last would take it from the other."""
    owners: dict[str, tuple[str, str]] = {}
    images, variants = model.image, dict.fromkeys(one.variant for one in kept)
    for index, template in enumerate(images.tags):
        if not broken.at("image", "tags", index):
            filled = [(_fill(template, variant, binary=_ZEROS, image=_ZEROS), variant) for variant in variants]
            yield from _findings(document, ("image", "tags", index), template, filled, owners)
    for index, alias in enumerate(images.aliases):
        path: KeyPath = ("image", "aliases", index)
        if broken.at(*path):
            continue
        yield from _findings(document, path, alias.tag, _aliased(alias, kept), owners)
        if kept and not any(alias.where.met_by(one) for one in kept):
            rule = "no selected variant meets all of these conditions"
            yield Problem(path=(*path, "where"), rule=rule, remedy="Loosen one, or remove the alias.")


def _aliased(alias: Alias, kept: Iterable[Candidate]) -> Sequence[tuple[str, Variant]]:
    """Give an alias' tags, each with its variant: where the template names no release, those of the newest one."""
    tags = [(_fill(alias.tag, one.variant, target=one.target), one.variant) for one in kept if alias.where.met_by(one)]
    if any(word in alias.tag for word in _NAMES_A_RELEASE):
        return tags
    tags = [(tag, variant) for tag, variant in tags if not variant.own_release]  # not a release, so not the newest
    newest: dict[str, Variant] = {}
    for tag, variant in tags:
        newest[tag] = max(newest.get(tag, variant), variant, key=lambda one: one.version)
    return [(tag, variant) for tag, variant in tags if variant.release == newest[tag].release]


def _fill(template: str, variant: Variant, **more: str) -> str:
    release = variant.release_name
    series = release if variant.own_release else release.rpartition(".")[0]
    suffix = "" if variant.flavour is Flavour.CPU else f"-{variant.flavour}"
    words = {"id": variant.id, "release": release, "series": series, "flavour": variant.flavour.value}
    return template.format_map({**words, "flavour-suffix": suffix, "level": level_facts(variant.level).short, **more})


def _findings(
    document: Document,
    path: KeyPath,
    template: str,
    filled: Iterable[tuple[str, Variant]],
    owners: dict[str, tuple[str, str]],
) -> Iterator[Problem]:
    """Find what is wrong with the tags of a template; `owners`: tag → the variant and the template that it is of."""
    # Other tags of the same template break the rule in the same way: one is enough.
    wrong = next(_broken(template, filled, owners), None)
    if wrong and document.has(path[:-1]):
        yield Problem(path=path, rule=wrong[0], remedy=wrong[1])
    elif wrong:
        kind = path[-2]
        rule = f"by default {kind} has {template!r}: {wrong[0]}"
        yield Problem(path=path[:-2], rule=rule, remedy=f"Add {kind}: with another one.")


def _broken(
    template: str, filled: Iterable[tuple[str, Variant]], owners: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Rule and remedy of each tag that is wrong."""
    for tag, variant in filled:
        owner, other = owners.setdefault(tag, (variant.id, template))
        if owner != variant.id:
            remedy = "Put {id}, {flavour} or {level} into the template, or say at `where:` which of them has it."
            clash = remedy if other == template else f"{other!r} gives it too: change one of the two."
            yield f"{owner} and {variant.id} would both be tagged {tag}", clash
        elif len(tag) > _LONGEST:
            yield f"for {owner} this gives a tag of {len(tag)} characters, and {_LONGEST} are allowed", "Shorten it."
        elif not is_tag(tag):
            yield f"for {owner} this gives {tag!r}, which is no tag", "Begin it with a letter, a digit or {release}."
