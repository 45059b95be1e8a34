"""Compute capabilities as a matrix names them: by card, or in TensorFlow's notation; and as ids carry them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from serving_factory.catalogue.cuda import Capability, cards, cudas
from serving_factory.catalogue.releases import Flavour, releases
from serving_factory.matrix.problems import BrokenRuleError, did_you_mean

__all__ = ["capability_words", "check_capability", "from_id", "in_id", "upstreams_capabilities"]

_IN_ID = re.compile(r"(\d+)(\d)(x?)")


def check_capability(word: str) -> str:
    """Pass a card's name, or a capability that some CUDA compiles.

    Raises:
        BrokenRuleError: it is neither.
    """
    known = cards()
    if word in known:
        return word
    try:
        number = Capability.parse(word).number
    except ValueError:
        listed = f"Cards: {', '.join(known)}."
        rule = "this is no card and no capability (7.5, sm_75 or compute_75)"
        raise BrokenRuleError(rule, did_you_mean(word, known, otherwise=listed)) from None
    if number not in _architectures():
        raise BrokenRuleError("no CUDA compiles this capability", f"There are {', '.join(_architectures())}.")
    return word


@cache
def _architectures() -> tuple[str, ...]:
    """What some CUDA compiles machine code for, lowest first."""
    found = {one for cuda in cudas().values() for one in cuda.architectures}
    found.update(one for card in cards().values() for one in card.capabilities)
    return tuple(sorted(found, key=Capability.parse))


def capability_words(words: Iterable[str]) -> tuple[str, ...]:
    """Write out the cards among some words: each capability once, lowest first, in TensorFlow's shortest notation.

    Args:
        words: what `check_capability` has passed.

    Returns:
        `8.0` where there is machine code and PTX, `sm_80` where there is machine code alone.
    """
    found: dict[str, Capability] = {}
    for word in words:
        for text in cards()[word].capabilities if word in cards() else (word,):
            one = Capability.parse(text)
            other = found.get(one.number, one)
            found[one.number] = Capability(one.major, one.minor, ptx=one.ptx or other.ptx)
    return tuple(_spelled(one) for one in sorted(found.values()))


@cache
def upstreams_capabilities(release: str) -> tuple[str, ...]:
    """Give the capabilities that upstream names for a release, in its own words; none where it names none."""
    known = releases().get(release)
    facts = known.flavours.get(Flavour.GPU) if known else None
    return facts.gpu.capabilities if facts and facts.gpu else ()


def in_id(capabilities: Iterable[str]) -> str:
    """Spell capabilities for an id: `sm80-90x`; the x says machine code alone, no PTX."""
    found = sorted(Capability.parse(text) for text in capabilities)
    return "sm" + "-".join(f"{one.major}{one.minor}{'' if one.ptx else 'x'}" for one in found)


def from_id(text: str) -> tuple[str, ...]:
    """Read what `in_id` wrote."""
    found = _IN_ID.findall(text.removeprefix("sm"))
    return tuple(_spelled(Capability(int(major), int(minor), ptx=not alone)) for major, minor, alone in found)


def _spelled(one: Capability) -> str:
    return one.number if one.ptx else f"sm_{one.major}{one.minor}"
