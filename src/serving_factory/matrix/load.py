"""From a matrix file to a matrix. Every problem is told at once, with its line and column. Only the joining is here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from serving_factory.catalogue.distributions import distributions
from serving_factory.matrix.document import Document, read_document
from serving_factory.matrix.environment import Given
from serving_factory.matrix.expand import NOTHING, CompilerOf, Expansion, expand, too_many
from serving_factory.matrix.lockfile import read_lock
from serving_factory.matrix.matrix import Images, Matrix, Resources, fill
from serving_factory.matrix.model import MatrixFile
from serving_factory.matrix.problems import Broken, Finding, KeyPath, did_you_mean, matrix_error, without_password
from serving_factory.matrix.rules import Candidate, FileRules, file_rules
from serving_factory.matrix.schema import Notes, Section
from serving_factory.matrix.settings import (
    AllSettings,
    Network,
    network_of,
    path_findings,
    settings_of,
    unused_findings,
)
from serving_factory.matrix.targets import Selection, selections
from serving_factory.matrix.variant import Variant
from serving_factory.matrix.words import is_tag

_APT: KeyPath = ("network", "apt")
_INDEXES = ("Packages", "Packages.gz", "Packages.xz")
_SNAPSHOT = "{snapshot}"
_PLACEHOLDERS = ("{archive}", _SNAPSHOT)


def network_findings(model: MatrixFile, folder: Path, broken: Broken) -> Iterator[Finding]:
    """Find what is wrong with the inputs.

    Args:
        model: the file.
        folder: what its folders and files are relative to.
        broken: what of the file cannot be relied on.
    """
    network = network_of(model.network, folder)
    if not broken.at(*_APT):
        yield from _apt_findings(network)
    yield from _password_findings(network)
    file = network.ca_certificates
    if file and file.is_file() and b"-----BEGIN CERTIFICATE-----" not in file.read_bytes():
        yield Finding(
            path=("network", "ca_certificates"),
            rule="there is no certificate in it",
            remedy="Name a PEM file: openssl x509 -inform der -in FILE makes one.",
        )
    patches: dict[KeyPath, str] = {("patches", i): name for i, name in enumerate(model.patches)}
    for index, one in enumerate(model.per_release):
        patches |= {("per_release", index, "patches", i): name for i, name in enumerate(one.patches)}
    yield from _patch_findings(patches, folder)


def has_index(folder: Path) -> bool:
    """Whether a folder has an index of the packages in it."""
    return any((folder / name).is_file() for name in _INDEXES)


def _apt_findings(network: Network) -> Iterator[Finding]:
    unknown = [word for word in re.findall(r"\{[^{}]*\}", network.apt_mirror or "") if word not in _PLACEHOLDERS]
    if unknown:
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"nothing stands for {unknown[0]}",
            remedy=f"There are: {', '.join(_PLACEHOLDERS)}.",
        )
    wants = network.apt_mirror is not None and _SNAPSHOT in network.apt_mirror
    if wants and network.apt_snapshot is None:
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"{_SNAPSHOT} stands for a time that is not said",
            remedy='Add snapshot, such as "20260301T000000Z".',
        )
    if network.apt_snapshot is not None and not wants:
        yield Finding(
            path=(*_APT, "snapshot"),
            rule=f"no mirror has {_SNAPSHOT} in its URL",
            remedy=f"Name one at mirror, such as https://snapshot.example.com/{{archive}}/{_SNAPSHOT}.",
        )
    folder = network.apt_folder
    # An empty one is still to be filled; the stages that install from it tell so.
    if folder and folder.is_dir() and any(folder.glob("*.deb")) and not has_index(folder):
        yield Finding(
            path=(*_APT, "mirror"),
            rule=f"{folder} has packages and no index, {_INDEXES[0]}",
            remedy="Make it in that folder: dpkg-scanpackages . > Packages",
        )


def _password_findings(network: Network) -> Iterator[Finding]:
    """What BuildKit itself asks stands in its log and in the image's history."""
    urls: dict[KeyPath, str] = {("network", "git_mirrors", url): to for url, to in network.git_mirrors.items()}
    urls["network", "bazel_mirror"] = network.bazel_mirror or ""
    for path, url in urls.items():
        if without_password(url) != url:
            yield Finding(path=path, rule="a password cannot be kept secret here", remedy="Take it out of the URL.")


def _patch_findings(patches: Mapping[KeyPath, str], folder: Path) -> Iterator[Finding]:
    for path, name in patches.items():
        place = (folder / name).resolve()
        if place.is_dir() and not any(place.glob("*.patch")) and not any(place.glob("external/*/*.patch")):
            yield Finding(
                path=path,
                rule=f"there is no patch in {place}",
                remedy="Put *.patch there, or external/REPOSITORY/*.patch.",
            )


