"""Puts indexes into registries: each names the images of one release and flavour by CPU level.

A registry has no conditional PUT. So an index is read, merged with what it holds of others, put, and read again after a
moment until it holds all of it: of two publishers that put at the same time, the one that was overwritten sees it and
merges again. An entry is lost only where a publisher hangs for longer than `SETTLE` between its last look and its PUT.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from serving_factory.catalogue.levels import LEVELS, Level, level_facts
from serving_factory.docker.registry import INDEX, ImageName, Manifest, Registry, listed, members
from serving_factory.errors import IndexContestedError, RegistryError, SignatureError
from serving_factory.matrix.tags import Index
from serving_factory.matrix.variant import Variant
from serving_factory.pipeline.job import VARIANT_LABEL
from serving_factory.pipeline.records import Outputs, Record, read_record, write_record
from serving_factory.pipeline.retry import asking_again
from serving_factory.recipes.labels import LEVEL_LABEL, RELEASE_LABEL

if TYPE_CHECKING:
    from serving_factory.proofs.signatures import Signer

SETTLE = 1.0  # seconds after which an index is read again
_ROUNDS = 8
_STAGE = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An image in an index."""

    platform: str  # what a client asks for: `linux/amd64`, or `linux/amd64/v3`
    variant: str  # its id; empty for an image of someone else
    digest: str  # of its manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Outputs):
    """An index in a registry."""

    digest: str
    entries: tuple[Entry, ...]
    moved: bool  # whether the tag named it when it was read again; not while a publish is under way, or was killed
    later: str = ""  # the later release that the tag stays at


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An index to put into one registry, with the images that this factory has there: variant's id → digest."""

    index: Index
    place: ImageName
    registry: Registry
    images: Mapping[str, str]

    @property
    def name(self) -> str:
        """What a client pulls."""
        return f"{self.place}:{self.index.tag}"

    def folder(self, build: Path) -> Path:
        """Where its record lies, in the folder of a matrix file."""
        return build / "indexes" / self.place.registry / self.place.repository / self.index.tag


Ask = Callable[[Callable[[], Any]], Any]  # asks a registry, and again while it fails in a way that may be over soon


def asker(report: Callable[[str], object], sleep: Callable[[float], object] = time.sleep) -> Ask:
    """Ask as the rest of the pipeline does."""
    return partial(asking_again, report=report, sleep=sleep)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """An index that is not in the registry as it is to be."""

    draft: Draft
    manifest: Manifest
    seen: str  # the digest that its tag named; empty for none


def publish(
    drafts: Sequence[Draft],
    build: Path,
    report: Callable[[str], object],
    *,
    sign: Callable[[Draft, Manifest], object] = lambda _draft, _index: None,  # signs an index, once
    sleep: Callable[[float], object] = time.sleep,
) -> Mapping[str, tuple[Published, str]]:
    """Put indexes: all by their digests first, then the tags. Gives, by name, what is there and what was done."""
    journal, ask = _Journal(build), asker(report, sleep)
    for draft in drafts:
        if journal.was_interrupted(draft):
            report(f"{draft.name}: an earlier publish ended before its tag moved; this one goes on")
    done: dict[str, tuple[Published, str]] = {}
    pending = drafts
    for attempt in range(_ROUNDS):
        changes = []
        for draft in pending:
            held = held_index(draft.registry, draft.place, draft.index, ask)
            if later := later_release(held, draft.index):
                done[draft.name] = (Published(digest="", entries=(), moved=False, later=later), "not_moved")
                continue
            manifest = _merged(draft, held, ask)
            if held and held.digest == manifest.digest:
                ask(partial(sign, draft, held))
                done[draft.name] = (journal.note(draft, held, moved=True), "published" if attempt else "up_to_date")
            else:
                changes.append(_Change(draft=draft, manifest=manifest, seen=held.digest if held else ""))
        _put_all(changes, journal, sign, ask)
        pending = [change.draft for change in changes]
        if not pending:
            return done
        sleep(SETTLE)
    raise IndexContestedError(
        f"{pending[0].name} was changed by others {_ROUNDS} times while it was published",
        why="each time it was read again, it was not what this factory had put",
        remedy="see who else publishes this tag; then run the same command again: what is there is not sent twice",
    )


