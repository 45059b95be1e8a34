"""What pydantic finds in a matrix file, in this factory's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from serving_factory.matrix.model import MatrixFile
from serving_factory.matrix.problems import Finding, KeyPath, did_you_mean
from serving_factory.matrix.selectors import SelectorError

__all__ = ["model_findings"]

_RULES = {
    "extra_forbidden": "unknown key",
    "missing": "this key is required",
    "too_short": "this must not be empty",
    "string_type": "expected a text",
    "list_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "int_type": "expected a whole number",
}


def model_findings(error: ValidationError, written: Callable[[KeyPath], str]) -> Iterator[Finding]:
    """Put what pydantic says into words.

    Args:
        error: what it says.
        written: gives a value as it stands in the file.
    """
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        yield Finding(
            path=path,
            rule=_rule(detail),
            remedy=_remedy(detail, path, written(path)),
            key=path != detail["loc"] or detail["type"] == "extra_forbidden",
        )


def _rule(detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"])
        case "enum":
            return f"expected one of {detail['ctx']['expected']}"
        case kind:
            return _RULES.get(kind) or str(detail["msg"][:1].lower() + detail["msg"][1:])


def _remedy(detail: Mapping[str, Any], path: KeyPath, written: str) -> str:
    value = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            known = _known_keys(path[:-1])
            return did_you_mean(str(path[-1]), known, otherwise=f"Known: {', '.join(known)}.")
        case "enum":
            return did_you_mean(str(value), re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
        case "string_type" if isinstance(value, bool | int | float):
            kind = "truth value" if isinstance(value, bool) else "number"
            what = f"a {kind}" if str(value) == written else f"the {kind} {value}"
            return f'Put it in quotes, "{written}": without them YAML reads {what}.'
        case "list_type" if isinstance(value, str):
            return f"Put it in brackets: [{written.strip(chr(39))}]."
        case "value_error" if isinstance(detail["ctx"]["error"], SelectorError):
            return detail["ctx"]["error"].remedy
        case _:
            return ""


def _known_keys(path: KeyPath) -> Sequence[str]:
    """The keys of the section at a path."""
    model: type[BaseModel] = MatrixFile
    for part in path:
        # A part that is no field is a target's name, or an index: the model is that of the values already.
        if field := model.model_fields.get(str(part)):
            model = next(_sections(field.annotation), model)
    return list(model.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - whatever a field is annotated with
    """The models in an annotation such as `Section | None` or `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
