"""The matrix file's rules: what they match, and what they take out. Values and pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour
from serving_factory.matrix.problems import KeyPath
from serving_factory.matrix.variant import Platform, Variant

__all__ = ["Candidate", "Conditions", "Rule", "RuleKind"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant as one target asks for it. Rules look at both: what they take out of a target may stay in another."""

    target: str
    variant: Variant


class RuleKind(StrEnum):
    """What a rule does, by the key that it stands under."""

    EXCLUDE = "exclude"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a rule looks at. A candidate must meet all of them; one that is None is met by any.

    Args:
        targets: names of targets.
        releases: full tags.
        flavours: flavours.
        levels: levels.
        platforms: platforms.
        cuda: CUDA versions; a variant without CUDA has none of them.
    """

    targets: frozenset[str] | None = None
    releases: frozenset[str] | None = None
    flavours: frozenset[Flavour] | None = None
    levels: frozenset[Level] | None = None
    platforms: frozenset[Platform] | None = None
    cuda: frozenset[str] | None = None

    def may_concern(self, target: str, flavour: Flavour) -> bool:
        """Whether a candidate of such a target and flavour may meet them."""
        return (self.targets is None or target in self.targets) and (self.flavours is None or flavour in self.flavours)

    def met_by(self, candidate: Candidate) -> bool:
        """Whether a candidate meets all of them."""
        variant = candidate.variant
        return (
            (self.targets is None or candidate.target in self.targets)
            and (self.releases is None or variant.release in self.releases)
            and (self.flavours is None or variant.flavour in self.flavours)
            and (self.levels is None or variant.level in self.levels)
            and (self.platforms is None or variant.platform in self.platforms)
            and (self.cuda is None or variant.cuda in self.cuda)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the file.

    Args:
        kind: what it does.
        index: its place among the rules of its kind, from 0.
        reason: why, as the user wrote it.
        where: the candidates that it is about.
        only: of a require rule, those of them that stay; None of an exclude rule: none stays.
    """

    kind: RuleKind
    index: int
    reason: str
    where: Conditions
    only: Conditions | None = None

    @property
    def path(self) -> KeyPath:
        """Where it stands in the file."""
        return (self.kind.value, self.index)

    def concerns(self, candidate: Candidate) -> bool:
        """Whether it is about this candidate."""
        return self.where.met_by(candidate)

    def drops(self, candidate: Candidate) -> bool:
        """Whether it takes this candidate out."""
        return self.concerns(candidate) and (self.only is None or not self.only.met_by(candidate))
