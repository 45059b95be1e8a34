"""Makes the pins of a lock file, and compares them with what there is upstream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Protocol, TypeVar

from serving_factory.catalogue.distributions import retired_bases
from serving_factory.docker.http import Route, fetch_text
from serving_factory.docker.registry import ImageName, Registry, credentials_for
from serving_factory.errors import (
    DownloadError,
    DownloadFaultError,
    FactoryError,
    MovedError,
    NotLockedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
    VanishedError,
)
from serving_factory.matrix.lockfile import Lock
from serving_factory.matrix.settings import Network
from serving_factory.pipeline.retry import retrying
from serving_factory.recipes.pins import BAZEL_RELEASES, NeededBase, Needs, bazel_asset

Result = TypeVar("Result")

_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})(?:\s+\*?(\S+))?")
"""A line of sha256sum."""


class Sources(Protocol):
    """Whoever can tell what there is upstream. Each raises VanishedError, and the errors of the engine's rooms."""

    def digest(self, base: NeededBase) -> str:
        """What a base's tag stands for."""

    def holds(self, base: NeededBase, digest: str) -> bool:
        """Whether a base's registry still has this digest."""

    def checksum(self, version: str) -> str:
        """The sha256 of a Bazel's release asset, as the file beside it tells."""


def route_of(network: Network) -> Route:
    """Say how to get out of a network."""
    proxies = {"http": network.http_proxy, "https": network.https_proxy}
    return Route(
        proxies={scheme: url for scheme, url in proxies.items() if url},
        no_proxy=network.no_proxy or "",
        ca_certificates=network.ca_certificates,
    )


class Upstream:
    """The registries and the server of files of a network.

    Args:
        network: where they are.
        progress: called with a sentence before each retry.
    """

    def __init__(self, network: Network, progress: Callable[[str], None]) -> None:
        self._route = route_of(network)
        self._releases = (network.bazel_mirror or BAZEL_RELEASES).rstrip("/")
        self._report = progress
        self._silent: dict[str, FactoryError] = {}

    def digest(self, base: NeededBase) -> str:
        """See `Sources`; the image must be for the platforms that are asked for.

        Raises:
            VanishedError: there is no such tag.
            RegistryError: it is not for these platforms.
        """
        name, tag = ImageName.parse_reference(base.image)
        digest = self._ask(name.registry, lambda: self._manifest(name, tag))
        if digest is None:
            raise VanishedError(
                f"{base.image} is not there: its registry has no such tag (any more).", remedy=replacement(base.name)
            )
        held = self._ask(name.registry, lambda: self._registry(name).platforms(name.repository, digest))
        if missing := [platform for platform in base.platforms if platform not in held]:
            raise RegistryError(
                f"{base.image} is not for {' and '.join(missing)}.",
                why=f"The registry has it for {', '.join(sorted(held))}.",
                remedy="Name an image for all platforms of the matrix at network.base_images.",
            )
        return digest

    def holds(self, base: NeededBase, digest: str) -> bool:
        """See `Sources`."""
        name, _ = ImageName.parse_reference(base.image)
        found = self._ask(name.registry, lambda: self._manifest(name, digest))
        return found is not None

    def checksum(self, version: str) -> str:
        """See `Sources`.

        Raises:
            VanishedError: there is no checksum.
            DownloadError: what is there is no checksum of the asset.
        """
        asset = bazel_asset(version)
        url = f"{self._releases}/{version}/{asset}.sha256"
        text = self._ask(self._releases, lambda: fetch_text(url, route=self._route))
        if text is None:
            raise VanishedError(
                f"Bazel {version} has no {asset}.sha256 where its release assets are.",
                remedy="Name a mirror that has it at network.bazel_mirror in the matrix file, or the file with the "
                "binary at bazel.binary.",
            )
        found = _CHECKSUM.fullmatch(text.strip())
        if found is None or (found[2] and found[2].rpartition("/")[2] != asset):
            raise DownloadError(
                f"Bazel {version}: {asset}.sha256 holds no checksum of {asset}.",
                why=f"It begins: {text.strip()[:100]!r}",
                remedy="See what the server of network.bazel_mirror, or this network's proxy, gives for that file.",
            )
        return found[1].lower()

    def _registry(self, name: ImageName) -> Registry:
        return Registry(name.registry, credentials=credentials_for(name.registry), route=self._route)

    def _manifest(self, name: ImageName, reference: str) -> str | None:
        try:
            return self._registry(name).manifest_digest(name.repository, reference)
        except RegistryUnreachableError as error:
            inputs = "Name a mirror's image at network.base_images in the matrix file, or this network's proxy at "
            raise RegistryUnreachableError(error.what, why=error.why, remedy=f"{inputs}network.proxies.") from None

    def _ask(self, whom: str, question: Callable[[], Result]) -> Result:
        """Ask, again where that may help; but not one who has not answered before."""
        if whom in self._silent:
            raise self._silent[whom]
        try:
            return retrying(question, transient=(RegistryFaultError, DownloadFaultError), on_retry=self._on_retry)
        except (RegistryUnreachableError, RegistryLimitError) as error:
            self._silent[whom] = error
            raise

    def _on_retry(self, _attempt: int, delay: float, error: FactoryError) -> None:
        self._report(f"{error.what} Again in {delay:.1f} s.")


