"""The sections about how releases are built, and where on this network their inputs come from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from serving_factory.catalogue.facts import Flavour, FlavourFacts
from serving_factory.matrix import words
from serving_factory.matrix.problems import Broken, BrokenRuleError
from serving_factory.matrix.schema import Boolean, Conflict, Either, Keys, Many, PathTo, Table, Text, key

_S = TypeVar("_S", "ToolchainChoice", "BazelChoice", "Settings")
WHEELS = "wheels"  # CUDA of NVIDIA's Python wheels
_CUDA_VERSION = re.compile(r"^#define CUDA_VERSION (\d+)$", re.MULTILINE)
_INDEXES = ("Packages", "Packages.gz", "Packages.xz")
_WORKSPACES = ("WORKSPACE", "WORKSPACE.bazel", "MODULE.bazel")


def has_index(folder: Path) -> bool:
    """Whether a folder has an index of the packages in it."""
    return any((folder / name).is_file() for name in _INDEXES)


def cuda_in(folder: Path) -> str:
    """The version of the CUDA toolkit in a folder, `12.2`; empty where there is none."""
    header = folder / "include" / "cuda.h"
    found = _CUDA_VERSION.search(header.read_text(encoding="utf-8", errors="replace")) if header.is_file() else None
    return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""


def _cuda(folder: Path) -> None:
    if not cuda_in(folder):
        rule = f"there is no CUDA toolkit in {folder}: it has no include/cuda.h"
        raise BrokenRuleError(rule, f"Name a folder such as /usr/local/cuda-12.2, or write {WHEELS}.")


def _workspace(folder: Path) -> None:
    if not any((folder / name).is_file() for name in _WORKSPACES):
        rule = f"there is no Bazel workspace in {folder}: it has no file {_WORKSPACES[0]}"
        raise BrokenRuleError(rule, "Name the top folder of a checkout of TensorFlow Serving.")


def _patches(folder: Path) -> None:
    if not any(folder.glob("*.patch")) and not any(folder.glob("external/*/*.patch")):
        raise BrokenRuleError(f"there is no patch in {folder}", "Put *.patch there, or external/REPOSITORY/*.patch.")


def _packages(folder: Path) -> None:
    # An empty folder is still to be filled; the stages that install from it report that.
    if any(folder.glob("*.deb")) and not has_index(folder):
        rule = f"{folder} has packages, but no index {_INDEXES[0]}"
        raise BrokenRuleError(rule, "Make it in that folder: dpkg-scanpackages . > Packages")


def _overrides(folder: Path) -> None:
    for name in _repositories(folder):
        try:
            words.BAZEL_REPOSITORY.check(name)
        except BrokenRuleError as error:
            raise BrokenRuleError(f"{name!r} in it: {error.rule}", "Move that folder out of it.") from None


def _repositories(folder: Path) -> Mapping[str, Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else ()
    return {path.name: path for path in found if path.is_dir() and not path.name.startswith(".")}


def _certificates(file: Path) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in file.read_bytes():
        rule = "there is no certificate in it"
        raise BrokenRuleError(rule, "Name a PEM file: openssl x509 -inform der -in FILE makes one.")


_FILE, _CERTIFICATES = PathTo("file"), PathTo("file", _certificates)
_FOLDER, SOURCE, _PATCHES = PathTo("folder"), PathTo("folder", _workspace), PathTo("folder", _patches)
_PACKAGES = PathTo("folder", _packages, "Name a folder that exists, or write a URL with its scheme, https://.")
_APT_MIRROR = Either(words.APT, _PACKAGES, mark="://")
_CUDA_FOLDER = PathTo("folder", _cuda, f"Name a folder that exists, or write {WHEELS}.")
_CUDA_FROM = Either(Text(words=lambda: [WHEELS]), _CUDA_FOLDER, word=WHEELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainChoice:
    """What compiles, where it is not what the catalogue says of the release."""

    base: str | None = key(words.BASE, "The base image, such as debian:bookworm.", None)
    compiler: str | None = key(words.COMPILER, "The C compiler's package, such as gcc-9.", None)
    python: str | None = key(words.PYTHON, 'The Python that Bazel\'s rules run with, such as "2.7".', None)
    packages: tuple[str, ...] = key(Many(words.PACKAGE, least=0), "More apt packages.", ())
    configs: Mapping[Flavour, tuple[str, ...]] = key(
        Table(words.FLAVOUR, Many(words.CONFIG, least=0)),
        "Bazel configs of a flavour, instead of the source tree's.",
        dict,
    )
    flags: Mapping[Flavour, tuple[str, ...]] = key(
        Table(words.FLAVOUR, Many(words.BAZEL_OPTION, least=0)),
        "Bazel flags of a flavour beside its configs, instead of upstream's.",
        dict,
    )
    cuda: Path | str | None = key(
        _CUDA_FROM, f"Where gpu builds get CUDA: a folder, or `{WHEELS}`, which are NVIDIA's Python wheels.", None
    )
    device_compiler: str | None = key(
        words.DEVICE_COMPILER, "The package that compiles device code, where the source tree does that apart.", None
    )
    tensorrt: bool | None = key(Boolean(), "false leaves TensorRT out of gpu builds that have it.", None)
    cuda_compat: bool = key(Boolean(), "true puts NVIDIA's cuda-compat into gpu images.", default=False)

    @property
    def cuda_folder(self) -> Path | None:
        """The folder with CUDA."""
        return self.cuda if isinstance(self.cuda, Path) else None

    def compiler_of(self, facts: FlavourFacts) -> str:
        """Name the compiler of a flavour, with its version; empty on another base, whose version is unknown."""
        return self.compiler or (facts.compiler if self.base is None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls(Keys):
    """Files (PEM) for the connection to a remote cache."""

    certificate: Path | None = key(_FILE, "Of the authority that signed the server's; not for https.", None)
    client_certificate: Path | None = key(_FILE, "The client's certificate.", None)
    client_key: Path | None = key(_FILE, "The key of the client's certificate.", None)

    def conflicts(self) -> Iterator[Conflict]:
        """A client's certificate and its key need each other."""
        if (self.client_certificate is None) != (self.client_key is None):
            given, missing = ("client_key", "client_certificate")[:: 1 if self.client_key else -1]
            yield (given,), f"it has no use without {missing}", "Name both files."


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote(Keys):
    """A cache, or builders, that other machines share."""

    cache: str | None = key(words.REMOTE_CACHE, "The cache's URL; each toolchain has a place of its own in it.", None)
    executor: str | None = key(words.EXECUTOR, "The URL of a remote execution service.", None)
    upload: bool | None = key(Boolean("auto"), "Whether results are uploaded; `auto`: where CI is set.", None)
    headers: Mapping[str, str] = key(
        Table(words.HEADER, words.HEADER_VALUE), "Of each request; secrets.", dict, secret=True
    )
    tls: Tls = key(Tls)

    @property
    def address(self) -> str:
        """The URL of what must answer; empty without a remote."""
        return self.executor or self.cache or ""

    def conflicts(self) -> Iterator[Conflict]:
        """Files for TLS need a URL with TLS, and an executor a cache over gRPC."""
        for name, url in (("executor", self.executor), ("cache", self.cache)):
            if url and url.startswith(("grpc://", "http://")) and self.tls != Tls():
                rule = f"{url} is a URL without TLS, so the files at tls have no use"
                yield (name,), rule, "Write grpcs:// or https://, or remove tls."
        if self.executor and (self.cache or "").startswith("http"):
            # bazelbuild/bazel, RemoteModule: "Cannot combine gRPC based remote execution with HTTP-based caching".
            remedy = "Remove it, and the executor's own cache is used; or name one over gRPC."
            yield ("cache",), "with an executor, Bazel takes a cache over grpc or grpcs only", remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class BazelChoice(Keys):
    """Which Bazel builds, and with what, where it is not upstream's."""

    version: str | None = key(words.VERSION, "Another version than upstream's, in quotes.", None)
    package: str | None = key(words.PACKAGE, "The apt package that brings that version to the base.", None)
    binary: Path | None = key(_FILE, "The file with the Bazel binary, instead of a download.", None)
    distdir: Path | None = key(_FOLDER, "A folder of archives that are not downloaded.", None)
    overrides: Mapping[str, Path] | Path = key(
        Either(PathTo("folder", _overrides), Table(words.BAZEL_REPOSITORY, _FOLDER)),
        "External repository → the folder that takes its place; or one folder that has a folder for each.",
        dict,
    )
    options: tuple[str, ...] = key(Many(words.BAZEL_OPTION, least=0), "Options of `bazel build`.", ())
    startup_options: tuple[str, ...] = key(Many(words.BAZEL_OPTION, least=0), "Options before `build`.", ())
    remote: Remote = key(Remote)

    @property
    def overrides_folder(self) -> Path | None:
        """The folder that all overrides are in, where the file names that."""
        return self.overrides if isinstance(self.overrides, Path) else None

    @property
    def overridden(self) -> Mapping[str, Path]:
        """External repository → the folder that takes its place, sorted."""
        return (
            _repositories(self.overrides) if isinstance(self.overrides, Path) else dict(sorted(self.overrides.items()))
        )

    def conflicts(self) -> Iterator[Conflict]:
        """Where a Bazel comes from says nothing of its version."""
        if self.version is None and (given := (self.package and "package") or (self.binary and "binary")):
            yield (given,), "the version of this Bazel is missing", 'Add version, in quotes: version: "6.5.0".'


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChoice:
    """What runtime images stand on, where that is not the toolchain's base."""

    base: str | Mapping[Flavour, str] | None = key(
        Either(words.RUNTIME_BASE, Table(words.FLAVOUR, words.RUNTIME_BASE)),
        "The base image, such as debian:trixie-slim; `slim`, or `slim of` one; or flavour → such a base. Default: the "
        "toolchain's base.",
        None,
    )

    @property
    def bases(self) -> Mapping[Flavour, str]:
        """Flavour → base image, of the flavours that have one."""
        return dict.fromkeys(Flavour, self.base) if isinstance(self.base, str) else dict(self.base or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a release is built; `Settings()` where the file says nothing."""

    image: ImageChoice = key(ImageChoice)

    source: Path | None = key(SOURCE, "The folder with the source tree, instead of upstream's commit.", None)
    patches: tuple[Path, ...] = key(Many(_PATCHES, least=0), "Folders of patches for the sources, in order.", ())
    toolchain: ToolchainChoice = key(ToolchainChoice)
    bazel: BazelChoice = key(BazelChoice)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerRelease(Settings):
    """What holds for some releases alone: each value that is given takes the place of the file's."""

    releases: frozenset[str] = key(words.RELEASE_TAGS, 'A full tag, or a range such as ">=1.9,<1.13".')


@dataclass(frozen=True, slots=True)
class AllSettings:
    """The settings of every release: the usual ones, and release -> those of releases that the file has entries for."""

    usual: Settings
    particular: Mapping[str, Settings]

    def of(self, release: str) -> Settings:
        """The settings of a release."""
        return self.particular.get(release, self.usual)


def all_settings(whole: Settings, entries: tuple[PerRelease, ...], broken: Broken) -> AllSettings:
    """Merge what the file says of each release; of two entries the later one wins, and broken ones are skipped."""
    values = {one.name: getattr(whole, one.name) for one in fields(Settings)}
    usual = Settings(**{**values, "image": ImageChoice(base=whole.image.base)})  # the file's has names, too
    particular: dict[str, Settings] = {}
    for index, entry in enumerate(entries):
        if not broken.at("per_release", index, "releases"):
            for tag in entry.releases:
                particular[tag] = _merged(particular.get(tag, usual), entry)
    return AllSettings(usual, particular)


def _merged(lower: Settings, upper: PerRelease) -> Settings:
    bazel = lower.bazel
    if upper.bazel.version:  # the entry itself says where another version comes from
        bazel = replace(bazel, package=None, binary=None)
    toolchain = _over(lower.toolchain, upper.toolchain)
    image = ImageChoice(base={**lower.image.bases, **upper.image.bases})
    return replace(_over(lower, upper), image=image, toolchain=toolchain, bazel=_over(bazel, upper.bazel))


def _over(lower: _S, upper: _S) -> _S:
    """The lower section, with what the upper one gives in its place."""
    nothing = type(lower)()
    values = {one.name: getattr(upper, one.name) for one in fields(lower)}
    return replace(lower, **{name: value for name, value in values.items() if value != getattr(nothing, name)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Apt(Keys):
    """Where apt gets its packages."""

    mirror: str | Path | None = key(_APT_MIRROR, "A mirror's URL, or a folder with packages and their index.", None)
    snapshot: str | None = key(words.SNAPSHOT, "The time whose packages a mirror with {snapshot} gives.", None)

    def conflicts(self) -> Iterator[Conflict]:
        """A snapshot and its placeholder need each other."""
        needs = isinstance(self.mirror, str) and "{snapshot}" in self.mirror
        if needs and self.snapshot is None:
            yield ("mirror",), "{snapshot} has no value", 'Add snapshot, such as "20260301T000000Z".'
        if self.snapshot is not None and not needs:
            remedy = "Name one at mirror, such as https://snapshot.example.com/{archive}/{snapshot}."
            yield ("snapshot",), "no mirror has {snapshot} in its URL", remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Forward proxies, for builds alone."""

    http: str | None = key(words.PROXY, "For http.", None)
    https: str | None = key(words.PROXY, "For https.", None)
    no: str | None = key(words.HOSTS, "Hosts that are reached directly, joined by commas.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Where inputs from outside come from on this network."""

    base_images: Mapping[str, str] = key(
        Table(words.TAGGED_IMAGE, words.IMAGE), "Base image → the image to use for it.", dict
    )
    apt: Apt = key(Apt)
    pip_index: str | None = key(words.WEB, "The Python package index.", None)
    git_mirrors: Mapping[str, str] = key(Table(words.GIT, words.GIT), "A git URL's beginning → its replacement.", dict)
    bazel_mirror: str | None = key(words.PUBLIC_WEB, "What has VERSION/bazel-VERSION-linux-x86_64.", None)
    downloader_config: Path | None = key(_FILE, "Rules by which Bazel rewrites the URLs of its downloads.", None)
    proxies: Proxies = key(Proxies)
    ca_certificates: Path | None = key(_CERTIFICATES, "More certificates to trust while building, in PEM.", None)
    offline: bool = key(Boolean(), "Build without any network: everything comes from folders.", default=False)

    @property
    def apt_mirror(self) -> str | None:
        """The URL of apt's mirror, which may hold placeholders."""
        return self.apt.mirror if isinstance(self.apt.mirror, str) else None

    @property
    def apt_folder(self) -> Path | None:
        """The folder with packages and their index."""
        return self.apt.mirror if isinstance(self.apt.mirror, Path) else None
