"""Distributions: which packages make a toolchain on each base image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.version import Version

from serving_factory.catalogue.data import read_yaml

__all__ = ["Distribution", "DistributionPython", "Wheel", "distributions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A Python package that the distribution lacks.

    Args:
        file: its file name, which tells what it is for: NAME-VERSION-PYTHON-ABI-PLATFORM.whl.
        sha256: 64 hex digits.
    """

    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for: `numpy==1.16.6`."""
        name, version, *_ = self.file.split("-")
        return f"{name}=={version}"

    @property
    def pip_options(self) -> tuple[str, ...]:
        """How pip is told for which Python, when another one runs it."""
        _, _, python, abi, platform = self.file.removesuffix(".whl").split("-")
        implementation, version = python[:2], python[2:]
        return (
            f"--implementation={implementation}",
            f"--python-version={version}",
            f"--abi={abi}",
            f"--platform={platform}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionPython:
    """A Python of a distribution, for Bazel's rules to run with.

    Args:
        version: `2.7`.
        packages: apt packages of the interpreter and its headers.
        numpy: the apt package that brings numpy, or a wheel.
        future: the apt package that brings `future`; None where there is none.
        command: the interpreter's name.
    """

    version: str
    packages: tuple[str, ...]
    numpy: str | Wheel
    future: str | None
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One base distribution.

    Args:
        name: the image that it is known by, `ubuntu:20.04`.
        packages: apt packages that every toolchain on it needs, beside upstream's build packages, compiler and Python.
        names: upstream's build package -> the package that stands for it here.
        compilers: its packages of gcc, the default one first.
        glibc: glibc's version.
        pythons: version -> Python; the distribution's own last.
        tools: the apt package of a Python that is only there for scripts.
        nvidia: its name among NVIDIA's apt repositories; None where they have none for it.
        llvm: its name at apt.llvm.org.
    """

    name: str
    packages: tuple[str, ...]
    names: Mapping[str, str]
    compilers: tuple[str, ...]
    glibc: Version
    pythons: Mapping[str, DistributionPython]
    tools: str
    nvidia: str | None
    llvm: str


@cache
def distributions() -> Mapping[str, Distribution]:
    """Read all distributions, by base image reference without digest, such as `ubuntu:20.04`."""
    return {
        name: Distribution(
            name=name,
            packages=tuple(entry["packages"]),
            names=entry["names"],
            compilers=tuple(entry["compilers"]),
            glibc=Version(entry["glibc"]),
            pythons={version: _python(version, python) for version, python in entry["pythons"].items()},
            tools=entry["tools"],
            nvidia=entry["nvidia"],
            llvm=entry["llvm"],
        )
        for name, entry in read_yaml("distributions.yaml").items()
    }


def _python(version: str, entry: Mapping[str, Any]) -> DistributionPython:
    numpy = entry["numpy"]
    return DistributionPython(
        version=version,
        packages=tuple(entry["packages"]),
        numpy=numpy if isinstance(numpy, str) else Wheel(**numpy),
        future=entry["future"],
        command=entry["command"],
    )
