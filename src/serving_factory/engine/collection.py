"""BuildKit's garbage collection: the rules that an engine really follows, as `docker buildx inspect` prints them.

daemon.json need not be read, which may be on another machine: buildx prints rules wherever there are any. An engine has
none unless `builder.gc.enabled` is set; from 2025 on (moby/moby#49899) unless that is false.

Its default rules (builder/builder-next/worker/gc.go of moby/moby) take, above a limit (`defaultKeepStorage`, or a tenth
of the disk), (1) all that was unused for 60 days, (2) all that no image shares, (3) all. Before them, above 13.8 % of
the limit, (0) what is easy to make anew, `type==exec.cachemount` among it, once unused for 48 h. That one has a filter
that matches nothing until moby/buildkit#6856 (2026), and until moby/moby#46861 (2023) its 48 h are 172.8 µs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving_factory.engine.about import byte_count, run_docker

__all__ = ["CollectionRule", "collection_rules"]

_RULE = re.compile(r"^GC Policy rule#\d+:$", re.MULTILINE)
_FIELD = re.compile(
    r"^[ \t]+(Filters|Keep Duration|Keep Bytes|Reserved Space|Max Used Space|Min Free Space):(.*)$", re.MULTILINE
)
_OF_A_DURATION = re.compile(r"([\d.]+)(h|ms|m|s|µs|us|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_TYPE = re.compile(r"type(!?)==?(.*)")
_MOUNT = "exec.cachemount"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRule:
    """One rule of the garbage collection. Sizes are in bytes, of the whole build cache; 0 where there is no such limit.

    Args:
        mounts: whether cache mounts are among what it takes.
        unused: it takes what was not used for so many seconds.
        reserved: it leaves so much in any case. The only limit before BuildKit 0.17, where it is `Keep Bytes`.
        most: it takes what is above this.
        free: it takes what is needed for so much of the disk to be free.
    """

    mounts: bool
    unused: float = 0.0
    reserved: int = 0
    most: int = 0
    free: int = 0

    def keeps(self, held: int, free: int | None) -> int:
        """Tell how much is left, of what may go at all (calculateKeepBytes in cache/manager.go of moby/buildkit).

        Args:
            held: bytes in the build cache.
            free: bytes free on its disk; None where nobody knows: then there are enough.
        """
        kept = self.most or (held if self.free else 0)
        if free is not None and free < self.free:
            kept = min(kept, held - (self.free - free))
        return max(kept, self.reserved)


def collection_rules() -> tuple[CollectionRule, ...] | None:
    """Ask for the rules; none where nothing is collected, None where the builder does not run and so tells nothing.

    Raises:
        EngineUnavailableError: buildx cannot tell.
    """
    head, *rules = _RULE.split(run_docker("buildx", "inspect"))
    if not re.search(r"^Status:\s+running$", head, re.MULTILINE):
        return None
    return tuple(_rule(dict(_FIELD.findall(rule))) for rule in rules)


def _rule(fields: dict[str, str]) -> CollectionRule:
    told = {name: value.strip() for name, value in fields.items()}
    size = {name: byte_count(value) or 0 for name, value in told.items()}
    filters = told.get("Filters", "").split()
    return CollectionRule(
        mounts=not filters or any(map(_matches_mounts, filters)),
        unused=sum(
            float(number) * _SECONDS[unit] for number, unit in _OF_A_DURATION.findall(told.get("Keep Duration", ""))
        ),
        reserved=size.get("Reserved Space", 0) or size.get("Keep Bytes", 0),
        most=size.get("Max Used Space", 0),
        free=size.get("Min Free Space", 0),
    )


def _matches_mounts(text: str) -> bool:
    """Whether a filter can match cache mounts: all its parts must (containerd's package filters); any filter does."""
    types = [match for part in text.split(",") if (match := _TYPE.fullmatch(part))]
    return all((match[2] == _MOUNT) != bool(match[1]) for match in types)
