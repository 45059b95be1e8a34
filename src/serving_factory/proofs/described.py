"""What is known of an image when it is pushed: what SBOM and provenance say; and how dpkg's records are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# dpkg's own, and what collect.sh leaves of each package that something was copied from
DPKG_RECORDS = ("/var/lib/dpkg/status", "/var/lib/dpkg/status.d")
SBOM, IN_TOTO = "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"  # artifact types
IMAGE_JSON = "/usr/share/serving-factory/image.json"  # what an image says of itself
_FIELD = re.compile(r"^(Package|Version|Source|Status|Architecture): *(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package that an image holds, or something of."""

    name: str
    version: str
    source_version: str  # of its source package: changelogs have that
    source: str = field(default="", compare=False)  # the source package; empty where that has the same name
    architecture: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library that was copied into the image, and belongs to the server."""

    path: str  # in the image
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """An external repository of Bazel's that the server is made of."""

    name: str
    urls: tuple[str, ...]  # where it comes from; none of a folder of the source tree
    sha256: str  # of its archive; empty where the sources state none
    ref: str  # the commit or tag; empty where it is an archive
    overridden: bool  # whether a folder of this build's took its place
    licences: tuple[tuple[str, str], ...]  # licence files at its top: name and sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Higher:
    """The server of a higher level in the same image."""

    level: str
    copts: tuple[str, ...]
    compile_key: str
    binary_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was put into an image."""

    name: str
    version: int
    sha256: str  # of its version, its files' names and contents
    finished: str  # when the image with it was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An image, and how it was made."""

    repository: str
    digest: str  # of its manifest
    variant: str
    release: str
    flavour: str
    level: str
    platform: str
    parameters: Mapping[str, object]  # what else the matrix file decided
    binary_sha256: str
    binary_version: str
    build_id: str | None
    distribution: Mapping[str, str]  # os-release of the image
    packages: tuple[Package, ...]
    libraries: tuple[Library, ...]
    externals: tuple[External, ...]
    compiler: str
    bazel: str
    configs: tuple[str, ...]
    arguments: Mapping[str, str]
    source: str  # upstream's URL with the commit, or the digest of the source folder
    bases: Mapping[str, str]  # base image → digest or id, empty where neither is known
    compile_key: str
    package_key: str
    factory: str  # this factory's version
    started: str  # when the compile began
    finished: str  # when the image was made
    higher: tuple[Higher, ...] = ()
    model: Model | None = None


def os_release(text: str) -> Mapping[str, str]:
    """Read /etc/os-release."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.strip().strip("\"'") for name, _, value in pairs}


def packages_in(files: Mapping[str, bytes]) -> tuple[Package, ...]:
    """Read dpkg's records, in the order of `files`: what was copied later counts."""
    found: dict[str, Package] = {}
    for content in files.values():
        for paragraph in re.split(r"\n{2,}", content.decode("utf-8", errors="replace")):
            fields = dict(_FIELD.findall(paragraph))
            if {"Package", "Version"} <= fields.keys() and fields.get("Status", " installed").endswith(" installed"):
                name, version = fields["Package"], fields["Version"]
                source, _, its_version = fields.get("Source", "").partition(" ")
                found[name] = Package(
                    name=name,
                    version=version,
                    source_version=its_version.strip("()") or version,
                    source="" if source == name else source,
                    architecture=fields.get("Architecture", ""),
                )
    return tuple(sorted(found.values()))
