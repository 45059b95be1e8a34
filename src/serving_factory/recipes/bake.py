"""The same recipes as a file for `docker buildx bake`: for those who drive BuildKit by other means than this factory.

What a build needs is all in it; what the line does between two builds is not: nothing reads the binary back, so images
that come of it say nothing of their binary, and have tags of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_factory.catalogue.levels import level_facts
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.labels import image_env, image_json, image_labels
from serving_factory.recipes.recipe import Recipe

_SHARED_STAGES = ("base_build", "fetch")
"""Stages of the devel Dockerfile that variants of one release and flavour have in common."""

STAGE_GROUPS = (*_SHARED_STAGES, "artifact", "image")
"""A group of targets for each: everything, up to that stage."""

_LEVEL_ARGS = frozenset({"COPTS"})
_VARIABLES = {"CACHE": {"default": ""}}

_Target = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bake:
    """A bake file, and what it refers to.

    Args:
        document: the file, as data.
        contexts: folder → name → text of the files in it, without what the builds themselves make.
        inputs: folder → the recipe whose inputs are put together there.
    """

    document: Mapping[str, Any]
    contexts: Mapping[Path, Mapping[str, str]]
    inputs: Mapping[Path, Recipe]


def target_name(variant: Variant) -> str:
    """Name the bake target of a variant's image: its id, with what bake's names cannot hold replaced."""
    return _word(variant.id)


def bake(recipes: Sequence[Recipe], *, folder: Path, secrets: Mapping[str, Collection[str]]) -> Bake:
    """Make the bake file of some variants.

    For each variant there are two targets, its image, `2_19_1-cpu-v3`, and what is compiled for that,
    `2_19_1-cpu-v3-artifact`; for each release and flavour the stages that variants share. They hang together by
    `contexts`. Groups are named after the matrix's targets, and after `STAGE_GROUPS`.

    Args:
        recipes: of the variants.
        folder: where the contexts lie, an absolute path; artifacts go there too.
        secrets: a variant's id → the ids of its secrets, whose files lie in `secrets` beside its inputs.
    """
    targets: dict[str, _Target] = {}
    contexts: dict[Path, Mapping[str, str]] = {}
    inputs: dict[Path, Recipe] = {}
    groups: dict[str, list[str]] = {name: [] for name in ("default", *STAGE_GROUPS)}
    for recipe in recipes:
        shared = _shared_name(recipe, contexts, folder)
        devel, runtime = folder / shared / "devel", folder / recipe.variant.id / "runtime"
        contexts[devel] = {"Dockerfile": recipe.devel, **dict(recipe.devel_files)}
        inputs[folder / shared] = recipe
        entering = _inputs(recipe, folder / shared, secrets.get(recipe.variant.id, ()))
        contexts[runtime] = _runtime_files(recipe)
        image = target_name(recipe.variant)
        links: dict[str, str] = {}
        for stage in _SHARED_STAGES:
            name = f"{_word(shared)}-{stage}"
            targets[name] = _stage(recipe, stage, entering, links, output="type=cacheonly", name=name)
            links[stage] = f"target:{name}"
            _join(groups[stage], name)
        artifact = f"{image}-artifact"
        output = f"type=local,dest={folder / recipe.variant.id / 'artifact'}"
        targets[artifact] = _stage(recipe, "artifact", entering, links, output=output, name=artifact)
        targets[image] = _image(recipe, runtime, artifact=artifact)
        groups["artifact"].append(artifact)
        for name in ("default", "image", *recipe.targets):
            _join(groups.setdefault(name, []), image)
    document = {
        "variable": _VARIABLES,
        "group": {name: {"targets": members} for name, members in groups.items()},
        "target": targets,
    }
    return Bake(document, contexts, inputs)


def _inputs(recipe: Recipe, folder: Path, secrets: Collection[str]) -> _Target:
    """What every stage of the devel Dockerfile is built with."""
    given = [f"id={name},src={folder / 'secrets' / name}" for name in sorted(secrets)]
    return {
        "context": _literal(str(folder / "devel")),
        "platforms": [recipe.variant.platform.value],
        "contexts": _literals(recipe.contexts(folder / "inputs")),
        **({"secret": [_literal(one) for one in given]} if given else {}),
        **_network(recipe),
    }


def _network(recipe: Recipe) -> _Target:
    return {"network": "none"} if recipe.inputs.offline else {}


def _stage(recipe: Recipe, stage: str, inputs: _Target, links: Mapping[str, str], *, output: str, name: str) -> _Target:
    """A target for a stage of the devel Dockerfile; the stages that `links` names come from other targets."""
    args = {key: value for key, value in recipe.build_args if stage == "artifact" or key not in _LEVEL_ARGS}
    return {
        **inputs,
        "target": stage,
        "args": _literals(args.items()),
        "contexts": {**inputs["contexts"], **links},
        "output": [_literal(output)],
        **_cache(name),
    }


def _image(recipe: Recipe, context: Path, *, artifact: str) -> _Target:
    return {
        "context": _literal(str(context)),
        "platforms": [recipe.variant.platform.value],
        "contexts": {"artifact": f"target:{artifact}", **_literals(recipe.base_context)},
        "labels": _literals(image_labels(recipe, None).items()),
        "tags": [_literal(f"{recipe.images.repository}:baked-{recipe.variant.id}")],
        **_network(recipe),
    }


def _runtime_files(recipe: Recipe) -> Mapping[str, str]:
    return {
        "Dockerfile": recipe.runtime,
        **dict(recipe.runtime_files),
        "image.env": image_env(recipe, None),
        "image.json": image_json(recipe, None),
    }


def _shared_name(recipe: Recipe, contexts: Mapping[Path, Mapping[str, str]], folder: Path) -> str:
    """The variant's id without its level; all of it should another one's Dockerfile of that name be different."""
    variant = recipe.variant
    before, _, after = variant.id.rpartition(f"-{level_facts(variant.level).short}")
    known = contexts.get(folder / (before + after) / "devel")
    return before + after if known is None or known["Dockerfile"] == recipe.devel else variant.id


def _cache(name: str) -> _Target:
    """Cache settings: with `CACHE=registry.example.com/cache` set, each target's cache is a tag there."""
    reference = f"type=registry,ref=${{CACHE}}:{name}"
    return {
        "cache-from": f'${{compact([CACHE == "" ? "" : "{reference}"])}}',
        "cache-to": f'${{compact([CACHE == "" ? "" : "{reference},mode=max"])}}',
    }


def _join(group: list[str], name: str) -> None:
    if name not in group:
        group.append(name)


def _word(text: str) -> str:
    return text.replace(".", "_")


def _literals(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: _literal(value) for name, value in pairs}


def _literal(text: str) -> str:
    """Bake reads texts as templates: `${` and `%{` are written double to stand for themselves."""
    return text.replace("${", "$${").replace("%{", "%%{")
