"""What the facts of the machine mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving_factory.catalogue.levels import LEVELS, Level, level_facts
from serving_factory.docker.disk import FREE_SOME_SPACE
from serving_factory.doctor.check import Check, fail, gib, ok, warn
from serving_factory.pipeline.budget import Share, count_jobs

# One job on a small file, with Bazel's server and the linker (4 GB were just enough in 2017, tensorflow/serving#534).
_LEAST_MEMORY = 4 * 10**9
_INSTANCES, _WATCHES = 128, 8192  # the kernel's own defaults; less was set by hand


def check_memory(*, cpus: int, memory: int, at_once: int, share: Share, needed: int | None) -> Check:
    """Memory and cores for the jobs that will run at once.

    Args:
        cpus: of the engine's machine.
        memory: of the engine's machine, bytes.
        at_once: how many compile at once in the plan's largest wave; 0 where nothing is to be compiled.
        share: what each of these may use.
        needed: peak memory of the plan as expected, bytes; None where nothing is.
    """
    jobs = share.jobs if at_once else 0
    found = f"{cpus} cores, {gib(memory)}"
    if at_once:
        compiles = f"{at_once} compiles at once, " if at_once > 1 else ""
        found += f"; {compiles}{count_jobs(jobs)} with {gib(share.memory / jobs)} each"
    if memory < _LEAST_MEMORY:
        return fail(
            "memory",
            found,
            f"TensorFlow does not compile in less than {gib(_LEAST_MEMORY)}",
            "give the engine's machine more memory",
        )
    if jobs > cpus:
        return warn("memory", found, "more jobs than cores wait for each other", f"set resources.jobs to {cpus}")
    if needed is not None and needed > memory:
        more = "give the engine's machine more memory"
        if at_once > 1:
            more = f"build with --parallel {max(1, at_once * memory // needed)}, or {more}"
        elif jobs > 1:
            more = f"set resources.jobs to {jobs // 2}, or {more}"
        return warn(
            "memory", f"{found}; {gib(needed)} are expected", "a compiler may be killed for want of memory", more
        )
    return ok("memory", found if needed is None else f"{found}; {gib(needed)} are expected")


def check_disk(*, free: int | None, one: int, planned: int) -> Check:
    """Disk for what is planned.

    Args:
        free: bytes where the engine keeps its data; None where that is on another machine.
        one: bytes that the largest planned variant takes while it is built.
        planned: bytes that all of them take.
    """
    if free is None:
        return ok("disk", f"the engine is on another machine; about {gib(planned)} are needed there")
    found = f"{gib(free)} free where the engine keeps its data; about {gib(planned)} are needed for what is planned"
    if free < one:
        return fail("disk", found, "not one variant has room", FREE_SOME_SPACE)
    if free < planned:
        return warn("disk", found, "the disk may run full before the last variant", FREE_SOME_SPACE)
    return ok("disk", found)


def check_place(elsewhere: str) -> Check:
    """An engine whose machine has another name than this one.

    Args:
        elsewhere: its name.
    """
    return warn(
        "place",
        f"the engine calls its machine {elsewhere}, and that is not this one's name",
        "smoke tests mount this machine's folders and ask 127.0.0.1; they fail where it is another machine indeed",
        "run the factory on the engine's machine; Docker Desktop has another name for this one, and works",
    )


def check_inotify(limits: Mapping[str, int]) -> Check:
    """The kernel's limits for watching files.

    Args:
        limits: `max_user_instances` and `max_user_watches`; what could not be read is not there.
    """
    found = ", ".join(f"{name} {value:,}" for name, value in limits.items()) or "not told here"
    low = {"max_user_instances": _INSTANCES, "max_user_watches": _WATCHES}
    too_low = [f"fs.inotify.{name}={least}" for name, least in low.items() if limits.get(name, least) < least]
    if too_low:
        return warn(
            "inotify",
            found,
            "Bazel and containers may fail with `too many open files` or `no space left on device`",
            f"as root: sysctl -w {' '.join(too_low)}",
        )
    return ok("inotify", found)


def host_level(flags: frozenset[str]) -> Level:
    """The highest level that a CPU can run.

    Args:
        flags: as /proc/cpuinfo lists them.
    """
    return max((level for level in LEVELS if flags.issuperset(level_facts(level).cpuinfo)), key=LEVELS.index)


def check_cpu(
    flags: frozenset[str] | None, planned: Mapping[str, Level], targets: Mapping[str, Sequence[Level]]
) -> Check:
    """This machine's CPU against what is planned, and the targets that suit it.

    Args:
        flags: as /proc/cpuinfo lists them; None where it lists none.
        planned: variant's id → its level.
        targets: target's name → the levels of its variants.
    """
    if flags is None:
        return _unknown_cpu(planned)
    level = host_level(flags)
    rank = LEVELS.index(level)
    highest = {
        name: max((LEVELS.index(each) for each in levels if each in LEVELS), default=-1)
        for name, levels in targets.items()
    }
    fitting = {name: place for name, place in highest.items() if 0 <= place <= rank}
    best = max(fitting.values(), default=-1)
    suit = ", ".join(name for name, place in fitting.items() if place == best)
    found = f"{level}; targets that suit it: {suit or 'none of this matrix'}"
    beyond = [name for name, each in planned.items() if each in LEVELS and LEVELS.index(each) > rank]
    if beyond:
        return warn(
            "CPU",
            found,
            f"these can be compiled here, but not be tried: {', '.join(beyond)}",
            f"build them on a machine whose CPU has them, or choose: --target {suit or 'NAME'}",
        )
    return ok("CPU", found)


def _unknown_cpu(planned: Mapping[str, Level]) -> Check:
    found = "no x86-64 features are told here"
    if not planned:
        return ok("CPU", found)
    return warn(
        "CPU",
        found,
        f"whether these can be tried here is not known: {', '.join(planned)}",
        "build them on an x86-64 machine with Linux",
    )
