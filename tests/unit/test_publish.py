"""pipeline/publish.py: what an index holds, and that neither a crash nor another publisher loses any of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from threading import Condition, get_ident
from typing import Any, cast

import pytest

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS, Level
from serving_factory.docker.registry import INDEX, MANIFESTS, ImageName, Manifest, Registry, digest_of
from serving_factory.errors import (
    FactoryError,
    IndexContestedError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    RegistryLimitError,
    SignatureError,
)
from serving_factory.matrix.tags import Index
from serving_factory.matrix.variant import Platform, Variant
from serving_factory.pipeline.job import VARIANT_LABEL
from serving_factory.pipeline.publish import SETTLE, Draft, Published, entries_of, later_release, publish, sign_index
from serving_factory.pipeline.records import read_record
from serving_factory.proofs.signatures import Signer
from serving_factory.recipes.labels import LEVEL_LABEL, RELEASE_LABEL

TAG = "2.19.1"
IMAGE = MANIFESTS[3]


class KilledError(BaseException):
    """As kill -9 ends a process: no handler sees it."""


@dataclass
class FakeRegistry:
    """Manifests by their digests, and tags; `before` and `after` are called with each request."""

    held: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    before: Callable[[str, str], None] = lambda _method, _reference: None
    after: Callable[[str, str], None] = lambda _method, _reference: None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def _request(self, method: str, reference: str) -> None:
        self.asked.append((method, reference))
        self.before(method, reference)

    def _find(self, reference: str) -> Manifest | None:
        return self.held.get(self.tags.get(reference, reference))

    def manifest(self, _repository: str, reference: str) -> Manifest | None:
        self._request("GET", reference)
        return self._find(reference)

    def manifest_digest(self, _repository: str, reference: str) -> str | None:
        self._request("HEAD", reference)
        found = self._find(reference)
        return found.digest if found else None

    def put_manifest(self, _repository: str, reference: str, manifest: Manifest) -> None:
        self._request("PUT", reference)
        listed = manifest.document.get("manifests", ())
        assert all(one["digest"] in self.held for one in listed), "a registry refuses an index of what it has not"
        self.held[manifest.digest] = manifest
        if reference != manifest.digest:
            self.tags[reference] = manifest.digest
        self.after("PUT", reference)

    def image(self, name: str) -> str:
        """An image with a name that is there."""
        made = Manifest(body=json.dumps({"image": name}).encode(), media_type=IMAGE)
        self.held[made.digest] = made
        return made.digest

    def index(self, tag: str = TAG) -> dict[str, Any]:
        return dict(self.held[self.tags[tag]].document)

    def entries(self, tag: str = TAG) -> dict[str, str]:
        """Platform → digest."""
        return {
            "/".join(one["platform"].get(part, "") for part in ("os", "architecture", "variant")).rstrip("/"): one[
                "digest"
            ]
            for one in self.index(tag)["manifests"]
        }

    def entries_by_name(self) -> set[str]:
        """Platforms, of an index with any entries."""
        return {one.platform for one in entries_of(self.held[self.tags[TAG]])}

    def puts(self) -> list[str]:
        return [reference for method, reference in self.asked if method == "PUT"]


def variant(level: Level, release: str = TAG) -> Variant:
    return Variant(release=release, flavour=Flavour.CPU, level=level)


V1, V3, V4 = (variant(level) for level in (Level.V1, Level.V3, Level.V4))
BOTH = Index(tag=TAG, release=TAG, moves=False, variants=(V1, V3))


@dataclass
class Publisher:
    """A factory with some images in a registry."""

    registry: FakeRegistry
    build: Path
    reports: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def draft(self, *variants: Variant, index: Index = BOTH) -> Draft:
        images = {one.id: self.registry.image(f"{one.id} of {self.build.name}") for one in variants}
        place, registry = ImageName("r.example", "team/serving"), cast("Registry", self.registry)
        return Draft(index=index, place=place, registry=registry, images=images)

    def publish(self, *drafts: Draft) -> Mapping[str, tuple[Published, str]]:
        return publish(drafts, self.build, self.reports.append, sleep=self.slept.append)

    def record(self, draft: Draft) -> Published | None:
        found = read_record(draft.folder(self.build), "publish", Published)
        return found.outputs if found else None


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def ours(registry: FakeRegistry, tmp_path: Path) -> Publisher:
    return Publisher(registry, tmp_path / "ours")


@pytest.fixture
def others(registry: FakeRegistry, tmp_path: Path) -> Publisher:
    return Publisher(registry, tmp_path / "others")


# --- what an index is -------------------------------------------------------------------------------------------------


def test_an_index_is_signed_before_its_tag_moves(ours: Publisher, registry: FakeRegistry) -> None:
    draft, signed = ours.draft(V1, V3), []

    def sign(_draft: Draft, index: Manifest) -> None:
        signed.append((index.digest, registry.tags.get(TAG)))

    for _ in range(2):
        publish([draft], ours.build, ours.reports.append, sign=sign, sleep=ours.slept.append)
    digest = registry.tags[TAG]
    assert signed[0] == (digest, None)
    assert {one for one, _ in signed} == {digest}


def test_no_tag_moves_to_an_index_that_is_not_signed(ours: Publisher, registry: FakeRegistry) -> None:
    def sign(_draft: Draft, _index: Manifest) -> None:
        raise SignatureError("it is not signed with this key")

    with pytest.raises(SignatureError):
        publish([ours.draft(V1, V3)], ours.build, ours.reports.append, sign=sign)
    assert registry.tags == {}


@dataclass
class FakeSigner:
    """Notes what is signed."""

    signed: set[str] = field(default_factory=set)

    def is_signed(self, _registry: object, _repository: str, digest: str) -> bool:
        return digest in self.signed

    def sign(self, _registry: object, _repository: str, digest: str) -> bool:
        self.signed.add(digest)
        return True


def test_an_index_with_an_image_of_others_that_is_not_signed_is_not_signed(
    ours: Publisher, others: Publisher, registry: FakeRegistry
) -> None:
    """Whoever may push could otherwise have an image pass for ours."""
    theirs, signer = others.draft(V3), FakeSigner()
    others.publish(theirs)
    held, sign = registry.tags[TAG], partial(sign_index, cast("Signer", signer))
    with pytest.raises(SignatureError, match="has images that are not signed") as caught:
        publish([ours.draft(V1)], ours.build, ours.reports.append, sign=sign, sleep=ours.slept.append)
    assert caught.value.why == f"linux/amd64/v3 {V3.id} {theirs.images[V3.id]}"
    assert (registry.tags[TAG], signer.signed) == (held, set())
    signer.signed |= set(theirs.images.values())
    publish([ours.draft(V1)], ours.build, ours.reports.append, sign=sign, sleep=ours.slept.append)
    assert registry.tags[TAG] in signer.signed
    assert len(registry.index()["manifests"]) == 2


def test_the_lowest_level_has_no_variant(ours: Publisher, registry: FakeRegistry) -> None:
    draft = ours.draft(V1, V3)
    published, status = ours.publish(draft)[draft.name]
    assert status == "published"
    assert registry.entries() == {"linux/amd64": draft.images[V1.id], "linux/amd64/v3": draft.images[V3.id]}
    index = registry.index()
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX)
    assert index["annotations"] == {"org.opencontainers.image.version": TAG}
    for one in index["manifests"]:
        found = registry.held[one["digest"]]
        assert (one["mediaType"], one["size"]) == (found.media_type, len(found.body))
    assert [one.platform for one in published.entries] == ["linux/amd64", "linux/amd64/v3"]
    assert ours.record(draft) == published
    assert published.moved


def test_a_set_whose_lowest_level_is_v3_serves_all_clients(ours: Publisher, registry: FakeRegistry) -> None:
    ours.publish(ours.draft(V3, V4, index=Index(tag=TAG, release=TAG, moves=False, variants=(V3, V4))))
    assert list(registry.entries()) == ["linux/amd64", "linux/amd64/v4"]


def test_an_index_without_its_lowest_level_keeps_that_place_free(ours: Publisher, registry: FakeRegistry) -> None:
    ours.publish(ours.draft(V3))
    assert list(registry.entries()) == ["linux/amd64/v3"]


def test_an_unchanged_index_sends_nothing(ours: Publisher, registry: FakeRegistry) -> None:
    draft = ours.draft(V1, V3)
    ours.publish(draft)
    before = ours.record(draft)
    registry.asked.clear()
    ours.slept.clear()
    published, status = ours.publish(draft)[draft.name]
    assert (published, status) == (before, "up_to_date")
    assert registry.asked == [("GET", TAG)]
    assert ours.slept == []


def test_a_new_image_takes_the_place_of_the_old_one(ours: Publisher, registry: FakeRegistry) -> None:
    ours.publish(ours.draft(V1, V3))
    newer = Publisher(registry, ours.build.with_name("newer")).draft(V3)
    ours.publish(newer)
    assert registry.entries()["linux/amd64/v3"] == newer.images[V3.id]
    assert len(registry.entries()) == 2


def test_an_image_that_was_deleted_is_an_error(ours: Publisher, registry: FakeRegistry) -> None:
    draft = ours.draft(V1, V3)
    del registry.held[draft.images[V3.id]]
    with pytest.raises(RegistryError, match=r"does not hold 2.19.1-cpu-v3"):
        ours.publish(draft)
    assert registry.tags == {}


# --- what others have put there ---------------------------------------------------------------------------------------


def test_entries_of_others_stay(ours: Publisher, others: Publisher, registry: FakeRegistry) -> None:
    theirs = others.draft(V3)
    others.publish(theirs)
    mine = ours.draft(V1)
    ours.publish(mine)
    assert registry.entries() == {"linux/amd64": mine.images[V1.id], "linux/amd64/v3": theirs.images[V3.id]}


def test_the_lowest_level_of_all_publishers_has_no_variant(
    ours: Publisher, others: Publisher, registry: FakeRegistry
) -> None:
    """Each has a matrix of its own, and knows nothing of the other's levels."""
    theirs = others.draft(V3, index=Index(tag=TAG, release=TAG, moves=False, variants=(V3,)))
    others.publish(theirs)
    assert list(registry.entries()) == ["linux/amd64"]
    mine = ours.draft(V1, index=Index(tag=TAG, release=TAG, moves=False, variants=(V1,)))
    ours.publish(mine)
    assert registry.entries() == {"linux/amd64": mine.images[V1.id], "linux/amd64/v3": theirs.images[V3.id]}
    registry.asked.clear()
    others.publish(theirs)
    assert registry.puts() == [], "both agree on what is there"


