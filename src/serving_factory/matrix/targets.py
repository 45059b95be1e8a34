"""From the file's targets to selections: each with all its values, its own and those of the targets it extends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, above_level, flag_sets
from serving_factory.matrix.model import MatrixFile, OwnRelease, TargetSection, own_releases
from serving_factory.matrix.problems import WHOLE, Broken, DidYouMean, KeyPath, Problem, Remedy
from serving_factory.matrix.schema import key_names
from serving_factory.matrix.variant import Platform, levels_of, without_cards
from serving_factory.matrix.words import LEVELS_OWN_FLAGS, is_name, release_tags

MAX_EXTENDS = 10
_MAX_SHOWN = 12
"""How many targets of a circle are named."""

Chain = tuple[str | None, ...]
"""A target and those it extends, one after the other; None at the end of what cannot be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one target selects.

    Args:
        releases: full tag -> where in the file it stands.
        named: those of the releases that stand there by full tag: what they lack is the user's mistake, while a range
            takes what there is.
        capabilities: without cards; None for those of upstream.
        flag_set: a named set of options, for the level that it is for; None for each level's own.
        own: the file's own releases, by where they stand.
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
    own: Mapping[KeyPath, OwnRelease] = field(default_factory=dict)


def selections(model: MatrixFile, broken: Broken = WHOLE) -> tuple[tuple[Selection, ...], tuple[Problem, ...]]:
    """Make a selection of each target of which nothing is wrong, and find what is wrong with the others."""
    everywhere = _tags(model.releases, ("releases",), broken)
    own: dict[KeyPath, OwnRelease] = {
        ("releases", i): one for i, one in own_releases(model).items() if not broken.at("releases", i)
    }
    follower = _Follower({name: section for name, section in model.targets.items() if name}, broken)
    readers = [_Reader(name, follower.chain(name), model, (everywhere, own), broken) for name in model.targets if name]
    found = [selection for reader in readers if (selection := reader.selection())]
    findings = [*follower.findings, *(finding for reader in readers for finding in reader.findings)]
    return tuple(found), tuple(dict.fromkeys(findings))


@dataclass(slots=True)
class _Follower:
    """Follows what each target extends; each is looked at once, however long the chains."""

    targets: Mapping[str, TargetSection]
    broken: Broken
    findings: list[Problem] = field(default_factory=list)
    _found: dict[str, Chain] = field(default_factory=dict)

    def chain(self, name: str, below: tuple[str, ...] = ()) -> Chain:
        """Give the chain that begins with a target; `below` are those that led to it."""
        if name in below:
            self._circle(below[below.index(name) :])
            return (None,)
        if name in self._found:
            return self._found[name]
        above = self.targets[name].extends
        rest: Chain = ()
        if self.broken.at("targets", name, "extends"):
            rest = (None,)
        elif above is not None and above in self.targets:
            rest = self.chain(above, (*below, name))
        elif above is not None:
            others = [other for other in self.targets if other != name]
            listed = f"Targets: {', '.join(others)}." if others else "Remove it."
            self._report(name, "there is no such target", DidYouMean(above, others, listed))
            rest = (None,)
        if len(rest) > MAX_EXTENDS:
            self._report(name, f"more than {MAX_EXTENDS} targets extend each other here", "Write the values out here.")
            rest = (None,)
        self._found[name] = (name, None) if rest[-1:] == (None,) else (name, *rest)
        return self._found[name]

    def _circle(self, names: Sequence[str]) -> None:
        """Report a circle once, at the first of it in the file's order."""
        first = next(name for name in self.targets if name in names)
        start = names.index(first)
        around = [*names[start:], *names[:start]]
        shown = around if len(around) < _MAX_SHOWN else [*around[: _MAX_SHOWN - 1], "…"]
        arrows = " → ".join([*shown, first])
        self._report(first, f"a target cannot extend itself: {arrows}", "Remove extends from one of them.")

    def _report(self, name: str, rule: str, remedy: Remedy) -> None:
        self.findings.append(Problem(path=("targets", name, "extends"), rule=rule, remedy=remedy))


_Tags = tuple[Mapping[str, KeyPath], frozenset[str]]
"""Each release that a list selects, with the first entry that does; and those that stand there by full tag."""


def _tags(texts: Sequence[object], path: KeyPath, broken: Broken) -> _Tags:
    whole = [(index, text) for index, text in enumerate(texts) if isinstance(text, str) and not broken.at(*path, index)]
    found: dict[str, KeyPath] = {}
    for index, text in whole:
        for tag in release_tags(text):
            found.setdefault(tag, (*path, index))
    return found, frozenset(text.strip() for _, text in whole if is_name(text))


_Releases = tuple[_Tags, Mapping[KeyPath, OwnRelease]]
"""What the file has of upstream, and of its own."""


