"""The packages and libraries of CUDA and MKL that a build needs and leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_entry, read_yaml
from serving_factory.catalogue.distributions import Wheel
from serving_factory.catalogue.facts import Flavour, GpuFacts, Release
from serving_factory.errors import CatalogueError

_Table: TypeAlias = tuple[tuple[SpecifierSet, tuple[str, ...]], ...]  # releases -> names


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtPackages:
    """TensorRT, which a build may leave out."""

    repository: str | None = None  # an apt package that holds the others; None where they are in NVIDIA's repositories
    packages: tuple[str, ...]  # `NAME=VERSION`, to compile with
    server: tuple[str, ...]  # the names of those whose libraries the server opens
    environment: Mapping[str, str]  # for tensorrt_configure


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaPackages:
    """What a gpu build installs, and what cuda_configure is given."""

    packages: tuple[str, ...]  # `NAME` or `NAME=VERSION`, to compile with; empty where Bazel brings CUDA
    server: tuple[str, ...] = ()  # the names of those whose libraries the server is linked to or opens while it runs
    machine_learning: str | None = None  # the machine-learning repository to use; None for that of the distribution
    cudnn_major: str  # the number in libcudnn's soname; empty where nothing is installed
    tensorrt: TensorrtPackages | None = None  # TensorRT; None where it is not compiled in
    environment: Mapping[str, str]  # for cuda_configure
    nccl: str | None = None  # the folder that gets links to NCCL's header and libraries; None where none looks for one
    # external repositories in which Bazel leaves the libraries; empty where they are installed
    hermetic: tuple[str, ...] = ()
    # files below the toolkit's folder that TensorFlow's rules copy by name; empty where Bazel brings CUDA
    copied: tuple[str, ...]
    tools: tuple[str, ...]  # files below the toolkit's folder that the server runs or reads while it serves
    unopened: tuple[str, ...]  # how the names of libraries begin that no server opens
    links: tuple[str, ...]  # names without a version that a library opens


def cuda_packages(release: Release) -> CudaPackages:
    """Return the packages of a gpu release; raises CatalogueError."""
    gpu = release.flavours[Flavour.GPU].gpu
    era = next((era for selector, era in _eras() if release.version in selector), None)
    if gpu is None or era is None:
        raise CatalogueError(f"cuda_packages.yaml has no packages for {release.tag}")
    values = {"cudnn": era.get("cudnn", gpu.cudnn), "nccl": gpu.nccl or "", "tensorrt": gpu.tensorrt_packages or ""}
    entry = _filled(era, values)
    if "tensorrt" in era:
        entry["tensorrt"] = _filled(era["tensorrt"], values)
    major = values["cudnn"].partition(".")[0] if entry["packages"] else ""
    where = f"cuda_packages.yaml: {release.tag}"
    kinds = ("copied", "tools", "unopened", "links")
    files = {kind: _of(release.version, _table("cuda_files.yaml", kind)) for kind in kinds}
    return read_entry(CudaPackages, where, entry, notes=("releases", "cudnn"), cudnn_major=major, **files)


# How the names of a driver's libraries begin: they fit the kernel of the machine that serves, which hands them in.
DRIVERS = ("libcuda.so.", "libnvidia-")
BY_BINARY = "the binary, which opens it"
_NCCL = "2"


def opening_functions() -> Mapping[str, Sequence[str]]:
    """Return by which functions' names a binary shows that it opens a library: `cudart` -> functions."""
    found: Mapping[str, Sequence[str]] = read_yaml("opened_libraries.yaml")["functions"]
    return found


def opened_beginnings() -> tuple[str, ...]:
    """Return how the files' names begin of all libraries of CUDA that some server opens, by itself or by another."""
    data = read_yaml("opened_libraries.yaml")
    return tuple(sorted({f"lib{name}" for names in (data["functions"], *data["versions"].values()) for name in names}))


def opened_libraries(names: Sequence[str], gpu: GpuFacts) -> Mapping[str, str]:
    """Say what a binary that opens these libraries needs: soname -> what opens it; raises CatalogueError."""
    data = read_yaml("opened_libraries.yaml")
    versions = {
        **data["versions"][gpu.cuda],
        **dict.fromkeys(("nvinfer", "nvinfer_plugin"), _major(gpu.tensorrt or "")),
        "cudnn": _major(gpu.cudnn),
        "nccl": _NCCL,
    }
    sonames = {name: f"lib{name}.so.{version}".rstrip(".") for name, version in versions.items()}
    if unknown := [name for name in names if name not in sonames]:
        raise CatalogueError(
            f"the binary opens {', '.join(unknown)}, and no version of it is known for CUDA {gpu.cuda}",
            remedy="add what follows `.so.` in the name that it opens to opened_libraries.yaml",
        )
    found = {sonames[name]: BY_BINARY for name in names}
    for opener, opened in data["opened"].items():
        if opener in found:
            found |= dict.fromkeys(opened, f"{opener}, which opens it")
    if "nvrtc" in sonames and sonames["cudnn"] in found:
        opens = f"{sonames['cudnn']}, which opens it"
        found |= {sonames["nvrtc"]: opens, sonames["nvrtc-builtins"]: f"{sonames['nvrtc']}, which opens it"}
    return found


def _major(version: str) -> str:
    return version.partition(".")[0]


def cuda_licences(names: Iterable[str]) -> tuple[str, ...]:
    """Return the licences of NVIDIA's packages or of Bazel's repositories, as SPDX spells them."""
    known = read_yaml("cuda_files.yaml")["licences"].items()
    text = " ".join(names)
    return tuple(licence for part, licence in known if part in text)


def _filled(entry: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Put the versions into the packages."""
    return {**entry, "packages": [package.format_map(values) for package in entry.get("packages", ())]}


@cache
def _eras() -> tuple[tuple[SpecifierSet, Mapping[str, Any]], ...]:
    return tuple((SpecifierSet(era["releases"]), era) for era in read_yaml("cuda_packages.yaml").values())


@cache
def cuda_wheels() -> Mapping[str, tuple[Wheel, ...]]:
    """Read NVIDIA's Python wheels, by CUDA's version."""
    return {
        cuda: tuple(read_entry(Wheel, f"cuda_wheels.yaml: {cuda}", one) for one in wheels)
        for cuda, wheels in read_yaml("cuda_wheels.yaml").items()
    }


def mkl_libraries(release: Version) -> tuple[str, ...]:
    """Return which libraries an mkl server needs beyond what its loader finds by itself."""
    return _of(release, _table("mkl.yaml"))


def _of(release: Version, table: _Table) -> tuple[str, ...]:
    return tuple(name for releases, names in table if release in releases for name in names)


@cache
def _table(file: str, part: str | None = None) -> _Table:
    """Read a file, or a part of one, that maps releases to names."""
    rows = read_yaml(file)
    return tuple((SpecifierSet(releases), tuple(names)) for releases, names in (rows[part] if part else rows).items())