ARM = {"os": "linux", "architecture": "arm64"}


def put_by_hand(registry: FakeRegistry, *platforms: Mapping[str, str], tag: str = TAG, **more: object) -> list[str]:
    digests = [registry.image(f"by hand {number}") for number, _ in enumerate(platforms)]
    listed = [
        {"mediaType": IMAGE, "digest": digest, "size": 1, "platform": dict(platform)}
        for digest, platform in zip(digests, platforms, strict=True)
    ]
    body = json.dumps({"schemaVersion": 2, "manifests": listed, **more}).encode()
    registry.put_manifest("", tag, Manifest(body=body, media_type=INDEX))
    return digests


def test_entries_that_no_factory_made_stay_unless_they_are_in_the_way(ours: Publisher, registry: FakeRegistry) -> None:
    arm, _ = put_by_hand(registry, ARM, {"os": "linux", "architecture": "amd64"}, annotations={"team": "ours"})
    mine = ours.draft(V1, V3)
    ours.publish(mine)
    assert registry.entries() == {
        "linux/amd64": mine.images[V1.id],
        "linux/amd64/v3": mine.images[V3.id],
        "linux/arm64": arm,
    }
    assert registry.index()["annotations"]["team"] == "ours"


@pytest.mark.parametrize(
    "entry",
    [
        {"digest": [], "size": 1},
        {"digest": "sha256:1", "size": "many"},
        {"digest": "IMAGE", "size": 1, "platform": [], "annotations": 3},
        {"digest": "IMAGE", "size": 1, "platform": {"os": 7}, "annotations": {LEVEL_LABEL: [], VARIANT_LABEL: 5}},
        {"digest": "IMAGE", "size": 1, "platform": "linux", "annotations": {LEVEL_LABEL: "x86-64-v4"}},
    ],
)
def test_an_index_may_hold_anything(ours: Publisher, registry: FakeRegistry, entry: dict[str, Any]) -> None:
    if entry["digest"] == "IMAGE":
        entry = {**entry, "digest": registry.image("of someone else")}
    held = {"manifests": [entry, 7], "annotations": {RELEASE_LABEL: TAG}}
    found = Manifest(body=json.dumps(held).encode(), media_type=INDEX)
    registry.held[found.digest], registry.tags[TAG] = found, found.digest
    list(entries_of(found))
    ours.publish(ours.draft(V1, V3))
    assert {"linux/amd64", "linux/amd64/v3"} <= registry.entries_by_name()


