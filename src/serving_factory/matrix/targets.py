"""From the file's targets to selections: each with all its values, its own and those of the target that it extends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, flag_sets
from serving_factory.matrix.model import MatrixFile, TargetSection
from serving_factory.matrix.problems import WHOLE, Broken, Finding, KeyPath, Remedy, did_you_mean
from serving_factory.matrix.selectors import is_name, release_tags
from serving_factory.matrix.variant import Platform, capability_words, levels_of
from serving_factory.matrix.words import LEVELS_OWN_FLAGS

MAX_EXTENDS = 10
"""How many targets may stand behind one: nobody follows a longer chain."""

_TOLD = 12
"""How many targets of a circle are named."""

Chain = tuple[str | None, ...]
"""Names of targets, beginning with the one that extends the others; None at the end of what cannot be followed."""


def chains(targets: Mapping[str, TargetSection], broken: Broken) -> tuple[Mapping[str, Chain], tuple[Finding, ...]]:
    """Follow what each target extends.

    Args:
        targets: by name.
        broken: where the file is not whole.

    Returns:
        Name -> chain, and what is wrong with them, each once. Each target is looked at once, however long the chains.
    """
    follower = _Follower(targets, broken)
    for name in targets:
        follower.follow(name)
    return {name: follower.found[name] for name in targets}, tuple(follower.findings)


class _Follower:
    def __init__(self, targets: Mapping[str, TargetSection], broken: Broken) -> None:
        self._targets = targets
        self._broken = broken
        self._rank = {name: rank for rank, name in enumerate(targets)}
        self.found: dict[str, Chain] = {}
        self.findings: list[Finding] = []

    def follow(self, name: str) -> None:
        walked: dict[str, None] = {}
        above: str | None = name
        while above is not None and above not in self.found and above not in walked:
            walked[above] = None
            above = self._above(above)
        if above in walked:
            names = list(walked)
            self._circle(names[names.index(above) :])
        end: Chain = () if above is None else self.found.get(above, (None,))
        for one in reversed(walked):
            end = self.found[one] = self._chain(one, end)

    def _above(self, name: str) -> str | None:
        """The target that one extends, if any; tells where there is no such target."""
        above = self._targets[name].extends
        if self._broken.at("targets", name, "extends"):
            self.found[name] = (name, None)
        elif above is not None and above not in self._targets:
            others = [other for other in self._targets if other != name]
            listed = f"Targets: {', '.join(others)}." if others else "Take it away."
            self._report(name, "there is no such target", did_you_mean(above, others, otherwise=listed))
            self.found[name] = (name, None)
        else:
            return above
        return None

    def _chain(self, name: str, rest: Chain) -> Chain:
        if name in self.found:
            return self.found[name]
        if rest[-1:] == (None,):
            return (name, None)
        if len(rest) > MAX_EXTENDS:
            rule = f"more than {MAX_EXTENDS} targets extend each other here"
            self._report(name, rule, "Let one say more itself.")
            return (name, None)
        return (name, *rest)

    def _circle(self, names: Sequence[str]) -> None:
        """Say of a circle once, at the first of it in the file's order."""
        first = min(names, key=self._rank.__getitem__)
        start = list(names).index(first)
        around = [*names[start:], *names[:start], first]
        self._report(first, f"a target cannot extend itself: {_arrows(around)}", "Let one of them stand on its own.")

    def _report(self, name: str, rule: str, remedy: Remedy) -> None:
        self.findings.append(Finding(path=("targets", name, "extends"), rule=rule, remedy=remedy))


