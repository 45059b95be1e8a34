"""From selections and rules to variants. Pure: every candidate is either kept, or dropped with all its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from serving_factory.catalogue.cuda import cudas, notation, why_not, why_not_compiler
from serving_factory.catalogue.facts import FlavourFacts, Release
from serving_factory.catalogue.fixes import BadPair, known_bad
from serving_factory.catalogue.levels import flag_sets
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.problems import KeyPath, Problem
from serving_factory.matrix.rules import Rule
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import Candidate, Variant

CompilerOf = Callable[[str, FlavourFacts], str]
"""Gives the compiler of a flavour of a release, name and version; empty where it is unknown."""

MAX_CANDIDATES = 10_000
"""How many variants all targets together may select; every release by flavour by level is 1,314."""
MAX_CHECKS = 1_000_000
"""Selected variants times rules: that many checks take about a second."""
_MAX_REASONS = 3
"""How many reasons are enough to see why a target is empty."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a candidate is dropped, without a full stop; and the rule that says so, None where the catalogue does."""

    text: str
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that is not built, and its reasons: first the catalogue's, then those of rules in their order."""

    candidate: Candidate
    reasons: tuple[Reason, ...]


@dataclass(slots=True)
class Expansion:
    """The result of all selections.

    Args:
        kept: what is built, in the order of targets; within one, in the order of variants.
        dropped: what is not, likewise.
        mistakes: what is selected by name and does not exist.
        consequences: results of targets and rules that cannot be intended: only certain where all releases are known.
    """

    kept: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    mistakes: list[Problem] = field(default_factory=list)
    consequences: list[Problem] = field(default_factory=list)


@dataclass(slots=True)
class _Uses:
    """What a rule did: whether it was about anything, whether it let anything pass, which targets it emptied."""

    concerned: bool = False
    spared: bool = False
    emptied: list[str] = field(default_factory=list)


def expand(
    selections: Iterable[Selection],
    rules: Sequence[Rule],
    compiler_of: CompilerOf,
    *,
    unread: frozenset[str] = frozenset(),
) -> Expansion:
    """Expand selections to variants; the order of the rules decides nothing but the order of reasons.

    A rule that may be about an unread target, one without a selection, may match something.
    """
    expansion = Expansion()
    uses = {rule.path: _Uses() for rule in rules}
    for selection in selections:
        _take(selection, rules, compiler_of, uses, expansion)
    for rule in rules:
        expansion.consequences += _about_rule(rule, uses[rule.path], unread)
    return expansion


def too_many(selections: Sequence[Selection], rules: Sequence[Rule]) -> Problem | None:
    """Find a file that selects more than anyone would build: expanding it would take long."""
    selected = sum((len(one.releases) + len(one.own)) * len(one.levels) * len(one.platforms) for one in selections)
    if selected > MAX_CANDIDATES:
        rule = f"the targets select {selected:,} variants, and one file may select {MAX_CANDIDATES:,} at most"
    elif selected * len(rules) > MAX_CHECKS:
        rule = f"{len(rules):,} rules for {selected:,} variants are more than {MAX_CHECKS:,} checks"
    else:
        return None
    return Problem(path=("targets",), rule=rule, remedy="Narrow releases or targets, or write several files.")


def uncertain_pairs(variant: Variant, compiler: str) -> tuple[BadPair, ...]:
    """Find what was reported of a variant's branch without naming the release: such a variant is built."""
    return tuple(pair for pair in _bad_pairs(variant, compiler) if not pair.certain)


def _take(
    selection: Selection,
    rules: Sequence[Rule],
    compiler_of: CompilerOf,
    uses: Mapping[KeyPath, _Uses],
    expansion: Expansion,
) -> None:
    refusals: dict[Candidate, list[Reason]] = {}
    mistakes: list[Problem] = []
    for tag, release in releases().items():
        own = [one.name for one in selection.own.values() if one.like == tag]
        for name in ([""] if tag in selection.releases else []) + own:
            for candidate, reason in _candidates(selection, release, compiler_of, name):
                refusals[candidate] = [reason] if reason else []
        if own or tag in selection.named:
            mistakes += _mistakes(selection, release)
    candidates = sorted(refusals, key=lambda candidate: candidate.variant.order)
    explained = bool(mistakes)
    for rule in (rule for rule in rules if rule.where.may_concern(selection.target, selection.flavour)):
        concerned = [candidate for candidate in candidates if rule.concerns(candidate)]
        out = concerned if rule.only is None else [one for one in concerned if not rule.only.met_by(one)]
        uses[rule.path].concerned |= bool(concerned)
        uses[rule.path].spared |= len(out) < len(concerned)
        if out and len(out) == len(candidates):
            uses[rule.path].emptied.append(selection.target)
            explained = True
        for candidate in out:
            refusals[candidate].append(Reason(rule.reason, rule))
    kept = [candidate for candidate in candidates if not refusals[candidate]]
    expansion.kept += kept
    expansion.dropped += [Dropped(one, tuple(refusals[one])) for one in candidates if refusals[one]]
    expansion.mistakes += mistakes
    if not kept and not explained:
        expansion.consequences.append(_nothing(selection, refusals))


