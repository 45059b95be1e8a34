"""A variant: one cell of the matrix, as a frozen value with a readable id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.cuda import cudas, why_not
from serving_factory.catalogue.flag_sets import flag_sets
from serving_factory.catalogue.levels import LEVELS, Level, level_facts
from serving_factory.catalogue.releases import Flavour, releases
from serving_factory.matrix.capabilities import capability_words, from_id, in_id, upstreams_capabilities

__all__ = ["Platform", "Variant", "levels_of", "parse_id"]


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
