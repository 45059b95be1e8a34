"""The tags of images: what templates give, which variant an alias goes to, and what is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.matrix.document import Document
from serving_factory.matrix.model import Alias, Images, IndexTag
from serving_factory.matrix.problems import Broken, KeyPath, Problem
from serving_factory.matrix.variant import Candidate, Platform, Variant
from serving_factory.matrix.words import is_tag

_NAMES_A_RELEASE = ("{id}", "{release}")
_LEVELS_OF_OCI = (Level.V1, Level.V2, Level.V3, Level.V4)  # OCI image index: `variant` of amd64, as GOAMD64 has it
_DEVEL, _SUFFIX = "-devel", "{flavour-suffix}"
_ZEROS = "0" * 12
_LONGEST = 128


def full_tags(images: Images, variant: Variant, *, binary: str, image: str, devel: bool = False) -> tuple[str, ...]:
    """Compute the full tags of an image: first digits of its binary's sha256, and of the image's key."""
    templates = map(devel_template, images.tags) if devel else images.tags
    return tuple(dict.fromkeys(_fill(template, variant, binary=binary, image=image) for template in templates))


def alias_tags(images: Images, kept: Sequence[Candidate], *, devel: bool = False) -> Mapping[str, tuple[str, ...]]:
    """Compute the moving tags of all images: variant's id → its aliases, in the order of their templates."""
    found: dict[str, dict[str, None]] = {}
    for alias in images.aliases:
        for tag, variant in _tags_of(alias, kept, devel=devel):
            found.setdefault(variant.id, {})[tag] = None
    return {id_: tuple(tags) for id_, tags in found.items()}


def devel_template(template: str) -> str:
    """The template of a devel image's tag, in upstream's order: `2.19.1-devel-gpu`. One that says so is it already."""
    if _DEVEL in template:
        return template
    before, suffix, after = template.partition(_SUFFIX)
    return f"{before}{_DEVEL}{suffix}{after}"