def _about_rule(rule: Rule, uses: _Uses, unread: frozenset[str]) -> Iterator[Problem]:
    unsure = unread if rule.where.targets is None else unread.intersection(rule.where.targets)
    if uses.emptied:
        text = f"this rule drops every variant of target {' and '.join(uses.emptied)}"
        yield Problem(path=rule.path, rule=text, remedy="Narrow its conditions, or remove the target.")
    elif unsure:
        return
    elif not uses.concerned:
        path = rule.path if rule.only is None else (*rule.path, "where")
        text = "no selected variant meets all of these conditions"
        yield Problem(path=path, rule=text, remedy="Loosen one, or remove the rule.")
    elif rule.only is not None and not uses.spared:
        text = "no variant that `where` matches meets these conditions: the rule drops them all"
        yield Problem(path=(*rule.path, "only"), rule=text, remedy="Loosen one, or write an exclude rule.")


def _candidates(
    selection: Selection, release: Release, compiler_of: CompilerOf, own_name: str
) -> Iterator[tuple[Candidate, Reason | None]]:
    """Each variant that a target selects of a release, or of what is like it, and why the catalogue refuses it."""
    facts = release.flavours.get(selection.flavour)
    gpu = facts.gpu if facts else None
    capabilities = gpu.capabilities if gpu else ()
    if gpu and selection.capabilities is not None:
        meaning = notation(release.version)
        own = meaning.spell(selection.capabilities)
        capabilities = capabilities if meaning.read(own) == meaning.read(capabilities) else own
    compiler = compiler_of(release.tag, facts) if facts else ""
    refusal = next((rule for _, rule, _ in _refusals(selection, release)), "")
    if not refusal and gpu and gpu.config == "cuda":  # where clang compiles CUDA, there is no nvcc
        refusal = why_not_compiler(compiler, cudas()[gpu.cuda])
    for platform in selection.platforms:
        for level in selection.levels:
            flag_set = selection.flag_set  # for one level alone
            variant = Variant(
                release=release.tag,
                flavour=selection.flavour,
                level=level,
                platform=platform,
                copts=selection.copts,
                flag_set=flag_set if flag_set and flag_sets()[flag_set].level is level else None,
                cuda=gpu.cuda if gpu else None,
                capabilities=capabilities,
                own_release=own_name,
            )
            bad = None if refusal else next((p for p in _bad_pairs(variant, compiler) if p.certain), None)
            against = f"it does not compile: {bad.reason} ({bad.references[0]})" if bad else refusal
            yield Candidate(selection.target, variant), Reason(against) if against else None


def _refusals(selection: Selection, release: Release) -> Iterator[tuple[str, str, str]]:
    """What of a target a release cannot give: the name of the value, the rule, a remedy."""
    facts = release.flavours.get(selection.flavour)
    if facts is None:
        has = ", ".join(release.flavours)
        yield "flavour", f"release {release.tag} has no flavour {selection.flavour}", f"It has: {has}."
        return
    if facts.gpu is None:
        return
    cuda = facts.gpu.cuda
    if selection.cuda not in {None, cuda}:
        yield "cuda", f"release {release.tag} is built with CUDA {cuda} alone", f"Write {cuda!r}, or remove it."
        return
    words = selection.capabilities or ()
    if wrong := why_not(words, cudas()[cuda]) or notation(release.version).why_not(words):
        yield "capabilities", f"release {release.tag}: {wrong}", "Remove it, or select other releases."


def _mistakes(selection: Selection, release: Release) -> Iterator[Problem]:
    """What is selected by a release's full tag, and does not exist."""
    for name, rule, remedy in _refusals(selection, release):
        yield Problem(path=selection.origins[name], rule=rule, remedy=remedy)


def _nothing(selection: Selection, refusals: Mapping[Candidate, Sequence[Reason]]) -> Problem:
    """A target that is empty, with the first reasons for it."""
    reasons = list(dict.fromkeys(reason.text for reasons in refusals.values() for reason in reasons))
    more = f"; and {len(reasons) - _MAX_REASONS} more" if len(reasons) > _MAX_REASONS else ""
    rule = f"this target selects nothing: {'; '.join(reasons[:_MAX_REASONS])}{more}"
    return Problem(path=("targets", selection.target), rule=rule, remedy="Select other releases or levels.")


def _bad_pairs(variant: Variant, compiler: str) -> tuple[BadPair, ...]:
    return known_bad(variant.release, variant.flavour, variant.level, compiler)
