"""An image on emulated CPUs: it must serve on one of its level, and on one of the level below refuse, and die.

qemu's user mode runs the server inside the image's own container, without a privilege and with nothing to register.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.levels import Level, emulated_cpus, level_below, level_facts
from serving_factory.docker.emulator import Emulator
from serving_factory.docker.process import BY_SIGNAL, exit_text

EMULATOR = "/qemu"  # its place in the container
CPUINFO = "/proc/cpuinfo"
SERVER = "/usr/lib/serving-factory/tensorflow_model_server"
INIT = "/usr/bin/tf_serving_init"
PATIENCE = 300.0  # seconds from start to AVAILABLE: what is emulated starts some ten times as slowly
DEATH_LIMIT = 60.0  # seconds in which it must die on a CPU of the level below

# TensorFlow's cpu_feature_guard.cc, of every release, before main() begins.
_GUARD = re.compile(r"compiled to use \S+ instructions, but these aren't available on your machine")
_ILLEGAL, _ABORTED = BY_SIGNAL + signal.SIGILL, BY_SIGNAL + signal.SIGABRT


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulationPlan:
    """How to try one image; at least one of `cpu` and `lower_cpu` is there."""

    emulator: Emulator
    level: Level  # the image's
    cpu: str  # what `-cpu` takes for a CPU of it; empty where the emulator has none
    no_cpu: str  # why it has none
    lower: Level | None  # the level below; None where there is none, or the emulator has no CPU of it
    lower_cpu: str  # what `-cpu` takes for that; empty where `lower` is None

    @property
    def cpuinfo(self) -> str:
        """A /proc/cpuinfo of the level below, for the launcher, which knows the CPU by it."""
        flags = level_facts(self.lower).cpuinfo if self.lower else ()
        return f"model name\t: emulated, {self.lower}\nflags\t\t: {' '.join(('fpu', 'sse', 'sse2', *flags))}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulated:
    """What an image did on emulated CPUs."""

    qemu: str  # its version
    cpu: str | None  # on which it served, as `-cpu` takes it; None where this qemu has none of the level
    ready: float | None  # seconds after which the model was seen to be available there
    lower_cpu: str | None  # of the level below; None where there is none
    ended: int | None  # the server's exit code there; the launcher had refused with 78

    def __str__(self) -> str:
        parts = [f"served on {_model(self.cpu)}"] if self.cpu else []
        parts += [f"ended with {exit_text(self.ended)} on {_model(self.lower_cpu)}"] if self.lower_cpu else []
        return f"{'; '.join(parts)} (qemu {self.qemu})"


def _model(cpu: str) -> str:
    """A CPU by its model, without what is turned off and on."""
    return cpu.partition(",")[0]


def plan_emulation(emulator: Emulator, level: Level, cpu_flags: Sequence[str]) -> tuple[EmulationPlan | None, str]:
    """How to try an image of a level that needs these flags of /proc/cpuinfo; or else why it cannot be tried."""
    # What upstream's own flags add to a level is part of what the image asks for.
    added = [flag for flag in cpu_flags if flag not in level_facts(level).cpuinfo]
    cpu, lower = emulated_cpus()[level] + "".join(f",{flag}=on" for flag in added), level_below(level)
    cpu += ",xsave=on" if added else ""  # without which no AVX may be used
    no_cpu = emulator.why_not(cpu)
    if lower and emulator.why_not(emulated_cpus()[lower]):
        lower = None
    if no_cpu and not lower:
        return None, no_cpu
    plan = EmulationPlan(
        emulator=emulator,
        level=level,
        cpu="" if no_cpu else cpu,
        no_cpu=no_cpu,
        lower=lower,
        lower_cpu=emulated_cpus()[lower] if lower else "",
    )
    return plan, ""


def emulated(cpu: str, *command: str) -> tuple[str, ...]:
    """A command on an emulated CPU, or as it is where that is empty."""
    return (EMULATOR, "-cpu", f"{cpu},enforce", *command) if cpu else command


def lacked_instructions(code: int | None, output: str) -> bool:
    """Whether a program ended because its CPU lacks instructions: by itself, or as TensorFlow's guard found it."""
    return code == _ILLEGAL or (code == _ABORTED and _GUARD.search(output) is not None)


def write_cpuinfo(plan: EmulationPlan, folder: Path) -> Path:
    """Write the file that a container gets for its /proc/cpuinfo."""
    file = folder / "cpuinfo"
    file.write_text(plan.cpuinfo, encoding="utf-8")
    file.chmod(0o644)
    return file