def replacement(base: str) -> str:
    """Say what to do about a base that is gone: what the catalogue knows to take its place, else in general."""
    retired = retired_bases().get(base)
    if retired is None:
        return (
            "Name another base at toolchain.base in the matrix file, or a mirror that still has this one at "
            "network.base_images."
        )
    patch = f", or {retired.last_patch}, the last patch of the same CUDA" if retired.last_patch else ""
    return (
        f"Name {retired.replacement} at toolchain.base in the matrix file{patch}. The image is known to be deleted: "
        f"{' '.join(retired.references)}"
    )


class Change(StrEnum):
    """What became of a pin."""

    ADDED = "added"
    KEPT = "kept"
    MOVED = "moved"
    DROPPED = "dropped"
    MISSING = "not locked"
    VANISHED = "vanished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One pin.

    Args:
        name: a base image with its tag, or a version of Bazel.
        is_base: which of the two.
        change: what became of it.
        locked: what the lock file had; empty for nothing.
        found: what there is upstream; empty where nobody was asked, or could tell.
        error: why it could not be made, or is not as locked.
    """

    name: str
    is_base: bool
    change: Change
    locked: str = ""
    found: str = ""
    error: FactoryError | None = None

    @property
    def pinned(self) -> str:
        """What the lock file shall have; empty for nothing."""
        return "" if self.change is Change.DROPPED else self.found or self.locked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What can be pinned: its name, what the lock has, how to find what there is, whether the locked one is held."""

    name: str
    is_base: bool
    locked: str
    find: Callable[[], str] | None
    holds: Callable[[], bool]

    def pin(self, change: Change, *, found: str = "", error: FactoryError | None = None) -> Pin:
        return Pin(name=self.name, is_base=self.is_base, change=change, locked=self.locked, found=found, error=error)


def make_pins(needs: Needs, lock: Lock, sources: Sources, update: Callable[[str], bool]) -> tuple[Pin, ...]:
    """Make the pins of a lock file. Where one cannot be made, what was locked stays, what nothing needs included.

    Args:
        needs: what builds start from.
        lock: what is locked so far.
        sources: who is asked about what is not.
        update: whether a pin of this name is made again.
    """
    pins = []
    for required in _required(needs, lock, sources):
        if required.find and (not required.locked or update(required.name)):
            pins.append(_found(required, required.find))
        elif required.locked:
            pins.append(required.pin(Change.KEPT))
    unneeded = Change.DROPPED if all(pin.error is None for pin in pins) else Change.KEPT
    return (*pins, *(required.pin(unneeded) for required in _required(_unneeded(needs, lock), lock, sources)))


