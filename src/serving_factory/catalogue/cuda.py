"""CUDA toolkits with their drivers, architectures and host compilers; compute capabilities, also by card."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_table

_GCC = re.compile(r"gcc[ -](\d+)")
_WORD = re.compile(r"(?:(?:sm|compute)_(?P<joined>\d+)|(?P<dotted>\d+)\.)(?P<minor>\d)")


@dataclass(frozen=True, slots=True, order=True)
class Capability:
    """A compute capability that a binary has machine code for."""

    major: int  # 7 of 7.5
    minor: int  # 5 of 7.5
    ptx: bool = False  # whether the binary has PTX for it too, which the driver of a later card translates

    @classmethod
    def parse(cls, word: str, *, ptx: bool = False) -> Capability:
        """Read `7.5`, `sm_75` or `compute_75`; the last has PTX."""
        found = _WORD.fullmatch(word)
        if found is None:
            raise ValueError(f"{word!r} is no compute capability: write 7.5, sm_75 or compute_75")
        return cls(int(found["dotted"] or found["joined"]), int(found["minor"]), ptx or word.startswith("compute"))

    @property
    def number(self) -> str:
        """The capability itself, `7.5`."""
        return f"{self.major}.{self.minor}"

    @property
    def machine(self) -> str:
        """The name of its machine code, `sm_75`."""
        return f"sm_{self.major}{self.minor}"

    @property
    def word(self) -> str:
        """TensorFlow's word for it: `sm_75` is machine code, `compute_75` machine code and PTX."""
        return f"compute_{self.major}{self.minor}" if self.ptx else self.machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Notation:
    """What TensorFlow makes of words for compute capabilities."""

    since: str  # the first series that does so
    explicit: bool  # whether it knows `sm_75` and `compute_75`; else `7.5` alone
    highest_only: bool  # whether a list of `x.y` alone gives PTX for the highest; else for each
    generated_ptx_alone: bool  # whether kernels that MLIR generates get no machine code by `compute_75` alone
    default: tuple[str, ...]  # without words

    def read(self, words: Sequence[str]) -> tuple[Capability, ...]:
        """What a build with these words compiles, lowest first."""
        words = words or self.default
        dotted = _dotted(words)
        return _merged(words, dotted[-1:] if self.highest_only and len(dotted) == len(words) else dotted)

    def spell(self, words: Sequence[str]) -> tuple[str, ...]:
        """Write the matrix file's words for TensorFlow: `x.y` is machine code, and PTX for the highest of them."""
        merged = _merged(words, _dotted(words)[-1:])
        if not self.explicit:
            return tuple(one.number for one in merged)
        both = self.generated_ptx_alone
        return tuple(word for one in merged for word in ((one.machine, one.word) if both and one.ptx else (one.word,)))

    def why_not(self, words: Iterable[str]) -> str:
        """Return why TensorFlow cannot be asked for these words, as `why_not` does; empty if it can."""
        refused = [word for word in words if word.startswith("sm_")]
        if self.explicit or not refused:
            return ""
        return f"its TensorFlow compiles PTX for every capability, so {', '.join(refused)} cannot be had without"


def _dotted(words: Iterable[str]) -> list[str]:
    return sorted((word for word in words if "." in word), key=Capability.parse)


def _merged(words: Iterable[str], with_ptx: Collection[str]) -> tuple[Capability, ...]:
    """Each capability once, with PTX if one of its words has it."""
    # Sorted, the one with PTX is the last of its number.
    found = sorted(Capability.parse(word, ptx=word in with_ptx) for word in words)
    return tuple({one.number: one for one in found}.values())


