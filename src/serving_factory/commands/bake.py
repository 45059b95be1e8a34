"""`bake-file`: the recipes as a file for `docker buildx bake`, for those who drive BuildKit by other means.

What a build needs is all in it. What the pipeline does between two builds is not: nothing reads the binary back, so the
images say nothing of their binary, and have tags of their own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving_factory.catalogue.levels import level_facts
from serving_factory.commands.shared import Asked, progress, write_file
from serving_factory.docker.buildx import BuildRequest, csv_fields
from serving_factory.errors import RecipeError, UsageError
from serving_factory.output.text import count
from serving_factory.pipeline.bazel import local_bazelrc
from serving_factory.pipeline.inputs import secrets_of, stage_inputs, write_secrets
from serving_factory.pipeline.records import encoded, write_atomically
from serving_factory.pipeline.stages.compile import devel_request
from serving_factory.pipeline.stages.libraries import runtime_request
from serving_factory.pipeline.stages.package import LAUNCHER
from serving_factory.recipes.labels import image_env, image_json, image_labels
from serving_factory.recipes.recipe import Recipe, recipes_for

_SHARED_STAGES = (
    "base_build",
    "fetch",
    LAUNCHER,
)  # of the devel Dockerfile: the same for variants of a release and flavour
STAGE_GROUPS = (*_SHARED_STAGES, "artifact", "image")  # a group of targets for each: everything, up to that stage

_Target = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bake:
    """A bake file, and what it refers to."""

    document: Mapping[str, Any]
    files: Mapping[Path, str]  # path → text of the Dockerfiles and of the files that say what an image is
    inputs: Mapping[Path, Recipe]  # folder → the recipe whose inputs are put together there


def bake_file(asked: Asked, *, output: str) -> None:
    """Write the bake file of the chosen variants that can be built, and the files that it names."""
    matrix = asked.load()
    recipes, unbuildable = recipes_for(asked.choose(matrix), matrix)
    if not recipes:
        raise RecipeError(
            "none of the chosen variants can be built", why=str(unbuildable[0].error), remedy="choose others"
        )
    if taken := {"default", *STAGE_GROUPS} & {name for recipe in recipes for name in recipe.targets}:
        raise UsageError(
            f"target {min(taken)} is named like a group of every bake file",
            remedy="rename that target",
        )
    folder = asked.folder.resolve() / "bake"
    secrets = {recipe.variant.id: secrets_of(recipe.inputs, local_bazelrc(recipe)) for recipe in recipes}
    made = bake(recipes, folder=folder, secrets=secrets)
    for path, text in made.files.items():
        write_atomically(path, text)
    for place, recipe in made.inputs.items():
        stage_inputs(recipe.inputs, place / "inputs")
        write_secrets(place / "secrets", secrets[recipe.variant.id])  # they stay: bake reads them whenever it runs
    file = Path(output) if output else asked.checkout.root / "docker-bake.json"
    text = json.dumps(made.document, indent=2, ensure_ascii=False) + "\n"
    try:
        encoded(text).decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            "a bake file is UTF-8, and a path in it is not",
            why=encoded(text)[: error.end].rpartition(b"\n")[2].decode(errors="backslashreplace").strip(),
            remedy="move the matrix file, its inputs or the checkout to a folder whose path is UTF-8",
        ) from None
    write_file(file, text)
    progress(
        f"wrote {file}: {count(len(recipes), 'variant')}",
        *(f"left out {one.error.what}. See `./factory explain {one.variant.id}`" for one in unbuildable),
        f"Its files are in {folder}. To see what it does: docker buildx bake --file {file} --print",
    )


def bake(recipes: Sequence[Recipe], *, folder: Path, secrets: Mapping[str, Collection[str]]) -> Bake:
    """Make the bake file of some variants.

    For each variant there are two targets, its image, `2_19_1-cpu-v3`, and what is compiled for that,
    `2_19_1-cpu-v3-artifact`; for each release and flavour the stages that variants share. They are linked by
    `contexts`. Groups are named after the matrix's targets, and after `STAGE_GROUPS`. Files and artifacts lie in
    `folder`, an absolute path. `secrets` has the ids of each variant's secrets, whose files lie beside its inputs.
    """
    targets: dict[str, _Target] = {}
    files: dict[Path, str] = {}
    inputs: dict[Path, Recipe] = {}
    groups: dict[str, list[str]] = {name: [] for name in ("default", *STAGE_GROUPS)}
    for recipe in recipes:
        shared = _shared_name(recipe, files, folder)
        place, own = folder / shared, folder / recipe.variant.id
        files[place / "devel.Dockerfile"] = recipe.devel
        inputs[place] = recipe
        request = devel_request(
            recipe,
            dockerfile=place / "devel.Dockerfile",
            staged=place / "inputs",
            target="artifact",
            secrets=tuple((name, place / "secrets" / name) for name in sorted(secrets.get(recipe.variant.id, ()))),
        )
        no_level = tuple(pair for pair in request.build_args if pair[0] != "COPTS")
        links: tuple[tuple[str, str], ...] = ()
        for stage in _SHARED_STAGES:
            name = f"{shared.replace('.', '_')}-{stage}"  # bake allows no dots
            shared_request = replace(request, target=stage, build_args=no_level, contexts=(*request.contexts, *links))
            targets[name] = {**_target(shared_request, recipe), "output": ["type=cacheonly"], **_cache(name)}
            if stage != LAUNCHER:  # the image's alone
                links = (*links, (stage, f"target:{name}"))
            groups[stage].append(name)
        image = recipe.variant.id.replace(".", "_")
        artifact = f"{image}-artifact"
        output = csv_fields("type=local", f"dest={own / 'artifact'}")
        linked = replace(request, contexts=(*request.contexts, *links))
        targets[artifact] = {**_target(linked, recipe), "output": [_literal(output)], **_cache(artifact)}
        targets[image] = _image(recipe, own, files, artifact=artifact, launcher=name, secrets=request.secrets)
        groups["artifact"].append(artifact)
        for name in ("default", "image", *recipe.targets):
            groups.setdefault(name, []).append(image)
    document = {
        "variable": {"CACHE": {"default": ""}},
        "group": {name: {"targets": list(dict.fromkeys(members))} for name, members in groups.items()},
        "target": targets,
    }
    return Bake(document, files, inputs)


def _image(
    recipe: Recipe,
    folder: Path,
    files: dict[Path, str],
    *,
    artifact: str,
    launcher: str,
    secrets: tuple[tuple[str, Path], ...],
) -> _Target:
    """The target of an image, whose files are added to `files`."""
    files[folder / "runtime.Dockerfile"] = recipe.runtime
    files[folder / "facts" / "image.env"] = image_env(recipe, None)
    files[folder / "facts" / "image.json"] = image_json(recipe, None)
    request = runtime_request(
        recipe,
        dockerfile=folder / "runtime.Dockerfile",
        artifact=f"target:{artifact}",
        launcher=f"target:{launcher}",
        facts=folder / "facts",
        secrets=secrets,
        labels=image_labels(recipe, None),
        tags=[f"{recipe.images.repository}:baked-{recipe.variant.id}"],
    )
    return _target(request, recipe)


def _target(request: BuildRequest, recipe: Recipe) -> _Target:
    """Write a build as bake's file has it."""
    target = {
        "context": _literal(str(request.context)),
        "dockerfile": _literal(str(request.dockerfile)),
        "platforms": [recipe.variant.platform.value],
        "target": request.target,
        "args": _literals(request.build_args),
        "contexts": _literals(request.contexts),
        "secret": [_literal(csv_fields(f"id={name}", f"src={file}")) for name, file in request.secrets],
        "network": request.network,
        "labels": _literals(request.labels),
        "tags": [_literal(tag) for tag in request.tags],
    }
    return {name: value for name, value in target.items() if value}


def _shared_name(recipe: Recipe, files: Mapping[Path, str], folder: Path) -> str:
    """The variant's id without its level; all of it where another Dockerfile has that name already."""
    variant = recipe.variant
    before, _, after = variant.id.rpartition(f"-{level_facts(variant.level).short}")
    known = files.get(folder / (before + after) / "devel.Dockerfile")
    return before + after if known in {None, recipe.devel} else variant.id


def _cache(name: str) -> _Target:
    """Cache settings: with `CACHE=registry.example.com/cache` set, each target's cache is a tag there."""
    reference = f"type=registry,ref=${{CACHE}}:{name}"
    return {
        "cache-from": f'${{compact([CACHE == "" ? "" : "{reference}"])}}',
        "cache-to": f'${{compact([CACHE == "" ? "" : "{reference},mode=max"])}}',
    }


def _literals(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: _literal(value) for name, value in pairs}


def _literal(text: str) -> str:
    """Bake reads texts as templates: `${` and `%{` are written double to stand for themselves."""
    return text.replace("${", "$${").replace("%{", "%%{")
