"""Choosing variants by what a user types: target, release or id, each with a did-you-mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from serving_factory.errors import UnknownNameError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import nearest
from serving_factory.matrix.variant import Variant

__all__ = ["select"]


def select(
    matrix: Matrix, *, targets: Sequence[str] = (), releases: Sequence[str] = (), variants: Sequence[str] = ()
) -> tuple[Variant, ...]:
    """Choose the variants that are in any of the targets, of the releases and of the ids; all when none is given.

    Raises:
        UnknownNameError: a name is not in the matrix, or no variant fits all that was asked.
    """
    ids = {variant.id: variant for variant in matrix.variants}
    _known("target", targets, matrix.targets)
    _known("release", releases, dict.fromkeys(variant.release for variant in matrix.variants))
    _known("variant", variants, ids)
    in_targets = {id_ for name in targets for id_ in matrix.targets[name]} if targets else set(ids)
    chosen = tuple(
        variant
        for variant in matrix.variants
        if variant.id in in_targets
        and (not releases or variant.release in releases)
        and (not variants or variant.id in variants)
    )
    if not chosen:
        raise UnknownNameError(
            f"no variant of {matrix.file} is in all of what was asked: {', '.join([*targets, *releases, *variants])}",
            remedy="run `invoke list` to see which target selects which variant",
        )
    return chosen


def _known(kind: str, asked: Sequence[str], valid: Collection[str]) -> None:
    unknown = [name for name in asked if name not in valid]
    if not unknown:
        return
    hints = [f"no {kind} is named {name!r}{_hint(name, valid)}" for name in unknown]
    raise UnknownNameError(
        "; ".join(hints), why=f"{kind}s: {', '.join(valid)}", remedy=f"name a {kind} of the list above"
    )


def _hint(name: str, valid: Collection[str]) -> str:
    word = nearest(name, valid)
    return f"; did you mean {word!r}?" if word else ""