def _put_all(
    changes: Sequence[_Change], journal: _Journal, sign: Callable[[Draft, Manifest], object], ask: Ask
) -> None:
    for change in changes:
        ask(partial(_put, change, change.manifest.digest))
        ask(partial(sign, change.draft, change.manifest))
        journal.note(change.draft, change.manifest, moved=False)
    for change in changes:
        ask(partial(_move, change))


def _put(change: _Change, reference: str) -> None:
    change.draft.registry.put_manifest(change.draft.place.repository, reference, change.manifest)


def _move(change: _Change) -> None:
    """Move the tag, unless others have: each attempt looks again, for a wait lies between."""
    draft = change.draft
    if (draft.registry.manifest_digest(draft.place.repository, draft.index.tag) or "") == change.seen:
        _put(change, draft.index.tag)


def sign_index(signer: Signer, draft: Draft, index: Manifest) -> None:
    """Sign an index, once; SignatureError where it has an image of others that this signer has not signed."""
    registry, repository = draft.registry, draft.place.repository
    if signer.is_signed(registry, repository, index.digest):
        return
    # What anyone who may push has put into the index would otherwise pass for ours.
    others = [one for one in entries_of(index) if one.digest not in draft.images.values()]
    if unsigned := [one for one in others if not signer.is_signed(registry, repository, one.digest)]:
        raise SignatureError(
            f"The index {draft.name} has images that are not signed, and so is not signed itself.",
            why="\n".join(" ".join(filter(None, (one.platform, one.variant, one.digest))) for one in unsigned),
            remedy="See who pushed them. Push them again with the same `signing`, or delete that tag in the registry; "
            "then run the same command again.",
        )
    signer.sign(registry, repository, index.digest)


class _Journal:
    """The records of a publish. That of an index says what its tag is about to name, until it does."""

    def __init__(self, build: Path) -> None:
        self._build = build
        self._started, self._clock = datetime.now(UTC), time.monotonic()

    def was_interrupted(self, draft: Draft) -> bool:
        """Whether the last publish of an index ended before its end."""
        before = read_record(draft.folder(self._build), _STAGE, Published)
        return before is not None and not before.outputs.moved

    def note(self, draft: Draft, manifest: Manifest, *, moved: bool) -> Published:
        """Write down what is in the registry."""
        outputs = Published(digest=manifest.digest, entries=tuple(entries_of(manifest)), moved=moved)
        record = Record(
            variant=draft.index.tag,
            stage=_STAGE,
            key=manifest.digest,
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._clock, 3),
            outputs=outputs,
        )
        write_record(draft.folder(self._build), record)
        return outputs


def held_index(registry: Registry, place: ImageName, index: Index, ask: Ask) -> Manifest | None:
    """What a registry has under an index's tag now."""
    found: Manifest | None = ask(partial(registry.manifest, place.repository, index.tag))
    return found


def later_release(held: Manifest | None, index: Index) -> str:
    """The release that a tag without one stands for in a registry, where it is later than the index's; else empty."""
    release = _annotations(held.document).get(RELEASE_LABEL, "") if held else ""
    with suppress(InvalidVersion):
        return str(release) if index.moves and Version(str(release)) > Version(index.release) else ""
    return ""


def entries_of(manifest: Manifest) -> Iterator[Entry]:
    """The images in an index."""
    for one in _sound_entries(manifest.document):
        platform, variant = members(one.get("platform")), str(_annotations(one).get(VARIANT_LABEL, ""))
        parts = [str(platform[part]) for part in ("os", "architecture", "variant") if platform.get(part)]
        yield Entry(platform="/".join(parts), variant=variant, digest=one["digest"])


def platforms_of(index: Index) -> Mapping[str, str]:
    """Variant's id → the platform that it has in an index with all its variants."""
    lowest = _lowest((one.platform, one.level) for one in index.variants)
    return {one.id: _platform(one.platform, one.level, lowest) for one in index.variants}


