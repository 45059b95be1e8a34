"""Schedules variants against one budget of CPUs and memory. Pure: values in, a value out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

# Bytes for each compiler that runs at once, Bazel's own share included. Measured of 1.9.1: 5.1 GB at most with two.
_JOB_MEMORY = 5 * 2**29
# A Bazel with fewer jobs than this gains little from having neighbours: each brings a Java machine of its own
_FEWEST_JOBS = 4
_USABLE = 0.8  # of the engine's memory; the rest is the kernel's, the engine's and the page cache's


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one variant may use while it works."""

    jobs: int  # compilers at once; 0 where nothing is compiled
    memory: int  # bytes

    def light(self) -> Share:
        """The rest of it once Bazel is done."""
        return replace(LIGHT, memory=min(self.memory, LIGHT.memory))

    def halved(self) -> Share:
        """Half as many jobs in the same memory."""
        return replace(self, jobs=max(1, self.jobs // 2))


ONE_JOB = Share(jobs=1, memory=_JOB_MEMORY)  # a compile's share where none is given
# The share of a variant that compiles nothing, or nothing any more: it reads, packs or serves, and mostly waits
LIGHT = Share(jobs=0, memory=2 * 2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all variants that work at one time may use together."""

    cpus: int
    memory: int  # bytes

    @classmethod
    def of_machine(cls, *, cpus: int, memory: int) -> Budget:
        """All CPUs of an engine's machine, and most of its memory."""
        return cls(cpus=max(1, cpus), memory=int(memory * _USABLE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a user sets; None where the budget decides."""

    parallel: int | None = None  # variants at once, at most
    jobs: int | None = None  # compilers at once, of each compile
    memory: int | None = None  # bytes, of each compile


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A variant that waits for its turn, and what would be done for it."""

    variant: str
    toolchain: str  # the same for variants that share Bazel's caches
    objects: str  # the same for those that compile the same objects, as far as is known: the level's options
    compiles: bool
    run: tuple[str, ...] = ()  # the stages that would run, `up_to_date` those that would not
    up_to_date: tuple[str, ...] = ()
    because: str = ""  # why the first of them would run; empty when none would


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A variant's turn."""

    variant: str
    wave: int  # those of one wave are planned to compile at once; the first is 1
    share: Share  # until Bazel is done; after that, its `light`
    after: str = ""  # the variant whose Bazel fills the caches for this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The turns, in the order in which they begin; only one that still waits for `after` is overtaken."""

    budget: Budget
    parallel: int | None  # variants at once; None for as many as the budget allows
    turns: tuple[Turn, ...]

    def fits(self, share: Share, running: Sequence[Share]) -> bool:
        """Whether one more can begin; where nothing runs, any can."""
        # CPUs are counted for compilers alone: what compiles nothing leaves them idle for the most part, and a compile
        # waits for it only where there is more of it than CPUs.
        if not running:
            return True
        if self.parallel and len(running) >= self.parallel:
            return False
        compiling = [one.jobs for one in running if one.jobs]
        light = len(running) - len(compiling)
        if share.jobs:
            enough = light <= self.budget.cpus and (not compiling or sum(compiling) + share.jobs <= self.budget.cpus)
        else:
            enough = light < self.budget.cpus
        return enough and sum(one.memory for one in running) + share.memory <= self.budget.memory


def one_by_one(variants: Sequence[str]) -> Schedule:
    """Let each variant wait for the one before it."""
    budget = Budget(cpus=1, memory=_JOB_MEMORY)
    turns = (Turn(variant=variant, wave=number, share=ONE_JOB) for number, variant in enumerate(variants, start=1))
    return Schedule(budget=budget, parallel=1, turns=tuple(turns))


def schedule(candidates: Sequence[Candidate], budget: Budget, limits: Limits) -> Schedule:
    """Give each variant its turn."""
    # Those that compile nothing come first: they take seconds. Of each toolchain the first that compiles fetches and
    # fills the caches, the others come after it, side by side; but of those that have object files in common one comes
    # before the others, or each would compile them. The members of a wave share the CPUs evenly.
    toolchains = list(dict.fromkeys(one.toolchain for one in candidates))
    candidates = sorted(candidates, key=lambda one: toolchains.index(one.toolchain))  # those of one side by side
    most = _at_once(budget, LIGHT, limits.parallel)
    light = [one for one in candidates if not one.compiles]
    turns = [Turn(variant=one.variant, wave=1 + place // most, share=LIGHT) for place, one in enumerate(light)]
    compiling = [one for one in candidates if one.compiles]
    turns += _compile_turns(compiling, budget, limits, wave=turns[-1].wave + 1 if turns else 1)
    return Schedule(budget=budget, parallel=limits.parallel, turns=tuple(turns))


def _compile_turns(waiting: list[Candidate], budget: Budget, limits: Limits, *, wave: int) -> Iterator[Turn]:
    fewest = limits.jobs or (1 if limits.parallel else _FEWEST_JOBS)
    most = _at_once(budget, Share(jobs=fewest, memory=limits.memory or fewest * _JOB_MEMORY), limits.parallel)
    after = _leaders(waiting)
    done = {""}
    while waiting:
        chosen = [one for one in waiting if after[one.variant] in done][:most]
        memory = limits.memory or budget.memory // len(chosen)
        jobs = limits.jobs or max(1, min(budget.cpus // len(chosen), memory // _JOB_MEMORY))
        share = Share(jobs=jobs, memory=limits.memory or min(memory, jobs * _JOB_MEMORY))
        for one in chosen:
            yield Turn(variant=one.variant, wave=wave, share=share, after=after[one.variant])
        done |= {one.variant for one in chosen}
        waiting = [one for one in waiting if one not in chosen]
        wave += 1


def _leaders(compiling: Sequence[Candidate]) -> dict[str, str]:
    """Variant → the one that fills the caches for it; empty for the first of a toolchain."""
    leaders: dict[str, str] = {}
    firsts: dict[tuple[str, str], str] = {}
    after: dict[str, str] = {}
    for one in compiling:
        leader = leaders.setdefault(one.toolchain, one.variant)
        first = firsts.setdefault((one.toolchain, one.objects), one.variant)
        after[one.variant] = next((name for name in (first, leader) if name != one.variant), "")
    return after


def _at_once(budget: Budget, share: Share, parallel: int | None) -> int:
    """How many such shares the budget has; at least one, at most `parallel`."""
    most = max(1, min(budget.cpus // max(1, share.jobs), budget.memory // share.memory))
    return min(most, parallel) if parallel else most


def count_jobs(number: int) -> str:
    """`1 job`, `4 jobs`."""
    return "1 job" if number == 1 else f"{number} jobs"


def gib(size: float) -> str:
    """Spell bytes as GiB."""
    return f"{size / 2**30:,.1f} GiB"
