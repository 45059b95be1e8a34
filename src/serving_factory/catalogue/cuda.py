"""CUDA toolkits with their drivers, architectures and host compilers; compute capabilities, also by card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.data import read_table

_DOTTED = re.compile(r"(\d+)\.(\d)")
_GCC = re.compile(r"gcc[ -](\d+)")
_JOINED = re.compile(r"(sm|compute)_(\d+)(\d)")


@dataclass(frozen=True, slots=True, order=True)
class Capability:
    """A compute capability that a binary is built for."""

    major: int  # 7 of 7.5
    minor: int  # 5 of 7.5
    ptx: bool = True  # whether the binary has PTX for it, which the driver of a later card translates

    @classmethod
    def parse(cls, text: str) -> Capability:
        """Read TensorFlow's notation: `7.5` and `compute_75` give machine code and PTX, `sm_75` machine code alone."""
        if found := _DOTTED.fullmatch(text):
            return cls(int(found[1]), int(found[2]))
        if found := _JOINED.fullmatch(text):
            return cls(int(found[2]), int(found[3]), ptx=found[1] == "compute")
        raise ValueError(f"{text!r} is no compute capability: write 7.5, sm_75 or compute_75")

    @property
    def number(self) -> str:
        """The capability itself, `7.5`."""
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuda:
    """A CUDA toolkit."""

    version: str  # `12.2`
    driver: str  # the oldest Linux driver that the toolkit comes with
    compatible_driver: str | None  # the oldest for minor-version compatibility; None before CUDA 11
    architectures: tuple[str, ...]  # compute capabilities that nvcc compiles machine code for, lowest first
    newest_gcc: int  # the newest major version of gcc that nvcc takes as host compiler

    @property
    def minimum_driver(self) -> str:
        """The oldest driver on which a binary of this toolkit starts."""
        return min(filter(None, (self.driver, self.compatible_driver)), key=Version)


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


@cache
def cards() -> Mapping[str, Card]:
    """Read all cards, by name."""
    return read_table(Card, "cards.yaml", "name")


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
