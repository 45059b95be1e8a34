"""What a user writes to mean some releases or CUDA versions: full names, version specifiers, `latest-patches`."""

from __future__ import annotations

import re
from functools import cache

from packaging.specifiers import InvalidSpecifier, Specifier
from packaging.version import Version

from serving_factory.catalogue.cuda import cudas
from serving_factory.catalogue.releases import closest_release, releases
from serving_factory.matrix.problems import BrokenRuleError, did_you_mean, nearest

LATEST = "latest-patches"

_NAME = re.compile(r"\d+(?:\.\d+)*")
_OPERATORS = "<>=!~"
_SPELLING = 'Write it like ">=2.11,<2.16": <, <=, ==, !=, >=, > or ~= and a version, joined by commas.'


def is_range(text: str) -> bool:
    """Whether this describes things by their versions, and is not the name of one."""
    return LATEST in text or any(character in text for character in f"{_OPERATORS},")


def is_name(text: str) -> bool:
    """Whether this is the full name of one thing, not a description of several."""
    return _NAME.fullmatch(text.strip()) is not None


@cache
def release_tags(text: str) -> frozenset[str]:
    """Find the releases that a selector means.

    Args:
        text: parts joined by commas, each of which narrows: a full tag, a version specifier, or `latest-patches`, the
            last patch of each line of the catalogue.

    Raises:
        BrokenRuleError: it cannot be read, or the catalogue has no such release.
    """
    catalogue = releases()
    versions = _versions()
    found = set(catalogue)
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part == LATEST:
            last = {release.series: tag for tag, release in catalogue.items()}
            found &= set(last.values())
        elif part in catalogue:
            found &= {part}
        elif part[:1] and part[0] in _OPERATORS:
            specifier = _specifier(part)
            # All releases are stable: no need to look whether a pre-release is meant, which takes as long again.
            found = {tag for tag in found if specifier.contains(versions[tag], prereleases=True)}
        elif not part:
            raise BrokenRuleError("there is nothing before or after a comma", _SPELLING)
        else:
            raise _no_release(part)
    if not found and len(parts) > 1 and all(map(release_tags, parts)):
        raise BrokenRuleError(
            "what commas join narrows, and no release is all of this",
            'Write an entry or a rule for each, or a range such as ">=2.18,<2.20".',
        )
    if not found:
        raise BrokenRuleError(
            "the catalogue has no such release", f"It has {next(iter(versions))} to {next(reversed(versions))}."
        )
    return frozenset(found)


@cache
def cuda_versions(text: str) -> frozenset[str]:
    """Find the CUDA versions that a selector means: one by its name, or several by a specifier.

    Raises:
        BrokenRuleError: it cannot be read, or no release was built with such a CUDA.
    """
    known = list(cudas())
    if text in known:
        return frozenset({text})
    if text[:1] and text[0] in _OPERATORS:
        specifier = _specifier(text)
        if found := {version for version in known if Version(version) in specifier}:
            return frozenset(found)
    elif not is_name(text):
        raise BrokenRuleError("this is no CUDA version and no specifier", 'Write "12.2", or a range such as ">=12".')
    else:
        near = min(known, key=lambda version: abs(_number(version) - _number(text)))
        raise BrokenRuleError("no release was built with such a CUDA", f"Did you mean {near!r}?")
    raise BrokenRuleError("no release was built with such a CUDA", f"They were built with {', '.join(known)}.")


def _number(version: str) -> int:
    """A CUDA version as a number, to tell which is near."""
    release = Version(version).release
    return 100 * release[0] + (release[1] if len(release) > 1 else 0)


@cache
def _versions() -> dict[str, Version]:
    return {tag: release.version for tag, release in releases().items()}


def _specifier(text: str) -> Specifier:
    try:
        found = Specifier(text)
    except InvalidSpecifier:
        raise BrokenRuleError("this is no version specifier", _SPELLING) from None
    if found.operator == "===":
        raise BrokenRuleError("=== compares texts, and there is only one text of each version", _SPELLING)
    return found


def _no_release(asked: str) -> BrokenRuleError:
    if "*" in asked:
        return BrokenRuleError("this is no release and no specifier", 'Write "==2.11.*" for all releases of a line.')
    if not asked[0].isdigit() and nearest(asked, [LATEST]):
        return BrokenRuleError("this is no release and no specifier", did_you_mean(asked, [LATEST]))
    other = closest_release(asked, releases())
    return BrokenRuleError(other.reason, f"Did you mean {other.tag!r}?")