def compare_pins(needs: Needs, lock: Lock, sources: Sources) -> tuple[Pin, ...]:
    """Compare a lock with what there is upstream; what is needed and not locked is told, too.

    A base whose stand-in no registry has is not asked about.
    """
    everything = (*_required(needs, lock, sources), *_required(_unneeded(needs, lock), lock, sources))
    return tuple(_compared(required, required.find) for required in everything if required.find)


def locked_by(pins: Sequence[Pin], lock: Lock) -> Lock:
    """Make the lock that pins give, for the file that a lock was read from."""
    return replace(
        lock,
        bases={pin.name: pin.pinned for pin in pins if pin.is_base and pin.pinned},
        bazel={pin.name: pin.pinned for pin in pins if not pin.is_base and pin.pinned},
    )


def _required(needs: Needs, lock: Lock, sources: Sources) -> Iterator[_Wanted]:
    for base in needs.bases:
        locked = lock.bases.get(base.name, "")
        yield _Wanted(
            name=base.name,
            is_base=True,
            locked=locked,
            find=partial(sources.digest, base) if base.asked else None,
            holds=partial(sources.holds, base, locked),
        )
    for version in needs.bazels:
        yield _Wanted(
            name=version,
            is_base=False,
            locked=lock.bazel.get(version, ""),
            find=partial(sources.checksum, version),
            holds=lambda: False,
        )


def _unneeded(needs: Needs, lock: Lock) -> Needs:
    """What a lock has and nothing starts from any more."""
    bases = sorted(set(lock.bases) - {base.name for base in needs.bases})
    return Needs(
        bases=tuple(NeededBase(name=name, asked=name) for name in bases),
        bazels=tuple(sorted(set(lock.bazel) - set(needs.bazels))),
    )


def _found(required: _Wanted, find: Callable[[], str]) -> Pin:
    try:
        found = find()
    except FactoryError as error:
        return required.pin(Change.VANISHED if isinstance(error, VanishedError) else Change.FAILED, error=error)
    change = Change.ADDED if not required.locked else Change.KEPT if found == required.locked else Change.MOVED
    return required.pin(change, found=found)


def _compared(required: _Wanted, find: Callable[[], str]) -> Pin:
    if not required.locked:
        what = required.name if required.is_base else f"Bazel {required.name}"
        remedy = "Run `./factory lock`, and commit the file that it writes."
        return required.pin(Change.MISSING, error=NotLockedError(f"{what} is not in the lock file.", remedy=remedy))
    pin = _found(required, find)
    if pin.change not in {Change.MOVED, Change.VANISHED}:
        return pin
    try:
        held = required.holds()
    except FactoryError as error:
        return required.pin(Change.FAILED, found=pin.found, error=error)
    if pin.change is Change.VANISHED:
        return _deleted(pin) if held else pin
    return _moved_base(pin, held=held) if pin.is_base else _moved_bazel(pin)


def _deleted(pin: Pin) -> Pin:
    """A tag is gone, and the image that it stood for is not."""
    assert pin.error is not None  # noqa: S101 - nothing vanishes without one
    why = "What is locked can still be had by its digest, for as long as the registry keeps it."
    return replace(pin, error=VanishedError(pin.error.what, why=why, remedy=pin.error.remedy))


def _moved_base(pin: Pin, *, held: bool) -> Pin:
    what, why = f"{pin.name} stands for another image than is locked", f"locked {pin.locked}\nfound  {pin.found}"
    take = f"`./factory lock --update {pin.name}`"
    if held:
        error = MovedError(f"{what}.", why=why, remedy=f"Builds go on from what is locked; {take} takes the new one.")
        return replace(pin, error=error)
    lost = VanishedError(f"{what}, and its registry no longer has the locked one.", why=why, remedy=f"Run {take}.")
    return replace(pin, change=Change.VANISHED, error=lost)


def _moved_bazel(pin: Pin) -> Pin:
    error = MovedError(
        f"Bazel {pin.name}: its release asset has another checksum than is locked.",
        why=f"locked {pin.locked}\nfound  {pin.found}",
        remedy="A release does not change: find out who changed it before you take it with "
        f"`./factory lock --update {pin.name}`.",
    )
    return replace(pin, error=error)
