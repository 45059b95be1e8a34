"""What must hold of the doors: settings that fit together, and folders and files that are what they are named for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from serving_factory.matrix.broken import Broken
from serving_factory.matrix.model import MatrixFile
from serving_factory.matrix.problems import Finding, KeyPath, without_password
from serving_factory.matrix.settings import Network, network_of

__all__ = ["has_index", "network_findings"]

_APT: KeyPath = ("network", "apt")
_INDEXES = ("Packages", "Packages.gz", "Packages.xz")
_SNAPSHOT = "{snapshot}"
_PLACEHOLDERS = ("{archive}", _SNAPSHOT)


def network_findings(model: MatrixFile, folder: Path, broken: Broken) -> Iterator[Finding]:
    """Find what is wrong with the doors.

    Args:
        model: the file.
        folder: what its folders and files are relative to.
        broken: what of the file cannot be relied on.
    """
    network = network_of(model.network, folder)
    if not broken.at(*_APT):
        yield from _apt_findings(network)
    yield from _password_findings(network)
    file = network.ca_certificates
    if file and file.is_file() and b"-----BEGIN CERTIFICATE-----" not in file.read_bytes():
        yield Finding(
            path=("network", "ca_certificates"),
            rule="there is no certificate in it",
            remedy="Name a PEM file: openssl x509 -inform der -in FILE makes one.",
        )
    patches: dict[KeyPath, str] = {("patches", i): name for i, name in enumerate(model.patches)}
    for index, one in enumerate(model.per_release):
        patches |= {("per_release", index, "patches", i): name for i, name in enumerate(one.patches)}
    yield from _patch_findings(patches, folder)


def has_index(folder: Path) -> bool:
    """Whether a folder has an index of the packages in it."""
    return any((folder / name).is_file() for name in _INDEXES)


def _apt_findings(network: Network) -> Iterator[Finding]:
    unknown = [word for word in re.findall(r"\{[^{}]*\}", network.apt_mirror or "") if word not in _PLACEHOLDERS]
    if unknown:
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"nothing stands for {unknown[0]}",
            remedy=f"There are: {', '.join(_PLACEHOLDERS)}.",
        )
    wants = network.apt_mirror is not None and _SNAPSHOT in network.apt_mirror
    if wants and network.apt_snapshot is None:
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"{_SNAPSHOT} stands for a time that is not said",
            remedy='Add snapshot, such as "20260301T000000Z".',
        )
    if network.apt_snapshot is not None and not wants:
        yield Finding(
            path=(*_APT, "snapshot"),
            rule=f"no mirror has {_SNAPSHOT} in its URL",
            remedy=f"Name one at mirror, such as https://snapshot.example.com/{{archive}}/{_SNAPSHOT}.",
        )
    folder = network.apt_folder
    # An empty one is still to be filled; the stages that install from it tell so.
    if folder and folder.is_dir() and any(folder.glob("*.deb")) and not has_index(folder):
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"{folder} has packages and no index, {_INDEXES[0]}",
            remedy="Make it in that folder: dpkg-scanpackages . > Packages",
        )


def _password_findings(network: Network) -> Iterator[Finding]:
    """What BuildKit itself asks stands in its log and in the image's history."""
    urls: dict[KeyPath, str] = {("network", "git_mirrors", url): to for url, to in network.git_mirrors.items()}
    urls["network", "bazel_mirror"] = network.bazel_mirror or ""
    for path, url in urls.items():
        if without_password(url) != url:
            yield Finding(path=path, rule="a password cannot be kept secret here", remedy="Take it out of the URL.")


def _patch_findings(patches: Mapping[KeyPath, str], folder: Path) -> Iterator[Finding]:
    for path, name in patches.items():
        place = (folder / name).resolve()
        if place.is_dir() and not any(place.glob("*.patch")) and not any(place.glob("external/*/*.patch")):
            yield Finding(
                path=path,
                rule=f"there is no patch in {place}",
                remedy="Put *.patch there, or external/REPOSITORY/*.patch.",
            )
