"""Who works when, and with how much: variants against one budget of CPUs and memory. Pure: values in, a value out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

_JOB_MEMORY = 5 * 2**29
"""Bytes for each compiler that runs at once, Bazel's own share included. Measured of 1.9.1: 5.1 GB at most with two."""

_FEWEST_JOBS = 4
"""A Bazel with fewer jobs than this gains little from having neighbours: each brings a Java machine of its own."""

_USABLE = 0.8
"""Of the engine's memory; the rest is the kernel's, the engine's and the page cache's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one variant may use while it works.

    Args:
        jobs: how many compilers run at once; 0 where nothing is compiled.
        memory: bytes.
    """

    jobs: int
    memory: int

    def light(self) -> Share:
        """What is left of it once nothing is compiled any more."""
        return replace(LIGHT, memory=min(self.memory, LIGHT.memory))

    def halved(self) -> Share:
        """Half as many jobs in the same memory: each has twice as much."""
        return replace(self, jobs=max(1, self.jobs // 2))


ONE_JOB = Share(jobs=1, memory=_JOB_MEMORY)
"""What a compile takes that nobody has given more."""

LIGHT = Share(jobs=0, memory=2 * 2**30)
"""What a variant takes that compiles nothing, or nothing any more: it reads, packs or serves, and mostly waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all variants that work at one time may use together: CPUs, and bytes of memory."""

    cpus: int
    memory: int

    @classmethod
    def of_machine(cls, *, cpus: int, memory: int) -> Budget:
        """Give the budget of an engine's machine: all its CPUs, and most of its memory."""
        return cls(cpus=max(1, cpus), memory=int(memory * _USABLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a user says instead; None where the budget decides.

    Args:
        parallel: how many variants work at once, at most.
        jobs: compilers at once, of each compile.
        memory: bytes, of each compile.
    """

    parallel: int | None = None
    jobs: int | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A variant that waits for its turn.

    Args:
        variant: its id.
        toolchain: what tells its toolchain from others; variants of one share Bazel's caches.
        objects: what tells its object files from others' of the toolchain, as far as it is known: the level's options.
        compiles: whether its compile stage has work to do.
    """

    variant: str
    toolchain: str
    objects: str
    compiles: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A variant's turn.

    Args:
        variant: its id.
        wave: variants of one wave are planned to compile at once; the first is 1.
        share: what it may use until Bazel is done; after that, what `light` leaves of it.
        after: the variant whose Bazel fills the caches for this one; empty for the first of its toolchain, and for
            one that does not compile.
    """

    variant: str
    wave: int
    share: Share
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The turns, in the order in which they begin; only one that still waits for `after` is overtaken.

    Args:
        budget: what those that work at one time may use together.
        parallel: how many may work at one time; None for as many as the budget bears.
        turns: one for each variant.
    """

    budget: Budget
    parallel: int | None
    turns: tuple[Turn, ...]

    def fits(self, share: Share, running: Sequence[Share]) -> bool:
        """Whether one more can begin. A machine where nothing runs takes any.

        CPUs are counted for compilers alone: what compiles nothing leaves them idle for the most part, and a compile
        waits for it only where there is more of it than CPUs.
        """
        if not running:
            return True
        if self.parallel and len(running) >= self.parallel:
            return False
        compiling = [one.jobs for one in running if one.jobs]
        light = len(running) - len(compiling)
        if share.jobs:
            room = light <= self.budget.cpus and (not compiling or sum(compiling) + share.jobs <= self.budget.cpus)
        else:
            room = light < self.budget.cpus
        return room and sum(one.memory for one in running) + share.memory <= self.budget.memory


def one_by_one(variants: Sequence[str]) -> Schedule:
    """Give the schedule in which each variant waits for the one before it."""
    budget = Budget(cpus=1, memory=_JOB_MEMORY)
    turns = (Turn(variant=variant, wave=number, share=ONE_JOB) for number, variant in enumerate(variants, start=1))
    return Schedule(budget=budget, parallel=1, turns=tuple(turns))


def schedule(candidates: Sequence[Candidate], budget: Budget, limits: Limits) -> Schedule:
    """Give each variant its turn.

    Those that compile nothing come first: they are soon done. Of each toolchain the first that compiles fetches and
    fills the caches, the others come after it, side by side; but of those that have object files in common one comes
    before the others, or each would compile them. The members of a wave share the CPUs evenly.
    """
    turns = [*_light_turns(candidates, budget, limits)]
    turns += _compile_turns(candidates, budget, limits, first=turns[-1].wave + 1 if turns else 1)
    return Schedule(budget=budget, parallel=limits.parallel, turns=tuple(turns))


def _light_turns(candidates: Sequence[Candidate], budget: Budget, limits: Limits) -> Iterator[Turn]:
    room = _room(budget, LIGHT, limits.parallel)
    light = [one for one in _neighbours(candidates) if not one.compiles]
    for place, one in enumerate(light):
        yield Turn(variant=one.variant, wave=1 + place // room, share=LIGHT)


def _compile_turns(candidates: Sequence[Candidate], budget: Budget, limits: Limits, *, first: int) -> Iterator[Turn]:
    jobs = limits.jobs or (1 if limits.parallel else _FEWEST_JOBS)
    room = _room(budget, Share(jobs=jobs, memory=limits.memory or jobs * _JOB_MEMORY), limits.parallel)
    waiting = [one for one in _neighbours(candidates) if one.compiles]
    after = _who_waits_for_whom(waiting)
    done = {""}
    wave = first
    while waiting:
        chosen = [one for one in waiting if after[one.variant] in done][:room]
        share = _share(budget, limits, at_once=len(chosen))
        for one in chosen:
            yield Turn(variant=one.variant, wave=wave, share=share, after=after[one.variant])
        done |= {one.variant for one in chosen}
        waiting = [one for one in waiting if one not in chosen]
        wave += 1


def _who_waits_for_whom(compiling: Sequence[Candidate]) -> dict[str, str]:
    """Variant → the one that fills the caches for it; empty for the first of a toolchain."""
    leaders: dict[str, str] = {}
    firsts: dict[tuple[str, str], str] = {}
    after: dict[str, str] = {}
    for one in compiling:
        leader = leaders.setdefault(one.toolchain, one.variant)
        first = firsts.setdefault((one.toolchain, one.objects), one.variant)
        after[one.variant] = next((name for name in (first, leader) if name != one.variant), "")
    return after


def _neighbours(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Put those of one toolchain side by side, and leave the order as it is in all else."""
    toolchains = list(dict.fromkeys(one.toolchain for one in candidates))
    return sorted(candidates, key=lambda one: toolchains.index(one.toolchain))


def _room(budget: Budget, share: Share, parallel: int | None) -> int:
    """How many such shares the budget has; at least one, at most `parallel`."""
    room = max(1, min(budget.cpus // max(1, share.jobs), budget.memory // share.memory))
    return min(room, parallel) if parallel else room


def _share(budget: Budget, limits: Limits, *, at_once: int) -> Share:
    """What each of a wave gets."""
    memory = limits.memory or budget.memory // at_once
    jobs = limits.jobs or max(1, min(budget.cpus // at_once, memory // _JOB_MEMORY))
    return Share(jobs=jobs, memory=limits.memory or min(memory, jobs * _JOB_MEMORY))


def count_jobs(number: int) -> str:
    """Say how many compilers run at once."""
    return "1 job" if number == 1 else f"{number} jobs"
