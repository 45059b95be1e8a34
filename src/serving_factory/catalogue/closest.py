"""The nearest release to one that does not exist, and why it does not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from packaging.version import InvalidVersion, Version

__all__ = ["Closest", "closest_release"]


@dataclass(frozen=True, slots=True)
class Closest:
    """A release to take instead.

    Args:
        tag: the release's full tag.
        reason: why the one that was asked for is none: part of a sentence.
    """

    tag: str
    reason: str


def closest_release(asked: str, tags: Collection[str]) -> Closest:
    """Find the release nearest to one that the catalogue has not.

    Of the same line the next one is taken, or the last: upstream skipped a patch where its branch went on. Without a
    line of that name it is the nearest line's last release; where the text is no version, the newest of all.

    Args:
        asked: what was asked for; a full tag, a line, or anything.
        tags: the releases that there are; at least one.
    """
    known = _versions(tuple(tags))
    try:
        version = Version(asked)
    except InvalidVersion:
        return Closest(str(known[-1]), "this is no release: a release is a full tag such as 2.19.1")
    line = [one for one in known if one.release[:2] == version.release[:2]]
    if line and len(version.release) < len(known[0].release):
        return Closest(str(line[-1]), "a release is a full tag, with a patch number")
    if line:
        later = [one for one in line if one > version]
        return Closest(str(later[0] if later else line[-1]), f"upstream has no stable tag {asked}")
    nearest = [one for one in known if one <= version] or known[:1]
    return Closest(str(nearest[-1]), f"the catalogue knows no release {_line(version)}.x")


@cache
def _versions(tags: tuple[str, ...]) -> tuple[Version, ...]:
    return tuple(sorted(map(Version, tags)))


def _line(version: Version) -> str:
    return f"{version.major}.{version.minor}"
