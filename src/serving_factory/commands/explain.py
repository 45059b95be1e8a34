"""`explain`: everything that decides one variant, or why variants are dropped."""

from __future__ import annotations

from dataclasses import replace
from textwrap import fill

from serving_factory.commands.shared import Asked, show, width
from serving_factory.errors import FactoryError, RecipeError, UnknownNameError, UsageError
from serving_factory.matrix.matrix import CATALOGUE, origin
from serving_factory.output.text import count, label, page, table
from serving_factory.pipeline.stages.compile import devel_image_command
from serving_factory.recipes.explain import Explained, Explanation, explain, explain_matrix, explain_upstream
from serving_factory.recipes.recipe import recipe_for, recipes_for

_TITLES = {"cpu": "CPU", "lower_cpu": "On a CPU below this level", "unbuildable": "Cannot be built"}
_WRAPPED = 96
_BESIDE = 60  # the longest value that its origin stands beside; below longer ones it gets a line of its own


def explain_variant(asked: Asked, id_: str, *, json: bool) -> None:
    """Print everything that decides one variant, and where each value comes from."""
    if not id_:
        raise UsageError("`explain` needs a variant's id, or --dropped", remedy="`./factory list --ids` prints ids")
    matrix = asked.load()
    (variant,) = replace(asked, variant=(id_,)).choose(matrix)
    sections = explain_matrix(variant, matrix, file_from="command line, --matrix" if asked.matrix else "default")
    _, unbuildable = recipes_for((variant,), matrix)
    sections += tuple(("unbuildable", _reasons(one.error)) for one in unbuildable)
    try:
        recipe = recipe_for(variant, matrix)
    except RecipeError:
        sections += explain_upstream(variant, matrix)
    else:
        sections += explain(recipe, matrix, devel_command=devel_image_command(recipe, asked.folder / variant.id))
    show({"variant": variant.id, "entries": _entries(sections)}, _page(variant.id, sections), json=json)


def _reasons(error: FactoryError) -> tuple[Explained, ...]:
    parts = {"what": error.what, "why": error.why, "what_to_do": error.remedy}
    return tuple(Explained(name, text) for name, text in parts.items() if text)


def _entries(sections: Explanation) -> list[dict[str, object]]:
    return [
        {"section": section, "name": one.name, "of": one.of or None, "value": one.value, "origin": one.origin or None}
        for section, entries in sections
        for one in entries
    ]


def _page(id_: str, sections: Explanation) -> str:
    shown = [
        (
            _TITLES.get(name, label(name).capitalize()),
            tuple((f"{label(one.name)} {one.of}".rstrip(), _with_origin(one)) for one in entries),
        )
        for name, entries in sections
    ]
    return page(id_, shown)


def _with_origin(one: Explained) -> str:
    if isinstance(one.value, str):
        value = one.value
    elif any(" " in item or "/" in item for item in one.value):
        value = "\n".join(one.value)
    else:
        value = fill(" ".join(one.value), _WRAPPED, break_long_words=False, break_on_hyphens=False) or "none"
    if not one.origin:
        return value
    gap = "\n" if "\n" in value or len(value) > _BESIDE else "  "
    return f"{value}{gap}({one.origin})"


def explain_dropped(asked: Asked, id_: str, *, json: bool) -> None:
    """Print which variants are dropped, and why; with an id, only that variant."""
    matrix = asked.load()
    documents, cells = [], []
    for dropped in matrix.dropped:
        one, target = dropped.candidate.variant.id, dropped.candidate.target
        if id_ in {"", one}:
            why = [
                (reason.text, origin(matrix, reason.rule.path) if reason.rule else CATALOGUE)
                for reason in dropped.reasons
            ]
            reasons = [{"reason": text, "origin": place} for text, place in why]
            documents.append({"variant": one, "target": target, "reasons": reasons})
            cells += [(*(("", "") if index else (one, target)), *reason) for index, reason in enumerate(why)]
    if id_ and not documents:
        raise UnknownNameError(
            f"no variant {id_} is dropped",
            remedy="`./factory explain --dropped` lists the dropped variants, `./factory list` those that are built",
        )
    text = "No variant is dropped: every variant that a target selects is built.\n"
    if documents:
        text = table(("variant", "target", "reason", "origin"), cells, width=width())
        text += f"\n{count(len(documents), 'variant')} dropped.\n"
    show({"dropped": documents}, text, json=json)
