"""A matrix, and where the values of a variant come from: `invoke explain` prints that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving_factory.catalogue.cuda import Cuda, cuda_in_image
from serving_factory.catalogue.levels import flag_sets
from serving_factory.matrix.document import Document
from serving_factory.matrix.expand import Dropped
from serving_factory.matrix.lockfile import Lock
from serving_factory.matrix.model import Images, OwnRelease, Resources, Signing
from serving_factory.matrix.problems import KeyPath, dotted
from serving_factory.matrix.rules import Rule
from serving_factory.matrix.settings import AllSettings, Network, Settings
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import Candidate, Variant
from serving_factory.matrix.words import release_tags

CATALOGUE = "catalogue"
DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What this factory builds.

    Args:
        variants: every variant of every target, each once, in order.
        targets: target name → its variants' ids, in order.
        own: name → the release of the file's own.
        aliases: variant's id → its moving tags; `devel_aliases`: those of its devel image.
        dropped: what targets select and is not built, with the reasons.
        document: the file, with the position of each value.
    """

    file: Path
    images: Images
    variants: tuple[Variant, ...]
    targets: Mapping[str, tuple[str, ...]]
    own: Mapping[str, OwnRelease]
    aliases: Mapping[str, tuple[str, ...]]
    devel_aliases: Mapping[str, tuple[str, ...]]
    settings: AllSettings
    network: Network
    lock: Lock
    resources: Resources
    signing: Signing
    dropped: tuple[Dropped, ...]
    selections: tuple[Selection, ...]
    rules: tuple[Rule, ...]
    document: Document

    def targets_of(self, variant: Variant) -> tuple[str, ...]:
        """Name the targets that select this variant."""
        return tuple(name for name, ids in self.targets.items() if variant.id in ids)

    def aliases_of(self, variant: Variant) -> tuple[str, ...]:
        """The moving tags of a variant's image."""
        return self.aliases.get(variant.id, ())

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every variant of every target."""
        by_id = {one.id: one for one in self.variants}
        return tuple(Candidate(name, by_id[id_]) for name, ids in self.targets.items() for id_ in ids)

    def settings_of(self, variant: Variant) -> Settings:
        """How a variant is built, as far as the matrix says so."""
        settings, own = self.settings.of(variant.release), self.own.get(variant.own_release)
        return replace(settings, source=own.source) if own else settings

    def cuda_of(self, variant: Variant) -> Cuda | None:
        """A variant's CUDA, as its image has it; None without a GPU."""
        compat = self.settings_of(variant).toolchain.cuda_compat
        return cuda_in_image(variant.cuda, compat=compat) if variant.cuda else None


def origin(matrix: Matrix, path: KeyPath, *, otherwise: str = DEFAULT) -> str:
    """Name where a value comes from: `targets.a.levels, matrix.yaml:20`, `environment, HTTPS_PROXY`, or a default."""
    if variable := matrix.document.variable(path):
        return f"environment, {variable}"
    if not matrix.document.has(path):
        return otherwise
    return f"{dotted(path)}, {matrix.file.name}:{matrix.document.place(path).line}"


def release_origin(matrix: Matrix, release: str, path: KeyPath, *, otherwise: str = DEFAULT) -> str:
    """Name where a value comes from that may be given for some releases alone: the last entry that has it counts."""
    places = [*(place for place in _entries_for(matrix, release, path) if matrix.document.has(place)), path]
    return origin(matrix, places[0], otherwise=otherwise)


def base_origin(matrix: Matrix, variant: Variant) -> str:
    """Name where the base of a runtime image comes from: a text is for every flavour, a mapping for those in it."""
    path: KeyPath = ("image", "base")
    for place in (*_entries_for(matrix, variant.release, path), path):
        for at in (place, (*place, variant.flavour.value)):
            if matrix.document.written(at):
                return origin(matrix, at)
    return release_origin(
        matrix, variant.release, ("toolchain", "base"), otherwise=f"{CATALOGUE}, release {variant.release}"
    )


def _entries_for(matrix: Matrix, release: str, path: KeyPath) -> Sequence[KeyPath]:
    """Where a value may stand for a release, in the entries of `per_release`, the last one first."""
    listed = matrix.document.data.get("per_release", ())
    about = [index for index, one in enumerate(listed) if release in release_tags(one["releases"])]
    return [("per_release", index, *path) for index in reversed(about)]


def variant_origins(matrix: Matrix, variant: Variant) -> Mapping[str, str]:
    """Name where each value of a variant comes from, by the first target that selects it.

    Returns:
        `release`, `flavour`, `level`, `platform`, `cuda`, `capabilities` and `copts` -> default, catalogue, or a place.
    """
    names = matrix.targets_of(variant)
    selection = next(one for one in matrix.selections if one.target in names)

    def of(name: str, otherwise: str) -> str:
        path = selection.origins.get(name)
        return otherwise if path is None else origin(matrix, path)

    upstream = f"{CATALOGUE}, release {variant.release}"
    return {
        "release": origin(matrix, _release_path(variant, selection)),
        "flavour": of("flavour", DEFAULT),
        "level": of("levels", DEFAULT),
        "platform": of("platforms", origin(matrix, ("platforms",))),
        "cuda": of("cuda", upstream),
        "capabilities": of("capabilities", upstream),
        "copts": _copts_origin(matrix, variant, selection),
    }


def _release_path(variant: Variant, selection: Selection) -> KeyPath:
    """Where a variant's release stands in the file."""
    own = (path for path, one in selection.own.items() if one.name == variant.own_release)
    return next(own) if variant.own_release else selection.releases[variant.release]


def _copts_origin(matrix: Matrix, variant: Variant, selection: Selection) -> str:
    """The options of a level or a set are the catalogue's; the file says which of the two, and what is added."""
    found = f"{CATALOGUE}, level {variant.level}"
    if variant.flag_set:
        found = f"{CATALOGUE}, flag set {variant.flag_set} ({origin(matrix, selection.origins['flags'])})"
    elif selection.flag_set:
        found += f" (flag set {selection.flag_set} is for level {flag_sets()[selection.flag_set].level} alone)"
    return f"{found}; {origin(matrix, selection.origins['copts'])}" if variant.copts else found


def rules_about(matrix: Matrix, variant: Variant) -> tuple[tuple[str, str], ...]:
    """Describe each rule about a variant: where it stands, and what it does to it, with its reason."""
    names = [*matrix.targets_of(variant)]
    names += [one.candidate.target for one in matrix.dropped if one.candidate.variant == variant]
    found = []
    for rule in matrix.rules:
        for name in names:
            candidate = Candidate(name, variant)
            if rule.concerns(candidate):
                does = f"removes it from target {name}" if rule.drops(candidate) else f"keeps it in target {name}"
                found.append((origin(matrix, rule.path), f"{does}: {rule.reason}"))
    return tuple(found)
