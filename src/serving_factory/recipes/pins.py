"""What the builds of a matrix start from and a lock file can pin: base images, and Bazels without a known checksum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving_factory.catalogue.releases import bazel_checksums, releases
from serving_factory.errors import NotLockedError
from serving_factory.matrix.lockfile import EMPTY, Lock
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.settings import Settings
from serving_factory.matrix.variant import Platform, Variant
from serving_factory.matrix.words import SLIM, SLIM_OF

# The folder of Bazel's release assets: what `network.bazel_mirror` takes the place of
BAZEL_RELEASES = "https://github.com/bazelbuild/bazel/releases/download"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededBase:
    """A base image that builds start from."""

    name: str  # with its tag, as Dockerfiles name it: `ubuntu:20.04`
    # The image whose registry is asked: itself, or its stand-in on this network; None where the stand-in is an image
    # of the engine, or pinned by hand.
    asked: str | None
    platforms: tuple[Platform, ...] = ()

    @property
    def image(self) -> str:
        """The image whose registry can be asked."""
        return self.asked or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a lock file must hold for some variants, each sorted."""

    bases: tuple[NeededBase, ...]
    bazels: tuple[str, ...]  # versions that are downloaded and whose checksum the catalogue does not have


def needs_of(variants: Iterable[Variant], matrix: Matrix) -> Needs:
    """Say what variants start from."""
    platforms: dict[str, set[Platform]] = {}
    bazels: set[str] = set()
    for variant in variants:
        release, settings = releases()[variant.release], matrix.settings_of(variant)
        for base in (compile_base(variant, settings), runtime_base(variant, settings)):
            if "@" not in base:
                platforms.setdefault(base, set()).add(variant.platform)
        version = settings.bazel.version or release.bazel
        if not (settings.bazel.package or settings.bazel.binary or bazel_checksum(version, EMPTY)):
            bazels.add(version)
    bases: list[NeededBase] = []
    for name in sorted(platforms):
        stand_in = matrix.network.base_images.get(name, name)
        asks = stand_in == name or (_in_registry(stand_in) and "@" not in stand_in)
        bases.append(NeededBase(name=name, asked=stand_in if asks else None, platforms=tuple(sorted(platforms[name]))))
    return Needs(bases=tuple(bases), bazels=tuple(sorted(bazels)))


def require_locked(variants: Iterable[Variant], matrix: Matrix) -> None:
    """Refuse variants whose bases and Bazels are not all known by content; NotLockedError names those that are not."""
    needs, lock = needs_of(variants, matrix), matrix.lock
    missing = [f"{name}: no digest of this base image" for name in _unpinned(needs, lock)]
    missing += [
        f"Bazel {version}: no checksum of its release asset" for version in needs.bazels if version not in lock.bazel
    ]
    if missing:
        raise NotLockedError(
            f"{lock.file} does not hold all that the builds start from",
            why="\n".join(missing),
            remedy=f"run `./factory lock --matrix {matrix.file}` and commit what it writes; or build without --locked",
        )


def unpinned_bases(variants: Iterable[Variant], matrix: Matrix) -> tuple[str, ...]:
    """Name the bases that a registry may change from one build to the next."""
    return _unpinned(needs_of(variants, matrix), matrix.lock)


def _unpinned(needs: Needs, lock: Lock) -> tuple[str, ...]:
    return tuple(base.name for base in needs.bases if base.asked and base.name not in lock.bases)


@dataclass(frozen=True, slots=True)
class Base:
    """A base image."""

    name: str  # in Dockerfiles, with its digest where the lock pins it
    image: str  # what it is on this network

    @property
    def contexts(self) -> tuple[tuple[str, str], ...]:
        """The named context that swaps it, where this network has another image for it."""
        return () if self.image == self.name else ((self.name, f"docker-image://{self.image}"),)


def runtime_base(variant: Variant, settings: Settings) -> str:
    """Name the image that a variant's image stands on, or whose packages it has: else that of the compile."""
    chosen = settings.image.bases.get(variant.flavour, SLIM)
    return compile_base(variant, settings) if chosen == SLIM else chosen.removeprefix(SLIM_OF)


def is_slim(variant: Variant, settings: Settings) -> bool:
    """Whether a variant's image has few packages of its base, and not the image itself."""
    chosen = settings.image.bases.get(variant.flavour, "")
    return chosen == SLIM or chosen.startswith(SLIM_OF)


def compile_base(variant: Variant, settings: Settings) -> str:
    """Name what a variant is compiled on."""
    return settings.toolchain.base or releases()[variant.release].flavours[variant.flavour].os


def image_for(base: str, stand_ins: Mapping[str, str]) -> str:
    """Find the image that stands for a base on this network: itself where it has no stand-in."""
    # A registry's stand-in for a pinned base is pinned to the same digest; an image of the engine is taken as it is.
    name, _, digest = base.partition("@")
    stand_in = stand_ins.get(base) or stand_ins.get(name)
    if stand_in is None:
        return base
    return f"{stand_in}@{digest}" if digest and "@" not in stand_in and _in_registry(stand_in) else stand_in


def bazel_checksum(version: str, lock: Lock) -> str | None:
    """Find the sha256 of a Bazel's release asset: the catalogue's, else the lock's; None where neither has it."""
    return bazel_checksums().get(version) or lock.bazel.get(version)


def bazel_asset(version: str) -> str:
    """Name the release asset that is the plain binary."""
    return f"bazel-{version}-linux-x86_64"


def _in_registry(image: str) -> bool:
    """Whether an image's name begins with a registry's, by Docker's rule."""
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")
