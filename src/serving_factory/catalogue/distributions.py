"""Base distributions, images that are gone, and which of upstream's build packages a toolchain installs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_entry, read_list, read_table, read_yaml
from serving_factory.catalogue.facts import Flavour, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A Python package that the distribution lacks."""

    file: str  # its file name, which says what it is for: NAME-VERSION-PYTHON-ABI-PLATFORM.whl
    sha256: str  # 64 hex digits
    folder: str = ""  # the folder in it that is used; empty for all of it
    only: tuple[str, ...] = ()  # the files of that folder that are used; empty for all of them

    @property
    def distribution(self) -> str:
        """Its name and version: `numpy-1.16.6`, as in the name of its folder `.dist-info`."""
        return "-".join(self.file.split("-")[:2])

    @property
    def requirement(self) -> str:
        """Pip's requirement: `numpy==1.16.6`."""
        name, _, version = self.distribution.partition("-")
        return f"{name.replace('_', '-')}=={version}"

    @property
    def pip_options(self) -> tuple[str, ...]:
        """Pip's options for this Python, when another one runs it."""
        _, _, python, abi, platform = self.file.removesuffix(".whl").split("-")
        interpreter = (f"--implementation={python[:2]}", f"--python-version={python[2:]}")
        return (*interpreter, f"--abi={abi}", *(f"--platform={name}" for name in platform.split(".")))


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionPython:
    """A Python of a distribution, for Bazel's rules to run with."""

    version: str  # `2.7`
    packages: tuple[str, ...]  # apt packages of the interpreter and its headers
    numpy: str | Wheel  # the apt package that brings numpy, or a wheel
    future: str | None  # the apt package that brings `future`; None where there is none
    pip: str  # the apt package that brings pip
    command: str  # the interpreter's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One base distribution."""

    name: str  # the image that it is known by, `ubuntu:20.04`
    # apt packages that every toolchain on it needs, beside upstream's build packages, compiler and Python
    packages: tuple[str, ...]
    names: Mapping[str, str]  # upstream's build package -> the package that stands for it here
    compilers: tuple[str, ...]  # its packages of gcc, the default one first
    glibc: Version  # glibc's version
    pythons: Mapping[str, DistributionPython]  # version -> Python; the distribution's own last
    tools: str  # the apt package of a Python that is only there for scripts
    nvidia: str | None  # its name among NVIDIA's apt repositories; None where they have none for it
    llvm: str  # its name at apt.llvm.org


@cache
def distributions() -> Mapping[str, Distribution]:
    """Read all distributions, by base image reference without digest, such as `ubuntu:20.04`."""
    entries = read_yaml("distributions.yaml")
    for version, python in (item for entry in entries.values() for item in entry["pythons"].items()):
        python["version"] = version
    return {name: read_entry(Distribution, f"distributions.yaml: {name}", entries[name], name=name) for name in entries}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredBase:
    """An image that its registry has deleted."""

    image: str  # its name and tag
    replacement: str  # a plain image of the same distribution, to which the vendor's packages are added
    last_patch: str | None  # the image that was reported to serve in its place; None where none is known
    references: tuple[str, ...]  # URLs of reports


@cache
def retired_bases() -> Mapping[str, RetiredBase]:
    """Read all retired images, by name and tag."""
    return read_table(RetiredBase, "retired_bases.yaml", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Packages that a toolchain does without."""

    packages: tuple[str, ...]  # upstream's names
    releases: SpecifierSet  # of which releases
    built_without: tuple[str, ...]  # tags of the releases that were built without them
    why: str  # sentences


def build_packages(release: Release, flavour: Flavour, distribution: Distribution) -> tuple[str, ...]:
    """Return the packages of upstream's devel image that a build here installs, by their names on this base; sorted."""
    unneeded = {name for entry in left_out() if release.version in entry.releases for name in entry.packages}
    required = (name for name in release.flavours[flavour].packages if name not in unneeded)
    return tuple(sorted({distribution.names.get(name, name) for name in required}))


@cache
def left_out() -> tuple[LeftOut, ...]:
    """Read what toolchains do without."""
    return read_list(LeftOut, "build_packages.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlimBase:
    """What a slim base is made of."""

    packages: tuple[str, ...]  # whose files, with the libraries of their programs
    left_out: tuple[str, ...]  # extended regular expressions of the paths of files that it does without


@cache
def slim_base() -> SlimBase:
    """Read it."""
    return read_entry(SlimBase, "slim.yaml", read_yaml("slim.yaml"))
