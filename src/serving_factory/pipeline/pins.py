"""Makes the pins of a lock file, and compares them with what there is upstream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from serving_factory.catalogue.distributions import retired_bases
from serving_factory.docker.http import Client, Patience, Route, fetch_text
from serving_factory.docker.registry import ImageName, Registry, credentials_for
from serving_factory.errors import (
    DownloadError,
    FactoryError,
    MovedError,
    NotLockedError,
    RegistryError,
    RegistryLimitError,
    RegistryUnreachableError,
    VanishedError,
)
from serving_factory.matrix.lockfile import Lock
from serving_factory.matrix.settings import Network
from serving_factory.pipeline.retry import asking_again
from serving_factory.recipes.pins import BAZEL_RELEASES, NeededBase, Needs, bazel_asset

Result = TypeVar("Result")
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64})(?:\s+\*?(\S+))?")  # a line of sha256sum


def route_of(network: Network) -> Route:
    """The way out of a network."""
    proxies = {"http": network.proxies.http, "https": network.proxies.https}
    return Route(
        proxies={scheme: url for scheme, url in proxies.items() if url},
        no_proxy=network.proxies.no or "",
        ca_certificates=network.ca_certificates,
    )


class Upstream:
    """The registries and the server of files of a network; `report` gets a sentence when a wait is long."""

    # Each question raises VanishedError, and the errors of registries and downloads.

    def __init__(self, network: Network, report: Callable[[str], None]) -> None:
        self._client = Client(route=route_of(network), patience=Patience(report=report))
        self._releases = (network.bazel_mirror or BAZEL_RELEASES).rstrip("/")
        self._report = report
        self._silent: dict[str, FactoryError] = {}

    def digest(self, base: NeededBase) -> str:
        """What a base's tag stands for; the image must be for the base's platforms."""
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
        """Whether a base's registry still has this digest."""
        name, _ = ImageName.parse_reference(base.image)
        return self._ask(name.registry, lambda: self._manifest(name, digest)) is not None

    def checksum(self, version: str) -> str:
        """The sha256 of a Bazel's release asset, from the file beside it."""
        asset = bazel_asset(version)
        url = f"{self._releases}/{version}/{asset}.sha256"
        text = self._ask(self._releases, lambda: fetch_text(url, self._client))
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
        return Registry(name.registry, credentials=credentials_for(name.registry), client=self._client)

    def _manifest(self, name: ImageName, reference: str) -> str | None:
        try:
            return self._registry(name).manifest_digest(name.repository, reference)
        except RegistryUnreachableError as error:
            remedy = "Name a mirror's image at network.base_images in the matrix file, or this network's proxy at "
            raise RegistryUnreachableError(error.what, why=error.why, remedy=f"{remedy}network.proxies.") from None

    def _ask(self, server: str, question: Callable[[], Result]) -> Result:
        """Ask, again where that may help; but not a server that has not answered before."""
        if server in self._silent:
            raise self._silent[server]
        try:
            return asking_again(question, self._report)
        except (RegistryUnreachableError, RegistryLimitError) as error:
            self._silent[server] = error
            raise


def replacement(base: str) -> str:
    """The remedy for a base that is gone: what the catalogue knows to take its place, else general advice."""
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
    """One pin."""

    name: str  # a base image with its tag, or a version of Bazel
    base: NeededBase | None  # None for a version of Bazel
    change: Change = Change.KEPT  # what became of it
    locked: str = ""  # what the lock file had; empty for nothing
    found: str = ""  # what there is upstream; empty where that was not asked, or not answered
    error: FactoryError | None = None  # why it could not be made, or is not as locked

    @property
    def title(self) -> str:
        """The name, with what it is the name of."""
        return self.name if self.base else f"Bazel {self.name}"

    @property
    def pinned(self) -> str:
        """What the lock file gets; empty for nothing."""
        return "" if self.change is Change.DROPPED else self.found or self.locked

    @property
    def can_be_found(self) -> bool:
        """Whether upstream has a say: no registry has one of an image that only the engine has."""
        return self.base is None or bool(self.base.asked)