def load_matrix(file: Path, given: Iterable[Given] = ()) -> Matrix:
    """Read a matrix file and expand it.

    Args:
        file: the file.
        given: what the environment gives in the place of what the file says.

    Raises:
        MatrixError: the file cannot be read or breaks a rule; the message lists every problem.
        LockFileError: the same of the lock file beside it.
    """
    document = read_document(file).with_given(given)
    notes = Notes(document.written, MatrixFile)
    model = Section(MatrixFile).read(document.data, (), notes)
    broken = Broken(
        [*(problem.path for problem in document.problems), *(finding.path for finding in notes.found), *notes.meant]
    )
    chosen, findings = selections(model, broken)
    rules, settings = file_rules(model, broken), settings_of(model, file.parent, broken)
    if excess := too_many(chosen, (*rules.whole, *rules.doubtful)):
        expansion, told = NOTHING, [excess]
    else:
        unread = frozenset(model.targets) - {one.target for one in chosen}
        expansion = expand(chosen, rules.whole, _compiler_of(settings, broken), unread=unread)
        told = [*expansion.mistakes, *_about_all(document, model, expansion, chosen=chosen, rules=rules, broken=broken)]
    places = [*path_findings(model, file.parent), *network_findings(model, file.parent, broken)]
    if not broken.at("releases"):
        places += unused_findings(model, broken)
    elsewhere = (*(finding for finding in places if not broken.at(*finding.path)), *_base_findings(model, broken))
    _refuse(document, [*notes.found, *findings, *rules.findings, *told, *elsewhere])
    by_target, variants = _gathered(model, expansion.kept)
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
        lock=read_lock(file),
        resources=Resources(jobs=model.resources.jobs, memory=model.resources.memory, cache=model.resources.cache),
        dropped=expansion.dropped,
        selections=chosen,
        rules=rules.whole,
        document=document,
    )


def _about_all(
    document: Document,
    model: MatrixFile,
    expansion: Expansion,
    *,
    chosen: Sequence[Selection],
    rules: FileRules,
    broken: Broken,
) -> Iterator[Finding]:
    """What is wrong with targets, rules and names together, as far as what is not whole cannot change it."""
    if not (broken.at("releases") or broken.around("targets")):
        yield from expansion.consequences
    settled = [one for one in expansion.kept if not any(rule.concerns(one) for rule in rules.doubtful)]
    yield from _clashes(settled, {one.target: one for one in chosen})
    by_target, _ = _gathered(model, settled)
    yield from _tag_findings(document, model, by_target, broken)


def _refuse(document: Document, findings: Iterable[Finding]) -> None:
    """Raise, if there is anything to tell; of one place only what was found first."""
    problems = list(document.problems)
    known = {problem.path for problem in problems}
    problems += [document.problem(one) for one in dict.fromkeys(findings) if one.path not in known]
    if problems:
        raise matrix_error(str(document.file), problems)


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


def _clashes(kept: Iterable[Candidate], chosen: Mapping[str, Selection]) -> Iterator[Finding]:
    """Two targets may share a variant, but not two different builds under one id."""
    first: dict[str, Candidate] = {}
    told: set[tuple[str, str]] = set()
    for candidate in kept:
        variant, other = candidate.variant, first.setdefault(candidate.variant.id, candidate)
        if other.variant != variant and (other.target, candidate.target) not in told:
            told.add((other.target, candidate.target))
            key = "copts" if other.variant.copts != variant.copts else "flags"
            written = [chosen[name].origins.get(key) for name in (candidate.target, other.target)]
            yield Finding(
                path=next(filter(None, written), ("targets", candidate.target)),
                rule=f"targets {other.target} and {candidate.target} build {variant.id} with different {key}",
                remedy=f"Give both the same {key}.",
            )


def _base_findings(model: MatrixFile, broken: Broken) -> Iterator[Finding]:
    """A base image that the catalogue has no distribution for is a slip of the pen."""
    bases: list[tuple[str, KeyPath, bool]] = [
        (name, ("network", "base_images", name), True) for name in model.network.base_images
    ]
    places: list[tuple[str | None, KeyPath]] = [(model.toolchain.base, ("toolchain", "base"))]
    places += [(one.toolchain.base, ("per_release", i, "toolchain", "base")) for i, one in enumerate(model.per_release)]
    bases += [(base, path, False) for base, path in places if base]
    known = distributions()
    for base, path, is_key in bases:
        if base.partition("@")[0] not in known and not broken.at(*path):
            listed = f"Known: {', '.join(known)}. An image that stands for one of them goes to network.base_images."
            remedy = listed if "/" in base else did_you_mean(base, known, otherwise=listed)
            yield Finding(path=path, rule="the catalogue knows no such base image", remedy=remedy, key=is_key)


def _tag_findings(
    document: Document, model: MatrixFile, by_target: Mapping[str, Sequence[Variant]], broken: Broken
) -> Iterator[Finding]:
    """A tag must not be too long, nor be two variants': the image pushed last would take it from the other."""
    selected_by: dict[Variant, list[str]] = {}
    for name, variants in by_target.items():
        for variant in variants:
            selected_by.setdefault(variant, []).append(name)
    owners: dict[str, tuple[str, str]] = {}
    for kind, templates in (("tags", model.image.tags), ("aliases", model.image.aliases)):
        for index, template in enumerate(templates):
            if broken.at("image", kind, index):
                continue
            # The others of the same template break the rule in the same way: one is enough.
            if wrong := next(_broken_tags(template, selected_by, owners), None):
                path: KeyPath = ("image", kind)
                if document.has(path):
                    yield Finding(path=(*path, index), rule=wrong[0], remedy=wrong[1])
                else:
                    rule = f"by default {kind} has {template!r}: {wrong[0]}"
                    yield Finding(path=("image",), rule=rule, remedy=f"Add {kind}: with another one.")


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
