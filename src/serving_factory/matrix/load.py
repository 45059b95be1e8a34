"""From a matrix file to a matrix. Every problem is told at once, with its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from serving_factory.catalogue.closest import closest_release
from serving_factory.catalogue.distributions import distributions
from serving_factory.catalogue.releases import Release, releases
from serving_factory.errors import MatrixError
from serving_factory.matrix.matrix import BazelChoice, Images, Matrix, ToolchainChoice
from serving_factory.matrix.model import MatrixFile, TargetSection
from serving_factory.matrix.problems import Place, Problem, matrix_error, nearest
from serving_factory.matrix.tags import fill, is_tag
from serving_factory.matrix.variant import Variant

__all__ = ["load_matrix"]

KeyPath = tuple[str | int, ...]


def load_matrix(file: Path) -> Matrix:
    """Read a matrix file and expand it.

    Raises:
        MatrixError: the file cannot be read or breaks a rule; the message lists every problem.
    """
    document = _parse(file)
    try:
        model = MatrixFile.model_validate(document)
    except ValidationError as error:
        raise matrix_error(str(file), list(_model_problems(document, error))) from None
    return _Expansion(file, document, model).matrix()


def _parse(file: Path) -> CommentedMap:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MatrixError(f"{file}: there is no such file", remedy="name the matrix file with --matrix FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MatrixError(
            f"{file}: cannot be read: {error}", remedy="name a UTF-8 text file with --matrix FILE"
        ) from None
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise matrix_error(str(file), [Problem(place=place, where="", value="", rule=f"not YAML: {reason}")]) from None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        rule = f"not YAML: character {error.character:#x} is not allowed"
        raise matrix_error(str(file), [Problem(place=place, where="", value="", rule=rule)]) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        # The parser lets these through for values of YAML's own types that make no sense, such as the date 2024-13-45.
        raise MatrixError(f"{file}: holds a value that cannot be read: {error}", remedy="put texts in quotes") from None
    if not isinstance(document, CommentedMap):
        raise MatrixError(
            f"{file}: the file is empty or not a mapping",
            remedy="begin with the keys image:, releases: and targets:, as the shipped matrix.yaml does",
        )
    return document


def _model_problems(document: CommentedMap, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        about_key = path != detail["loc"] or detail["type"] in {"extra_forbidden", "invalid_key"}
        yield Problem(
            place=_place(document, path, key=about_key),
            where=_dotted(path),
            value=repr(detail["input"]) if isinstance(detail["input"], str | int | float | bool) else "",
            rule=_rule(detail),
            remedy=_remedy(detail, path),
        )


_RULES = {
    "extra_forbidden": "unknown key",
    "missing": "this key is required",
    "too_short": "this must not be empty",
    "string_type": "expected a text",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
}


def _rule(detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "enum":
            return f"expected one of {detail['ctx']['expected']}"
        case kind:
            return _RULES.get(kind) or str(detail["msg"][:1].lower() + detail["msg"][1:])


def _remedy(detail: Mapping[str, Any], path: KeyPath) -> str:
    word = None
    if detail["type"] == "extra_forbidden":
        word = nearest(str(path[-1]), _known_keys(path[:-1]))
    elif detail["type"] == "enum":
        word = nearest(str(detail["input"]), re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
    elif detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return "Put it in quotes: without them YAML reads a number or a truth value, and 2.20 becomes 2.2."
    return f"Did you mean {word!r}?" if word else ""


def _known_keys(path: KeyPath) -> Sequence[str]:
    """The keys of the section at a path."""
    model: type[BaseModel] = MatrixFile
    for part in path:
        # A part that is no field is a target's name: the model is that of the mapping's values already.
        if field := model.model_fields.get(str(part)):
            model = next(_sections(field.annotation), model)
    return list(model.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - whatever a field is annotated with
    """The models in an annotation such as `Section | None` or `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _place(document: CommentedMap, path: KeyPath, *, key: bool = False) -> Place | None:
    """Find the deepest node of the path that the file has, and where it stands: its value, or its key."""
    node: Any = document
    place: tuple[int, int] | None = None
    for part in path:
        try:
            if isinstance(node, CommentedMap):
                # A mapping, a list and an absent value may begin on a line below: their key is where one looks.
                block = key or node[part] is None or isinstance(node[part], CommentedMap | CommentedSeq)
                place = node.lc.key(part) if block else node.lc.value(part)
            elif isinstance(node, CommentedSeq):
                place = node.lc.item(part)
            node = node[part]
        except (KeyError, IndexError, TypeError):
            break
    return Place(place[0] + 1, place[1] + 1) if place else None


class _Expansion:
    """Checks the model against the catalogue and expands it, gathering problems on the way."""

    def __init__(self, file: Path, document: CommentedMap, model: MatrixFile) -> None:
        self._file = file
        self._document = document
        self._model = model
        self._problems: list[Problem] = []

    def matrix(self) -> Matrix:
        known = self._releases()
        by_id: dict[str, Variant] = {}
        targets: dict[str, tuple[str, ...]] = {}
        for name, section in self._model.targets.items():
            variants = sorted(self._variants(name, section, known), key=lambda variant: variant.order)
            for variant in variants:
                self._claim(name, variant, by_id)
            targets[name] = tuple(dict.fromkeys(variant.id for variant in variants))
        ordered = tuple(sorted(by_id.values(), key=lambda variant: variant.order))
        source = self._source()
        self._check_bases()
        self._check_tags(ordered, targets)
        if self._problems:
            raise matrix_error(str(self._file), self._problems)
        choice = self._model.toolchain
        return Matrix(
            file=self._file,
            images=Images(
                repository=self._model.image.repository,
                tags=tuple(self._model.image.tags),
                aliases=tuple(self._model.image.aliases),
                labels=tuple(sorted(self._model.image.labels.items())),
            ),
            variants=ordered,
            targets=targets,
            source=source,
            toolchain=ToolchainChoice(
                base=choice.base,
                compiler=choice.compiler,
                bazel=BazelChoice(version=choice.bazel.version, package=choice.bazel.package) if choice.bazel else None,
                packages=tuple(choice.packages),
                configs={flavour: tuple(configs) for flavour, configs in choice.configs.items()},
            ),
            base_images=dict(self._model.network.base_images),
        )

    def _problem(self, path: KeyPath, value: str, rule: str, remedy: str = "") -> None:
        place = _place(self._document, path)
        self._problems.append(Problem(place=place, where=_dotted(path), value=value, rule=rule, remedy=remedy))

    def _releases(self) -> Mapping[str, Release]:
        """The file's releases that the catalogue knows."""
        known: dict[str, Release] = {}
        catalogue = releases()
        for index, tag in enumerate(self._model.releases):
            if tag in catalogue:
                known[tag] = catalogue[tag]
                continue
            other = closest_release(tag, catalogue)
            self._problem(("releases", index), repr(tag), other.reason, f"Did you mean {other.tag!r}?")
        return known

    def _variants(self, name: str, section: TargetSection, known: Mapping[str, Release]) -> Iterator[Variant]:
        wanted = section.releases if section.releases is not None else list(known)
        for index, tag in enumerate(wanted):
            release = known.get(tag)
            if release is None:
                if section.releases is not None and tag not in self._model.releases:
                    rule = "this release is not in the file's releases"
                    self._problem(("targets", name, "releases", index), repr(tag), rule)
                continue
            if section.flavour not in release.flavours:
                has = ", ".join(release.flavours)
                rule = f"release {tag} has no flavour {section.flavour}"
                self._problem(("targets", name, "flavour"), section.flavour, rule, f"It has: {has}.")
                continue
            for level in section.levels:
                yield Variant(release=tag, flavour=section.flavour, level=level, copts=tuple(section.copts))

    def _claim(self, name: str, variant: Variant, by_id: dict[str, Variant]) -> None:
        """Two targets may share a variant, but not two different builds under one id."""
        other = by_id.setdefault(variant.id, variant)
        if other != variant:
            rule = f"{variant.id} is built with other options by another target of this file"
            self._problem(("targets", name, "copts"), " ".join(variant.copts), rule, "Give both the same copts.")

    def _source(self) -> Path | None:
        if self._model.source is None:
            return None
        folder = (self._file.parent / self._model.source).resolve()
        if not folder.is_dir():
            self._problem(("source",), repr(self._model.source), f"there is no folder {folder}")
        return folder

    def _check_bases(self) -> None:
        """A base image that the catalogue has no distribution for is a slip of the pen."""
        bases: dict[KeyPath, str] = {("network", "base_images", name): name for name in self._model.network.base_images}
        if self._model.toolchain.base:
            bases["toolchain", "base"] = self._model.toolchain.base
        known = distributions()
        for path, base in bases.items():
            if base.partition("@")[0] not in known:
                word = nearest(base, known)
                remedy = f"Did you mean {word!r}?" if word else f"Known: {', '.join(known)}."
                self._problem(path, repr(base), "the catalogue knows no such base image", remedy)

    def _check_tags(self, variants: Sequence[Variant], targets: Mapping[str, Sequence[str]]) -> None:
        """A tag must not be too long, nor be two variants': the image pushed last would take it from the other."""
        image = self._model.image
        for kind, templates in (("tags", image.tags), ("aliases", image.aliases)):
            for index, template in enumerate(templates):
                owners: dict[str, list[str]] = {}
                for variant in variants:
                    names = [name for name, ids in targets.items() if variant.id in ids]
                    for tag in fill(template, variant, binary="0" * 12, targets=names):
                        owners.setdefault(tag, []).append(variant.id)
                self._check_owners(("image", kind, index), template, owners)

    def _check_owners(self, path: KeyPath, template: str, owners: Mapping[str, Sequence[str]]) -> None:
        """Tell of the first tag that breaks a rule: the others of the same template break it in the same way."""
        for tag, ids in owners.items():
            if len(ids) > 1:
                rule = f"{ids[0]} and {ids[1]} would both be tagged {tag}"
                self._problem(path, repr(template), rule, "Put {id}, {flavour} or {level} into the template.")
                return
            if not is_tag(tag):
                self._problem(path, repr(template), f"for {ids[0]} this gives a tag of more than 128 characters")
                return
