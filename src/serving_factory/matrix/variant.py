"""A variant: one combination of the matrix's axes, as a frozen value with a readable id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from packaging.version import Version

from serving_factory.catalogue.cuda import Capability, cards, cudas, device_code, notation
from serving_factory.catalogue.facts import Flavour, GpuFacts
from serving_factory.catalogue.levels import LEVELS, Level, flag_sets, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.matrix.problems import BrokenRuleError, DidYouMean

_CAPABILITIES = re.compile(r"-sm\d+p?(?:-\d+p?)*x?")
"""Of an id."""


def check_capability(word: str) -> str:
    """Pass a card's name, or a capability that some CUDA compiles; a BrokenRuleError says that it is neither."""
    known = cards()
    if word in known:
        return word
    try:
        number = Capability.parse(word).number
    except ValueError:
        listed = f"Cards: {', '.join(known)}."
        rule = "this is neither a card nor a capability (7.5, sm_75 or compute_75)"
        raise BrokenRuleError(rule, DidYouMean(word, known, listed)) from None
    if number not in _architectures():
        raise BrokenRuleError("no CUDA compiles this capability", f"There are {', '.join(_architectures())}.")
    return word


@cache
def _architectures() -> tuple[str, ...]:
    """All capabilities that some CUDA compiles machine code for, lowest first."""
    found = {one for cuda in cudas().values() for one in cuda.architectures}
    found.update(one for card in cards().values() for one in card.capabilities)
    return tuple(sorted(found, key=Capability.parse))


def without_cards(words: Iterable[str]) -> tuple[str, ...]:
    """Write cards as their capabilities."""
    return tuple(text for word in words for text in (cards()[word].capabilities if word in cards() else (word,)))


@cache
def _upstreams_gpu(release: str) -> GpuFacts | None:
    known = releases().get(release)
    facts = known.flavours.get(Flavour.GPU) if known else None
    return facts.gpu if facts else None


def upstreams_capabilities(release: str) -> tuple[str, ...]:
    """The capabilities that upstream names for a release; none where it names none."""
    gpu = _upstreams_gpu(release)
    return gpu.capabilities if gpu else ()


def upstreams_cuda(release: str) -> str:
    """The CUDA that upstream builds a release with; empty where it builds none with CUDA."""
    gpu = _upstreams_gpu(release)
    return gpu.cuda if gpu else ""


def in_id(capabilities: Sequence[Capability]) -> str:
    """Spell capabilities for an id: `sm80-90` has PTX for the highest; x: not for the highest, p: for this one too."""
    *lower, highest = capabilities
    marked = [(one, "p" if one.ptx else "") for one in lower]
    marked.append((highest, "" if highest.ptx else "x"))
    return "sm" + "-".join(f"{one.major}{one.minor}{mark}" for one, mark in marked)


class Platform(StrEnum):
    """An OCI platform."""

    LINUX_AMD64 = "linux/amd64"
    LINUX_ARM64 = "linux/arm64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One combination of the axes, and its compiler options: `flag_set` takes the place of the level's."""

    release: str
    flavour: Flavour
    level: Level
    platform: Platform = Platform.LINUX_AMD64
    copts: tuple[str, ...] = ()
    flag_set: str | None = None
    cuda: str | None = None
    capabilities: tuple[str, ...] = ()  # as TensorFlow spells them; empty for its default
    own_release: str = ""  # a name of the file's own, for sources that are built like the release
    combined: bool = False  # of an image with all levels of its build: `level` is the lowest

    @property
    def release_name(self) -> str:
        """What it is: the release, or the name of the file's own."""
        return self.own_release or self.release

    @property
    def id(self) -> str:
        """The readable name: `2.19.1-cpu-v3`, `2.19.1-gpu-cuda12.2-v3`, `2.19.1-gpu-cuda12.2-sm80-90-v3`.

        Compiler options are no part of it: within one matrix they must be the same where all else is.
        """
        name = f"{self.build}-{'all' if self.combined else level_facts(self.level).short}"
        return name if self.platform is Platform.LINUX_AMD64 else f"{name}-{self.platform.rpartition('/')[2]}"

    @property
    def build(self) -> str:
        """What it has in common with its other levels and platforms: `2.19.1-cpu`, `2.19.1-gpu-cuda12.2-sm80-90`."""
        name = f"{self.release_name}-{self.flavour}"
        if self.cuda:
            name += f"-cuda{self.cuda}"
        return f"{name}-{in_id(self.compiled_for)}" if self.names_capabilities else name

    @property
    def gpu_suffix(self) -> str:
        """CUDA and capabilities that are not upstream's, as the id has them: `-cuda12.4-sm80-90`, or nothing."""
        cuda = f"-cuda{self.cuda}" if self.cuda and self.cuda != upstreams_cuda(self.release) else ""
        return f"{cuda}-{in_id(self.compiled_for)}" if self.names_capabilities else cuda

    @property
    def names_capabilities(self) -> bool:
        """Whether its id names its capabilities: they are not upstream's."""
        return bool(self.capabilities) and self.capabilities != upstreams_capabilities(self.release)

    @property
    def compiled_for(self) -> tuple[Capability, ...]:
        """The capabilities that TensorFlow makes of the words, lowest first; none without CUDA."""
        return notation(_version(self.release)).read(self.capabilities) if self.cuda else ()

    @property
    def device_code(self) -> tuple[str, ...]:
        """The device code that the binary must have: `sm_80`, `sm_90`, `compute_90` (which is PTX alone)."""
        return device_code(self.compiled_for)

    @property
    def version(self) -> Version:
        """The release as a comparable version."""
        return _version(self.release)

    @property
    def all_copts(self) -> tuple[str, ...]:
        """The compiler options: the level's (or the set's), then the variant's own."""
        basic = flag_sets()[self.flag_set].copts if self.flag_set else level_facts(self.level).copts
        return basic + self.copts

    @property
    def order(self) -> tuple[Version, str, int, str]:
        """Sorts variants: newest release last, then flavour, then the lowest level first."""
        rank = LEVELS.index(self.level) if self.level in LEVELS else len(LEVELS)
        return (self.version, str(self.flavour), rank, self.id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant as one target selects it. Rules look at both: what they remove from a target may stay in another."""

    target: str
    variant: Variant


def levels_of(platform: Platform) -> tuple[Level, ...]:
    """The levels of a platform; `native`, the building machine's own, is one of any."""
    return (*LEVELS, Level.NATIVE) if platform is Platform.LINUX_AMD64 else (Level.NATIVE,)


def variant_of(id_: str) -> Variant | None:
    """Give the variant of an id, whatever its capabilities are; None where no release, flavour and level has it."""
    name = _CAPABILITIES.sub("", id_)
    tag, flavour, *_ = (*name.split("-"), "")
    release = releases().get(tag)
    for known, facts in release.flavours.items() if release else ():
        for platform in Platform if known == flavour else ():
            for level in levels_of(platform):
                cuda = facts.gpu.cuda if facts.gpu else None
                variant = Variant(release=tag, flavour=known, level=level, platform=platform, cuda=cuda)
                if variant.id == name:
                    return variant
    return None


@cache
def _version(release: str) -> Version:
    return Version(release)
