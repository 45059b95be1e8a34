"""From a matrix file to a matrix. Every problem is told at once, with its line and column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import Flavour, Release, releases
from serving_factory.errors import MatrixError
from serving_factory.matrix.matrix import BazelChoice, Images, Matrix, ToolchainChoice
from serving_factory.matrix.model import MatrixFile, TargetSection
from serving_factory.matrix.problems import Place, Problem, matrix_error, nearest
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
        reason = " ".join(str(error.problem or error).split())
        raise matrix_error(str(file), [Problem(place=place, where="", value="", rule=f"not YAML: {reason}")]) from None
    except YAMLError as error:
        raise MatrixError(f"{file}: not YAML: {error}") from None
    if not isinstance(document, CommentedMap):
        raise MatrixError(
            f"{file}: the file is empty or not a mapping",
            remedy="begin with the keys image:, releases: and targets:, as the shipped matrix.yaml does",
        )
    return document


def _model_problems(document: CommentedMap, error: ValidationError) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        yield Problem(
            place=_place(document, path),
            where=_dotted(path),
            value=repr(detail["input"]) if isinstance(detail["input"], str | int | float | bool) else "",
            rule=_rule(detail),
            remedy=_remedy(detail, path),
        )


def _rule(detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "this key is required"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "too_short":
            return "this must not be empty"
        case "enum":
            return f"expected one of {detail['ctx']['expected']}"
        case _:
            return str(detail["msg"][:1].lower() + detail["msg"][1:])


def _remedy(detail: Mapping[str, Any], path: KeyPath) -> str:
    if detail["type"] == "extra_forbidden":
        word = nearest(str(path[-1]), _known_keys(path[:-1]))
        return f"Did you mean {word!r}?" if word else ""
    if detail["type"] == "enum":
        words: Sequence[str] = [*Flavour, *Level]
        word = nearest(str(detail["input"]), words)
        return f"Did you mean {word!r}?" if word else ""
    if detail["type"] == "string_type" and isinstance(detail["input"], float):
        return f"Put it in quotes as it stands in the file (2.20 without quotes is the number {detail['input']})."
    return ""


def _known_keys(path: KeyPath) -> Sequence[str]:
    model: Any = MatrixFile
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else TargetSection
        model = annotation if hasattr(annotation, "model_fields") else TargetSection
    return list(model.model_fields)


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _place(document: CommentedMap, path: KeyPath) -> Place | None:
    """Find the deepest node of the path that the file has, and where it stands."""
    node: Any = document
    place: tuple[int, int] | None = None
    for part in path:
        try:
            if isinstance(node, CommentedMap):
                place = node.lc.key(part) if not isinstance(node.get(part), str) else node.lc.value(part)
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
            targets[name] = tuple(variant.id for variant in variants)
        source = self._source()
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
            variants=tuple(sorted(by_id.values(), key=lambda variant: variant.order)),
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
            word = nearest(tag, catalogue)
            remedy = f"Did you mean {word!r}?" if word else f"Known: {', '.join(catalogue)}."
            self._problem(("releases", index), repr(tag), "the catalogue has no such release", remedy)
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
                rule = f"there is no recipe for flavour {section.flavour} of release {tag}"
                self._problem(("targets", name, "flavour"), section.flavour, rule, f"Recipes exist for: {has}.")
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
