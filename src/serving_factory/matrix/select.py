"""Choosing variants by what a user types: target, release, id, or any axis; each with a did-you-mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.catalogue.releases import closest_release
from serving_factory.catalogue.releases import releases as upstream_releases
from serving_factory.errors import FactoryError, UnknownNameError, UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import BrokenRuleError, NoSuchThingError, nearest
from serving_factory.matrix.variant import Platform, Variant, variant_of
from serving_factory.matrix.words import cuda_versions, is_range, own_release, release_tags

_FULL_TAG = re.compile(r"\d+\.\d+\.\d+")


def select(
    matrix: Matrix,
    *,
    targets: Sequence[str] = (),
    releases: Sequence[str] = (),
    variants: Sequence[str] = (),
    flavours: Sequence[str] = (),
    levels: Sequence[str] = (),
    platforms: Sequence[str] = (),
    cuda: Sequence[str] = (),
) -> tuple[Variant, ...]:
    """Choose variants. Names of one kind add up, kinds narrow each other down, and no names of a kind mean all of it.

    Releases and CUDA versions may be specifiers, releases also `latest-patches`; levels may have their short form.

    Raises:
        UsageError: a value that the option does not take.
        UnknownNameError: a name is not in the matrix, or no variant matches everything.
    """
    ids = {variant.id: variant for variant in matrix.variants}
    short = {level_facts(level).short: level.value for level in Level}
    levels = [short.get(name, name) for name in levels]
    _known("target", targets, matrix.targets)
    _not_dropped(variants, matrix)
    _known("variant", variants, ids)
    _known("flavour", flavours, tuple(Flavour), UsageError)
    _known("level", levels, tuple(Level), UsageError)
    _known("platform", platforms, tuple(Platform), UsageError)
    tags = _meant("release", releases, [variant.release_name for variant in matrix.variants], release_tags)
    cudas = _meant("CUDA version", cuda, [variant.cuda for variant in matrix.variants if variant.cuda], cuda_versions)
    in_targets = {id_ for name in targets for id_ in matrix.targets[name]} if targets else set(ids)
    chosen = tuple(
        variant
        for id_, variant in ids.items()
        if id_ in in_targets
        and (not variants or id_ in variants)
        and (not releases or variant.release_name in tags)
        and (not flavours or variant.flavour in flavours)
        and (not levels or variant.level in levels)
        and (not platforms or variant.platform in platforms)
        and (not cuda or variant.cuda in cudas)
    )
    if not chosen:
        names = ", ".join([*targets, *releases, *variants, *flavours, *levels, *platforms, *cuda])
        raise UnknownNameError(
            f"no variant of {matrix.file} matches all of: {names}",
            remedy="run `./factory list` to see which target selects which variant, and `./factory explain --dropped`",
        )
    return chosen


def _meant(
    kind: str, texts: Sequence[str], valid: Iterable[str], find: Callable[[str], frozenset[str]]
) -> frozenset[str]:
    """All that names and ranges mean."""
    names = [name for name in texts if not is_range(name)]
    valid = dict.fromkeys(valid)
    if kind == "release":
        _built(names, valid)
    _known(kind, names, valid)
    found = set(names)
    for text in filter(is_range, texts):
        try:
            found |= find(text)
        except BrokenRuleError as error:
            unread = not isinstance(error, NoSuchThingError)
            raise (UsageError if unread else UnknownNameError)(
                f"{kind} {text!r}: {error.rule}", remedy=str(error.remedy)
            ) from None
    return frozenset(found)


def _built(names: Sequence[str], valid: Collection[str]) -> None:
    """Of a full tag that the matrix lacks, say whether upstream has it."""
    for name in (name for name in names if name not in valid and _FULL_TAG.fullmatch(name)):
        if name in upstream_releases():
            raise UnknownNameError(
                f"release {name} is not in this matrix; it has: {', '.join(valid)}",
                remedy="add it to releases: of the matrix file, or use one of these",
            )
        other = closest_release(name, upstream_releases())
        raise UnknownNameError(
            f"no release is named {name!r}: {other.reason}",
            why=f"releases: {', '.join(valid)}",
            remedy=f"the nearest one is {other.tag}. {own_release(name, other.tag)} in releases: of the matrix file",
        )


def _not_dropped(ids: Sequence[str], matrix: Matrix) -> None:
    """Of a variant that was dropped, say why."""
    built = {variant.id for variant in matrix.variants} if ids else set()
    for dropped in matrix.dropped if ids else ():
        id_ = dropped.candidate.variant.id
        if id_ in ids and id_ not in built:
            raise UnknownNameError(
                f"{id_} is not built: {dropped.reasons[0].text}",
                why="\n".join(reason.text for reason in dropped.reasons[1:]),
                remedy="`./factory explain --dropped` shows which rule drops it",
            )


def _known(
    kind: str, names: Sequence[str], valid: Collection[str], error: type[FactoryError] = UnknownNameError
) -> None:
    hints = [
        f"no {kind} is named {name!r}{_unselected(name)}{_hint(name, valid)}" for name in names if name not in valid
    ]
    if hints:
        own = "; a branch, a nightly or a candidate gets a name of its own at releases: in the matrix file"
        remedy = f"name a {kind} of the list above{own if kind == 'release' else ''}"
        if listed := next((name.split(",") for name in names if "," in name), None):
            remedy = f"give the option once for each: {' '.join(f'--{kind} {word.strip()}' for word in listed)}"
        raise error("; ".join(hints), why=f"{kind}s: {', '.join(valid)}", remedy=remedy)


def _unselected(name: str) -> str:
    """Of a name that is a valid id, say what no target selects."""
    variant = variant_of(name)
    if variant is None:
        return ""
    these = "" if variant.id == name else " with these capabilities"
    return f": no target selects {variant.flavour} at level {variant.level} of release {variant.release}{these}"


def _hint(name: str, valid: Collection[str]) -> str:
    word = nearest(name, valid)
    return f"; did you mean {word!r}?" if word else ""