def _tags_of(alias: Alias, kept: Iterable[Candidate], *, devel: bool) -> Sequence[tuple[str, Variant]]:
    """Give an alias' tags for the images that serve, or for devel images, which alone get one that says `-devel`."""
    if devel:
        return _aliased(replace(alias, tag=devel_template(alias.tag)), kept)
    return () if _DEVEL in alias.tag else _aliased(alias, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A tag that names an image for each CPU level: one OCI image index in a registry."""

    tag: str
    release: str  # its name
    moves: bool  # whether the tag names no release, so that a later one takes it
    variants: tuple[Variant, ...]  # the lowest level first


def indexes_of(images: Images, kept: Sequence[Candidate]) -> tuple[Index, ...]:
    """Give all indexes, each with the variants that belong into it."""
    return tuple(replace(one, variants=tuple(_for_index(one.variants))) for one in _gathered(images.indexes, kept))


def combined_of(images: Images, kept: Sequence[Candidate]) -> Mapping[tuple[Variant, ...], tuple[str, ...]]:
    """The variants of each image with all levels, the lowest first → its aliases. None for GPUs: these are large."""
    found: dict[tuple[Variant, ...], tuple[str, ...]] = {}
    for one in _gathered(images.combined, kept):
        if len(one.variants) > 1 and not one.variants[0].cuda:
            found[one.variants] = (*found.get(one.variants, ()), one.tag)
    return found


def _gathered(templates: Iterable[IndexTag], kept: Sequence[Candidate]) -> Iterator[Index]:
    """Each tag, with all that have it."""
    members: dict[str, dict[str, Variant]] = {}
    moving: set[str] = set()
    for template in templates:
        for tag, variant in _aliased(template, kept):
            members.setdefault(tag, {})[variant.id] = variant
            moving |= set() if any(word in template.tag for word in _NAMES_A_RELEASE) else {tag}
    for tag, found in members.items():
        variants = tuple(sorted(found.values(), key=lambda one: one.order))
        yield Index(tag=tag, release=variants[0].release_name, moves=tag in moving, variants=variants)


def _for_index(variants: Iterable[Variant]) -> Iterator[Variant]:
    """Those that an index can name: levels that OCI has a word for, and the lowest one, which needs none."""
    lowest: set[Platform] = set()
    for one in variants:
        if one.platform not in lowest or one.level in _LEVELS_OF_OCI:
            yield one
        lowest.add(one.platform)


def tag_findings(
    document: Document, images: Images, kept: Sequence[Candidate], broken: Broken, *, used: Collection[str] = ()
) -> Iterator[Problem]:
    """Find tags that are too long, or two variants': the image pushed last would take it from the other."""
    # Not every file is published as indexes: those that the file does not name itself count where they are `used`.
    owners: dict[str, tuple[str, str]] = {}
    variants = dict.fromkeys(one.variant for one in kept)
    for index, template in enumerate(images.tags):
        if not broken.at("image", "tags", index):
            filled = [
                (_fill(given, one, binary=_ZEROS, image=_ZEROS), f"{of}{one.id}")
                for of, given in (("", template), (_DEVEL_OF, devel_template(template)))
                for one in variants
            ]
            yield from _findings(document, ("image", "tags", index), template, filled, owners)
    cpu = [one for one in kept if not one.variant.cuda]
    named: Mapping[str, tuple[Sequence[Alias | IndexTag], Sequence[Candidate], str]] = {
        "aliases": (images.aliases, kept, ""),
        "indexes": (images.indexes, kept, "the index of "),
        "combined": (images.combined, cpu, "the image with all levels of "),
    }
    for kind, (listed, candidates, what) in named.items():
        for index, one in enumerate(listed):
            path: KeyPath = ("image", kind, index)
            if broken.at(*path) or not (kind == "aliases" or kind in used or document.has(path[:-1])):
                continue
            yield from _findings(document, path, one.tag, list(_owned(one, candidates, what)), owners)
            if kept and not any(one.where.met_by(candidate) for candidate in kept):
                rule = "no selected variant meets all of these conditions"
                yield Problem(path=(*path, "where"), rule=rule, remedy=f"Loosen one, or remove it from {kind}.")


_DEVEL_OF = "the devel image of "


def _owned(named: Alias | IndexTag, kept: Sequence[Candidate], what: str) -> Iterator[tuple[str, str]]:
    """Give the tags of a template, each with whose it is."""
    if isinstance(named, IndexTag):
        yield from ((tag, f"{what}{variant.build}") for tag, variant in _aliased(named, kept))
        return
    for devel, of in ((False, ""), (True, _DEVEL_OF)):
        yield from ((tag, f"{of}{variant.id}") for tag, variant in _tags_of(named, kept, devel=devel))


def _aliased(alias: Alias | IndexTag, kept: Iterable[Candidate]) -> Sequence[tuple[str, Variant]]:
    """Give an alias' tags, each with its variant: where the template names no release, those of the newest one."""
    kept = [one for one in kept if isinstance(alias, Alias) or one.variant.level is not Level.NATIVE]
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
    words |= {"flavour-suffix": suffix, "gpu-suffix": variant.gpu_suffix, "level": level_facts(variant.level).short}
    return template.format_map({**words, **more})


def _findings(
    document: Document,
    path: KeyPath,
    template: str,
    filled: Iterable[tuple[str, str]],
    owners: dict[str, tuple[str, str]],
) -> Iterator[Problem]:
    """Find what is wrong with the tags of a template, each with whose it is; `owners`: tag → that, and its template."""
    # Other tags of the same template break the rule in the same way: one is enough.
    wrong = next(_broken(template, filled, owners), None)
    if wrong and document.has(path[:-1]):
        yield Problem(path=path, rule=wrong[0], remedy=wrong[1])
    elif wrong:
        kind = path[-2]
        rule = f"by default {kind} has {template!r}: {wrong[0]}"
        yield Problem(path=path[:-2], rule=rule, remedy=f"Add {kind}: with another one.")


def _broken(
    template: str, filled: Iterable[tuple[str, str]], owners: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Rule and remedy of each tag that is wrong."""
    for tag, name in filled:
        owner, other = owners.setdefault(tag, (name, template))
        if owner != name:
            words = (
                "{flavour} or {gpu-suffix}"
                if name.startswith(("the index", "the image"))
                else "{id}, {flavour} or {level}"
            )
            remedy = f"Put {words} into the template, or say at `where:` which of them has it."
            clash = remedy if other == template else f"{other!r} gives it too: change one of the two."
            yield f"{owner} and {name} would both be tagged {tag}", clash
        elif len(tag) > _LONGEST:
            yield f"for {owner} this gives a tag of {len(tag)} characters, and {_LONGEST} are allowed", "Shorten it."
        elif not is_tag(tag):
            yield f"for {owner} this gives {tag!r}, which is no tag", "Begin it with a letter, a digit or {release}."
