"""What changed between two runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving_factory.line.history.rows import VariantRow

__all__ = ["Change", "changes"]

_COMPARED = ("status", "binary", "binary_size", "image", "image_size", "toolchain", "error")
_NOTABLE = 0.1  # part of the longer time by which two times must differ to be told
_LEAST = 1.0  # seconds: below, a difference is noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing about one variant that two runs do not agree in.

    Args:
        variant: the variant's id.
        what: `variant` where only one of the runs has it; else the name of a member of `VariantRow`.
        before: what it was in the first run; None where it was not there.
        after: what it was in the second.
    """

    variant: str
    what: str
    before: str | float | None
    after: str | float | None


def changes(before: Sequence[VariantRow], after: Sequence[VariantRow]) -> tuple[Change, ...]:
    """Compare two runs, variant by variant, in the order of the second.

    Times count as changed where both runs worked on the variant, and they differ by more than 10 % and a second.
    """
    old, new = ({row.variant: row for row in rows} for rows in (before, after))
    found: list[Change] = []
    for variant in dict.fromkeys([*new, *old]):
        first, second = old.get(variant), new.get(variant)
        if first is None or second is None:
            there = [row.status if row else None for row in (first, second)]
            found.append(Change(variant=variant, what="variant", before=there[0], after=there[1]))
            continue
        pairs = {name: (getattr(first, name), getattr(second, name)) for name in _COMPARED}
        if _slower_or_faster(first, second):
            pairs["seconds"] = (first.seconds, second.seconds)
        found += [
            Change(variant=variant, what=name, before=one, after=other)
            for name, (one, other) in pairs.items()
            if one != other
        ]
    return tuple(found)


def _slower_or_faster(first: VariantRow, second: VariantRow) -> bool:
    if {first.status, second.status} != {"built"}:
        return False
    difference = abs(first.seconds - second.seconds)
    return difference > max(_LEAST, _NOTABLE * max(first.seconds, second.seconds))
