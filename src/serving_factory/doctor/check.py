"""What one check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

_GIB = 2**30


class Verdict(StrEnum):
    """How a check ended: WARN where something will be slower or missing, FAIL where a build will fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check.

    Args:
        name: what was looked at.
        verdict: how it ended.
        found: what was found, with the numbers.
        means: what that means for a build; empty where all is well.
        remedy: what to do; empty where there is nothing to do.
    """

    name: str
    verdict: Verdict
    found: str
    means: str = ""
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, verdict=Verdict.OK, found=found)


def warn(name: str, found: str, means: str, remedy: str) -> Check:
    """Something will be slower, or missing."""
    return Check(name=name, verdict=Verdict.WARN, found=found, means=means, remedy=remedy)


def fail(name: str, found: str, means: str, remedy: str) -> Check:
    """A build will fail."""
    return Check(name=name, verdict=Verdict.FAIL, found=found, means=means, remedy=remedy)


def seen_here(check: Check, elsewhere: str) -> Check:
    """Say of a check of this machine that the engine works on another, where it does."""
    return replace(check, found=f"{check.found} (here; the engine works on {elsewhere})") if elsewhere else check


def gib(count: float) -> str:
    """Say bytes as GiB."""
    return f"{count / _GIB:,.1f} GiB"
