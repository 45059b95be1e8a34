"""What a matrix says of how releases are built, and where on this network outer inputs come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from serving_factory.catalogue.facts import Flavour, FlavourFacts
from serving_factory.matrix.model import (
    BazelSection,
    MatrixFile,
    NetworkSection,
    PerReleaseSection,
    RemoteSection,
    TlsSection,
    ToolchainSection,
)
from serving_factory.matrix.problems import Broken, BrokenRuleError, Finding, KeyPath
from serving_factory.matrix.selectors import release_tags
from serving_factory.matrix.words import BAZEL_REPOSITORY

_S = TypeVar("_S", ToolchainSection, BazelSection)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainChoice:
    """What the matrix says of the toolchain; None where the catalogue decides."""

    base: str | None = None
    compiler: str | None = None
    python: str | None = None
    packages: tuple[str, ...] = ()
    configs: Mapping[Flavour, tuple[str, ...]] = field(default_factory=dict)
    tensorrt: bool | None = None

    def compiler_of(self, facts: FlavourFacts) -> str:
        """Say which compiler builds a flavour, name and version; empty where nobody knows.

        Another base has another version of the compiler of the same name.
        """
        return self.compiler or (facts.compiler if self.base is None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A cache, or builders, that other machines share.

    Args:
        cache: URL of the cache.
        executor: URL of the remote execution service.
        upload: whether results are uploaded; None to do so in CI only.
        headers: sent with each request; secrets. No text of this value shows them.
        certificate: PEM file of the authority that signed the server's certificate.
        client_certificate: PEM file that says who we are.
        client_key: PEM file with the key to that.
    """

    cache: str | None = None
    executor: str | None = None
    upload: bool | None = None
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def address(self) -> str:
        """The URL of what must answer; empty without a remote."""
        return self.executor or self.cache or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BazelChoice:
    """What the matrix says of Bazel.

    Args:
        version: another version than upstream's; None for upstream's.
        package: the apt package, of the toolchain's base, that brings it; None where it is a plain binary.
        binary: the file with the binary; None where it is downloaded.
        distdir: a folder of archives.
        overrides: external repository -> the folder that takes its place.
        overrides_folder: the folder that all of these are in, where the matrix names that.
        options: of `bazel build`.
        startup_options: those before `build`.
        remote: a cache, or builders, that other machines share.
    """

    version: str | None = None
    package: str | None = None
    binary: Path | None = None
    distdir: Path | None = None
    overrides: Mapping[str, Path] = field(default_factory=dict)
    overrides_folder: Path | None = None
    options: tuple[str, ...] = ()
    startup_options: tuple[str, ...] = ()
    remote: Remote = field(default_factory=Remote)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a release is built, as far as the matrix says so; `Settings()` is where it says nothing.

    Args:
        toolchain: what compiles it.
        bazel: which Bazel, and with what.
        source: the folder with the source tree; None for upstream's repository at the release's commit.
        patches: folders of patches for the sources, in order.
    """

    toolchain: ToolchainChoice = field(default_factory=ToolchainChoice)
    bazel: BazelChoice = field(default_factory=BazelChoice)
    source: Path | None = None
    patches: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class AllSettings:
    """The settings of every release.

    Args:
        usual: those of releases that nothing particular is said of.
        particular: release -> those of the others.
    """

    usual: Settings
    particular: Mapping[str, Settings]

    def of(self, release: str) -> Settings:
        """The settings of a release."""
        return self.particular.get(release, self.usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Where outer inputs come from on this network; None for the usual place.

    Args:
        base_images: base image -> the image that stands for it.
        apt_mirror: URL of a mirror, which may hold `{snapshot}`.
        apt_folder: a folder with packages and their index.
        apt_snapshot: the time whose packages are required, `20260102T030405Z`.
        pip_index: the Python package index.
        git_mirrors: the beginning of a git URL -> what stands in its place.
        bazel_mirror: what has `VERSION/bazel-VERSION-linux-x86_64`.
        downloader_config: rules by which Bazel rewrites the URLs of its downloads.
        http_proxy: forward proxy for http.
        https_proxy: forward proxy for https.
        no_proxy: hosts that are asked directly, joined by commas.
        ca_certificates: a PEM file with more certificates to trust.
        offline: whether builds have no network at all.
    """

    base_images: Mapping[str, str]
    apt_mirror: str | None = None
    apt_folder: Path | None = None
    apt_snapshot: str | None = None
    pip_index: str | None = None
    git_mirrors: Mapping[str, str]
    bazel_mirror: str | None = None
    downloader_config: Path | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    ca_certificates: Path | None = None
    offline: bool = False


