"""A variant: one cell of the matrix, as a frozen value with a readable id."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from packaging.version import Version

from serving_factory.catalogue.levels import LEVELS, Level, level_facts
from serving_factory.catalogue.releases import Flavour

__all__ = ["Platform", "Variant"]


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
        cuda: CUDA's version, of a gpu variant.
        capabilities: the compute capabilities that a gpu variant carries machine code for.
    """

    release: str
    flavour: Flavour
    level: Level
    platform: Platform = Platform.LINUX_AMD64
    copts: tuple[str, ...] = ()
    cuda: str | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The readable name, such as `2.19.1-cpu-v3` or `2.19.1-gpu-cuda12.2-v3`."""
        flavour = f"{self.flavour}-cuda{self.cuda}" if self.cuda else str(self.flavour)
        suffix = "" if self.platform is Platform.LINUX_AMD64 else f"-{self.platform.rpartition('/')[2]}"
        return f"{self.release}-{flavour}-{level_facts(self.level).short}{suffix}"

    @property
    def all_copts(self) -> tuple[str, ...]:
        """The compiler options of the target configuration: the level's, then the variant's own."""
        return level_facts(self.level).copts + self.copts

    @property
    def order(self) -> tuple[Version, str, int, str]:
        """Sorts variants: newest release last, then flavour, then the lowest level first."""
        rank = LEVELS.index(self.level) if self.level in LEVELS else len(LEVELS)
        return (Version(self.release), str(self.flavour), rank, self.id)
