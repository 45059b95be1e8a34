"""From the file's rule sections to rules: names and ranges become the sets of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.matrix.model import ConditionsSection, MatrixFile
from serving_factory.matrix.problems import WHOLE, Broken, Finding, KeyPath, did_you_mean
from serving_factory.matrix.schema import key_names
from serving_factory.matrix.selectors import cuda_versions, release_tags
from serving_factory.matrix.variant import Platform, Variant


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


@dataclass(frozen=True, slots=True)
class FileRules:
    """The rules of a file.

    Args:
        whole: those that can be read: first those that exclude, then those that require.
        doubtful: the others, as rules that are about all that they may be about.
        findings: what is wrong with the others.
    """

    whole: tuple[Rule, ...]
    doubtful: tuple[Rule, ...]
    findings: tuple[Finding, ...]


def file_rules(model: MatrixFile, broken: Broken = WHOLE) -> FileRules:
    """Make the rules of a file.

    Args:
        model: the file.
        broken: where it is not whole: about that nothing is told.
    """
    findings = tuple(_findings(model, broken))
    broken = broken.and_at(finding.path for finding in findings)
    whole: list[Rule] = []
    doubtful: list[Rule] = []
    for rule in _rules(model, broken):
        unsure = broken.around(*rule.path) or broken.inside(*rule.path) - {"reason"}
        (doubtful if unsure else whole).append(rule)
    unread = [kind for kind in RuleKind if broken.around(kind.value)]
    doubtful += [Rule(kind=kind, index=0, reason="", where=Conditions()) for kind in unread]
    return FileRules(tuple(whole), tuple(doubtful), findings)


def _rules(model: MatrixFile, broken: Broken) -> Iterator[Rule]:
    for index, section in enumerate(model.exclude):
        where = _conditions(section, ("exclude", index), broken)
        yield Rule(kind=RuleKind.EXCLUDE, index=index, reason=section.reason, where=where)
    for index, must in enumerate(model.require):
        path = ("require", index)
        where, only = (
            _conditions(section, (*path, name), broken)
            for name, section in (("where", must.where), ("only", must.only))
        )
        # What stays cannot be told: then nothing may.
        stays = None if broken.at(*path, "only") else only
        yield Rule(kind=RuleKind.REQUIRE, index=index, reason=must.reason, where=where, only=stays)


def _findings(model: MatrixFile, broken: Broken) -> Iterator[Finding]:
    """Say of rules that look at nothing, and of those that name a target that there is not."""
    for path, section in _sections(model):
        given = [name for name in _CONDITIONS if getattr(section, name) is not None]
        # A `where` without conditions is about all variants: nothing is wrong with it.
        if not given and path[-1] != "where" and not broken.around(*path) and not broken.inside(*path) - {"reason"}:
            yield Finding(path=path, rule="there is no condition here", remedy=f"Give one of {', '.join(_CONDITIONS)}.")
        for index, name in enumerate(section.targets or ()):
            if name and name not in model.targets and not broken.around("targets"):
                listed = f"Targets: {', '.join(model.targets)}."
                remedy = did_you_mean(name, model.targets, otherwise=listed)
                yield Finding(path=(*path, "targets", index), rule="there is no such target", remedy=remedy)


_T = TypeVar("_T")
_CONDITIONS = key_names(ConditionsSection)


def _sections(model: MatrixFile) -> Iterator[tuple[KeyPath, ConditionsSection]]:
    for index, exclude in enumerate(model.exclude):
        yield ("exclude", index), exclude
    for index, require in enumerate(model.require):
        yield ("require", index, "where"), require.where
        yield ("require", index, "only"), require.only


def _conditions(section: ConditionsSection, path: KeyPath, broken: Broken) -> Conditions:
    """What is whole of some conditions: without the others they are met by more."""

    def whole(name: str) -> bool:
        return getattr(section, name) is not None and not broken.at(*path, name)

    return Conditions(
        targets=_set(section.targets) if whole("targets") else None,
        releases=release_tags(section.releases or "") if whole("releases") else None,
        flavours=_set(section.flavours) if whole("flavours") else None,
        levels=_set(section.levels) if whole("levels") else None,
        platforms=_set(section.platforms) if whole("platforms") else None,
        cuda=cuda_versions(section.cuda or "") if whole("cuda") else None,
    )


def _set(values: Iterable[_T] | None) -> frozenset[_T]:
    return frozenset(values or ())
