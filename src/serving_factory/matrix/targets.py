"""From the file's targets to selections: each with all its values, its own and those of the target that it extends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_factory.catalogue.flag_sets import flag_set_of, flag_sets
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour
from serving_factory.matrix.capabilities import capability_words
from serving_factory.matrix.model import LEVELS_OWN_FLAGS, MatrixFile
from serving_factory.matrix.problems import Finding, KeyPath, did_you_mean
from serving_factory.matrix.selectors import is_name, release_tags
from serving_factory.matrix.variant import Platform, levels_of

__all__ = ["MAX_EXTENDS", "Selection", "selections"]

MAX_EXTENDS = 10
"""How many targets may stand behind one: nobody follows a longer chain."""


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
        flag_set: a named set of options for its level; None for each level's own.
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


def selections(model: MatrixFile) -> tuple[tuple[Selection, ...], tuple[Finding, ...]]:
    """Make a selection of each target; one about which something is found gives none."""
    found: list[Selection] = []
    findings: list[Finding] = []
    for name in model.targets:
        reader = _Reader(name, model)
        selection = reader.selection()
        findings += reader.findings
        if selection and not reader.findings:
            found.append(selection)
    return tuple(found), tuple(dict.fromkeys(findings))


class _Reader:
    """Reads one target, and all that it extends."""

    def __init__(self, name: str, model: MatrixFile) -> None:
        self._name = name
        self._model = model
        self.findings: list[Finding] = []
        self._chain = tuple(self._ancestry())
        self._origins: dict[str, KeyPath] = {}

    def _ancestry(self) -> Iterator[str]:
        """This target, the one that it extends, and so on."""
        targets = self._model.targets
        seen: list[str] = []
        name: str | None = self._name
        while name is not None:
            seen.append(name)
            yield name
            above = targets[name].extends
            path: KeyPath = ("targets", name, "extends")
            if above in seen:
                # Told once, at the first of those that go round in the file's order.
                circle = seen[seen.index(above) :]
                first = min(circle, key=list(targets).index)
                rest = [*circle[circle.index(first) :], *circle[: circle.index(first)], first]
                rule = f"a target cannot extend itself: {' → '.join(rest)}"
                self._found(("targets", first, "extends"), rule, "Let one of them stand on its own.")
                return
            if above is not None and above not in targets:
                others = [other for other in targets if other != name]
                listed = f"Targets: {', '.join(others)}." if others else "Take it away."
                self._found(path, "there is no such target", did_you_mean(above, others, otherwise=listed))
                return
            if above is not None and len(seen) > MAX_EXTENDS:
                self._found(path, f"more than {MAX_EXTENDS} targets extend each other here", "Let one say more itself.")
                return
            name = above

    def selection(self) -> Selection | None:
        if self.findings:
            return None
        flavour, levels = self._required("flavour"), self._required("levels")
        if self.findings:
            return None
        releases, named = self._releases()
        platforms = self._platforms(levels)
        cuda, capabilities = self._value("cuda"), self._value("capabilities")
        self._gpu_only(flavour)
        return Selection(
            target=self._name,
            flavour=flavour,
            levels=tuple(dict.fromkeys(levels)),
            platforms=platforms,
            releases=releases,
            named=named,
            cuda=cuda,
            capabilities=None if capabilities is None else capability_words(capabilities),
            copts=tuple(self._value("copts") or ()),
            flag_set=self._flag_set(levels),
            origins=self._origins,
        )

    def _found(self, path: KeyPath, rule: str, remedy: str = "") -> None:
        self.findings.append(Finding(path=path, rule=rule, remedy=remedy))

    def _value(self, field: str) -> Any:  # noqa: ANN401 - the model gives the fields their types
        """The value of the first target of the chain that has one."""
        for name in self._chain:
            value = getattr(self._model.targets[name], field)
            if value is not None:
                self._origins[field] = ("targets", name, field)
                return value
        return None

    def _required(self, field: str) -> Any:  # noqa: ANN401 - the model gives the fields their types
        value = self._value(field)
        if value is None:
            extended = "" if len(self._chain) == 1 else f", and {' and '.join(self._chain[1:])} has none either"
            self._found(("targets", self._name, field), f"this key is required{extended}", "Add it.")
        return value

    def _releases(self) -> tuple[Mapping[str, KeyPath], frozenset[str]]:
        everywhere, named = _asked(self._model.releases, ("releases",))
        own = self._value("releases")
        if own is None:
            return everywhere, named
        path = self._origins["releases"]
        asked, named = _asked(own, path)
        for index, text in enumerate(own):
            if not release_tags(text) & everywhere.keys():
                what = "this release is not" if is_name(text) else "none of these releases is"
                self._found((*path, index), f"{what} in the file's releases", "Add it there: a target takes of those.")
        return {tag: at for tag, at in asked.items() if tag in everywhere}, named & everywhere.keys()

    def _platforms(self, levels: Sequence[Level]) -> tuple[Platform, ...]:
        platforms = self._value("platforms")
        path = self._origins["platforms"] if platforms else ("platforms",)
        platforms = platforms or self._model.platforms
        for index, platform in enumerate(platforms):
            wrong = [level for level in levels if level not in levels_of(platform)]
            if wrong:
                has = ", ".join(levels_of(platform))
                rule = f"level {wrong[0]} of target {self._name} is none of this platform"
                self._found((*path, index), rule, f"Its levels: {has}.")
        return tuple(dict.fromkeys(platforms))

    def _gpu_only(self, flavour: Flavour) -> None:
        if flavour is Flavour.GPU:
            return
        for field in ("cuda", "capabilities"):
            if field in self._origins:
                rule = f"flavour {flavour} has no CUDA"
                self._found(self._origins[field], rule, "Take it away, or make the flavour gpu.")

    def _flag_set(self, levels: Sequence[Level]) -> str | None:
        """The set that the file names; else the one that a target of such a name means, at the set's own level."""
        for name in self._chain:
            asked = self._model.targets[name].flags
            if asked is not None:
                path = self._origins["flags"] = ("targets", name, "flags")
                if asked == LEVELS_OWN_FLAGS:
                    return None
                level = flag_sets()[asked].level
                if set(levels) != {level}:
                    rule = f"these flags are for level {level}, not for {', '.join(levels)}"
                    self._found(path, rule, f"Write `levels: [{level}]`, or `flags: {LEVELS_OWN_FLAGS}`.")
                return asked
            meant = flag_set_of(name)
            if meant:
                self._origins["flags"] = ("targets", name)
                return meant.name
        return None


def _asked(texts: Sequence[str], path: KeyPath) -> tuple[Mapping[str, KeyPath], frozenset[str]]:
    """Each release that a list asks for, with the entry that does so first; and those that it asks for by full tag."""
    found: dict[str, KeyPath] = {}
    for index, text in enumerate(texts):
        for tag in release_tags(text):
            found.setdefault(tag, (*path, index))
    return found, frozenset(text.strip() for text in texts if is_name(text))