def settings_of(model: MatrixFile, folder: Path, broken: Broken) -> AllSettings:
    """Gather what the file says of each release.

    Args:
        model: the file.
        folder: what its folders and files are relative to.
        broken: what of the file cannot be relied on; an entry for releases that cannot be read is passed over.
    """
    whole = PerReleaseSection(
        releases="",
        toolchain=model.toolchain,
        bazel=model.bazel,
        source=model.source,
        patches=model.patches,
    )
    merged: dict[str, PerReleaseSection] = {}
    readable = (one for i, one in enumerate(model.per_release) if not broken.at("per_release", i, "releases"))
    for one in readable:
        for tag in release_tags(one.releases):
            merged[tag] = _over(merged.get(tag, whole), one)
    return AllSettings(_settings(whole, folder), {tag: _settings(one, folder) for tag, one in merged.items()})


def _over(lower: PerReleaseSection, upper: PerReleaseSection) -> PerReleaseSection:
    bazel = lower.bazel
    if upper.bazel.version:  # where another version comes from is said again
        bazel = replace(bazel, package=None, binary=None)
    return PerReleaseSection(
        releases=upper.releases,
        toolchain=_given(lower.toolchain, upper.toolchain),
        bazel=_given(bazel, upper.bazel),
        source=upper.source or lower.source,
        patches=upper.patches or lower.patches,
    )


def _given(lower: _S, upper: _S) -> _S:
    """The lower section, with what the upper one gives in its place."""
    nothing = type(upper)()
    values = {one.name: getattr(upper, one.name) for one in fields(upper)}
    return replace(lower, **{name: value for name, value in values.items() if value != getattr(nothing, name)})


def _settings(section: PerReleaseSection, folder: Path) -> Settings:
    toolchain, bazel = section.toolchain, section.bazel
    return Settings(
        toolchain=ToolchainChoice(
            base=toolchain.base,
            compiler=toolchain.compiler,
            python=toolchain.python,
            packages=toolchain.packages,
            configs=dict(toolchain.configs),
            tensorrt=toolchain.tensorrt,
        ),
        bazel=BazelChoice(
            version=bazel.version,
            package=bazel.package,
            binary=_path(folder, bazel.binary),
            distdir=_path(folder, bazel.distdir),
            overrides=_overrides(bazel.overrides, folder),
            overrides_folder=_path(folder, bazel.overrides) if isinstance(bazel.overrides, str) else None,
            options=bazel.options,
            startup_options=bazel.startup_options,
            remote=_remote(bazel.remote, folder),
        ),
        source=_path(folder, section.source),
        patches=tuple((folder / path).resolve() for path in section.patches),
    )


def _overrides(given: Mapping[str, str] | str, folder: Path) -> Mapping[str, Path]:
    """The folders that take repositories' places: as named one by one, or all that are in one folder."""
    if not isinstance(given, str):
        return {name: (folder / path).resolve() for name, path in sorted(given.items())}
    place = (folder / given).resolve()
    found = sorted(place.iterdir()) if place.is_dir() else ()
    return {path.name: path for path in found if path.is_dir() and not path.name.startswith(".")}


def network_of(section: NetworkSection, folder: Path) -> Network:
    """Give the file's network section; its folders and files are relative to `folder`."""
    mirror = section.apt.mirror
    is_url = mirror is not None and "://" in mirror
    return Network(
        base_images=dict(section.base_images),
        apt_mirror=mirror if is_url else None,
        apt_folder=None if is_url else _path(folder, mirror),
        apt_snapshot=section.apt.snapshot,
        pip_index=section.pip_index,
        git_mirrors=dict(section.git_mirrors),
        bazel_mirror=section.bazel_mirror,
        downloader_config=_path(folder, section.downloader_config),
        http_proxy=section.proxies.http,
        https_proxy=section.proxies.https,
        no_proxy=section.proxies.no,
        ca_certificates=_path(folder, section.ca_certificates),
        offline=section.offline,
    )


def _remote(section: RemoteSection, folder: Path) -> Remote:
    return Remote(
        cache=section.cache,
        executor=section.executor,
        upload=section.upload,
        headers=dict(section.headers),
        certificate=_path(folder, section.tls.certificate),
        client_certificate=_path(folder, section.tls.client_certificate),
        client_key=_path(folder, section.tls.client_key),
    )