def device_code(capabilities: Sequence[Capability]) -> tuple[str, ...]:
    """Name the device code of a binary: `sm_80` is machine code and `compute_80` PTX, here alone."""
    return (*(one.machine for one in capabilities), *(one.word for one in capabilities if one.ptx))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuda:
    """A CUDA toolkit."""

    version: str  # `12.2`
    driver: str  # the oldest Linux driver that the toolkit comes with
    compatible_driver: str | None  # the oldest for minor-version compatibility; None before CUDA 11
    compat_drivers: (
        tuple[str, ...] | None
    )  # older branches that it serves with cuda-compat; None where there is no such
    architectures: tuple[str, ...]  # compute capabilities that nvcc compiles machine code for, lowest first
    newest_gcc: int  # the newest major version of gcc that nvcc takes as host compiler

    @property
    def minimum_driver(self) -> str:
        """The oldest driver on which a binary of this toolkit starts."""
        return min(filter(None, (self.driver, self.compatible_driver)), key=Version)

    def requirement(self) -> str:
        """Which drivers are enough, as NVIDIA_REQUIRE_CUDA spells it."""
        least = [f"cuda>={self.version}", *([f"driver>={self.compatible_driver}"] if self.compatible_driver else [])]
        return " ".join(
            (*least, *(f"driver>={branch},driver<{int(branch) + 1}" for branch in self.compat_drivers or ()))
        )

    def runs_on(self, driver: str, *, ptx: bool = False) -> bool:
        """Whether a driver runs the toolkit's machine code, with `ptx` its PTX too."""
        # NVIDIA's CUDA Compatibility, Minor Version Compatibility: within a major version of CUDA an older driver runs
        # what a newer toolkit compiled, but does not know its PTX (CUDA error 222, unsupported PTX version).
        if str(Version(driver).major) in (self.compat_drivers or ()):
            return True
        return Version(driver) >= Version(self.driver if ptx else self.minimum_driver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card, or a family of them, by the name that people use."""

    name: str  # `h100`
    capabilities: tuple[str, ...]  # what a binary needs for it
    since: str  # the first CUDA that compiles machine code for all of them


@cache
def cudas() -> Mapping[str, Cuda]:
    """Read all toolkits, by version, oldest first."""
    return read_table(Cuda, "cuda.yaml", "version")


def cuda_in_image(version: str, *, compat: bool) -> Cuda:
    """Return a toolkit as an image has it: one without cuda-compat serves no older branches of drivers."""
    found = cudas()[version]
    return found if compat else replace(found, compat_drivers=None)


@cache
def cards() -> Mapping[str, Card]:
    """Read all cards, by name."""
    return read_table(Card, "cards.yaml", "name")


@cache
def _notations() -> Mapping[str, Notation]:
    return read_table(Notation, "capability_words.yaml", "since")


def notation(release: Version) -> Notation:
    """Find what the TensorFlow of a release makes of words for capabilities."""
    known = _notations()
    return known[str(max(since for since in map(Version, known) if since <= release))]


def why_not(capabilities: Iterable[str], cuda: Cuda) -> str:
    """Return why a toolkit cannot compile these capabilities, as a sentence without its full stop; empty if it can."""
    numbers = [Capability.parse(text).number for text in capabilities]
    unknown = [number for number in numbers if number not in cuda.architectures]
    if not unknown:
        return ""
    lowest, highest = cuda.architectures[0], cuda.architectures[-1]
    later = [card.since for card in cards().values() if unknown[0] in card.capabilities]
    hint = f"; it needs CUDA {later[0]}" if later and Version(later[0]) > Version(cuda.version) else ""
    return f"CUDA {cuda.version} compiles capabilities {lowest} to {highest}, not {', '.join(unknown)}{hint}"


def why_not_compiler(compiler: str, cuda: Cuda) -> str:
    """Return why nvcc does not take a host compiler, such as `gcc 9.4` or `gcc-12`; empty if it does, or may."""
    found = _GCC.match(compiler)
    if found is None or int(found[1]) <= cuda.newest_gcc:
        return ""
    return f"nvcc of CUDA {cuda.version} takes gcc up to {cuda.newest_gcc} as host compiler, not {compiler}"


def why_not_driver(driver: str, cuda: Cuda) -> str:
    """Return why a driver does not run what a toolkit compiled, likewise; empty if it does."""
    if cuda.runs_on(driver):
        return ""
    return f"CUDA {cuda.version} needs driver {cuda.minimum_driver} or later, not {driver}"
