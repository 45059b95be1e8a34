"""The sections of the matrix file, and the JSON schema of it for editors: both are made of the same keys."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level
from serving_factory.matrix import words
from serving_factory.matrix.schema import Boolean, Conflict, Either, Keys, Many, Section, Table, Text, Whole, key
from serving_factory.matrix.settings import SOURCE, ImageChoice, Network, PerRelease, Settings
from serving_factory.matrix.variant import Candidate, Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSection:
    """A named selection of variants."""

    extends: str | None = key(words.TARGET, "Another target, which gives the values that this one leaves out.", None)
    flavour: Flavour | None = key(words.FLAVOUR, "cpu, mkl or gpu.", None)
    levels: tuple[Level, ...] | None = key(Many(words.LEVEL), "CPU levels, by psABI name.", None)
    releases: tuple[str, ...] | None = key(Many(words.RELEASES), "Of the file's releases only these.", None)
    platforms: tuple[Platform, ...] | None = key(Many(words.PLATFORM), "Instead of the file's.", None)
    cuda: str | None = key(words.CUDA, "The CUDA that a release must be built with. Default: each release's own.", None)
    capabilities: tuple[str, ...] | None = key(
        Many(words.CAPABILITY), "What a gpu binary has machine code for: cards (t4) or capabilities (8.0, sm_80).", None
    )
    flags: str | None = key(words.FLAGS, "A set of compiler options instead of the level's; or `level`.", None)
    copts: tuple[str, ...] | None = key(Many(words.COMPILER_OPTION, least=0), "Compiler options beside those.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a rule looks at; a variant must meet all that are given."""

    releases: Collection[str] | None = key(words.RELEASE_TAGS, 'A full tag, or a range such as ">=2.9,<2.10".', None)
    flavours: Collection[Flavour] | None = key(Many(words.FLAVOUR), "Any of these flavours.", None)
    levels: Collection[Level] | None = key(Many(words.LEVEL), "Any of these levels.", None)
    targets: Collection[str] | None = key(Many(words.TARGET), "Variants that these targets select.", None)
    platforms: Collection[Platform] | None = key(Many(words.PLATFORM), "Any of these platforms.", None)
    cuda: Collection[str] | None = key(words.CUDAS, 'A CUDA version, or a range such as ">=12".', None)

    def may_concern(self, target: str, flavour: Flavour) -> bool:
        """Whether a candidate of such a target and flavour may meet them."""
        return (self.targets is None or target in self.targets) and (self.flavours is None or flavour in self.flavours)

    def met_by(self, candidate: Candidate) -> bool:
        """Whether a candidate meets all of them; one without CUDA meets no condition on CUDA."""
        variant = candidate.variant
        return (
            (self.targets is None or candidate.target in self.targets)
            and (self.releases is None or variant.release in self.releases)
            and (self.flavours is None or variant.flavour in self.flavours)
            and (self.levels is None or variant.level in self.levels)
            and (self.platforms is None or variant.platform in self.platforms)
            and (self.cuda is None or variant.cuda in self.cuda)
        )


