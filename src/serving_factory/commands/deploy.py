"""`deploy`: writes what serves pushed images, for Kubernetes or for compose."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving_factory.catalogue.releases import releases
from serving_factory.commands.images import build_command, chosen_words, recorded_image
from serving_factory.commands.shared import Asked, DeployOptions, show
from serving_factory.deploy.files import Service, compose_files, is_own, manifests
from serving_factory.errors import FactoryError, NotBuiltError, UsageError
from serving_factory.matrix.select import select
from serving_factory.output.text import count
from serving_factory.pipeline.embedding import embedded_models, pushed_name
from serving_factory.pipeline.records import write_atomically
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.smoke.checks import HEALTH

_KINDS = ("kubernetes", "compose")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    variant: str
    path: Path
    text: str
    change: str  # `new`, `same` or `replaced`


def deploy(typed: Sequence[str], options: DeployOptions) -> None:
    """Write the files of some variants, or print them; what someone else wrote or changed stays, and is an error."""
    if not typed or typed[0] not in _KINDS:
        raise UsageError(
            f"`deploy {typed[0]}` is no command" if typed else "`deploy` needs a command",
            why=f"the commands are: {', '.join(f'{one} VARIANT...' for one in _KINDS)}",
            remedy="`./factory deploy --help` shows examples",
        )
    kind, *ids = typed
    if not ids:
        raise UsageError(f"`deploy {kind}` takes VARIANT..., got no word", remedy="`./factory list` shows all variants")
    output = Path(options.output or "deploy")
    services = services_of(options.asked, ids, options.model)
    planned = [
        _File(variant=one.variant.id, path=path, text=text, change=_change(path, text))
        for one in services
        for path, text in _files(kind, one, output / one.what / kind, options.asked.checkout.root)
    ]
    if taken := [one.path for one in planned if one.change == "taken"]:
        raise FactoryError(
            f"{count(len(taken), 'file')} not written by this command, or changed since: nothing was written",
            why="\n".join(map(str, taken)),
            remedy="move them away, or name another --output; keep changes in files of your own that override these",
        )
    if not options.dry_run:
        for one in planned:
            write_atomically(one.path, one.text)
    files = [{"variant": one.variant, "path": str(one.path), "change": one.change, "text": one.text} for one in planned]
    line = "--- {path}\n{text}" if options.dry_run else "  {change:<8}  {path}\n"
    text = "".join(line.format_map(one) for one in files)
    show({"written": not options.dry_run, "files": files}, text, json=options.json)


def services_of(asked: Asked, ids: Sequence[str], source: str = "volume") -> list[Service]:
    """Describe the services of some variants, with models from a source; NotBuiltError where one was not pushed."""
    matrix = asked.load()
    chosen = select(matrix, variants=ids)
    folders = {one.id: asked.folder / one.id for one in chosen}
    if source == "volume":
        images = {id_: (image, "") for id_, image in _pushed(asked, folders).items()}
    else:
        images = {id_: _embedded(asked, id_, folder, source.partition(":")[2]) for id_, folder in folders.items()}
    facts = {one.id: releases()[one.release].server for one in chosen}
    return [
        Service(
            variant=one,
            image=images[one.id][0],
            user=matrix.images.user,
            health=HEALTH,
            rest=facts[one.id].rest,
            flags=frozenset(facts[one.id].flags),
            model=images[one.id][1],
        )
        for one in chosen
    ]


def _pushed(asked: Asked, folders: Mapping[str, Path]) -> Mapping[str, str]:
    """Name the variants' images by their digests; NotBuiltError names all of them that were not pushed."""
    images = {id_: recorded_image(folder) for id_, folder in folders.items()}
    if missing := [id_ for id_, image in images.items() if image is None or not image.published]:
        raise NotBuiltError(
            f"not pushed, or packaged again since: {', '.join(missing)}",
            why="a service names its image by the digest that a registry gave it",
            remedy=f"{build_command(asked, *missing)} --registry HOST",
        )
    return {id_: image.name for id_, image in images.items() if image}


def _embedded(asked: Asked, id_: str, folder: Path, name: str) -> tuple[str, str]:
    """Name an image that was made from a variant's, and its model; NotBuiltError, UsageError if that is not one."""
    packaged = PACKAGE.read(folder)
    found = {
        one.model: image
        for one in embedded_models(folder)
        if packaged and one.base == packaged.outputs.image and (image := pushed_name(one)) and name in {"", one.model}
    }
    if not found:
        raise NotBuiltError(
            f"no model{f' {name}' if name else ''} is embedded in the image of {id_} and pushed",
            why="a service names its image by the digest that a registry gave it",
            remedy=f"./factory embed MODEL_DIR {chosen_words(asked, id_)} --registry HOST",
        )
    if len(found) > 1:
        raise UsageError(
            f"several models are embedded in the image of {id_}: {', '.join(found)}",
            remedy=f"name one: --model embedded:{next(iter(found))}",
        )
    ((model, image),) = found.items()
    return image, model


def _files(kind: str, service: Service, folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    files: Mapping[str, str]
    if kind == "kubernetes":
        files = manifests(service)
    else:
        gateway = os.path.relpath(root / "examples" / "gateway", folder)
        # As compose reads it: a `$` begins a variable.
        files = compose_files(service, gateway=json_module.dumps(gateway.replace("$", "$$"), ensure_ascii=False))
    for name, text in files.items():
        yield folder / name, text


def _change(path: Path, text: str) -> str:
    """What writing a file would do; `taken` where it is not as this command wrote it."""
    if not os.path.lexists(path):
        return "new"
    try:
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError:
        found = ""
    if found == text:
        return "same"
    return "replaced" if is_own(found) else "taken"
