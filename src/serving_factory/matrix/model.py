"""The matrix file's JSON schema, for editors: made of the model, so that both say the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.matrix.schema import Many, Section, Table, Text, TextOr, Truth, TruthOr, Whole, key, matching
from serving_factory.matrix.variant import Platform
from serving_factory.matrix.words import (
    ALIAS_WORDS,
    BAZEL_OPTION,
    BAZEL_REPOSITORY,
    CAPABILITY,
    COMPILER,
    COMPILER_OPTION,
    CONFIG,
    CUDA,
    CUDAS,
    FILE,
    FLAGS,
    FLAVOUR,
    FOLDER,
    HOSTS,
    IMAGE,
    LABEL,
    LEVEL,
    MEMORY,
    PACKAGE,
    PLATFORM,
    PYTHON,
    REASON,
    RELEASES,
    REPOSITORY,
    SNAPSHOT,
    TAG_WORDS,
    TARGET,
    URL,
    URL_OR_FOLDER,
    VERSION,
    template_rule,
)

REMOTE = matching(
    r"(?:https?|grpcs?)://[^\s'\"`$\\\\{}#]+",
    "a remote cache has a URL with http, https, grpc or grpcs",
    "Write it like https://cache.example.com/bazel or grpcs://cache.example.com:443.",
)
EXECUTOR = matching(
    r"grpcs?://[^\s'\"`$\\\\{}#/]+",
    "remote execution has a URL with grpc or grpcs",
    "Write it like grpcs://build.example.com:443.",
)
HEADER = matching(
    r"[A-Za-z0-9_.-]+", "a header's name is letters, digits, '_', '.' and '-'", "Write it like x-api-key."
)
HEADER_VALUE = matching(
    r"[^\x00-\x1f\x7f]+", "a header's value is not empty and holds no control characters", "Write it on one line."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSection:
    """Files (PEM) for the connection to a remote cache."""

    certificate: str | None = key(FILE, "Of the authority that signed the server's; not for https.", default=None)
    client_certificate: str | None = key(FILE, "Who we are.", default=None)
    client_key: str | None = key(FILE, "The key to that.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSection:
    """A cache, or builders, that other machines share."""

    cache: str | None = key(
        REMOTE, "The remote cache's URL; each toolchain has a place of its own in it.", default=None
    )
    executor: str | None = key(EXECUTOR, "The URL of a remote execution service.", default=None)
    upload: bool | None = key(
        TruthOr("auto"),
        "Whether results go there: true, false, or `auto`, which is true where CI is set.",
        default=None,
    )
    headers: Mapping[str, str] = key(
        Table(HEADER, HEADER_VALUE), "Sent along with each request, and kept secret.", default_factory=dict
    )
    tls: TlsSection = key(Section(TlsSection), "Files for the connection.", default_factory=TlsSection)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSection:
    """Names of the images."""

    repository: str = key(REPOSITORY, "Where images are named and pushed, without a tag.")
    tags: tuple[str, ...] = key(
        Many(Text(template_rule(TAG_WORDS, required="binary")), most=20),
        "Full tags, each of them unique to one binary. Placeholders: id, release, flavour, level, binary.",
        default=("{id}-{binary}",),
    )
    aliases: tuple[str, ...] = key(
        Many(Text(template_rule(ALIAS_WORDS)), least=0, most=20),
        "Tags that move to the newest image, pushed last; each is one variant's. "
        "Placeholders: id, release, flavour, level, target.",
        default=("{id}", "{release}-{target}"),
    )
    labels: Mapping[str, str] = key(Table(LABEL, Text()), "Labels of your own for every image.", default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSection:
    """A named selection of variants."""

    extends: str | None = key(TARGET, "Another target: what this one does not say, it has from there.", default=None)
    flavour: Flavour | None = key(FLAVOUR, "cpu, mkl or gpu.", default=None)
    levels: tuple[Level, ...] | None = key(Many(LEVEL), "CPU levels, by psABI name.", default=None)
    releases: tuple[str, ...] | None = key(
        Many(RELEASES), "Of the file's releases only these: full tags, or version specifiers.", default=None
    )
    platforms: tuple[Platform, ...] | None = key(Many(PLATFORM), "Instead of the file's.", default=None)
    cuda: str | None = key(
        CUDA, "The CUDA that a release must be built with. Default: each release's own.", default=None
    )
    capabilities: tuple[str, ...] | None = key(
        Many(CAPABILITY),
        "What a gpu binary has machine code for: cards (t4, h100, ...) or capabilities (8.0, sm_80). "
        "Default: upstream's list.",
        default=None,
    )
    flags: str | None = key(
        FLAGS,
        "`level` for the level's own compiler options, or a named set that takes their place. Default: `level`.",
        default=None,
    )
    copts: tuple[str, ...] | None = key(Many(COMPILER_OPTION, least=0), "Compiler options beside those.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionsSection:
    """What a rule looks at; a variant must meet all that are given."""

    releases: str | None = key(RELEASES, 'A full tag, or a range such as ">=2.9,<2.10".', default=None)
    flavours: tuple[Flavour, ...] | None = key(Many(FLAVOUR), "Any of these flavours.", default=None)
    levels: tuple[Level, ...] | None = key(Many(LEVEL), "Any of these levels.", default=None)
    targets: tuple[str, ...] | None = key(Many(TARGET), "As asked for by these targets.", default=None)
    platforms: tuple[Platform, ...] | None = key(Many(PLATFORM), "Any of these platforms.", default=None)
    cuda: str | None = key(CUDAS, 'A CUDA version, or a range such as ">=12".', default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeSection(ConditionsSection):
    """Variants that are not built, and why."""

    reason: str = key(REASON, "Why; `explain --dropped` tells it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequireSection:
    """Of some variants only some are built, and why."""

    reason: str = key(REASON, "Why; `explain --dropped` tells it.")
    where: ConditionsSection = key(Section(ConditionsSection), "The variants that the rule is about.")
    only: ConditionsSection = key(Section(ConditionsSection), "Those of them that stay.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcesSection:
    """What one build may use of the machine."""

    jobs: int | None = key(Whole(1, 1024), "How many compilers run at once.", default=None)
    memory: str | None = key(MEMORY, 'Main memory, such as "16GiB".', default=None)
    cache: str | None = key(
        MEMORY, "What Bazel's caches may take of the engine's disk after a build, such as \"30GiB\".", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BazelSection:
    """Which Bazel builds, and with what, where it is not upstream's."""

    version: str | None = key(VERSION, "Another version than upstream's, in quotes.", default=None)
    package: str | None = key(
        PACKAGE, "The apt package, of the toolchain's base, that brings that version.", default=None
    )
    binary: str | None = key(
        FILE, "The file with the Bazel binary, relative to this file, instead of a download.", default=None
    )
    distdir: str | None = key(
        FOLDER, "A folder of archives: what is there, by file name and checksum, is not downloaded.", default=None
    )
    overrides: Mapping[str, str] | str = key(
        TextOr(FOLDER, Table(BAZEL_REPOSITORY, FOLDER)),
        "External repository → the folder that takes its place (--override_repository); or one folder that has one "
        "of the repository's name for each.",
        default_factory=dict,
    )
    options: tuple[str, ...] = key(
        Many(BAZEL_OPTION, least=0), "Options of `bazel build`, passed on as they are.", default=()
    )
    startup_options: tuple[str, ...] = key(
        Many(BAZEL_OPTION, least=0), "Options before `build`, passed on as they are.", default=()
    )
    remote: RemoteSection = key(
        Section(RemoteSection), "A cache, or builders, that other machines share.", default=RemoteSection()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainSection:
    """What compiles, where it is not what the catalogue says of the release."""

    base: str | None = key(IMAGE, "The base image, such as debian:bookworm.", default=None)
    compiler: str | None = key(COMPILER, "The C compiler's package, such as gcc-9.", default=None)
    python: str | None = key(PYTHON, 'The Python that Bazel\'s rules run with, such as "2.7".', default=None)
    packages: tuple[str, ...] = key(Many(PACKAGE, least=0), "More apt packages.", default=())
    configs: Mapping[Flavour, tuple[str, ...]] = key(
        Table(FLAVOUR, Many(CONFIG, least=0)),
        "Bazel configs of a flavour, where the source tree names others.",
        default_factory=dict,
    )
    tensorrt: bool | None = key(
        Truth(), "false leaves TensorRT out of gpu builds. Default: compiled in where upstream has it.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PerReleaseSection:
    """What holds for some releases alone: each value that is given takes the place of the file's."""

    releases: str = key(RELEASES, 'A full tag, or a range such as ">=1.9,<1.13".')
    toolchain: ToolchainSection = key(
        Section(ToolchainSection), "What compiles them.", default_factory=ToolchainSection
    )
    bazel: BazelSection = key(Section(BazelSection), "Which Bazel builds them.", default_factory=BazelSection)
    source: str | None = key(FOLDER, "Their source tree.", default=None)
    patches: tuple[str, ...] = key(Many(FOLDER, least=0), "Folders of patches for their sources.", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSection:
    """Where apt gets its packages."""

    mirror: str | None = key(
        URL_OR_FOLDER,
        "A mirror's URL, which stands before /ubuntu or /debian, or holds {archive} for them, and may hold {snapshot}; "
        "or a folder with packages and their index, relative to this file.",
        default=None,
    )
    snapshot: str | None = key(
        SNAPSHOT, "The time whose packages are required, for a mirror that has {snapshot} in its URL.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiesSection:
    """Forward proxies, for builds alone."""

    http: str | None = key(URL, "For http.", default=None)
    https: str | None = key(URL, "For https.", default=None)
    no: str | None = key(HOSTS, "Hosts that are asked directly, joined by commas.", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSection:
    """Where outer inputs come from on this network."""

    base_images: Mapping[str, str] = key(
        Table(IMAGE, IMAGE),
        "Base image → the image to use for it, a mirror's or one that the engine has.",
        default_factory=dict,
    )
    apt: AptSection = key(Section(AptSection), "Where apt gets its packages.", default_factory=AptSection)
    pip_index: str | None = key(URL, "The Python package index, for rules of Bazel that need one.", default=None)
    git_mirrors: Mapping[str, str] = key(
        Table(URL, URL), "The beginning of a git URL → what stands in its place.", default_factory=dict
    )
    bazel_mirror: str | None = key(
        URL, "What has VERSION/bazel-VERSION-linux-x86_64, instead of Bazel's releases.", default=None
    )
    downloader_config: str | None = key(
        FILE, "Rules by which Bazel rewrites the URLs of its downloads, relative to this file.", default=None
    )
    proxies: ProxiesSection = key(Section(ProxiesSection), "Forward proxies.", default_factory=ProxiesSection)
    ca_certificates: str | None = key(
        FILE, "More certificates to trust while building, in PEM, relative to this file.", default=None
    )
    offline: bool = key(Truth(), "Build without any network: all comes from folders.", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFile:
    """What this factory builds."""

    image: ImageSection = key(Section(ImageSection), "Names of the images.")
    releases: tuple[str, ...] = key(
        Many(RELEASES),
        "Upstream releases, in quotes: full tags, version specifiers, and `latest-patches`, the last patch of each "
        "line. What is joined by commas narrows: `latest-patches,>=2.15`.",
    )
    platforms: tuple[Platform, ...] = key(Many(PLATFORM), "OCI platforms.", default=(Platform.LINUX_AMD64,))
    targets: Mapping[str, TargetSection] = key(
        Table(TARGET, Section(TargetSection), least=1, most=500), "Named selections of variants."
    )
    exclude: tuple[ExcludeSection, ...] = key(
        Many(Section(ExcludeSection), least=0, most=500), "Drops what meets all conditions of a rule.", default=()
    )
    require: tuple[RequireSection, ...] = key(
        Many(Section(RequireSection), least=0, most=500),
        "Of what a rule is about, drops what is not among `only`.",
        default=(),
    )
    resources: ResourcesSection = key(
        Section(ResourcesSection), "What one build may use of the machine.", default=ResourcesSection()
    )
    source: str | None = key(
        FOLDER,
        "The source tree: a folder, relative to this file. Default: upstream's, at the release's commit.",
        default=None,
    )
    patches: tuple[str, ...] = key(
        Many(FOLDER, least=0), "Folders of patches for the sources, relative to this file, in order.", default=()
    )
    toolchain: ToolchainSection = key(
        Section(ToolchainSection),
        "What compiles, instead of what the catalogue says.",
        default_factory=ToolchainSection,
    )
    bazel: BazelSection = key(Section(BazelSection), "Which Bazel builds, and with what.", default_factory=BazelSection)
    per_release: tuple[PerReleaseSection, ...] = key(
        Many(Section(PerReleaseSection), least=0),
        "What holds for some releases alone; of two entries for a release the later one wins.",
        default=(),
    )
    network: NetworkSection = key(
        Section(NetworkSection), "Where outer inputs come from on this network.", default_factory=NetworkSection
    )


SCHEMA_FILE = "matrix.schema.json"
"""Its name, beside matrix.yaml."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def matrix_schema() -> str:
    """Make the schema, as the text of its file."""
    schema = {"$schema": _DIALECT, "title": "matrix.yaml", **Section(MatrixFile).schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