_ALIAS = words.template_rule(words.ALIAS_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A tag that moves, for some variants alone."""

    tag: str = key(Text(_ALIAS), f"The tag. Placeholders: {', '.join(words.ALIAS_WORDS)}.")
    where: Conditions = key(Section(Conditions), "The variants that may have it.", Conditions)


_INDEX = words.template_rule(words.INDEX_WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexTag:
    """A tag that names one image for each CPU level, of some variants alone."""

    tag: str = key(Text(_INDEX), f"The tag. Placeholders: {', '.join(words.INDEX_WORDS)}.")
    where: Conditions = key(Section(Conditions), "The variants that are in it.", Conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When Docker runs the image's health check."""

    interval: str = key(words.DURATION, "How often.", "10s")
    start_period: str = key(words.DURATION, "How long a model may take to load: only then failures count.", "300s")
    retries: int = key(Whole(1, 100), "How many failures in a row make a container unhealthy.", 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images(ImageChoice):
    """The images: their names, labels, user and base."""

    repository: str = key(words.REPOSITORY, "Where images are named and pushed, without a tag.")
    tags: tuple[str, ...] = key(
        Many(Text(words.template_rule(words.TAG_WORDS, required="binary")), most=20),
        f"Full tags, each of them unique to one image. Placeholders: {', '.join(words.TAG_WORDS)}.",
        ("{id}-{binary}-{image}",),
    )
    aliases: tuple[Alias, ...] = key(
        Many(Either(Text(lambda text: Alias(tag=_ALIAS(text))), Section(Alias)), least=0, most=20),
        f"Tags that move to the newest image of one variant. Placeholders: {', '.join(words.ALIAS_WORDS)}.",
        (Alias(tag="{id}"), Alias(tag="{release}-{target}")),
    )
    indexes: tuple[IndexTag, ...] = key(
        Many(Either(Text(lambda text: IndexTag(tag=_INDEX(text))), Section(IndexTag)), least=0, most=20),
        f"Tags by which a client gets the image of its CPU's level. Placeholders: {', '.join(words.INDEX_WORDS)}.",
        (IndexTag(tag="{release}{flavour-suffix}{gpu-suffix}"),),
    )
    combined: tuple[IndexTag, ...] = key(
        Many(Text(lambda text: IndexTag(tag=_INDEX(text))), least=0, most=20),
        f"Aliases of images with all levels of a release and flavour. Placeholders: {', '.join(words.INDEX_WORDS)}.",
        (IndexTag(tag="{release}{flavour-suffix}-all"),),
    )
    labels: Mapping[str, str] = key(Table(words.LABEL, Text()), "Labels of your own for every image.", dict)
    # The highest uid that Docker takes for a number (moby/sys/user, maxID).
    user: int = key(Whole(0, 2**31 - 1), "The user, and the group of the same number, that the server runs as.", 65532)
    health: Health = key(Health)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeSection(Conditions):
    """Variants that are not built, and why."""

    reason: str = key(words.REASON, "Why; `explain --dropped` prints it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequireSection:
    """Of some variants only some are built, and why."""

    reason: str = key(words.REASON, "Why; `explain --dropped` prints it.")
    where: Conditions = key(Section(Conditions), "The variants that the rule is about.")
    only: Conditions = key(Section(Conditions), "Those of them that stay.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one build may use of the machine."""

    jobs: int | None = key(Whole(1, 1024), "How many compilers run at once.", None)
    memory: str | None = key(words.MEMORY, 'Main memory, such as "16GiB".', None)
    cache: str | None = key(words.MEMORY, "What Bazel's caches may keep on the engine's disk after a run.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing(Keys):
    """How what is pushed is signed; nothing is where the file says nothing."""

    # The files are looked at by what signs: no other machine needs to have them.
    command: tuple[str, ...] = key(
        Many(words.COMMAND_WORD, least=0),
        "Or a command that signs {image}, a name with its digest, such as cosign with a key in a cloud.",
        (),
    )
    verify: tuple[str, ...] = key(
        Many(words.COMMAND_WORD, least=0),
        "A command that checks the signature of {image}, such as cosign by the identity in a certificate.",
        (),
    )
    public_key: str | None = key(words.FILE, "The file with the public key by which its signatures are checked.", None)
    attestations: bool = key(Boolean(), "true also signs SBOM and provenance as cosign's attestations.", default=False)
    key: str | None = key(
        words.FILE, "The file with the private key, as cosign has it.", None
    )  # last: it hides the function

    def conflicts(self) -> Iterator[Conflict]:
        """One way to sign."""
        if self.key and self.command:
            yield ("command",), "there is a key, too", "Name a key or a command."
        elif self.public_key and not self.command:
            yield ("public_key",), "it is for the signatures of a command", "Remove it: the key holds its public key."
        elif self.verify and (self.public_key or not self.command):
            rule = "there is a public key, too" if self.public_key else "it is for the signatures of a command"
            yield ("verify",), rule, "Remove one of them." if self.public_key else "Remove it: the key checks its own."
        elif self.attestations and not self.key:
            yield ("attestations",), "they need a key", "Name one at key, or let `cosign attest` make them."
        for name, command in (("command", self.command), ("verify", self.verify)):
            if command and not any("{image}" in word for word in command):
                yield (name,), "no word of it holds {image}", "Add it where the image's name belongs."


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRelease(Keys):
    """Sources with a name of their own, built as a release of upstream: a branch, a nightly, a candidate."""

    name: str = key(words.OWN_NAME, "What ids, tags and labels call it.")
    like: str = key(words.LIKE, "The release of upstream whose toolchain, flags and server it has, by full tag.")
    source: Path | None = key(SOURCE, "The folder with the source tree.", None)
    commit: str | None = key(words.COMMIT, "Or a commit of upstream's repository.", None)
    reports: str | None = key(Text(), "What its `--version` begins with. Default: it is not compared.", None)

    def conflicts(self) -> Iterator[Conflict]:
        """One place of its sources."""
        if (self.source is None) == (self.commit is None):
            rule = "its sources are a folder or a commit"
            yield ("name",), rule, "Name one of them at source or commit."


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFile(Settings):
    """What this factory builds."""

    image: Images = key(Section(Images), "The images: their names, labels, user, base and health check.")
    releases: tuple[str | OwnRelease, ...] = key(
        Many(Either(words.RELEASES, Section(OwnRelease))),
        'In quotes: full tags, version specifiers, and `latest-patches`, such as "latest-patches,>=2.15". '
        "Or sources with a name of their own.",
    )
    platforms: tuple[Platform, ...] = key(Many(words.PLATFORM), "OCI platforms.", (Platform.LINUX_AMD64,))
    targets: Mapping[str, TargetSection] = key(
        Table(words.TARGET, Section(TargetSection), least=1, most=500), "Named selections of variants."
    )
    exclude: tuple[ExcludeSection, ...] = key(
        Many(Section(ExcludeSection), least=0, most=500), "Drops what meets all conditions of a rule.", ()
    )
    require: tuple[RequireSection, ...] = key(
        Many(Section(RequireSection), least=0, most=500), "Of what a rule is about, drops what is not in `only`.", ()
    )
    resources: Resources = key(Resources)
    per_release: tuple[PerRelease, ...] = key(
        Many(Section(PerRelease), least=0), "What holds for some releases alone; of two entries the later one wins.", ()
    )
    network: Network = key(Network)
    signing: Signing = key(Signing)


def own_releases(model: MatrixFile) -> Mapping[int, OwnRelease]:
    """The releases of the file's own, by their places in its list."""
    return {index: one for index, one in enumerate(model.releases) if isinstance(one, OwnRelease)}


SCHEMA_FILE = "matrix.schema.json"
"""Its name, beside matrix.yaml."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def matrix_schema() -> str:
    """Make the schema, as the text of its file."""
    schema = {"$schema": _DIALECT, "title": "matrix.yaml", **Section(MatrixFile).schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
