"""`bake-file`: the recipes for `docker buildx bake`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from serving_factory.commands.shared import Asked, write
from serving_factory.errors import RecipeError, UsageError
from serving_factory.output.text import count
from serving_factory.pipeline.bazel import local_bazelrc
from serving_factory.pipeline.inputs import secrets_of, stage_inputs
from serving_factory.pipeline.records import build_folder, write_atomically
from serving_factory.pipeline.stages.compile import write_context
from serving_factory.recipes.bake import STAGE_GROUPS, bake
from serving_factory.recipes.recipe import recipes_for


def bake_file(asked: Asked, *, output: str) -> None:
    """Write the bake file of the chosen variants that can be built, and the contexts that it names."""
    matrix = asked.load()
    recipes, unbuildable = recipes_for(asked.choose(matrix), matrix)
    if not recipes:
        raise RecipeError(
            "none of the chosen variants can be built", why=str(unbuildable[0].error), remedy="choose others"
        )
    if taken := {"default", *STAGE_GROUPS} & {name for recipe in recipes for name in recipe.targets}:
        raise UsageError(
            f"a target of the matrix is named {min(taken)}, like a group of every bake file",
            remedy="rename that target",
        )
    folder = build_folder(asked.file, asked.checkout.root, asked.checkout.build).resolve() / "bake"
    secrets = {
        recipe.variant.id: _present({**secrets_of(recipe.inputs), "bazelrc": local_bazelrc(recipe)})
        for recipe in recipes
    }
    made = bake(recipes, folder=folder, secrets=secrets)
    for context, files in made.contexts.items():
        write_context(context, dict(files))
    for place, recipe in made.inputs.items():
        stage_inputs(recipe.inputs, place / "inputs")
        _write_secrets(place / "secrets", secrets[recipe.variant.id])
    file = Path(output) if output else asked.checkout.root / "docker-bake.json"
    write_atomically(file, json.dumps(made.document, indent=2, ensure_ascii=False) + "\n")
    write(f"wrote {file}: {count(len(recipes), 'variant')}\n")
    for one in unbuildable:
        write(f"left out {one.error.what}. See `./factory explain {one.variant.id}`\n")
    write(f"Its contexts are in {folder}. To see what it does: docker buildx bake --file {file} --print\n")


def _present(contents: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in contents.items() if text}


def _write_secrets(folder: Path, contents: Mapping[str, str]) -> None:
    """Write files that only their owner may read. They stay, for bake reads them whenever it runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, text in contents.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text, encoding="utf-8")
