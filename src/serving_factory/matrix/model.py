"""The matrix file's model: the shape of what a user writes. Its JSON schema is generated from here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serving_factory.catalogue.flag_sets import flag_sets
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour
from serving_factory.matrix.capabilities import check_capability
from serving_factory.matrix.problems import did_you_mean
from serving_factory.matrix.selectors import SelectorError, cuda_versions, release_tags
from serving_factory.matrix.templates import ALIAS_WORDS, TAG_WORDS, template_rule
from serving_factory.matrix.variant import Platform

__all__ = [
    "LEVELS_OWN_FLAGS",
    "BazelSection",
    "ConditionsSection",
    "ExcludeSection",
    "ImageSection",
    "MatrixFile",
    "NetworkSection",
    "RequireSection",
    "ResourcesSection",
    "TargetSection",
    "ToolchainSection",
]

LEVELS_OWN_FLAGS = "level"
"""At a target's `flags:`, the compiler options of the level itself."""

_OPTION = re.compile(r"-[A-Za-z0-9_=,.:/+@%~-]+")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:=~-]*")
# As Docker reads names: the first word is a registry only where it holds a dot or a port, or is localhost.
_REGISTRY = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?"
_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"(?:{_REGISTRY}/)?{_WORD}(?:/{_WORD})*")
_IMAGE = re.compile(rf"{_REPOSITORY.pattern}(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?(?:@sha256:[0-9a-f]{{64}})?")
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_OWN_LABEL = re.compile(r"(?!org\.serving-factory(?:\.|$)).*")
_FOLDER = re.compile(r"[^\x00-\x1f]+")
_CONFIG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MEMORY = re.compile(r"[1-9][0-9]{0,6}(?:MiB|GiB)")
_REASON = re.compile(r".*\w.*", re.DOTALL)
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]*")


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


def _release_selector(text: str) -> str:
    release_tags(text)
    return text


def _cuda_selector(text: str) -> str:
    cuda_versions(text)
    return text


def _cuda_version(text: str) -> str:
    if len(cuda_versions(text)) != 1:
        raise SelectorError("a target names one CUDA version", 'Write it in full, such as "12.2".')
    return next(iter(cuda_versions(text)))


def _flags(name: str) -> str:
    names = (LEVELS_OWN_FLAGS, *flag_sets())
    if name not in names:
        listed = f"There are: {', '.join(names)}."
        raise SelectorError("there is no such set of flags", did_you_mean(name, names, otherwise=listed))
    return name


CompilerOption = Annotated[
    str, _matching(_OPTION, "a compiler option begins with '-' and holds no blanks, quotes or shell characters")
]
PackageName = Annotated[str, _matching(_PACKAGE, "this is no Debian package name")]
Repository = Annotated[
    str, _matching(_REPOSITORY, "a repository is lower case: [registry[:port]/]name[/name], with single separators")
]
Image = Annotated[str, _matching(_IMAGE, "an image is [registry[:port]/]name[:tag][@sha256:64 hex digits]")]
TargetName = Annotated[str, _matching(_NAME, "a target's name is lower-case words joined by '.' or '-'")]
LabelName = Annotated[
    str,
    _matching(_NAME, "a label is lower-case words joined by '.' or '-'"),
    _matching(_OWN_LABEL, "labels that begin with org.serving-factory are the factory's own"),
]
Folder = Annotated[str, _matching(_FOLDER, "a folder's name is not empty and holds no control characters")]
ConfigName = Annotated[str, _matching(_CONFIG, "a Bazel config is one word of letters, digits, '_', '.' and '-'")]
VersionText = Annotated[str, _matching(_VERSION, "a version begins with a digit and holds no blanks")]
MemorySize = Annotated[str, _matching(_MEMORY, "a size is a number and MiB or GiB, such as 16GiB")]
Reason = Annotated[str, _matching(_REASON, "a reason says in words why the rule is there")]
FlagsName = Annotated[str, AfterValidator(_flags)]
ReleaseSelector = Annotated[str, AfterValidator(_release_selector)]
CudaVersion = Annotated[str, AfterValidator(_cuda_version)]
CudaSelector = Annotated[str, AfterValidator(_cuda_selector)]
CapabilityWord = Annotated[str, AfterValidator(check_capability)]
FlavourName = Annotated[Flavour, Field(strict=False)]
LevelName = Annotated[Level, Field(strict=False)]
PlatformName = Annotated[Platform, Field(strict=False)]
FullTag = Annotated[str, AfterValidator(template_rule(TAG_WORDS, required="binary"))]
Alias = Annotated[str, AfterValidator(template_rule(ALIAS_WORDS))]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ImageSection(_Section):
    """Names of the images."""

    repository: Repository = Field(description="Where images are named and pushed, without a tag.")
    tags: list[FullTag] = Field(
        default=["{id}-{binary}"],
        min_length=1,
        description="Full tags, each of them unique to one binary. Placeholders: id, release, flavour, level, binary.",
    )
    aliases: list[Alias] = Field(
        default=["{id}", "{release}-{target}"],
        description="Tags that move to the newest image, pushed last; each is one variant's. "
        "Placeholders: id, release, flavour, level, target.",
    )
    labels: dict[LabelName, str] = Field(default_factory=dict, description="Labels of your own for every image.")