def test_a_release_that_is_no_text_is_not_later() -> None:
    held = Manifest(body=json.dumps({"annotations": {RELEASE_LABEL: [9]}}).encode(), media_type=INDEX)
    assert later_release(held, replace(BOTH, moves=True)) == ""


def test_a_tag_without_a_release_holds_nothing_of_an_earlier_one(ours: Publisher, registry: FakeRegistry) -> None:
    old = (variant(Level.V1, "2.18.1"), variant(Level.V4, "2.18.1"))
    ours.publish(ours.draft(*old, index=Index(tag="latest", release="2.18.1", moves=True, variants=old)))
    assert len(registry.entries("latest")) == 2
    mine = ours.draft(V1, index=Index(tag="latest", release=TAG, moves=True, variants=(V1,)))
    ours.publish(mine)
    assert registry.entries("latest") == {"linux/amd64": mine.images[V1.id]}


def test_a_tag_without_a_release_never_goes_back(ours: Publisher, registry: FakeRegistry) -> None:
    draft = ours.draft(V1, index=Index(tag="latest", release=TAG, moves=True, variants=(V1,)))
    put_by_hand(registry, ARM, tag="latest", annotations={"org.opencontainers.image.version": "2.20.0"})
    before = dict(registry.tags)
    published, status = ours.publish(draft)[draft.name]
    assert (published.later, status) == ("2.20.0", "not_moved")
    assert registry.tags == before


