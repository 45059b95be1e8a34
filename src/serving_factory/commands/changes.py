"""`changes`: in what images differ from earlier ones, and why, as Markdown; by what they say of themselves."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving_factory.commands.history import named_runs
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import Asked, progress, show
from serving_factory.docker.registry import listed
from serving_factory.errors import ArtifactError, NotBuiltError, UnknownNameError, UsageError
from serving_factory.output.text import count, size
from serving_factory.pipeline.job import Site
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.proofs.described import DPKG_RECORDS, IMAGE_JSON, packages_in

_OWN_LABELS = ("org.serving-factory.", "org.opencontainers.image.")  # made of what image.json says, and of the base
_BASE_ID = "org.serving-factory.base.id"

# What is compared, by its place in image.json: first what decides the binary.
_COMPILED = {
    "release": "release",
    "sources": "binary.source",
    "TensorFlow": "tensorflow_commit",
    "flavour": "flavour",
    "level": "level",
    "platform": "platform",
    "flags": "copts",
    "configs": "configs",
    "build base": "build_base",
    "build base's digest": "binary.base_digest",
    "compiler": "binary.compiler",
    "Bazel": "binary.bazel",
}
_READ = {
    "server's version": "binary.version",
    "device code": "binary.device_code",
    "CPU flags": "binary.cpu_flags",
    "compile key": "binary.compile_key",
    "binary": "binary.sha256",
}
_BASE = {"base": "base", "slim": "slim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What an image says of itself."""

    name: str  # as it was typed
    image: str  # its id
    size: int  # bytes
    labels: Mapping[str, str]
    facts: Mapping[str, Any]  # its image.json; empty where it has none, as upstream's images
    packages: Mapping[str, str]  # name -> version


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing in which two images differ; None where one of them does not have it."""

    kind: str  # `fact`, `package` or `label`
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """In what two images differ, and why."""

    before: ImageFacts
    after: ImageFacts
    changes: tuple[Change, ...]
    binary_reasons: tuple[str, ...] | None = ()  # why it has another binary; empty: it has not; None: not known
    image_reasons: tuple[str, ...] = ()  # why it is another image; empty where it is not


def show_changes(images: Sequence[str], *, since: str, json: bool) -> None:
    """Compare two images, or what variants had in a run with what they have now; no container is started."""
    if (len(images), bool(since)) not in {(2, False), (0, True)}:
        got = f"{count(len(images), 'image')}{' and --since' * bool(since)}"
        raise UsageError(
            f"`changes` takes two images, or --since RUN; got {got}",
            remedy="name the older image, then the newer; `./factory history` lists the runs",
        )
    site = site_of(Asked())
    pairs = list(_since(site, since)) if since else [(images[0], images[1])]
    compared = [compare_facts(read_facts(site, before), read_facts(site, after)) for before, after in pairs]
    document = {
        "images": [
            {
                **{when: {"name": one.name, "image": one.image, "size": one.size} for when, one in sides},
                "binary_reasons": found.binary_reasons,
                "image_reasons": found.image_reasons,
                "changes": found.changes,
            }
            for found in compared
            for sides in [(("before", found.before), ("after", found.after))]
        ]
    }
    show(document, "\n".join(changes_text(one) for one in compared), json=json)


def _since(site: Site, number: str) -> Iterator[tuple[str, str]]:
    """The images of a run's variants that the engine still has, each with the variant's image of now."""
    (run,) = named_runs(site.build, [number])
    folder = Asked(matrix=run.matrix).folder
    found = 0
    for one in run.variants:
        record = PACKAGE.read(folder / one.variant)
        if one.image and record:
            if site.engine.image_id(one.image) is None:
                progress(f"Note: {one.variant}: the engine no longer has {one.image}, its image of run {run.id}")
                continue
            found += 1
            yield one.image, record.outputs.names[0]
    if not found:
        raise NotBuiltError(
            f"no image of run {run.id} can be compared",
            why="none of its variants has both an image of that run in the engine, and one of now",
            remedy="name two images: an image that was pushed can be pulled again",
        )


def read_facts(site: Site, name: str) -> ImageFacts:
    """Read what an image of the engine says of itself."""
    image = site.engine.image_id(name)
    if image is None:
        raise UnknownNameError(f"the engine has no image {name}", remedy=f"docker pull {name}")
    files = dict(site.engine.read_files(image, *DPKG_RECORDS, IMAGE_JSON, owner=site.owner))
    try:
        facts = json_format.loads(files.pop(IMAGE_JSON, b"{}"))
        why = "" if isinstance(facts, dict) else "it is no JSON object"
    except (ValueError, RecursionError) as error:
        facts, why = {}, str(error)
    if why:
        remedy = "name an image that this factory made"
        raise ArtifactError(f"{IMAGE_JSON} in {name} cannot be read", why=why, remedy=remedy)
    return ImageFacts(
        name=name,
        image=image,
        size=site.engine.image_size(image),
        labels=site.engine.image_labels(image),
        facts=facts,
        packages={one.name: one.version for one in packages_in(files)},
    )


def compare_facts(before: ImageFacts, after: ImageFacts) -> Compared:
    """Find in what two images differ: first what decides the binary, last packages and labels."""
    if before.image == after.image:
        return Compared(before=before, after=after, changes=())
    compiled, read = (_facts(before, after, places) for places in (_COMPILED, _READ))
    higher = list(_differ("fact", *map(_higher, (before, after))))
    digests = [{"base's digest": one.labels[_BASE_ID]} if _BASE_ID in one.labels else {} for one in (before, after)]
    base = [*_facts(before, after, _BASE), *_differ("fact", *digests)]
    packages = list(_differ("package", before.packages, after.packages))
    labels = list(_differ("label", *map(_users_labels, (before, after))))
    binary_reasons: list[str] | None
    other = {one.name for one in read}
    if any(_at(one.facts, _READ["binary"]) is None for one in (before, after)):
        binary_reasons = None
    elif "binary" not in other:
        binary_reasons = []
    elif compiled:
        binary_reasons = [one.name for one in compiled]
    else:
        binary_reasons = ["the factory's recipe" if "compile key" in other else "a second compile by the same recipe"]
    image_reasons = ["binary"] if binary_reasons else []
    image_reasons += [one.name for one in (*higher, *base)]
    image_reasons += [count(len(packages), "package")] if packages else []
    image_reasons += [f"label {one.name}" for one in labels]
    return Compared(
        before=before,
        after=after,
        changes=(*compiled, *read, *higher, *base, *packages, *labels),
        binary_reasons=None if binary_reasons is None else tuple(binary_reasons),
        image_reasons=tuple(image_reasons or ["the factory's own files in it"]),
    )


def _higher(image: ImageFacts) -> Mapping[str, str]:
    """The binaries of the other levels in an image with several."""
    return {f"binary of {one.get('level')}": str(one.get("sha256")) for one in listed(image.facts.get("higher"))}


def _users_labels(image: ImageFacts) -> Mapping[str, str]:
    return {name: value for name, value in image.labels.items() if not name.startswith(_OWN_LABELS)}


def _facts(before: ImageFacts, after: ImageFacts, places: Mapping[str, str]) -> list[Change]:
    old, new = ({name: _at(one.facts, place) for name, place in places.items()} for one in (before, after))
    return list(_differ("fact", old, new))


def _at(facts: Mapping[str, Any], place: str) -> str | None:
    """A fact as text; None where it is absent or says nothing."""
    value: Any = facts
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) or None if isinstance(value, list) else value and str(value)


def _differ(kind: str, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield Change(kind=kind, name=name, before=old, after=new)


def changes_text(compared: Compared) -> str:
    """The comparison as Markdown, for a release note."""
    before, after = compared.before, compared.after
    text = f"## {after.name} since {before.name}\n\n"
    if not compared.image_reasons:
        return f"{text}Nothing changed: both are {after.image}.\n"
    text += f"`{before.image}`, {size(before.size)}, became `{after.image}`, {size(after.size)}.\n\n"
    if compared.binary_reasons is None:
        text += "- Which binary is in both is not known: one says nothing of itself.\n"
    elif compared.binary_reasons:
        text += f"- Another binary, because of: {', '.join(compared.binary_reasons)}.\n"
    else:
        text += "- The same binary.\n"
    text += f"- Another image, because of: {', '.join(compared.image_reasons)}.\n"
    if compared.changes:
        text += "\n| what | before | after |\n|---|---|---|\n"
    for one in compared.changes:
        cells = (_cell(value) for value in (one.before, one.after))
        text += f"| {'' if one.kind == 'fact' else one.kind + ' '}{_cell(one.name)} | {' | '.join(cells)} |\n"
    return text


def _cell(value: str | None) -> str:
    return "none" if value is None else value.replace("|", "\\|").replace("\n", " ")
