"""From a matrix file to a matrix: reads, checks and expands it, and reports all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from serving_factory.catalogue.distributions import distributions
from serving_factory.matrix.document import Document, read_document
from serving_factory.matrix.environment import Given
from serving_factory.matrix.expand import CompilerOf, Expansion, expand, too_many
from serving_factory.matrix.lockfile import read_lock
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.model import MatrixFile, own_releases
from serving_factory.matrix.problems import Broken, DidYouMean, KeyPath, Problem, matrix_error
from serving_factory.matrix.rules import FileRules, file_rules
from serving_factory.matrix.schema import Notes, Section
from serving_factory.matrix.settings import AllSettings, all_settings
from serving_factory.matrix.tags import alias_tags, tag_findings
from serving_factory.matrix.targets import Selection, selections
from serving_factory.matrix.variant import Candidate, Variant
from serving_factory.matrix.words import SLIM, SLIM_OF, release_tags, without_separators


def load_matrix(file: Path, given: Iterable[Given] = ()) -> Matrix:
    """Read a matrix file, with the environment's values in place of the file's, and expand it.

    Raises:
        MatrixError: the file cannot be read or breaks a rule; the message lists every problem.
        LockFileError: the same of the lock file beside it.
    """
    document = read_document(file).with_given(given)
    notes = Notes(document.written, folder=file.parent, whole=MatrixFile)
    model = Section(MatrixFile).read(document.data, (), notes)
    broken = Broken(
        [*(problem.path for problem in document.problems), *(finding.path for finding in notes.found), *notes.meant]
    )
    chosen, findings = selections(model, broken)
    rules, settings = file_rules(model, broken), all_settings(model, model.per_release, broken)
    if excess := too_many(chosen, (*rules.whole, *rules.doubtful)):
        expansion, about_all = Expansion(), [excess]
    else:
        unread = frozenset(model.targets) - {one.target for one in chosen}
        expansion = expand(chosen, rules.whole, _compiler_of(settings, broken), unread=unread)
        about_all = [*expansion.mistakes, *_about_all(document, model, expansion, chosen, rules=rules, broken=broken)]
    unused = () if broken.at("releases") else _unused(model, broken)
    _refuse(document, [*notes.found, *findings, *rules.findings, *about_all, *unused])
    by_target, variants = _gathered(model, expansion.kept)
    return Matrix(
        file=file,
        images=model.image,
        variants=variants,
        targets={name: tuple(variant.id for variant in found) for name, found in by_target.items()},
        own={one.name: one for one in own_releases(model).values()},
        aliases=alias_tags(model.image, expansion.kept),
        devel_aliases=alias_tags(model.image, expansion.kept, devel=True),
        settings=settings,
        network=model.network,
        lock=read_lock(file),
        resources=model.resources,
        signing=model.signing,
        dropped=tuple(expansion.dropped),
        selections=chosen,
        rules=rules.whole,
        document=document,
    )


def _about_all(
    document: Document,
    model: MatrixFile,
    expansion: Expansion,
    chosen: Sequence[Selection],
    *,
    rules: FileRules,
    broken: Broken,
) -> Iterator[Problem]:
    """What is wrong with targets, rules and names together, as far as the broken parts cannot change it."""
    if not (broken.at("releases") or broken.around("targets")):
        yield from expansion.consequences
    settled = [one for one in expansion.kept if not any(rule.concerns(one) for rule in rules.doubtful)]
    yield from _clashes(settled, {one.target: one for one in chosen})
    yield from tag_findings(document, model.image, settled, broken)
    yield from _unknown_bases(model, broken)
    yield from _own_names(model)


def _refuse(document: Document, problems: Iterable[Problem]) -> None:
    """Raise, if there is any problem; of one place, only with what was found first."""
    known = {problem.path for problem in document.problems}
    found = [document.located(one) for one in dict.fromkeys(problems) if one.path not in known]
    if document.problems or found:
        raise matrix_error(document.file, [*document.problems, *found])


def _compiler_of(settings: AllSettings, broken: Broken) -> CompilerOf:
    if broken.at("toolchain") or broken.at("per_release"):
        return lambda _release, _facts: ""
    return lambda release, facts: settings.of(release).toolchain.compiler_of(facts)


def _gathered(
    model: MatrixFile, kept: Iterable[Candidate]
) -> tuple[Mapping[str, Sequence[Variant]], tuple[Variant, ...]]:
    """The variants of each target, and those of all of them, each once and in order."""
    by_target: dict[str, list[Variant]] = {name: [] for name in model.targets}
    for candidate in kept:
        by_target[candidate.target].append(candidate.variant)
    variants = {variant.id: variant for found in by_target.values() for variant in found}
    return by_target, tuple(sorted(variants.values(), key=lambda variant: variant.order))


def _unused(model: MatrixFile, broken: Broken) -> Iterator[Problem]:
    """Find entries for releases that the file does not have."""
    own = own_releases(model).values()
    selected = {tag for selector in model.releases if isinstance(selector, str) for tag in release_tags(selector)}
    selected |= {one.like for one in own}
    for index, one in enumerate(model.per_release):
        path: KeyPath = ("per_release", index, "releases")
        if not broken.at(*path) and selected.isdisjoint(one.releases):
            rule = "none of the file's releases is one of these"
            yield Problem(path=path, rule=rule, remedy="Name some of them, or remove the entry.")


def _own_names(model: MatrixFile) -> Iterator[Problem]:
    """Find releases of the file's own with one name, also where only their separators differ."""
    names: dict[str, str] = {}
    for index, one in own_releases(model).items():
        if other := one.name and names.get(without_separators(one.name)):
            rule = "another entry has this name" if other == one.name else f"but for its separators it is {other!r}"
            remedy = "Give each a name of its own, in which bake files and Kubernetes differ, too."
            yield Problem(path=("releases", index, "name"), rule=rule, remedy=remedy)
        names[without_separators(one.name)] = one.name