class _Reader:
    """Reads the values of one target, and where each stands, in one walk through its chain."""

    def __init__(self, name: str, chain: Chain, model: MatrixFile, releases: _Releases, broken: Broken) -> None:
        self._name, self._chain, self._model = name, chain, model
        self._everywhere, self._own = releases
        self._broken = broken
        self.findings: list[Problem] = []
        self._values: dict[str, Any] = {}
        self._origins: dict[str, KeyPath] = {}
        self._unread: set[str] = set() if chain[-1] else {"extends"}
        for key in key_names(TargetSection)[1:]:
            self._read(key)

    def _read(self, key: str) -> None:
        """Take the value of the first target of the chain that has one."""
        for name in self._chain:
            if name is None or self._broken.at("targets", name, key):
                self._unread.add(key)
                return
            value = getattr(self._model.targets[name], key)
            if value is not None:
                self._values[key], self._origins[key] = value, ("targets", name, key)
                return

    def selection(self) -> Selection | None:
        """Check all values; None where one is wrong, or cannot be read."""
        for key in ("flavour", "levels"):
            self._required(key)
        flavour, levels = self._values.get("flavour"), self._values.get("levels", ())
        releases, named = self._releases()
        platforms = self._platforms(levels)
        if flavour and flavour is not Flavour.GPU:
            for key in ("cuda", "capabilities"):
                if key in self._origins:
                    remedy = "Remove it, or make the flavour gpu."
                    self._found(self._origins[key], f"flavour {flavour} has no CUDA", remedy)
        flag_set = self._flag_set(levels)
        self._copts(levels)
        if self.findings or self._unread or flavour is None:
            return None
        capabilities = self._values.get("capabilities")
        return Selection(
            target=self._name,
            flavour=flavour,
            levels=tuple(dict.fromkeys(levels)),
            platforms=platforms,
            releases=releases,
            own=self._own_releases(),
            named=named,
            cuda=self._values.get("cuda"),
            capabilities=None if capabilities is None else without_cards(capabilities),
            copts=self._values.get("copts", ()),
            flag_set=flag_set,
            origins=self._origins,
        )

    def _found(self, path: KeyPath, rule: str, remedy: str) -> None:
        self.findings.append(Problem(path=path, rule=rule, remedy=remedy))

    def _required(self, key: str) -> None:
        if key not in self._values and key not in self._unread:
            behind = " and ".join(name for name in self._chain[1:] if name)
            extended = f", and {behind} has none either" if behind else ""
            self._found(("targets", self._name, key), f"this key is required{extended}", "Add it.")

    def _releases(self) -> _Tags:
        everywhere, named = self._everywhere
        if "releases" not in self._values:
            return everywhere, named
        own, path = self._values["releases"], self._origins["releases"]
        selected, named = _tags(own, path, self._broken)
        for index, text in enumerate(() if self._broken.at("releases") else own):
            if not release_tags(text) & {*everywhere, *(one.like for one in self._own.values())}:
                what = "this release is not" if is_name(text) else "none of these releases is"
                remedy = "Add it there: a target selects among those."
                self._found((*path, index), f"{what} in the file's releases", remedy)
        return {tag: at for tag, at in selected.items() if tag in everywhere}, named & everywhere.keys()

    def _own_releases(self) -> Mapping[KeyPath, OwnRelease]:
        """Those of the file's own releases whose like the target selects."""
        if "releases" not in self._values:
            return self._own
        selected, _ = _tags(self._values["releases"], self._origins["releases"], self._broken)
        return {path: one for path, one in self._own.items() if one.like in selected}

    def _platforms(self, levels: Sequence[Level]) -> tuple[Platform, ...]:
        if "platforms" not in self._values and self._broken.at("platforms"):
            self._unread.add("platforms")
        if "platforms" in self._unread:
            return ()
        platforms = self._values.get("platforms", self._model.platforms)
        path = self._origins.get("platforms", ("platforms",))
        for index, platform in enumerate(platforms):
            if wrong := [level for level in levels if level not in levels_of(platform)]:
                rule = f"this platform has no level {wrong[0]}, which target {self._name} selects"
                self._found((*path, index), rule, f"Its levels: {', '.join(levels_of(platform))}.")
        return tuple(dict.fromkeys(platforms))

    def _copts(self, levels: Sequence[Level]) -> None:
        """Refuse options that let the compiler use more than a level has: inspection would refuse it hours later."""
        for index, option in enumerate(self._values.get("copts", ())):
            for level in levels:
                if above := above_level(option, level):
                    rule = f"target {self._name} selects level {level}, and {above}"
                    remedy = (
                        "Remove the option, or select a level whose CPUs have that; `native` has what the machine has."
                    )
                    self._found((*self._origins["copts"], index), rule, remedy)
                    break

    def _flag_set(self, levels: Sequence[Level]) -> str | None:
        """The set of flags; None for each level's own. A set is for one level, and the others keep their own flags."""
        name: str | None = self._values.get("flags")
        if name is None or name == LEVELS_OWN_FLAGS:
            return None
        level = flag_sets()[name].level
        if levels and level not in levels:
            rule = f"these flags are for level {level}, not for {', '.join(levels)}"
            self._found(self._origins["flags"], rule, f"Add {level} to the levels, or remove the line.")
        return name