def make_pins(needs: Needs, lock: Lock, upstream: Upstream, update: Callable[[str], bool]) -> tuple[Pin, ...]:
    """Make the pins of a lock file. Where one cannot be made, what was locked stays, what nothing needs included."""
    pins = []
    for pin in _pins(needs, lock):
        if pin.can_be_found and (not pin.locked or update(pin.name)):
            pins.append(_made(pin, upstream))
        elif pin.locked:
            pins.append(pin)
    unneeded = Change.DROPPED if all(pin.error is None for pin in pins) else Change.KEPT
    return (*pins, *(replace(pin, change=unneeded) for pin in _pins(_unneeded(needs, lock), lock)))


def compare_pins(needs: Needs, lock: Lock, upstream: Upstream) -> tuple[Pin, ...]:
    """Compare a lock with what there is upstream; what is required and not locked is reported, too."""
    everything = (*_pins(needs, lock), *_pins(_unneeded(needs, lock), lock))
    return tuple(_compared(pin, upstream) for pin in everything if pin.can_be_found)


def locked_by(pins: Sequence[Pin], lock: Lock) -> Lock:
    """The lock that pins give, for the file that a lock was read from."""
    return replace(
        lock,
        bases={pin.name: pin.pinned for pin in pins if pin.base and pin.pinned},
        bazel={pin.name: pin.pinned for pin in pins if not pin.base and pin.pinned},
    )


def _pins(needs: Needs, lock: Lock) -> Iterator[Pin]:
    """The pins as they are locked."""
    yield from (Pin(name=base.name, base=base, locked=lock.bases.get(base.name, "")) for base in needs.bases)
    yield from (Pin(name=version, base=None, locked=lock.bazel.get(version, "")) for version in needs.bazels)


def _unneeded(needs: Needs, lock: Lock) -> Needs:
    bases = sorted(set(lock.bases) - {base.name for base in needs.bases})
    return Needs(
        bases=tuple(NeededBase(name=name, asked=name) for name in bases),
        bazels=tuple(sorted(set(lock.bazel) - set(needs.bazels))),
    )


def _made(pin: Pin, upstream: Upstream) -> Pin:
    """The pin as upstream has it now."""
    try:
        found = upstream.digest(pin.base) if pin.base else upstream.checksum(pin.name)
    except FactoryError as error:
        change = Change.VANISHED if isinstance(error, VanishedError) else Change.FAILED
        return replace(pin, change=change, error=error)
    change = Change.ADDED if not pin.locked else Change.KEPT if found == pin.locked else Change.MOVED
    return replace(pin, change=change, found=found)


def _compared(locked: Pin, upstream: Upstream) -> Pin:
    if not locked.locked:
        remedy = "Run `./factory lock`, and commit the file that it writes."
        error = NotLockedError(f"{locked.title} is not in the lock file.", remedy=remedy)
        return replace(locked, change=Change.MISSING, error=error)
    pin = _made(locked, upstream)
    if pin.change not in {Change.MOVED, Change.VANISHED}:
        return pin
    try:
        held = pin.base is not None and upstream.holds(pin.base, pin.locked)
    except FactoryError as error:
        return replace(pin, change=Change.FAILED, error=error)
    return _differing(pin, held=held)


def _differing(pin: Pin, *, held: bool) -> Pin:
    """A pin that moved or vanished, with the error that says so; `held`: whether upstream still has what is locked."""
    if pin.error is not None:  # the tag is gone
        why = "What is locked can still be had by its digest, for as long as the registry keeps it."
        return replace(pin, error=VanishedError(pin.error.what, why=why, remedy=pin.error.remedy)) if held else pin
    what, why = f"{pin.name} stands for another image than is locked", f"locked {pin.locked}\nfound  {pin.found}"
    update = f"`./factory lock --update {pin.name}`"
    if pin.base and not held:
        lost = f"{what}, and its registry no longer has the locked one."
        return replace(pin, change=Change.VANISHED, error=VanishedError(lost, why=why, remedy=f"Run {update}."))
    remedy = f"Builds go on from what is locked; {update} takes the new one."
    if not pin.base:
        what = f"{pin.title}: its release asset has another checksum than is locked"
        remedy = f"A release does not change: find out who changed it before you take it with {update}."
    return replace(pin, error=MovedError(f"{what}.", why=why, remedy=remedy))
