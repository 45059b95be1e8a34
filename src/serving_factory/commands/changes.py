"""`changes`: in what images differ from earlier ones, and why, as Markdown; by what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from serving_factory.commands.history import named_runs
from serving_factory.commands.images import recorded_image, registry_alone
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import Asked, progress, show
from serving_factory.docker.registry import DIGEST, ImageName, listed, names_registry
from serving_factory.errors import ArtifactError, NotBuiltError, UsageError
from serving_factory.output.text import clean, count, size
from serving_factory.pipeline.job import Site
from serving_factory.pipeline.stages.package import PACKAGE
from serving_factory.proofs.described import IMAGE_JSON
from serving_factory.proofs.facts import ImageFacts, facts_in_engine, facts_in_registry, find_images
from serving_factory.proofs.image import Layer

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


@dataclass(frozen=True, slots=True)
class Change:
    """One thing in which two images or indexes differ; None where one of them does not have it."""

    kind: str  # `fact`, `external`, `package` or `label`; `platform` of two indexes
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
    """Compare two images, an image with an earlier one of its name, or what variants had in a run with those of now."""
    by_digest = bool(DIGEST.fullmatch(since))
    if len(images) != (1 if by_digest else 0 if since else 2):
        got = f"{count(len(images), 'image')}{' and --since ' * bool(since)}{since}"
        raise UsageError(
            f"`changes` takes two images, --since RUN, or an image and --since DIGEST; got {got}",
            remedy="name the older image, then the newer; `./factory history` lists the runs",
        )
    site = site_of(Asked())
    if by_digest:
        pairs = [(f"{_untagged(images[0])}@{since}", images[0])]
    else:
        pairs = list(_since(site, since)) if since else [(images[0], images[1])]
    layers: dict[str, Layer] = {}  # two images often share some
    found = [one for before, after in pairs for one in _compare(site, before, after, layers)]
    compared = [one for one in found if isinstance(one, Compared)]
    document = {
        "images": [
            {
                **{when: {"name": one.name, "image": one.image, "size": one.size} for when, one in sides},
                "binary_reasons": pair.binary_reasons,
                "image_reasons": pair.image_reasons,
                "changes": pair.changes,
            }
            for pair in compared
            for sides in [(("before", pair.before), ("after", pair.after))]
        ],
        "platforms": [one for one in found if isinstance(one, Change)],
    }
    show(document, "\n".join(map(_text, found)), json=json)


def _untagged(image: str) -> str:
    """The name of an image without tag and digest."""
    folder, slash, last = image.partition("@")[0].rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def _since(site: Site, number: str) -> Iterator[tuple[str, str]]:
    """The images of a run's variants, each with the variant's of now: both in the engine, or both in a registry."""
    (run,) = named_runs(site.build, [number])
    folder = Asked(matrix=run.matrix).folder
    found = 0
    for one in run.variants:
        record, now = PACKAGE.read(folder / one.variant), recorded_image(folder / one.variant)
        if not (one.image and record):
            continue
        if one.pushed and now and now.published:
            yield one.pushed, now.name
        elif site.engine.image_id(one.image):
            yield one.image, record.outputs.names[0]
        else:
            progress(f"Note: {one.variant}: the engine no longer has {one.image}, its image of run {run.id}")
            continue
        found += 1
    if not found:
        raise NotBuiltError(
            f"no image of run {run.id} can be compared",
            why="none of its variants has both an image of that run, in the engine or pushed, and one of now",
            remedy="name two images: one that was pushed is read from its registry",
        )


def _compare(site: Site, before: str, after: str, layers: dict[str, Layer]) -> Iterator[Compared | Change]:
    """Compare two images; of two indexes the images for the same platform, and those that one of both has."""
    old, new = (_named(site, one, layers) for one in (before, after))
    if ("" in old) != ("" in new):
        index, entries = (after, new) if "" in old else (before, old)
        raise UsageError(
            f"{index} is an index of images, and what it is compared with is one image",
            why=f"It has {', '.join(entries) or 'none'}.",
            remedy="name two indexes, or two images: `./factory verify` lists those of an index",
        )
    for platform in dict.fromkeys([*new, *old]):
        if platform in old and platform in new:
            yield compare_facts(old[platform](), new[platform]())
        else:
            sides = (name if platform in there else None for name, there in ((before, old), (after, new)))
            yield Change("platform", platform, *sides)


def _named(site: Site, word: str, layers: dict[str, Layer]) -> Mapping[str, Callable[[], ImageFacts]]:
    """What reads an image, or by platform the images of an index. A name with a registry is asked for there."""
    if not names_registry(word):
        return {"": partial(facts_in_engine, site.engine, word, site.owner)}
    found = find_images(registry_alone(ImageName.parse_reference(word)[0].registry), word)
    return {platform: partial(facts_in_registry, one, layers) for platform, one in found.items()}


def compare_facts(before: ImageFacts, after: ImageFacts) -> Compared:
    """Find in what two images differ: first what decides the binary, last packages and labels."""
    if not (before.facts or after.facts):
        raise ArtifactError(
            f"{before.name} and {after.name} say nothing of themselves",
            why=f"neither has {IMAGE_JSON}, which this factory puts into each image",
            remedy="name images that this factory made",
        )
    if before.image == after.image or before.config == after.config:
        return Compared(before=before, after=after, changes=())
    compiled, read = (_facts(before, after, places) for places in (_COMPILED, _READ))
    higher = list(_differ("fact", *map(_higher, (before, after))))
    digests = [{"base's digest": one.labels[_BASE_ID]} if _BASE_ID in one.labels else {} for one in (before, after)]
    base = [*_facts(before, after, _BASE), *_differ("fact", *digests)]
    packages = list(_differ("package", before.packages, after.packages))
    labels = list(_differ("label", *map(_users_labels, (before, after))))
    externals: list[Change] = []
    if before.externals is not None and after.externals is not None:  # else it is not known of one
        externals = list(_differ("external", before.externals, after.externals))
    if before.factory and after.factory and before.factory != after.factory:
        read.append(Change("fact", "factory", before.factory, after.factory))
    binary_reasons = _binary_reasons(before, after, [*compiled, *read], externals)
    image_reasons = ["binary"] if binary_reasons else []
    image_reasons += [one.name for one in (*higher, *base)]
    image_reasons += [count(len(packages), "package")] if packages else []
    image_reasons += [f"label {one.name}" for one in labels]
    return Compared(
        before=before,
        after=after,
        changes=(*compiled, *read, *externals, *higher, *base, *packages, *labels),
        binary_reasons=binary_reasons,
        image_reasons=tuple(image_reasons or ["the factory's own files in it"]),
    )


def _binary_reasons(
    before: ImageFacts, after: ImageFacts, facts: Sequence[Change], externals: Sequence[Change]
) -> tuple[str, ...] | None:
    """Why the binaries differ; empty where they do not, None where that is not known."""
    if any(_at(one.facts, _READ["binary"]) is None for one in (before, after)):
        return None
    other = [one.name for one in facts]
    if "binary" not in other:
        return ()
    reasons = [name for name in other if name in _COMPILED]
    if externals:
        reasons.append(f"{count(len(externals), 'change')} of Bazel's external repositories")
    if reasons:
        return tuple(reasons)
    return ("the factory's recipe" if "compile key" in other else "a second compile by the same recipe",)


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
            yield Change(kind, name, old, new)


def _text(found: Compared | Change) -> str:
    if isinstance(found, Compared):
        return changes_text(found)
    return f"## {found.after or found.before} ({clean(found.name)}): {'new' if found.after else 'not there any more'}\n"


def changes_text(compared: Compared) -> str:
    """The comparison as Markdown, for a release note."""
    before, after = compared.before, compared.after
    text = f"## {clean(after.name)} since {clean(before.name)}\n\n"
    if not compared.image_reasons:
        return f"{text}Nothing changed: both are {after.image}.\n"
    text += f"`{before.image}`, {size(before.size)}, became `{after.image}`, {size(after.size)}.\n\n"
    if compared.binary_reasons is None:
        text += "- Which binary is in both is not known: one says nothing of itself.\n"
    elif compared.binary_reasons:
        text += f"- Another binary, because of: {', '.join(compared.binary_reasons)}.\n"
    else:
        text += "- The same binary.\n"
    text += f"- Another image, because of: {', '.join(map(clean, compared.image_reasons))}.\n"
    if compared.changes:
        text += "\n| what | before | after |\n|---|---|---|\n"
    for one in compared.changes:
        cells = (_cell(value) for value in (one.before, one.after))
        text += f"| {'' if one.kind == 'fact' else one.kind + ' '}{_cell(one.name)} | {' | '.join(cells)} |\n"
    return text


def _cell(value: str | None) -> str:
    return "none" if value is None else clean(value).replace("|", "\\|")