# --- two at once ------------------------------------------------------------------------------------------------------


class Clock:
    """A time of our own for some threads, of which one runs at a time: the one whose wait ends first."""

    def __init__(self, threads: int) -> None:
        self._condition = Condition()
        self._waiting: list[tuple[float, int]] = []
        self._running = threads
        self._now, self._turn = 0.0, 0

    def wait(self, seconds: float) -> None:
        with self._condition:
            heappush(self._waiting, (self._now + seconds, get_ident()))
            self.end()
            self._condition.wait_for(lambda: self._turn == get_ident())
            self._turn = 0

    def end(self) -> None:
        with self._condition:
            self._running -= 1
            if self._running == 0 and self._waiting:
                self._now, self._turn = heappop(self._waiting)
                self._running = 1
                self._condition.notify_all()


@pytest.mark.parametrize("seed", range(30))
def test_no_entry_is_lost_however_many_publish(tmp_path: Path, seed: int) -> None:
    """Six at once, whose requests take up to half the time after which an index is read again."""
    chance, registry, clock = random.Random(seed), FakeRegistry(), Clock(6)  # noqa: S311 - it is to be the same again
    variants = (*map(variant, LEVELS), replace(V1, platform=Platform.LINUX_ARM64))
    whole = Index(tag=TAG, release=TAG, moves=False, variants=variants)
    drafts = [Publisher(registry, tmp_path / one.id).draft(one, index=whole) for one in whole.variants]
    registry.before = lambda _method, _reference: clock.wait(chance.uniform(0, SETTLE / 2))

    def run(draft: Draft) -> None:
        clock.wait(chance.uniform(0, 2 * SETTLE))
        try:
            publish([draft], tmp_path / next(iter(draft.images)), print, sleep=clock.wait)
        finally:
            clock.end()

    with ThreadPoolExecutor(len(drafts)) as pool:
        list(pool.map(run, drafts))
    assert sorted(one.variant for one in entries_of(registry.held[registry.tags[TAG]])) == sorted(
        one.id for one in variants
    )


