"""What a build downloads, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from serving_factory.catalogue.data import read_yaml
from serving_factory.matrix.settings import Network
from serving_factory.recipes.inputs import mirrored
from serving_factory.recipes.pins import BAZEL_RELEASES, bazel_asset
from serving_factory.recipes.recipe import Recipe


def archive_mirror(release: Version) -> str:
    """Give the mirror that TensorFlow's rules ask first for the archives that they declare."""
    entries = read_yaml("addresses.yaml").items()
    found = (url for url, entry in entries if "releases" in entry and release in SpecifierSet(entry["releases"]))
    return str(next(found))


_GIT_QUESTION = "/info/refs?service=git-upload-pack"  # what git asks first, by HTTP


class Kind(StrEnum):
    """How an address is asked whether it is there."""

    FILE = "file"
    HOST = "host"
    IMAGE = "image"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Download:
    """One thing that a build downloads."""

    what: str
    place: str  # its address, or where that stands if no recipe has it
    kind: Kind  # a file that must be there, a host that must answer, an image, or an address that is not known here

    @property
    def shown(self) -> str:
        """The place as people know it."""
        return self.place.removesuffix(_GIT_QUESTION)


def downloads_of(recipe: Recipe, network: Network) -> tuple[Download, ...]:
    """Say what a variant's first build downloads; nothing where its builds have no network."""
    return () if recipe.inputs.offline else tuple(_downloads(recipe, network))


def _downloads(recipe: Recipe, network: Network) -> Iterator[Download]:
    inputs, bazel = recipe.inputs, recipe.toolchain.bazel
    yield Download("base image", recipe.base.image, Kind.IMAGE)
    if recipe.collects:
        yield Download("base image of the runtime image", recipe.runtime_base.image, Kind.IMAGE)
    if inputs.apt is None:
        packages = "build packages and what they depend on"
        if network.apt_mirror:
            yield Download(packages, _host_of(network.apt_mirror), Kind.HOST)
        else:
            yield Download(packages, "the base image's own lists of sources", Kind.UNKNOWN)
        yield from _vendors(recipe)
    if not (bazel.package or bazel.given):
        place = f"{(network.bazel_mirror or BAZEL_RELEASES).rstrip('/')}/{bazel.version}/{bazel_asset(bazel.version)}"
        yield Download(f"Bazel {bazel.version}", place, Kind.FILE)
    yield from _wheels(recipe, network)
    if isinstance(recipe.source, str):
        url, _, commit = mirrored(recipe.source, inputs.git_mirrors).partition("#")
        yield Download(f"sources, commit {commit[:12]}", url + _GIT_QUESTION, Kind.FILE)
        if recipe.release.tensorflow_sha256 and not recipe.release.own_name and inputs.downloader_config is None:
            yield from _tensorflow(recipe)
    elif inputs.distdir is None:
        yield Download("archives that the sources declare", "as WORKSPACE has them", Kind.UNKNOWN)


def _wheels(recipe: Recipe, network: Network) -> Iterator[Download]:
    """Python wheels that the distdir has not."""
    distdir = recipe.inputs.distdir
    for one in recipe.toolchain.wheels:
        wheel = f"{one.requirement}, a wheel"
        if distdir is not None and (distdir / one.file).is_file():
            continue
        if network.pip_index:
            yield Download(wheel, _host_of(network.pip_index), Kind.HOST)
        else:
            yield Download(wheel, "pip's own index", Kind.UNKNOWN)


def _tensorflow(recipe: Recipe) -> Iterator[Download]:
    """TensorFlow's archive, and those that it declares: what folders have of them is not downloaded."""
    release, inputs = recipe.release, recipe.inputs
    file = f"{release.tensorflow_commit}.tar.gz"
    has_it = inputs.distdir is not None and (inputs.distdir / file).is_file()
    if not has_it and "org_tensorflow" not in dict(inputs.overrides):
        yield Download("TensorFlow's sources", f"https://github.com/tensorflow/tensorflow/archive/{file}", Kind.FILE)
    if inputs.distdir is None:
        yield Download("archives that TensorFlow declares", archive_mirror(release.version), Kind.HOST)
    else:
        yield Download("archives that the distdir lacks", "as TensorFlow declares them", Kind.UNKNOWN)


def _host_of(url: str) -> str:
    """The address of a mirror's host: what follows may hold words for which something else stands."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{place.partition('/')[0]}/"


def _vendors(recipe: Recipe) -> Iterator[Download]:
    gpu, llvm = recipe.toolchain.gpu, recipe.toolchain.llvm
    for repository in gpu.repositories if gpu else ():
        yield Download("NVIDIA's packages", f"{repository.url}/{repository.key}", Kind.FILE)
    if llvm:
        yield Download(f"clang {llvm.version}", f"https://apt.llvm.org/{llvm.suite}/", Kind.HOST)
