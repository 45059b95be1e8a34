"""From selections and rules to variants. Pure: every candidate is either kept, or dropped with all its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from serving_factory.catalogue.cuda import cudas, why_not, why_not_compiler
from serving_factory.catalogue.facts import FlavourFacts, GpuFacts, Release
from serving_factory.catalogue.fixes import BadPair, known_bad
from serving_factory.catalogue.levels import Level, flag_sets
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.problems import Finding, KeyPath
from serving_factory.matrix.rules import Candidate, Rule
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import Variant, capability_words

CompilerOf = Callable[[str, FlavourFacts], str]
"""Which compiler builds a flavour of a release, name and version; empty where nobody knows."""


MAX_CANDIDATES = 10_000
"""How many variants all targets together may ask for; every release by flavour by level is 1,314."""
MAX_CHECKS = 1_000_000
"""Variants that are asked for, by rules: looking at so many takes about a second."""
_TOLD = 3
"""How many reasons are enough to see why a target is empty."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a candidate is dropped, without a full stop; and the rule that says so, None where the catalogue does."""

    text: str
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that is not built, and all that speaks against it: first the catalogue, then rules in their order."""

    candidate: Candidate
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What came of all selections.

    Args:
        kept: what is built, in the order of targets; within one, in the order of variants.
        dropped: what is not, likewise.
        mistakes: what is asked for by name and cannot be had.
        consequences: what targets and rules come to that nobody can have meant: only where all releases are known.
    """

    kept: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...]
    mistakes: tuple[Finding, ...]
    consequences: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the user ought to have written otherwise."""
        return (*self.mistakes, *self.consequences)


NOTHING = Expansion(kept=(), dropped=(), mistakes=(), consequences=())
"""What comes of no selection."""


def expand(
    selections: Iterable[Selection],
    rules: Sequence[Rule],
    compiler_of: CompilerOf,
    *,
    unread: frozenset[str] = frozenset(),
) -> Expansion:
    """Expand selections to variants.

    The order of the rules decides nothing but the order in which reasons are told.

    Args:
        selections: what the targets ask for.
        rules: what is taken out again.
        compiler_of: the compiler, by which known bad pairs go.
        unread: targets of which nobody knows what they ask for: a rule that may be about them may match something.
    """
    state = _State(rules, compiler_of)
    for selection in selections:
        state.take(selection)
    return Expansion(
        kept=tuple(state.kept),
        dropped=tuple(state.dropped),
        mistakes=tuple(state.mistakes),
        consequences=(*state.emptied, *state.about_rules(unread)),
    )


def too_many(selections: Sequence[Selection], rules: Sequence[Rule]) -> Finding | None:
    """Say of a file that asks for more than anyone would build: it would take long to find that out."""
    asked = sum(len(one.releases) * len(one.levels) * len(one.platforms) for one in selections)
    if asked > MAX_CANDIDATES:
        rule = f"the targets ask for {asked:,} variants, and {MAX_CANDIDATES:,} are the most that one file may ask for"
    elif asked * len(rules) > MAX_CHECKS:
        rule = f"{len(rules):,} rules would look at {asked:,} variants, and {MAX_CHECKS:,} looks are the most"
    else:
        return None
    return Finding(path=("targets",), rule=rule, remedy="Narrow releases or targets, or write several files.")


def uncertain_pairs(variant: Variant, compiler: str) -> tuple[BadPair, ...]:
    """Find what was reported of a variant's branch, while nobody has said whether the release has it: it is built."""
    return tuple(pair for pair in _bad_pairs(variant, compiler) if not pair.certain)


