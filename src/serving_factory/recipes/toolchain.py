"""The toolchain: what compiles a variant. Derived from the catalogue, unless the matrix says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from serving_factory.catalogue.distributions import distributions
from serving_factory.catalogue.releases import FlavourFacts, Release
from serving_factory.errors import RecipeError
from serving_factory.matrix.lockfile import EMPTY, Lock
from serving_factory.matrix.settings import BazelChoice, Settings
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.pins import bazel_checksum
from serving_factory.recipes.support import check_supported

__all__ = ["Bazel", "Toolchain", "toolchain_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bazel:
    """The Bazel that builds: a release asset by checksum, or an apt package of the base.

    Args:
        version: Bazel's version.
        sha256: of the release asset; None with a package.
        package: the apt package; None with a release asset.
    """

    version: str
    sha256: str | None
    package: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Everything that the compile stage needs beside the sources.

    Args:
        base: base image reference, as the Dockerfile names it.
        packages: apt packages, sorted.
        compiler: the C compiler's command.
        bazel: which Bazel, and where it comes from.
        configs: Bazel configs of the flavour, in order.
        flags: other Bazel flags that every build of the flavour must have.
    """

    base: str
    packages: tuple[str, ...]
    compiler: str
    bazel: Bazel
    configs: tuple[str, ...]
    flags: tuple[str, ...]


def toolchain_for(variant: Variant, release: Release, settings: Settings, lock: Lock = EMPTY) -> Toolchain:
    """Derive the toolchain of a variant; what the lock pins is named by content.

    Raises:
        RecipeError: there is no recipe yet, the base is of no distribution that the catalogue knows, or Bazel's
            checksum is unknown.
    """
    check_supported(variant)
    choice = settings.toolchain
    facts: FlavourFacts = release.flavours[variant.flavour]
    base = choice.base or facts.os
    distribution = distributions().get(base.partition("@")[0])
    if distribution is None:
        raise RecipeError(
            f"{variant.id}: no package list is known for the base image {base}",
            why=f"known bases: {', '.join(distributions())}",
            remedy="name one of them at toolchain.base in the matrix file",
        )
    compiler = choice.compiler or facts.compiler_package
    if compiler is None:
        raise RecipeError(
            f"{variant.id}: upstream compiles it with a {facts.compiler} that Bazel downloads",
            why="this factory compiles with a compiler of the base's distribution",
            remedy="name one at toolchain.compiler in the matrix file",
        )
    bazel = _bazel(variant, release, settings.bazel, lock)
    packages = {*distribution.packages, distribution.python, compiler, compiler.replace("gcc", "g++"), *choice.packages}
    if bazel.package:
        packages.add(bazel.package)
    return Toolchain(
        base=lock.pinned(base),
        packages=tuple(sorted(packages)),
        compiler=compiler,
        bazel=bazel,
        configs=choice.configs.get(variant.flavour, facts.configs),
        flags=facts.plain_flags,
    )


def _bazel(variant: Variant, release: Release, choice: BazelChoice, lock: Lock) -> Bazel:
    if choice.version and choice.package:
        return Bazel(version=choice.version, sha256=None, package=choice.package)
    version, sha256 = choice.version or release.bazel, bazel_checksum(release, choice, lock)
    if sha256 is None:
        raise RecipeError(
            f"{variant.id}: the checksum of Bazel {version} is not known",
            remedy="run `./factory lock`, which fetches it into the lock file; or name a Bazel that the base's "
            "distribution ships at bazel: in the matrix file",
        )
    return Bazel(version=version, sha256=sha256, package=None)