def test_who_is_overwritten_sees_it_after_a_moment_and_merges_again(
    ours: Publisher, others: Publisher, registry: FakeRegistry
) -> None:
    """The other one has looked before our PUT, and puts after it."""
    mine, theirs = ours.draft(V1), others.draft(V3)
    others.publish(theirs)
    without_us = registry.tags[TAG]
    del registry.tags[TAG]

    def sleep(seconds: float) -> None:
        assert seconds == SETTLE
        if ours.slept == []:
            registry.tags[TAG] = without_us
        ours.slept.append(seconds)

    publish([mine], ours.build, ours.reports.append, sleep=sleep)
    assert registry.entries() == {"linux/amd64": mine.images[V1.id], "linux/amd64/v3": theirs.images[V3.id]}
    assert ours.slept == [SETTLE, SETTLE]


def test_a_change_between_the_read_and_the_put_is_not_overwritten(
    ours: Publisher, others: Publisher, registry: FakeRegistry
) -> None:
    mine, theirs = ours.draft(V1), others.draft(V3)

    def before(method: str, reference: str) -> None:
        if (method, reference) == ("HEAD", TAG):
            registry.before = lambda _method, _reference: None
            others.publish(theirs)

    registry.before = before
    ours.publish(mine)
    assert len(registry.entries()) == 2
    assert registry.puts().count(TAG) == 2, "one each: ours was put once, after it was read again"


def test_a_put_that_is_tried_again_looks_again(ours: Publisher, others: Publisher, registry: FakeRegistry) -> None:
    """The registry fails at our PUT; while we wait, the other one publishes."""
    mine, theirs = ours.draft(V1), others.draft(V3)

    def before(method: str, reference: str) -> None:
        if (method, reference) == ("PUT", TAG):
            registry.before = lambda _method, _reference: None
            others.publish(theirs)
            raise RegistryFaultError("500")

    registry.before = before
    ours.publish(mine)
    assert len(registry.entries()) == 2
    assert [one for one in registry.asked if one == ("PUT", TAG)] == [("PUT", TAG)] * 3, "ours in vain, theirs, ours"


def test_who_is_overwritten_for_ever_gives_up(ours: Publisher, others: Publisher, registry: FakeRegistry) -> None:
    draft, other = ours.draft(V1), others.draft(V3)
    others.publish(other)
    theirs = registry.tags[TAG]
    with pytest.raises(IndexContestedError, match=r"team/serving:2.19.1 was changed by others"):
        publish([draft], ours.build, ours.reports.append, sleep=lambda _: registry.tags.update({TAG: theirs}))
    outputs = ours.record(draft)
    assert outputs
    assert not outputs.moved


# --- crashes ----------------------------------------------------------------------------------------------------------


