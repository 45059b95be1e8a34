"""A variant: one cell of the matrix, as a frozen value with a readable id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.cuda import Capability, cards, cudas, why_not
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, Level, flag_sets, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.problems import BrokenRuleError, did_you_mean

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


class Platform(StrEnum):
    """An OCI platform."""

    LINUX_AMD64 = "linux/amd64"
    LINUX_ARM64 = "linux/arm64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Release by flavour by level by platform (by cuda and capabilities).

    Args:
        release: upstream's full tag.
        flavour: what the server computes with.
        level: the CPU instruction level.
        platform: the OCI platform.
        copts: compiler options beside the level's.
        flag_set: a named set of compiler options that takes the place of the level's; None for the level's own.
        cuda: CUDA's version, of a gpu variant.
        capabilities: the compute capabilities that a gpu variant carries machine code for.
    """

    release: str
    flavour: Flavour
    level: Level
    platform: Platform = Platform.LINUX_AMD64
    copts: tuple[str, ...] = ()
    flag_set: str | None = None
    cuda: str | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The readable name, such as `2.19.1-cpu-v3` or `2.19.1-gpu-cuda12.2-v3`.

        Capabilities are named where they are not those of upstream: `2.19.1-gpu-cuda12.2-sm80-90-v3`. Two variants of
        one matrix never share an id: compiler options are no part of it, and must be the same where all else is.
        """
        name = f"{self.release}-{self.flavour}"
        if self.cuda:
            name += f"-cuda{self.cuda}"
        if self.capabilities and self.capabilities != upstreams_capabilities(self.release):
            name += f"-{in_id(self.capabilities)}"
        name += f"-{level_facts(self.level).short}"
        return name if self.platform is Platform.LINUX_AMD64 else f"{name}-{self.platform.rpartition('/')[2]}"

    @property
    def all_copts(self) -> tuple[str, ...]:
        """The compiler options of the target configuration: the level's (or the set's), then the variant's own."""
        basic = flag_sets()[self.flag_set].copts if self.flag_set else level_facts(self.level).copts
        return basic + self.copts

    @property
    def order(self) -> tuple[Version, str, int, str]:
        """Sorts variants: newest release last, then flavour, then the lowest level first."""
        rank = LEVELS.index(self.level) if self.level in LEVELS else len(LEVELS)
        return (_version(self.release), str(self.flavour), rank, self.id)


def levels_of(platform: Platform) -> tuple[Level, ...]:
    """Give the levels of a platform; this machine's own, `native`, is one of any."""
    return (*LEVELS, Level.NATIVE) if platform is Platform.LINUX_AMD64 else (Level.NATIVE,)


def parse_id(text: str) -> Variant | None:
    """Read an id: the variant of that id without compiler options of its own; None where no variant has this id."""
    found = _id_pattern().fullmatch(text)
    release = releases().get(found["release"]) if found else None
    facts = release.flavours.get(Flavour(found["flavour"])) if found and release else None
    if found is None or facts is None or found["cuda"] != (facts.gpu.cuda if facts.gpu else None):
        return None
    upstreams = facts.gpu.capabilities if facts.gpu else ()
    variant = Variant(
        release=found["release"],
        flavour=Flavour(found["flavour"]),
        level=next(level for level in Level if level_facts(level).short == found["level"]),
        platform=Platform(f"linux/{found['platform'] or 'amd64'}"),
        cuda=found["cuda"],
        capabilities=capability_words(from_id(found["capabilities"])) if found["capabilities"] else upstreams,
    )
    possible = (
        variant.level in levels_of(variant.platform)
        and variant.id == text
        and not (facts.gpu and why_not(variant.capabilities, cudas()[facts.gpu.cuda]))
    )
    return variant if possible else None


@cache
def _id_pattern() -> re.Pattern[str]:
    levels = "|".join(level_facts(level).short for level in Level)
    return re.compile(
        rf"(?P<release>\d+\.\d+\.\d+)-(?P<flavour>{'|'.join(Flavour)})"
        r"(?:-cuda(?P<cuda>\d+\.\d+)(?:-(?P<capabilities>sm\d+x?(?:-\d+x?)*))?)?"
        rf"-(?P<level>{levels})(?:-(?P<platform>arm64))?"
    )


@cache
def _version(release: str) -> Version:
    return Version(release)
