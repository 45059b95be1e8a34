"""The matrix file's model: the shape of what a user writes. Its JSON schema is generated from here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour
from serving_factory.matrix.tags import ALIAS_WORDS, TAG_WORDS, template_rule

__all__ = ["BazelSection", "ImageSection", "MatrixFile", "NetworkSection", "TargetSection", "ToolchainSection"]

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
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]*")


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


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

    flavour: Annotated[Flavour, Field(strict=False)] = Field(description="cpu, mkl or gpu.")
    levels: list[Annotated[Level, Field(strict=False)]] = Field(min_length=1, description="CPU levels, by psABI name.")
    releases: list[str] | None = Field(default=None, min_length=1, description="Only these of the file's releases.")
    copts: list[CompilerOption] = Field(default_factory=list, description="Compiler options beside the level's.")


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
    configs: dict[Annotated[Flavour, Field(strict=False)], list[ConfigName]] = Field(
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
    releases: list[str] = Field(min_length=1, description="Upstream releases, by full tag, in quotes.")
    targets: dict[TargetName, TargetSection] = Field(min_length=1, description="Named selections of variants.")
    source: Folder | None = Field(
        default=None,
        description="The source tree: a folder, relative to this file. Default: upstream's, at the release's commit.",
    )
    toolchain: ToolchainSection = Field(default_factory=ToolchainSection)
    network: NetworkSection = Field(default_factory=NetworkSection)