def killing(registry: FakeRegistry, number: int, *, after: bool) -> None:
    """Kill the process before or after its n-th request to change something."""
    seen = 0

    def count(method: str, _reference: str) -> None:
        nonlocal seen
        seen += method == "PUT"
        if method == "PUT" and seen == number:
            raise KilledError

    registry.before, registry.after = (lambda *_: None, count) if after else (count, lambda *_: None)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_killed_publish_goes_on(tmp_path: Path, number: int, *, after: bool) -> None:
    """Two indexes take four requests; whichever is the last, each tag names a whole index, of before or of after."""
    registry = FakeRegistry()
    old, ours = Publisher(registry, tmp_path / "old"), Publisher(registry, tmp_path / "ours")
    latest = Index(tag="latest", release=TAG, moves=True, variants=(V1, V3))
    old.publish(old.draft(V1, V3), old.draft(V1, V3, index=latest))
    before = {tag: registry.entries(tag) for tag in (TAG, "latest")}
    registry.asked.clear()
    drafts = [ours.draft(V1, V3), ours.draft(V1, V3, index=latest)]
    whole = {"linux/amd64": drafts[0].images[V1.id], "linux/amd64/v3": drafts[0].images[V3.id]}
    killing(registry, number, after=after)
    with pytest.raises(KilledError):
        ours.publish(*drafts)
    for tag, entries in before.items():
        assert registry.entries(tag) in (entries, whole)
        if len(registry.puts()) <= len(drafts):
            assert registry.entries(tag) == entries, "no tag moves before all indexes are there"
    killing(registry, 99, after=False)
    ours.publish(*drafts)
    assert {tag: registry.entries(tag) for tag in before} == dict.fromkeys(before, whole)
    assert [record.moved for draft in drafts if (record := ours.record(draft))] == [True, True]


def test_what_was_interrupted_is_said(ours: Publisher, registry: FakeRegistry) -> None:
    draft = ours.draft(V1, V3)
    killing(registry, 2, after=False)
    with pytest.raises(KilledError):
        ours.publish(draft)
    killing(registry, 99, after=False)
    ours.publish(draft)
    assert ours.reports == [f"{draft.name}: an earlier publish ended before its tag moved; this one goes on"]
    ours.publish(draft)
    assert len(ours.reports) == 1


@pytest.mark.parametrize(
    ("faults", "ends"),
    [
        ([RegistryFaultError("500"), RegistryFaultError("500")], None),
        ([RegistryLimitError("429", retry_after=7.0)], None),
        ([RegistryLimitError("429", retry_after=600.0)], RegistryLimitError),
        ([RegistryFaultError("500")] * 4, RegistryFaultError),
        ([RegistryDeniedError("403")], RegistryDeniedError),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_faults_are_tried_again_and_refusals_are_not(
    ours: Publisher, registry: FakeRegistry, method: str, faults: list[FactoryError], ends: type[FactoryError] | None
) -> None:
    draft, left = ours.draft(V1, V3), list(faults)

    def before(asked: str, _reference: str) -> None:
        if asked == method and left:
            raise left.pop(0)

    registry.before = before
    if ends:
        with pytest.raises(ends):
            ours.publish(draft)
        assert TAG not in registry.tags
        left.clear()
    ours.publish(draft)
    assert len(registry.entries()) == 2
    waits = [seconds for seconds in ours.slept if seconds != SETTLE]
    if ends is None:
        assert len(waits) == len(faults)
    if faults[0].what == "429" and ends is None:
        assert waits == [7.0], "Retry-After is honoured"


def test_an_index_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    bodies = set()
    for order in ((V1, V3), (V3, V1)):
        registry = FakeRegistry()
        publisher = Publisher(registry, tmp_path / "same")
        for one in order:
            publisher.publish(publisher.draft(one))
        bodies.add(registry.tags[TAG])
        assert digest_of(registry.held[registry.tags[TAG]].body) == registry.tags[TAG]
    assert len(bodies) == 1
