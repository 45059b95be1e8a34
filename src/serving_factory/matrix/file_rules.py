"""From the file's rule sections to rules: names and ranges become the sets of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from serving_factory.matrix.model import ConditionsSection, MatrixFile
from serving_factory.matrix.problems import Finding, KeyPath, did_you_mean
from serving_factory.matrix.rules import Conditions, Rule, RuleKind
from serving_factory.matrix.selectors import cuda_versions, release_tags
from serving_factory.matrix.shapes import key_names

__all__ = ["rule_findings", "rules_of"]


def rules_of(model: MatrixFile) -> tuple[Rule, ...]:
    """Make the rules of a file: those that exclude, then those that require."""
    excludes = (
        Rule(kind=RuleKind.EXCLUDE, index=index, reason=section.reason, where=_conditions(section))
        for index, section in enumerate(model.exclude)
    )
    requires = (
        Rule(
            kind=RuleKind.REQUIRE,
            index=index,
            reason=section.reason,
            where=_conditions(section.where),
            only=_conditions(section.only),
        )
        for index, section in enumerate(model.require)
    )
    return (*excludes, *requires)


def rule_findings(model: MatrixFile) -> Iterator[Finding]:
    """Tell of rules that look at nothing, and of those that name a target that there is not."""
    for path, section in _sections(model):
        given = [name for name in _CONDITIONS if getattr(section, name) is not None]
        # A `where` without conditions is about all variants: nothing is wrong with it.
        if not given and path[-1] != "where":
            yield Finding(path=path, rule="there is no condition here", remedy=f"Give one of {', '.join(_CONDITIONS)}.")
        for index, name in enumerate(section.targets or ()):
            if name not in model.targets:
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


def _conditions(section: ConditionsSection) -> Conditions:
    return Conditions(
        targets=_set(section.targets),
        releases=None if section.releases is None else release_tags(section.releases),
        flavours=_set(section.flavours),
        levels=_set(section.levels),
        platforms=_set(section.platforms),
        cuda=None if section.cuda is None else cuda_versions(section.cuda),
    )


def _set(values: Iterable[_T] | None) -> frozenset[_T] | None:
    return None if values is None else frozenset(values)