class TargetSection(_Section):
    """A named selection of variants."""

    extends: TargetName | None = Field(
        default=None, description="Another target: what this one does not say, it has from there."
    )
    flavour: FlavourName | None = Field(default=None, description="cpu, mkl or gpu.")
    levels: list[LevelName] | None = Field(default=None, min_length=1, description="CPU levels, by psABI name.")
    releases: list[ReleaseSelector] | None = Field(
        default=None, min_length=1, description="Of the file's releases only these: full tags, or version specifiers."
    )
    platforms: list[PlatformName] | None = Field(default=None, min_length=1, description="Instead of the file's.")
    cuda: CudaVersion | None = Field(
        default=None, description="The CUDA that a release must be built with. Default: each release's own."
    )
    capabilities: list[CapabilityWord] | None = Field(
        default=None,
        min_length=1,
        description="What a gpu binary has machine code for: cards (t4, h100, ...) or capabilities (8.0, sm_80). "
        "Default: upstream's list.",
    )
    flags: FlagsName | None = Field(
        default=None,
        description="`level` for the level's own compiler options, or a named set that takes their place. "
        "Default: what a target of this name means, else `level`.",
    )
    copts: list[CompilerOption] | None = Field(default=None, description="Compiler options beside those.")


class ConditionsSection(_Section):
    """What a rule looks at; a variant must meet all that are given."""

    releases: ReleaseSelector | None = Field(default=None, description='A full tag, or a range such as ">=2.9,<2.10".')
    flavours: list[FlavourName] | None = Field(default=None, min_length=1, description="Any of these flavours.")
    levels: list[LevelName] | None = Field(default=None, min_length=1, description="Any of these levels.")
    targets: list[TargetName] | None = Field(default=None, min_length=1, description="As asked for by these targets.")
    platforms: list[PlatformName] | None = Field(default=None, min_length=1, description="Any of these platforms.")
    cuda: CudaSelector | None = Field(default=None, description='A CUDA version, or a range such as ">=12".')


class ExcludeSection(ConditionsSection):
    """Variants that are not built, and why."""

    reason: Reason = Field(description="Why; `explain --dropped` tells it.")


class RequireSection(_Section):
    """Of some variants only some are built, and why."""

    reason: Reason = Field(description="Why; `explain --dropped` tells it.")
    where: ConditionsSection = Field(description="The variants that the rule is about.")
    only: ConditionsSection = Field(description="Those of them that stay.")


class ResourcesSection(_Section):
    """What one build may use of the machine."""

    jobs: int | None = Field(default=None, ge=1, le=1024, description="How many compilers run at once.")
    memory: MemorySize | None = Field(default=None, description='Main memory, such as "16GiB".')


class BazelSection(_Section):
    """Another Bazel than upstream's."""

    version: VersionText = Field(description="Its version, in quotes.")
    package: PackageName = Field(description="The apt package, of the toolchain's base, that brings it.")


class ToolchainSection(_Section):
    """What compiles, where it is not what the catalogue says of the release."""

    base: Image | None = Field(default=None, description="The base image, such as debian:bookworm.")
    compiler: PackageName | None = Field(default=None, description="The C compiler's package, such as gcc-9.")
    bazel: BazelSection | None = Field(default=None, description="Another Bazel.")
    packages: list[PackageName] = Field(default_factory=list, description="More apt packages.")
    configs: dict[FlavourName, list[ConfigName]] = Field(
        default_factory=dict, description="Bazel configs of a flavour, where the source tree names others."
    )


class NetworkSection(_Section):
    """Where outer inputs come from on this network."""

    base_images: dict[Image, Image] = Field(
        default_factory=dict,
        description="Base image → the image to use for it, a mirror's or one that the engine has.",
    )


class MatrixFile(_Section):
    """What this factory builds."""

    image: ImageSection
    releases: list[ReleaseSelector] = Field(
        min_length=1,
        description="Upstream releases, in quotes: full tags, version specifiers, and `latest-patches`, the last patch "
        "of each line. What is joined by commas narrows: `latest-patches,>=2.15`.",
    )
    platforms: list[PlatformName] = Field(default=[Platform.LINUX_AMD64], min_length=1, description="OCI platforms.")
    targets: dict[TargetName, TargetSection] = Field(min_length=1, description="Named selections of variants.")
    exclude: list[ExcludeSection] = Field(
        default_factory=list, description="Drops what meets all of a rule's conditions."
    )
    require: list[RequireSection] = Field(
        default_factory=list, description="Of what a rule is about, drops what is not among `only`."
    )
    resources: ResourcesSection = Field(default_factory=ResourcesSection)
    source: Folder | None = Field(
        default=None,
        description="The source tree: a folder, relative to this file. Default: upstream's, at the release's commit.",
    )
    toolchain: ToolchainSection = Field(default_factory=ToolchainSection)
    network: NetworkSection = Field(default_factory=NetworkSection)