def _path(folder: Path, name: str | None) -> Path | None:
    return None if name is None else (folder / name).resolve()


def path_findings(model: MatrixFile, folder: Path) -> Iterator[Finding]:
    """What the file names and is not there, or is of another kind."""
    yield from _missing(("source",), _path(folder, model.source))
    yield from _of_section((), model.bazel, model.patches, folder)
    for index, one in enumerate(model.per_release):
        path: KeyPath = ("per_release", index)
        yield from _missing((*path, "source"), _path(folder, one.source))
        yield from _of_section(path, one.bazel, one.patches, folder)
    network = network_of(model.network, folder)
    url = "Name one that is there, or write a URL with its scheme, https://."
    yield from _missing(("network", "apt", "mirror"), network.apt_folder, remedy=url)
    for name in ("downloader_config", "ca_certificates"):
        yield from _missing(("network", name), getattr(network, name), is_file=True)


def unused_findings(model: MatrixFile, broken: Broken) -> Iterator[Finding]:
    """What is said of releases that the file does not have."""
    asked = {tag for selector in model.releases for tag in release_tags(selector)}
    for index, one in enumerate(model.per_release):
        path: KeyPath = ("per_release", index, "releases")
        if not broken.at(*path) and asked.isdisjoint(release_tags(one.releases)):
            rule = "none of the releases above is one of these"
            yield Finding(path=path, rule=rule, remedy="Name some of them, or take the entry away.")


def _of_section(path: KeyPath, bazel: BazelSection, patches: tuple[str, ...], folder: Path) -> Iterator[Finding]:
    yield from _missing((*path, "bazel", "binary"), _path(folder, bazel.binary), is_file=True)
    yield from _missing((*path, "bazel", "distdir"), _path(folder, bazel.distdir))
    if isinstance(bazel.overrides, str):
        yield from _missing((*path, "bazel", "overrides"), _path(folder, bazel.overrides))
        for name in _overrides(bazel.overrides, folder):
            try:
                BAZEL_REPOSITORY.check(name)
            except BrokenRuleError as error:
                yield Finding(
                    path=(*path, "bazel", "overrides"),
                    rule=f"{name!r} in it: {error.rule}",
                    remedy="Move that folder away.",
                )
    else:
        for name, place in bazel.overrides.items():
            yield from _missing((*path, "bazel", "overrides", name), _path(folder, place))
    for index, place in enumerate(patches):
        yield from _missing((*path, "patches", index), _path(folder, place))
    yield from _of_remote((*path, "bazel", "remote"), bazel.remote, folder)
    if bazel.version is None and (given := (bazel.package and "package") or (bazel.binary and "binary")):
        yield Finding(
            path=(*path, "bazel", given),
            rule="it is not said which version that is",
            remedy='Add version, in quotes: version: "6.5.0".',
        )


def _of_remote(path: KeyPath, remote: RemoteSection, folder: Path) -> Iterator[Finding]:
    tls = remote.tls
    for name in ("certificate", "client_certificate", "client_key"):
        yield from _missing((*path, "tls", name), _path(folder, getattr(tls, name)), is_file=True)
    if (tls.client_certificate is None) != (tls.client_key is None):
        given, missing = ("client_key", "client_certificate")[:: 1 if tls.client_key else -1]
        yield Finding(path=(*path, "tls", given), rule=f"it is of no use without {missing}", remedy="Name both files.")
    for name, url in (("executor", remote.executor), ("cache", remote.cache)):
        if url and url.startswith(("grpc://", "http://")) and tls != TlsSection():
            rule = f"{url} goes without TLS, and what tls says is of no use"
            yield Finding(path=(*path, name), rule=rule, remedy="Write grpcs:// or https://, or take tls away.")
    if remote.executor and (remote.cache or "").startswith("http"):
        # bazelbuild/bazel, RemoteModule: "Cannot combine gRPC based remote execution with HTTP-based caching".
        yield Finding(
            path=(*path, "cache"),
            rule="with an executor, Bazel takes a cache over grpc or grpcs only",
            remedy="Take it away, and the executor's own cache is used; or name one over gRPC.",
        )


def _missing(
    path: KeyPath, place: Path | None, *, is_file: bool = False, remedy: str = "Name one that is there."
) -> Iterator[Finding]:
    if place is None or (place.is_file() if is_file else place.is_dir()):
        return
    kind = "file" if is_file else "folder"
    yield Finding(path=path, rule=f"there is no {kind} {place}", remedy=remedy)
