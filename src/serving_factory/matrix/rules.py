"""The file's rules: `exclude` and `require`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serving_factory.matrix.model import Alias, Conditions, IndexTag, MatrixFile
from serving_factory.matrix.problems import WHOLE, Broken, DidYouMean, KeyPath, Problem
from serving_factory.matrix.schema import key_names
from serving_factory.matrix.variant import Candidate

_CONDITIONS = key_names(Conditions)
_KINDS = ("exclude", "require")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the file: what it is about, and which of that stay; `only` is None where none stays."""

    path: KeyPath
    reason: str
    where: Conditions
    only: Conditions | None = None

    def concerns(self, candidate: Candidate) -> bool:
        """Whether it is about this candidate."""
        return self.where.met_by(candidate)

    def drops(self, candidate: Candidate) -> bool:
        """Whether it removes this candidate."""
        return self.concerns(candidate) and (self.only is None or not self.only.met_by(candidate))


@dataclass(frozen=True, slots=True)
class FileRules:
    """The rules that can be read; the doubtful others, as rules about all that they may be about; what is wrong."""

    whole: tuple[Rule, ...]
    doubtful: tuple[Rule, ...]
    findings: tuple[Problem, ...]


def file_rules(model: MatrixFile, broken: Broken = WHOLE) -> FileRules:
    """Make the rules of a file: first those that exclude, then those that require."""
    findings = tuple(_findings(model, broken))
    broken = broken.and_at(finding.path for finding in findings)
    whole: list[Rule] = []
    doubtful: list[Rule] = []
    for rule in _rules(model, broken):
        unsure = broken.around(*rule.path) or broken.inside(*rule.path) - {"reason"}
        (doubtful if unsure else whole).append(rule)
    unread = [kind for kind in _KINDS if broken.around(kind)]
    doubtful += [Rule(path=(kind, 0), reason="", where=Conditions()) for kind in unread]
    return FileRules(tuple(whole), tuple(doubtful), findings)


def _rules(model: MatrixFile, broken: Broken) -> Iterator[Rule]:
    for index, exclude in enumerate(model.exclude):
        path: KeyPath = ("exclude", index)
        yield Rule(path=path, reason=exclude.reason, where=_readable(exclude, path, broken))
    for index, require in enumerate(model.require):
        path = ("require", index)
        # Which variants stay is unknown where `only` is broken: then none may.
        only = None if broken.at(*path, "only") else require.only
        where = _readable(require.where, (*path, "where"), broken)
        yield Rule(path=path, reason=require.reason, where=where, only=only)


def _readable(conditions: Conditions, path: KeyPath, broken: Broken) -> Conditions:
    """The conditions that can be read; without the others they are met by more."""
    return replace(conditions, **{name: None for name in _CONDITIONS if broken.at(*path, name)})


def _findings(model: MatrixFile, broken: Broken) -> Iterator[Problem]:
    """Find rules without conditions, and those about a target that does not exist."""
    for path, section in _sections(model):
        given = [name for name in _CONDITIONS if getattr(section, name) is not None]
        # `where` without conditions is about all variants: nothing is wrong with it.
        if not given and path[-1] != "where" and not broken.around(*path) and not broken.inside(*path) - {"reason"}:
            yield Problem(path=path, rule="there is no condition here", remedy=f"Add one of {', '.join(_CONDITIONS)}.")
        for index, name in enumerate(section.targets or ()):
            if name and name not in model.targets and not broken.around("targets"):
                listed = f"Targets: {', '.join(model.targets)}."
                remedy = DidYouMean(name, model.targets, listed)
                yield Problem(path=(*path, "targets", index), rule="there is no such target", remedy=remedy)


def _sections(model: MatrixFile) -> Iterator[tuple[KeyPath, Conditions]]:
    for index, alias in enumerate(model.image.aliases):
        if isinstance(alias, Alias):  # a text that breaks its rule is none
            yield ("image", "aliases", index, "where"), alias.where
    for index, one in enumerate(model.image.indexes):
        if isinstance(one, IndexTag):
            yield ("image", "indexes", index, "where"), one.where
    for index, exclude in enumerate(model.exclude):
        yield ("exclude", index), exclude
    for index, require in enumerate(model.require):
        yield ("require", index, "where"), require.where
        yield ("require", index, "only"), require.only
