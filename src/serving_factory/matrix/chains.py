"""What each target extends: the target itself, the one that it names, the one that this one names, and so on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from serving_factory.matrix.broken import Broken
from serving_factory.matrix.model import TargetSection
from serving_factory.matrix.problems import Finding, Remedy, did_you_mean

__all__ = ["MAX_EXTENDS", "Chain", "chains"]

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
            self._tell(name, "there is no such target", did_you_mean(above, others, otherwise=listed))
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
            self._tell(name, rule, "Let one say more itself.")
            return (name, None)
        return (name, *rest)

    def _circle(self, names: Sequence[str]) -> None:
        """Tell of a circle once, at the first of it in the file's order."""
        first = min(names, key=self._rank.__getitem__)
        start = list(names).index(first)
        around = [*names[start:], *names[:start], first]
        self._tell(first, f"a target cannot extend itself: {_arrows(around)}", "Let one of them stand on its own.")

    def _tell(self, name: str, rule: str, remedy: Remedy) -> None:
        self.findings.append(Finding(path=("targets", name, "extends"), rule=rule, remedy=remedy))


def _arrows(names: Iterable[str]) -> str:
    *most, last = names
    shown = [*most, last] if len(most) < _TOLD else [*most[: _TOLD - 1], "…", last]
    return " → ".join(shown)