def _arrows(names: Iterable[str]) -> str:
    *most, last = names
    shown = [*most, last] if len(most) < _TOLD else [*most[: _TOLD - 1], "…", last]
    return " → ".join(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one target asks for.

    Args:
        target: its name.
        flavour: its flavour.
        levels: its levels.
        platforms: its platforms.
        releases: full tag -> where in the file it was asked for.
        named: those of the releases that were asked for by their full tag: what they lack is the user's mistake,
            while a range takes what there is.
        cuda: the CUDA that the releases must have; None for any.
        capabilities: as `capability_words` writes them; None for those of upstream.
        copts: compiler options beside the level's.
        flag_set: a named set of options, for the level that it is for; None for each level's own.
        origins: name of a value -> where it stands in the file; a name that is not there has its default.
    """

    target: str
    flavour: Flavour
    levels: tuple[Level, ...]
    platforms: tuple[Platform, ...]
    releases: Mapping[str, KeyPath]
    named: frozenset[str]
    cuda: str | None
    capabilities: tuple[str, ...] | None
    copts: tuple[str, ...]
    flag_set: str | None
    origins: Mapping[str, KeyPath]


def selections(model: MatrixFile, broken: Broken = WHOLE) -> tuple[tuple[Selection, ...], tuple[Finding, ...]]:
    """Make a selection of each target of which nothing is wrong, and tell what is wrong with the others.

    Args:
        model: the file.
        broken: where it is not whole: of that nothing is told, nor of what follows from it.
    """
    found: list[Selection] = []
    everywhere = _asked(model.releases, ("releases",), broken)
    followed, findings = chains({name: section for name, section in model.targets.items() if name}, broken)
    told = list(findings)
    for name, chain in followed.items():
        reader = _Reader(name, chain, model, everywhere, broken)
        if selection := reader.selection():
            found.append(selection)
        told += reader.findings
    return tuple(found), tuple(dict.fromkeys(told))


_Asked = tuple[Mapping[str, KeyPath], frozenset[str]]
"""Each release that a list asks for, with the entry that does so first; and those that it asks for by full tag."""


class _Reader:
    """Reads one target, and all that it extends."""

    def __init__(self, name: str, chain: Chain, model: MatrixFile, everywhere: _Asked, broken: Broken) -> None:
        self._name = name
        self._chain = chain
        self._model = model
        self._everywhere = everywhere
        self._broken = broken
        self.findings: list[Finding] = []
        self._origins: dict[str, KeyPath] = {}
        self._unread: set[str] = set() if chain[-1] else {"extends"}
        """The values that nobody can tell."""

    def selection(self) -> Selection | None:
        """Read all values; None where one is wrong, or cannot be read."""
        flavour, levels = self._required("flavour"), self._required("levels") or ()
        releases, named = self._releases()
        platforms = self._platforms(levels)
        cuda, capabilities, copts = self._value("cuda"), self._value("capabilities"), self._value("copts")
        self._gpu_only(flavour)
        flag_set = self._flag_set(levels)
        if self.findings or self._unread:
            return None
        return Selection(
            target=self._name,
            flavour=flavour,
            levels=tuple(dict.fromkeys(levels)),
            platforms=platforms,
            releases=releases,
            named=named,
            cuda=cuda,
            capabilities=None if capabilities is None else capability_words(capabilities),
            copts=tuple(copts or ()),
            flag_set=flag_set,
            origins=self._origins,
        )

    def _found(self, path: KeyPath, rule: str, remedy: str = "") -> None:
        self.findings.append(Finding(path=path, rule=rule, remedy=remedy))

    def _value(self, field: str) -> Any:  # noqa: ANN401 - the model gives the fields their types
        """The value of the first target of the chain that has one; None also where nobody can tell."""
        for name in self._chain:
            if name is None or self._broken.at("targets", name, field):
                self._unread.add(field)
                return None
            value = getattr(self._model.targets[name], field)
            if value is not None:
                self._origins[field] = ("targets", name, field)
                return value
        return None

    def _required(self, field: str) -> Any:  # noqa: ANN401 - the model gives the fields their types
        value = self._value(field)
        if value is None and field not in self._unread:
            behind = " and ".join(name for name in self._chain[1:] if name)
            extended = f", and {behind} has none either" if behind else ""
            self._found(("targets", self._name, field), f"this key is required{extended}", "Add it.")
            self._unread.add(field)
        return value

    def _releases(self) -> _Asked:
        everywhere, named = self._everywhere
        own = self._value("releases")
        if own is None:
            return everywhere, named
        path = self._origins["releases"]
        asked, named = _asked(own, path, self._broken)
        for index, text in enumerate(() if self._broken.at("releases") else own):
            if not release_tags(text) & everywhere.keys():
                what = "this release is not" if is_name(text) else "none of these releases is"
                self._found((*path, index), f"{what} in the file's releases", "Add it there: a target takes of those.")
        return {tag: at for tag, at in asked.items() if tag in everywhere}, named & everywhere.keys()

    def _platforms(self, levels: Sequence[Level]) -> tuple[Platform, ...]:
        platforms = self._value("platforms")
        path = self._origins["platforms"] if platforms else ("platforms",)
        if platforms is None and self._broken.at("platforms"):
            self._unread.add("platforms")
        if "platforms" in self._unread:
            return ()
        platforms = platforms or self._model.platforms
        for index, platform in enumerate(platforms):
            wrong = [level for level in levels if level not in levels_of(platform)]
            if wrong:
                has = ", ".join(levels_of(platform))
                rule = f"level {wrong[0]} of target {self._name} is none of this platform"
                self._found((*path, index), rule, f"Its levels: {has}.")
        return tuple(dict.fromkeys(platforms))

    def _gpu_only(self, flavour: Flavour | None) -> None:
        if flavour is Flavour.GPU or "flavour" in self._unread:
            return
        for field in ("cuda", "capabilities"):
            if field in self._origins:
                rule = f"flavour {flavour} has no CUDA"
                self._found(self._origins[field], rule, "Take it away, or make the flavour gpu.")

    def _flag_set(self, levels: Sequence[Level]) -> str | None:
        """The set of flags; None for each level's own. A set is for one level, and the others keep their own flags."""
        name = self._value("flags")
        if name is None or name == LEVELS_OWN_FLAGS:
            return None
        level = flag_sets()[name].level
        if levels and level not in levels:
            rule = f"these flags are for level {level}, not for {', '.join(levels)}"
            self._found(self._origins["flags"], rule, f"Add {level} to the levels, or take the line away.")
        return str(name)


def _asked(texts: Sequence[str], path: KeyPath, broken: Broken) -> _Asked:
    whole = [(index, text) for index, text in enumerate(texts) if not broken.at(*path, index)]
    found: dict[str, KeyPath] = {}
    for index, text in whole:
        for tag in release_tags(text):
            found.setdefault(tag, (*path, index))
    return found, frozenset(text.strip() for _, text in whole if is_name(text))
