"""From a matrix file to a matrix. Every problem is told at once, with its line and column. Only the joining is here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from serving_factory.catalogue.distributions import distributions
from serving_factory.matrix.document import Document, read_document
from serving_factory.matrix.environment import Given
from serving_factory.matrix.expand import Expansion, expand
from serving_factory.matrix.file_rules import rule_findings, rules_of
from serving_factory.matrix.matrix import Images, Matrix, Resources
from serving_factory.matrix.model import MatrixFile
from serving_factory.matrix.network_rules import network_findings
from serving_factory.matrix.problems import Finding, KeyPath, did_you_mean, matrix_error
from serving_factory.matrix.rules import Candidate
from serving_factory.matrix.settings import network_of, path_findings, settings_of
from serving_factory.matrix.shapes import Notes, Section
from serving_factory.matrix.tags import fill
from serving_factory.matrix.targets import selections
from serving_factory.matrix.templates import is_tag
from serving_factory.matrix.variant import Variant

__all__ = ["load_matrix"]


def load_matrix(file: Path, given: Iterable[Given] = ()) -> Matrix:
    """Read a matrix file and expand it.

    Args:
        file: the file.
        given: what the environment gives in the place of what the file says.

    Raises:
        MatrixError: the file cannot be read or breaks a rule; the message lists every problem.
    """
    document = read_document(file).with_given(given)
    notes = Notes(document.written)
    model = Section(MatrixFile).read(document.data, (), notes)
    _refuse(document, notes.found)
    chosen, findings = selections(model)
    rules, settings = rules_of(model), settings_of(model, file.parent)
    expansion = expand(chosen, rules, lambda release, facts: settings.of(release).toolchain.compiler_of(facts))
    by_target, variants = _gathered(model, expansion)
    # What is wrong with a target is told before what comes of it: a rule may match nothing only because of that.
    about = [*findings, *rule_findings(model)] or [*expansion.findings, *_clashes(expansion)]
    about += [*path_findings(model, file.parent), *network_findings(model, file.parent)]
    _refuse(document, [*about, *_base_findings(model), *_tag_findings(model, by_target)])
    image = model.image
    return Matrix(
        file=file,
        images=Images(
            repository=image.repository,
            tags=tuple(image.tags),
            aliases=tuple(image.aliases),
            labels=tuple(sorted(image.labels.items())),
        ),
        variants=variants,
        targets={name: tuple(variant.id for variant in found) for name, found in by_target.items()},
        settings=settings,
        network=network_of(model.network, file.parent),
        resources=Resources(jobs=model.resources.jobs, memory=model.resources.memory, cache=model.resources.cache),
        dropped=expansion.dropped,
        selections=chosen,
        rules=rules,
        document=document,
    )


def _refuse(document: Document, findings: Iterable[Finding]) -> None:
    """Raise, if there is anything to tell; of one place only what was found first."""
    problems = list(document.problems)
    known = {problem.where for problem in problems}
    found = [document.problem(finding) for finding in dict.fromkeys(findings)]
    problems += [problem for problem in found if problem.where not in known]
    if problems:
        raise matrix_error(str(document.file), problems)


def _gathered(model: MatrixFile, expansion: Expansion) -> tuple[Mapping[str, Sequence[Variant]], tuple[Variant, ...]]:
    """The variants of each target, and those of all of them, each once and in order."""
    by_target: dict[str, list[Variant]] = {name: [] for name in model.targets}
    for candidate in expansion.kept:
        by_target[candidate.target].append(candidate.variant)
    variants = {variant.id: variant for found in by_target.values() for variant in found}
    return by_target, tuple(sorted(variants.values(), key=lambda variant: variant.order))


def _clashes(expansion: Expansion) -> Iterator[Finding]:
    """Two targets may share a variant, but not two different builds under one id."""
    first: dict[str, Candidate] = {}
    for candidate in expansion.kept:
        variant, other = candidate.variant, first.setdefault(candidate.variant.id, candidate)
        if other.variant != variant:
            key = "copts" if other.variant.copts != variant.copts else "flags"
            yield Finding(
                path=("targets", candidate.target, key),
                rule=f"target {other.target} builds {variant.id} with other options",
                remedy=f"Give both the same {key}.",
            )


def _base_findings(model: MatrixFile) -> Iterator[Finding]:
    """A base image that the catalogue has no distribution for is a slip of the pen."""
    bases: list[tuple[str, KeyPath, bool]] = [
        (name, ("network", "base_images", name), True) for name in model.network.base_images
    ]
    places: list[tuple[str | None, KeyPath]] = [(model.toolchain.base, ("toolchain", "base"))]
    places += [(one.toolchain.base, ("per_release", i, "toolchain", "base")) for i, one in enumerate(model.per_release)]
    bases += [(base, path, False) for base, path in places if base]
    known = distributions()
    for base, path, is_key in bases:
        if base.partition("@")[0] not in known:
            remedy = did_you_mean(base, known, otherwise=f"Known: {', '.join(known)}.")
            yield Finding(path=path, rule="the catalogue knows no such base image", remedy=remedy, key=is_key)


def _tag_findings(model: MatrixFile, by_target: Mapping[str, Sequence[Variant]]) -> Iterator[Finding]:
    """A tag must not be too long, nor be two variants': the image pushed last would take it from the other."""
    selected_by: dict[Variant, list[str]] = {}
    for name, variants in by_target.items():
        for variant in variants:
            selected_by.setdefault(variant, []).append(name)
    owners: dict[str, tuple[str, str]] = {}
    for kind, templates in (("tags", model.image.tags), ("aliases", model.image.aliases)):
        for index, template in enumerate(templates):
            # The others of the same template break the rule in the same way: one is enough.
            if broken := next(_broken_tags(template, selected_by, owners), None):
                yield Finding(path=("image", kind, index), rule=broken[0], remedy=broken[1], value=repr(template))


def _broken_tags(
    template: str, selected_by: Mapping[Variant, Sequence[str]], owners: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Rule and remedy of each tag that is wrong; `owners`: tag → the variant and the template it is of."""
    for variant, names in selected_by.items():
        for tag in fill(template, variant, binary="0" * 12, targets=names):
            owner, other = owners.setdefault(tag, (variant.id, template))
            if owner != variant.id:
                rule = f"{owner} and {variant.id} would both be tagged {tag}"
                remedy = "Put {id}, {flavour} or {level} into the template."
                yield rule, remedy if other == template else f"{other!r} gives it too: change one of the two."
            elif not is_tag(tag):
                yield f"for {owner} this gives a tag of {len(tag)} characters, and 128 are allowed", "Shorten it."
