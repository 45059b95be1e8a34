"""The matrix as the line uses it: a frozen value, checked against the catalogue and expanded to variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.matrix.document import Document
from serving_factory.matrix.expand import Dropped
from serving_factory.matrix.lockfile import Lock
from serving_factory.matrix.rules import Rule
from serving_factory.matrix.settings import AllSettings, Network, Settings
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import Variant

__all__ = ["Images", "Matrix", "Resources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How images are named: the repository, and templates of full tags and of moving aliases."""

    repository: str
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one build may use of the machine; None where the file says nothing.

    Args:
        jobs: how many compilers run at once.
        memory: main memory, as the file spells it: `16GiB`.
        cache: what Bazel's caches may take after a build, spelled likewise.
    """

    jobs: int | None
    memory: str | None
    cache: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What this factory builds.

    Args:
        file: the matrix file.
        images: how images are named.
        variants: every variant of every target, each once, in order.
        targets: target name → its variants' ids, in order.
        settings: what replaces the catalogue's toolchain and sources, by release.
        network: where outer inputs come from on this network.
        lock: what is pinned, of the lock file beside the matrix file.
        resources: what one build may use.
        dropped: what targets ask for and is not built, with the reasons.
        selections: the targets as they were read.
        rules: the file's rules.
        document: the file, to tell where a value comes from.
    """

    file: Path
    images: Images
    variants: tuple[Variant, ...]
    targets: Mapping[str, tuple[str, ...]]
    settings: AllSettings
    network: Network
    lock: Lock
    resources: Resources
    dropped: tuple[Dropped, ...]
    selections: tuple[Selection, ...]
    rules: tuple[Rule, ...]
    document: Document

    def targets_of(self, variant: Variant) -> tuple[str, ...]:
        """Name the targets that select this variant."""
        return tuple(name for name, ids in self.targets.items() if variant.id in ids)

    def settings_of(self, release: str) -> Settings:
        """What the matrix says of how a release is built."""
        return self.settings.of(release)