def _merged(draft: Draft, held: Manifest | None, ask: Ask) -> Manifest:
    """The index with our images, and what others have in the one that is there."""
    index, document = draft.index, held.document if held else {}
    if _annotations(document).get(RELEASE_LABEL, index.release) != index.release:
        document = {}  # of another release: nothing of it belongs to this one
    there = _sound_entries(document)
    known = {one["digest"]: (str(one.get("mediaType")), one["size"]) for one in there}
    ours = [
        _descriptor(draft, one, known.get(digest) or _look(draft, one, digest, ask))
        for one in index.variants
        if (digest := draft.images.get(one.id))
    ]
    taken = {_slot(one) for one in ours}
    found = [*ours, *(one for one in there if _is_known(one) and _slot(one) not in taken)]
    lowest = _lowest([*((one.platform, one.level) for one in index.variants), *map(_slot, found)])
    found.sort(key=lambda one: (_slot(one)[0], LEVELS.index(_slot(one)[1])))
    for one in found:
        system, architecture, *level = _platform(*_slot(one), lowest).split("/")
        one["platform"] = {"architecture": architecture, "os": system, **({"variant": level[0]} if level else {})}
    platforms = [one["platform"] for one in found]
    foreign = [one for one in there if not _is_known(one) and one.get("platform") not in platforms]
    whole = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [*found, *foreign],
        "annotations": {**_annotations(document), RELEASE_LABEL: index.release},
    }
    return Manifest(body=json.dumps(whole, indent=2).encode(), media_type=INDEX)


def _look(draft: Draft, variant: Variant, digest: str, ask: Ask) -> tuple[str, int]:
    """An image's media type and size, from the registry."""
    found: Manifest | None = ask(partial(draft.registry.manifest, draft.place.repository, digest))
    if found is None or found.digest != digest:
        raise RegistryError(
            f"The registry {draft.place.registry} does not hold {variant.id} as it was pushed.",
            why=f"{draft.place}@{digest} is {'something else' if found else 'not there'}",
            remedy="Run `./factory push` with the same options; then run this command again.",
        )
    return found.media_type, len(found.body)


def _descriptor(draft: Draft, variant: Variant, kind: tuple[str, int]) -> dict[str, Any]:
    annotations = {
        RELEASE_LABEL: draft.index.release,
        LEVEL_LABEL: variant.level.value,
        VARIANT_LABEL: variant.id,
    }
    system, architecture = variant.platform.split("/")
    return {
        "mediaType": kind[0],
        "digest": draft.images[variant.id],
        "size": kind[1],
        "annotations": annotations,
        "platform": {"architecture": architecture, "os": system},
    }


def _is_known(entry: Mapping[str, Any]) -> bool:
    """Whether a factory wrote the entry, and of a level that this one knows."""
    return _annotations(entry).get(LEVEL_LABEL) in LEVELS


def _slot(entry: Mapping[str, Any]) -> tuple[str, Level]:
    """An entry's platform and level: an index has one image for each."""
    platform = members(entry.get("platform"))
    return f"{platform.get('os')}/{platform.get('architecture')}", Level(_annotations(entry)[LEVEL_LABEL])


def _lowest(slots: Iterable[tuple[str, Level]]) -> Mapping[str, Level]:
    found: dict[str, Level] = {}
    for platform, level in slots:
        found[platform] = min(found.get(platform, level), level, key=LEVELS.index)
    return found


def _platform(platform: str, level: Level, lowest: Mapping[str, Level]) -> str:
    # The lowest has no `variant`: containerd, podman and skopeo look for one without, and find nothing under v1.
    return platform if lowest[platform] is level else f"{platform}/{level_facts(level).short}"


def _sound_entries(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An index's entries, without those that name nothing: a registry may send anything."""
    entries = listed(document.get("manifests"))
    return [dict(one) for one in entries if isinstance(one.get("digest"), str) and isinstance(one.get("size"), int)]


def _annotations(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return members(entry.get("annotations"))
