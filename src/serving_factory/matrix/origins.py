"""Where the values of a variant come from, and which rules touched it: what `invoke explain` tells of the matrix."""

from __future__ import annotations

from collections.abc import Mapping

from serving_factory.catalogue.flag_sets import flag_sets
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import KeyPath, dotted
from serving_factory.matrix.rules import Candidate
from serving_factory.matrix.selectors import release_tags
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import Variant

__all__ = ["CATALOGUE", "DEFAULT", "origin", "release_origin", "rules_about", "variant_origins"]

CATALOGUE = "catalogue"
DEFAULT = "default"


def origin(matrix: Matrix, path: KeyPath, *, otherwise: str = DEFAULT) -> str:
    """Name a place in the matrix file, `targets.a.levels, matrix.yaml:20`; or what holds where it is absent.

    What the environment gives is named by its variable, `environment, HTTPS_PROXY`.
    """
    if variable := matrix.document.variable(path):
        return f"environment, {variable}"
    if not matrix.document.has(path):
        return otherwise
    place = matrix.document.place(path)
    return f"{dotted(path)}, {matrix.file.name}:{place.line}" if place else dotted(path)


def release_origin(matrix: Matrix, release: str, path: KeyPath, *, otherwise: str = DEFAULT) -> str:
    """Name the place of a value that may be given for some releases alone: the last one that gives it counts."""
    listed = matrix.document.data.get("per_release", ())
    about = [index for index, one in enumerate(listed) if release in release_tags(one["releases"])]
    places = [place for index in about if matrix.document.has(place := ("per_release", index, *path))]
    return origin(matrix, places[-1] if places else path, otherwise=otherwise)


def variant_origins(matrix: Matrix, variant: Variant) -> Mapping[str, str]:
    """Tell where each value of a variant comes from, going by the first target that selects it.

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
        "release": origin(matrix, selection.releases[variant.release]),
        "flavour": of("flavour", DEFAULT),
        "level": of("levels", DEFAULT),
        "platform": of("platforms", origin(matrix, ("platforms",))),
        "cuda": of("cuda", upstream),
        "capabilities": of("capabilities", upstream),
        "copts": _copts_origin(matrix, variant, selection),
    }


def _copts_origin(matrix: Matrix, variant: Variant, selection: Selection) -> str:
    """The level's or the set's options come from the catalogue; which of the two, and what is added, from the file."""
    told = f"{CATALOGUE}, level {variant.level}"
    if variant.flag_set:
        told = f"{CATALOGUE}, flag set {variant.flag_set}"
        path = selection.origins["flags"]
        if path[-1] == "flags":
            told += f" ({origin(matrix, path)})"
        elif path[-1] in flag_sets()[variant.flag_set].targets:
            told += f" (what a target named {path[-1]} means)"
    elif selection.flag_set:
        told += f" (flag set {selection.flag_set} is for level {flag_sets()[selection.flag_set].level} alone)"
    return f"{told}; {origin(matrix, selection.origins['copts'])}" if variant.copts else told


def rules_about(matrix: Matrix, variant: Variant) -> tuple[tuple[str, str], ...]:
    """Tell of each rule that is about a variant: where it stands, and what it does to it, with its reason."""
    names = [*matrix.targets_of(variant)]
    names += [one.candidate.target for one in matrix.dropped if one.candidate.variant == variant]
    found = []
    for rule in matrix.rules:
        for name in names:
            candidate = Candidate(name, variant)
            if rule.concerns(candidate):
                does = f"takes it out of target {name}" if rule.drops(candidate) else f"lets it pass in target {name}"
                found.append((origin(matrix, rule.path), f"{does}: {rule.reason}"))
    return tuple(found)