def _unknown_bases(model: MatrixFile, broken: Broken) -> Iterator[Problem]:
    """Find stand-ins for images that nothing stands on."""
    if broken.at("image", "base") or broken.at("per_release"):
        return
    chosen = [base for one in (model, *model.per_release) for base in one.image.bases.values()]
    named = [base.removeprefix(SLIM_OF) for base in chosen if base != SLIM]
    known = list(dict.fromkeys(name.partition("@")[0] for name in (*distributions(), *named)))
    for name in model.network.base_images:
        if name.partition("@")[0] not in known:
            rule, listed = "nothing stands on such a base image", f"Bases: {', '.join(known)}."
            remedy = DidYouMean(name, known, f"{listed} Others are named at image.base.")
            yield Problem(path=("network", "base_images", name), rule=rule, remedy=remedy, key=True)


def _clashes(kept: Iterable[Candidate], chosen: Mapping[str, Selection]) -> Iterator[Problem]:
    """Find two different builds with one id: two targets may share a variant, but only with the same options."""
    first: dict[str, Candidate] = {}
    found: set[tuple[str, str]] = set()
    for candidate in kept:
        variant, other = candidate.variant, first.setdefault(candidate.variant.id, candidate)
        if other.target == candidate.target:  # two releases of the file's own with one name: reported as that
            continue
        if other.variant != variant and (other.target, candidate.target) not in found:
            found.add((other.target, candidate.target))
            key = "copts" if other.variant.copts != variant.copts else "flags"
            written = [chosen[name].origins.get(key) for name in (candidate.target, other.target)]
            yield Problem(
                path=next(filter(None, written), ("targets", candidate.target)),
                rule=f"targets {other.target} and {candidate.target} build {variant.id} with different {key}",
                remedy=f"Give both the same {key}.",
            )