@dataclass(slots=True)
class _State:
    """What is gathered on the way through the selections."""

    rules: Sequence[Rule]
    compiler_of: CompilerOf
    kept: list[Candidate] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    mistakes: list[Finding] = field(default_factory=list)
    emptied: list[Finding] = field(default_factory=list)
    _concerned: set[KeyPath] = field(default_factory=set)
    _sparing: set[KeyPath] = field(default_factory=set)
    _emptied: dict[KeyPath, list[str]] = field(default_factory=dict)

    def take(self, selection: Selection) -> None:
        refusals: dict[Candidate, list[Reason]] = {}
        mistakes: list[Finding] = []
        for release in (release for tag, release in releases().items() if tag in selection.releases):
            for candidate, reason in _candidates(selection, release, self.compiler_of):
                refusals.setdefault(candidate, [])
                if reason:
                    refusals[candidate].append(reason)
            mistakes += _mistakes(selection, release)
        candidates = sorted(refusals, key=lambda candidate: candidate.variant.order)
        self.mistakes += mistakes
        told = bool(mistakes)
        for rule in (rule for rule in self.rules if rule.where.may_concern(selection.target, selection.flavour)):
            concerned = [candidate for candidate in candidates if rule.concerns(candidate)]
            out = concerned if rule.only is None else [one for one in concerned if not rule.only.met_by(one)]
            if concerned:
                self._concerned.add(rule.path)
            if len(out) < len(concerned):
                self._sparing.add(rule.path)
            if out and len(out) == len(candidates):
                self._emptied.setdefault(rule.path, []).append(selection.target)
                told = True
            for candidate in out:
                refusals[candidate].append(Reason(rule.reason, rule))
        kept = [candidate for candidate in candidates if not refusals[candidate]]
        self.kept += kept
        self.dropped += [Dropped(one, tuple(refusals[one])) for one in candidates if refusals[one]]
        if not kept and not told:
            self.emptied.append(_nothing(selection, refusals))

    def about_rules(self, unread: frozenset[str]) -> Iterator[Finding]:
        for rule in self.rules:
            unsure = bool(unread if rule.where.targets is None else unread & rule.where.targets)
            if unsure and rule.path not in self._emptied:
                continue
            if rule.path not in self._concerned:
                path = rule.path if rule.only is None else (*rule.path, "where")
                rule_text = "no variant that a target asks for meets all of these conditions"
                yield Finding(path=path, rule=rule_text, remedy="Loosen one, or take the rule away.")
            elif rule.path in self._emptied:
                names = " and ".join(self._emptied[rule.path])
                yield Finding(
                    path=rule.path,
                    rule=f"this rule drops every variant of target {names}",
                    remedy="Narrow its conditions, or take the target away.",
                )
            elif rule.only is not None and rule.path not in self._sparing:
                yield Finding(
                    path=(*rule.path, "only"),
                    rule="no variant that `where` matches meets these conditions: the rule drops them all",
                    remedy="Loosen one, or say so with an exclude rule.",
                )


def _candidates(
    selection: Selection, release: Release, compiler_of: CompilerOf
) -> Iterator[tuple[Candidate, Reason | None]]:
    """Each variant that a target asks of one release, and what the catalogue has against it."""
    facts = release.flavours.get(selection.flavour)
    gpu = facts.gpu if facts else None
    capabilities = gpu.capabilities if gpu else ()
    if gpu and selection.capabilities is not None and selection.capabilities != capability_words(capabilities):
        capabilities = selection.capabilities
    compiler = compiler_of(release.tag, facts) if facts else ""
    refusal = _refusal(selection, release) or _host_compiler(gpu, compiler)
    for platform in selection.platforms:
        for level in selection.levels:
            variant = Variant(
                release=release.tag,
                flavour=selection.flavour,
                level=level,
                platform=platform,
                copts=selection.copts,
                flag_set=_flag_set(selection, level),
                cuda=gpu.cuda if gpu else None,
                capabilities=capabilities,
            )
            bad = None if refusal else next((p for p in _bad_pairs(variant, compiler) if p.certain), None)
            against = f"it does not {bad.fails}: {bad.reason} ({bad.references[0]})" if bad else refusal
            yield Candidate(selection.target, variant), Reason(against) if against else None


def _host_compiler(gpu: GpuFacts | None, compiler: str) -> str:
    """Why nvcc would not compile with it; where clang compiles CUDA, there is no nvcc."""
    return why_not_compiler(compiler, cudas()[gpu.cuda]) if gpu and gpu.config == "cuda" else ""


def _flag_set(selection: Selection, level: Level) -> str | None:
    """The target's set, at the level that it is for: a set says nothing about other levels."""
    name = selection.flag_set
    return name if name and flag_sets()[name].level is level else None


def _refusal(selection: Selection, release: Release) -> str:
    """Why a release has nothing to offer to a target; empty where it has."""
    return next((rule for _, rule, _ in _refusals(selection, release)), "")


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
        yield "cuda", f"release {release.tag} is built with CUDA {cuda} alone", f"Write {cuda!r}, or take it away."
    elif selection.capabilities and (wrong := why_not(selection.capabilities, cudas()[cuda])):
        yield "capabilities", f"release {release.tag}: {wrong}", "Take it away, or take other releases."


def _mistakes(selection: Selection, release: Release) -> Iterator[Finding]:
    """What a user has asked for by a release's full tag, and cannot get."""
    if release.tag in selection.named:
        for name, rule, remedy in _refusals(selection, release):
            yield Finding(path=selection.origins[name], rule=rule, remedy=remedy)


def _nothing(selection: Selection, refusals: Mapping[Candidate, Sequence[Reason]]) -> Finding:
    """A target that is empty, with the first reasons for it."""
    reasons = list(dict.fromkeys(reason.text for reasons in refusals.values() for reason in reasons))
    told = "; ".join(reasons[:_TOLD]) + (f"; and {len(reasons) - _TOLD} more" if len(reasons) > _TOLD else "")
    path: KeyPath = ("targets", selection.target)
    return Finding(path=path, rule=f"this target selects nothing: {told}", remedy="Ask for other releases or levels.")


def _bad_pairs(variant: Variant, compiler: str) -> tuple[BadPair, ...]:
    return known_bad(variant.release, variant.flavour, variant.level, compiler)
