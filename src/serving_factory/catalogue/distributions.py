"""Which of upstream's build packages a toolchain installs, and what they are called on its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml
from serving_factory.catalogue.facts import Flavour, Release


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredBase:
    """An image that its registry has deleted.

    Args:
        image: its name and tag.
        replacement: a plain image of the same distribution, to which the vendor's packages are added.
        last_patch: the image that was reported to serve in its place; None where none is known.
        references: URLs of reports.
    """

    image: str
    replacement: str
    last_patch: str | None
    references: tuple[str, ...]


@cache
def retired_bases() -> Mapping[str, RetiredBase]:
    """Read all retired images, by name and tag."""
    return {
        image: RetiredBase(
            image=image,
            replacement=entry["replacement"],
            last_patch=entry["last_patch"],
            references=tuple(entry["references"]),
        )
        for image, entry in read_yaml("retired_bases.yaml").items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Packages that a toolchain does without.

    Args:
        packages: upstream's names.
        releases: of which releases.
        built_without: tags of the releases that were built without them.
        why: sentences.
    """

    packages: tuple[str, ...]
    releases: SpecifierSet
    built_without: tuple[str, ...]
    why: str


def build_packages(release: Release, flavour: Flavour, distribution: Distribution) -> tuple[str, ...]:
    """Give the packages of upstream's devel image that a build on this base installs, by their names there; sorted."""
    unneeded = {name for entry in left_out() if release.version in entry.releases for name in entry.packages}
    required = (name for name in release.flavours[flavour].packages if name not in unneeded)
    return tuple(sorted({distribution.names.get(name, name) for name in required}))


@cache
def left_out() -> tuple[LeftOut, ...]:
    """Read what toolchains do without."""
    return tuple(
        LeftOut(
            packages=tuple(entry["packages"]),
            releases=SpecifierSet(entry["releases"]),
            built_without=tuple(entry["built_without"]),
            why=entry["why"],
        )
        for entry in read_yaml("build_packages.yaml")
    )
