"""Asks what there is upstream: registries what a base image's tag stands for, a server of files for checksums."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

from serving_factory.catalogue.retired_bases import retired_bases
from serving_factory.engine.download import fetch_text
from serving_factory.engine.http import Route
from serving_factory.engine.registry import ImageName, Registry, credentials_for
from serving_factory.engine.retry import retrying
from serving_factory.errors import (
    DownloadError,
    DownloadFaultError,
    FactoryError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    RegistryUnreachableError,
    VanishedError,
)
from serving_factory.matrix.settings import Network
from serving_factory.recipes.pins import BAZEL_RELEASES, NeededBase, bazel_asset

__all__ = ["Sources", "Upstream", "replacement", "route_of"]

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
    """Tell how to get out of a network."""
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
        tell: called with a sentence before each retry.
    """

    def __init__(self, network: Network, tell: Callable[[str], None]) -> None:
        self._route = route_of(network)
        self._releases = (network.bazel_mirror or BAZEL_RELEASES).rstrip("/")
        self._tell = tell
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
            doors = "Name a mirror's image at network.base_images in the matrix file, or this network's proxy at "
            raise RegistryUnreachableError(error.what, why=error.why, remedy=f"{doors}network.proxies.") from None

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
        self._tell(f"{error.what} Again in {delay:.1f} s.")


def replacement(base: str) -> str:
    """Tell what to do about a base that is gone: what the catalogue knows to take its place, else in general."""
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
