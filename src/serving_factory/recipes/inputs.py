"""The inputs of a build, as a value.

Contexts and build arguments may be seen by everyone; what must leave no trace in an image, such as a proxy with its
password, is in `exports`, and so in a secret of BuildKit's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.bazel import bazel_flag
from serving_factory.matrix.settings import Network, Settings

DOWNLOADER_CONFIG = "/run/inputs/downloader.cfg"  # Where inputs.sh puts the rules for Bazel's downloads


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs of a variant's build; None and empty for the usual ones."""

    bazel: Path | None  # the file with the Bazel binary
    distdir: Path | None  # a folder of archives that Bazel does not download
    overrides: tuple[tuple[str, Path], ...]  # external repositories, and the folders that take their places; sorted
    overrides_folder: Path | None  # the folder that all of these are in, where the matrix names that
    patches: tuple[Path, ...]  # folders, in order
    cuda: str  # the version that a gpu build takes from elsewhere than its release; empty for other builds
    cuda_folder: Path | None  # the folder with it; None for Python wheels
    apt: Path | None  # a folder with a flat apt repository
    certificates: Path | None  # a PEM file with certificates to trust
    downloader_config: Path | None  # Bazel's rules for the URLs of its downloads; None where this Bazel has none
    exports: tuple[tuple[str, str], ...]  # environment variables of the steps that use the network
    key_args: tuple[tuple[str, str], ...]  # build arguments that decide what is built
    free_args: tuple[tuple[str, str], ...]  # build arguments that decide only where it comes from
    git_mirrors: Mapping[str, str]  # the beginning of a git URL → what stands in its place
    offline: bool  # whether the steps have no network at all

    @property
    def apt_args(self) -> tuple[tuple[str, str], ...]:
        """Those of the arguments that decide which packages are installed."""
        return tuple(pair for pair in self.key_args if pair[0] == "APT_SNAPSHOT")

    def contexts(self, staged: Path) -> tuple[tuple[str, str], ...]:
        """The named contexts of the build; those that are put together for it lie in `staged`, by their names."""
        own = {"distdir": self.distdir, "apt": self.apt, "cuda": self.cuda_folder}
        together = {"bazel": self.bazel, "overrides": self.overrides, "patches": self.patches}
        places = [(name, folder) for name, folder in own.items() if folder]
        places += [(name, staged / name) for name, given in together.items() if given]
        return tuple(sorted((name, str(folder)) for name, folder in places))

    def secrets(self, files: Mapping[Path, str]) -> Mapping[str, str]:
        """The secrets of the steps that use the network: id → content. `files` holds what the files contain."""
        exports = dict(self.exports)
        if self.downloader_config:
            exports["BAZEL_DOWNLOADER_CONFIG"] = files[self.downloader_config]
        lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items())
        found = {"network": lines, "ca": files[self.certificates] if self.certificates else ""}
        return {name: text for name, text in found.items() if text}


def inputs_for(settings: Settings, network: Network, *, bazel: str, cuda: str = "") -> Inputs:
    """Give the inputs of a release that the Bazel of a version builds, and a CUDA that it does not have from there."""
    choice = settings.bazel
    key_args = {
        "APT_SNAPSHOT": network.apt.snapshot or "",
        "BAZEL_OPTIONS": " ".join(choice.options),
        "BAZEL_STARTUP_OPTIONS": " ".join(choice.startup_options),
    }
    proxies = {"http_proxy": network.proxies.http, "https_proxy": network.proxies.https, "no_proxy": network.proxies.no}
    exports = {
        **proxies,  # what reads the one spelling does not read the other
        **{name.upper(): value for name, value in proxies.items()},
        "PIP_INDEX_URL": network.pip_index,
        "APT_MIRROR": network.apt_mirror,
        "GIT_MIRRORS": "\n".join(f"{url} {to}" for url, to in sorted(network.git_mirrors.items())),
    }
    return Inputs(
        bazel=choice.binary,
        distdir=choice.distdir,
        overrides=tuple(sorted(choice.overridden.items())),
        overrides_folder=choice.overrides_folder,
        patches=settings.patches,
        cuda=cuda,
        cuda_folder=settings.toolchain.cuda_folder if cuda else None,
        apt=network.apt_folder,
        certificates=network.ca_certificates,
        downloader_config=network.downloader_config if bazel_flag("downloader_config", bazel) else None,
        exports=tuple((name, value) for name, value in exports.items() if value),
        key_args=tuple((name, value) for name, value in key_args.items() if value),
        free_args=(("BAZEL_MIRROR", network.bazel_mirror.rstrip("/")),) if network.bazel_mirror else (),
        git_mirrors=dict(network.git_mirrors),
        offline=network.offline,
    )


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """Give the URL that git asks, as git does with insteadOf: the longest beginning counts."""
    longest = max((beginning for beginning in mirrors if url.startswith(beginning)), key=len, default="")
    return mirrors.get(longest, "") + url.removeprefix(longest)
