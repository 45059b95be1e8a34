"""The whole way of an image and its index into a registry, with each of its requests disturbed in turn.

The registry is in memory, and the client of HTTP is replaced: what becomes of sockets is in test_download.py and
test_registry.py. Whatever goes wrong, no name stands for half of anything, and the same command ends where one that
nothing disturbed does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.catalogue.levels import Level
from serving_factory.docker.engine import Engine
from serving_factory.docker.http import Answer, Client, NoAnswerError, Trouble
from serving_factory.docker.process import Cancel
from serving_factory.docker.push import PushResult
from serving_factory.docker.referrers import fallback_tag
from serving_factory.docker.registry import INDEX, MANIFESTS, ImageName, Manifest, Registry
from serving_factory.errors import (
    FactoryError,
    RegistryDeniedError,
    RegistryError,
    RegistryLimitError,
    RegistryUnreachableError,
    SignatureError,
)
from serving_factory.matrix.tags import Index
from serving_factory.pipeline.job import VARIANT_LABEL, Job, Site
from serving_factory.pipeline.publish import SETTLE, Draft, Published, entries_of, publish, sign_index
from serving_factory.pipeline.records import read_record, write_record
from serving_factory.pipeline.runner import VariantRun
from serving_factory.pipeline.stages.push import PUSH
from serving_factory.proofs.keys import PrivateKey
from serving_factory.proofs.sbom import sbom
from serving_factory.proofs.signatures import KeySigner, Signer
from serving_factory.recipes.labels import LEVEL_LABEL, RELEASE_LABEL
from serving_factory.recipes.recipe import Recipe, recipe_for

from .byte_registry import ByteRegistry, digest_of
from .matrices import SMALL, load
from .published_image import KEY, described
from .stage_records import record

HOST, REPOSITORY = "r.example", "team/serving"
TAG, ALIASES = "2.19.1", ["2.19.1-cpu", "latest"]
V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"
FULL = f"{V1}-0123"
IMAGE = MANIFESTS[1]
SIGNER = KeySigner(KEY)
FORK = multiprocessing.get_context("fork")
signed = functools.cache(PrivateKey.sign)  # the same signature of the same message, so that registries can be compared


Disturb = Callable[[int, str], Answer | None]  # called with the number of a request, and method and path


@dataclass
class World:
    """A registry, the engine that pushes to it, and a factory with one packaged image."""

    recipes: list[Recipe]  # of both levels of the index; the first is this factory's
    folder: Path
    registry: ByteRegistry = field(default_factory=ByteRegistry)
    before: Disturb = lambda _number, _request: None  # what it gives is answered in the registry's place
    after: Disturb = lambda _number, _request: None
    requests: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # in the engine

    def ask(self, method: str, url: str, data: bytes | None, kind: str) -> Answer:
        path = url.removeprefix(f"https://{HOST}")
        self.requests.append(f"{method} {path}")
        disturbed = self.before(len(self.requests), self.requests[-1])
        if disturbed:
            return disturbed
        status, body, headers = self.registry.answer(method, path, data or b"", kind)
        self.after(len(self.requests), self.requests[-1])
        return answer(status, body, headers)

    # --- its registry -------------------------------------------------------------------------------------------------

    def image(self, name: str, release: str = TAG) -> str:
        """Put an image there that only its digest names."""
        labels = {VARIANT_LABEL: name, RELEASE_LABEL: release}
        body = manifest(self.registry.put_blob(config_of(labels)), self.registry.put_blob(LAYER))
        return self.registry.put(digest_of(body), IMAGE, body)

    def begin(self) -> None:
        """What an earlier publish of this release, and another publisher of the index, have left there."""
        self.registry.tags |= dict.fromkeys(ALIASES, self.image("old", "2.18.1"))
        self.other(V1, Level.V1)
        self.other(V3, Level.V3)

    def index(self) -> Manifest:
        media_type, body = self.registry.manifests[self.registry.tags[TAG]]
        return Manifest(body=body, media_type=media_type)

    def other(self, variant: str, level: Level, age: str = "old") -> str:
        """Someone else adds an entry to the index, and loses none of what is there."""
        held = self.registry.manifests.get(self.registry.tags.get(TAG, ""))
        empty = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        document: dict[str, Any] = json.loads(held[1]) if held else empty
        digest = self.image(f"{age} {variant} of someone else")
        others = [one for one in document["manifests"] if one["annotations"][LEVEL_LABEL] != level]
        annotations = {RELEASE_LABEL: TAG, LEVEL_LABEL: level.value, VARIANT_LABEL: variant}
        added = {"mediaType": IMAGE, "digest": digest, "size": 1, "annotations": annotations}
        platform = {"architecture": "amd64", "os": "linux"}
        document |= {"manifests": [*others, {**added, "platform": platform}], "annotations": {RELEASE_LABEL: TAG}}
        self.registry.put(TAG, INDEX, json.dumps(document).encode())
        self.sign_for_others(digest, SIGNER)
        return digest

    def sign_for_others(self, digest: str, signer: Signer) -> None:
        """None of its requests is one of the factory's."""
        before, after, asked = self.before, self.after, len(self.requests)
        self.before = self.after = lambda _number, _request: None
        signer.sign(Registry(HOST), REPOSITORY, digest)
        self.before, self.after = before, after
        del self.requests[asked:]

    def state(self) -> Mapping[str, object]:
        """What each tag stands for; in which order clients have listed proofs does not matter."""
        return {tag: self._sorted(tag) for tag in sorted(self.registry.tags)}

    def _sorted(self, tag: str) -> object:
        digest = self.registry.tags[tag]
        if not tag.startswith("sha256-"):
            return digest
        document = json.loads(self.registry.manifests[digest][1])
        found: list[object] = [*document.get("manifests", ()), *document.get("layers", ())]
        return sorted(json.dumps(one) for one in found)

    def is_signed(self, digest: str) -> bool:
        return fallback_tag(digest, ".sig") in self.registry.tags

    # --- the factory --------------------------------------------------------------------------------------------------

    def engine(self) -> SimpleNamespace:
        """What the push uses of one: it sends blobs first, then the manifest."""

        def push(repository: str, tag: str, **_: object) -> PushResult:
            assert f"{repository}:{tag}" in self.names
            registry = Registry(HOST)
            named = [registry.put_blob(REPOSITORY, one) for one in (CONFIG, LAYER)]
            made = Manifest(body=manifest(*named), media_type=IMAGE)
            registry.put_manifest(REPOSITORY, tag, made)
            return PushResult(digest=made.digest, pushed_layers=1)

        return SimpleNamespace(
            registry=lambda host, **_: Registry(host),
            tag=lambda _image, repository, tag: self.names.add(f"{repository}:{tag}"),
            remove_image=self.names.discard,
            push=push,
        )

    def publish(self, signer: Signer = SIGNER) -> None:
        """Push the image unless that is done, and then merge and move the index, as the command does."""
        engine = self.engine()
        site = Site(
            build=self.folder,
            models=self.folder,
            registries=(f"{HOST}/team",),
            signer=signer,
            connect=lambda: cast("Engine", engine),
        )
        job = Job(recipe=self.recipes[0], site=site)
        packaged = record("package", image=digest_of(CONFIG), repository="serving", tags=(FULL,), aliases=ALIASES)
        write_record(job.folder, packaged)
        write_record(job.folder, record("smoke"))
        run = VariantRun(job, (PUSH,), lambda _event: None)
        run.run()
        if run.error:
            raise run.error
        (place,) = job.record(PUSH).outputs.places
        self.publish_index({V1: place.digests[FULL]}, signer)

    def publish_index(self, images: Mapping[str, str], signer: Signer = SIGNER) -> None:
        sign = functools.partial(sign_index, signer)
        publish([self.draft(images)], self.folder, lambda _: None, sign=sign, sleep=self.waits.append)

    def draft(self, images: Mapping[str, str]) -> Draft:
        variants = tuple(one.variant for one in self.recipes)
        whole = Index(tag=TAG, release=TAG, moves=False, variants=variants)
        return Draft(index=whole, place=ImageName(HOST, REPOSITORY), registry=Registry(HOST), images=images)

    def records(self) -> tuple[object, object]:
        """What it has written down of the image and of the index."""
        pushed = PUSH.read(self.folder / V1)
        published = read_record(self.draft({}).folder(self.folder), "publish", Published)
        return pushed and pushed.outputs.places[0].digests, published and published.outputs


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    made = Message()
    for name, value in (headers or {}).items():
        made[name] = value
    return Answer(status, made, body)


def config_of(labels: Mapping[str, str]) -> bytes:
    return json.dumps({"os": "linux", "architecture": "amd64", "config": {"Labels": labels}}).encode()


def manifest(config: str, layer: str) -> bytes:
    named = {"config": {"digest": config, "size": 1}, "layers": [{"digest": layer, "size": 1}]}
    return json.dumps({"schemaVersion": 2, "mediaType": IMAGE, **named}).encode()


LAYER, CONFIG = b"a layer", config_of({VARIANT_LABEL: V1, RELEASE_LABEL: TAG})


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    matrix = load(
        tmp_path_factory.mktemp("matrix"),
        SMALL.replace("[x86-64]", "[x86-64, x86-64-v3]").replace("serving\n", "serving\n  aliases: []\n"),
    )
    return [recipe_for(one, matrix) for one in matrix.variants]


@pytest.fixture
def world(recipes: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], World]:
    """Makes worlds, of which the last one is asked."""
    made: list[World] = []

    def make() -> World:
        made.append(World(recipes, tmp_path / str(len(made))))
        made[-1].begin()
        return made[-1]

    def ask(
        _client: Client, method: str, url: str, headers: Mapping[str, str], data: bytes | None = None, **_: object
    ) -> Answer:
        return made[-1].ask(method, url, data, headers.get("Content-Type", ""))

    monkeypatch.setattr(Client, "ask", ask)
    monkeypatch.setattr(PrivateKey, "sign", signed)
    monkeypatch.setattr(Cancel, "wait", lambda _cancel, seconds: made[-1].waits.append(seconds))
    monkeypatch.setattr("serving_factory.pipeline.runner.needs_of", lambda _stages: ())
    about = described(digest=digest_of(manifest(digest_of(CONFIG), digest_of(LAYER))))
    document = sbom(about)  # whose check against CycloneDX's schema takes longer than all requests
    monkeypatch.setattr("serving_factory.pipeline.proofs.described", lambda *_, **__: about)
    monkeypatch.setattr("serving_factory.proofs.sbom.sbom", lambda _: document)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return make


@pytest.fixture
def whole(world: Callable[[], World]) -> World:
    """What a publish that nothing disturbs does."""
    done = world()
    done.publish()
    assert done.waits == [SETTLE], "of the index alone, which is read again"
    assert done.names == set()
    return done


def check_names(world: World, before: Mapping[str, str], whole: World) -> None:
    """Each name stands for what it did before, or for all of the new; nothing new is named before it is signed."""
    for tag in (*ALIASES, TAG):
        digest = world.registry.tags[tag]
        assert digest in {before[tag], whole.registry.tags[tag]}, tag
        assert digest == before[tag] or world.is_signed(digest), tag


def check_whole(world: World, whole: World) -> None:
    assert world.state() == whole.state()
    assert world.records() == whole.records()
    assert world.names == set(), "of registries, in the engine"


def steps(whole: World) -> Iterator[tuple[int, str]]:
    """The requests that matter: an upload that was only tried is left to expire where it cannot be cancelled."""
    yield from ((n, one) for n, one in enumerate(whole.requests, 1) if not one.startswith("DELETE "))


def down(_request: str) -> Answer:
    raise NoAnswerError(Trouble.UNREACHABLE, "Connection refused")


def cut(_request: str) -> Answer:
    raise NoAnswerError(Trouble.CUT, "IncompleteRead")


def refused(status: int, **headers: str) -> Callable[[str], Answer]:
    return lambda _request: answer(status, b"no", {name.replace("_", "-"): one for name, one in headers.items()})


def refused_until(seconds: float) -> Callable[[str], Answer]:
    def happens(request: str) -> Answer:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        return refused(429, Retry_After=format_datetime(until, usegmt=True))(request)

    return happens


def on(numbers: range, happens: Callable[[str], Answer | None]) -> Disturb:
    return lambda number, request: happens(request) if number in numbers else None


Fault = tuple[Callable[[str], Answer], type[FactoryError]]
DOWN: Fault = (down, RegistryUnreachableError)
REFUSED: Mapping[str, Fault] = {
    "401": (refused(401), RegistryDeniedError),
    "403": (refused(403), RegistryDeniedError),
    "429 for an hour": (refused(429, Retry_After="3600"), RegistryLimitError),
}


@pytest.mark.parametrize("faults", [[DOWN], [*REFUSED.values()]], ids=["down", ", ".join(REFUSED)])
def test_what_ends_any_step_leaves_nothing_half_done(
    world: Callable[[], World], whole: World, faults: list[Fault]
) -> None:
    for number, request in steps(whole):
        happens, error = faults[number % len(faults)]
        disturbed = world()
        before = dict(disturbed.registry.tags)
        disturbed.before = on(range(number, 10**9), happens)
        with pytest.raises(error):
            disturbed.publish()
        assert len(disturbed.requests) == number, f"it was asked again after {request}"
        check_names(disturbed, before, whole)
        disturbed.before = on(range(0), happens)
        disturbed.publish()
        check_whole(disturbed, whole)


Passing = tuple[int, Callable[[str], Answer], float]  # how often it happens, and the shortest wait after it
TWICE: Passing = (2, refused(500), 0.2)
ONCE: Mapping[str, Passing] = {
    "429": (1, refused(429), 2.5),
    "429 for 7 seconds": (1, refused(429, Retry_After="7"), 7.0),
    "429 until a date": (1, refused_until(30), 28.0),
    "cut": (1, cut, 0.2),
}


@pytest.mark.parametrize("faults", [[TWICE], [*ONCE.values()]], ids=["500 twice", ", ".join(ONCE)])
def test_what_is_over_soon_is_waited_for_in_any_step(
    world: Callable[[], World], whole: World, faults: list[Passing]
) -> None:
    for number, request in steps(whole):
        times, happens, shortest = faults[number % len(faults)]
        disturbed = world()
        disturbed.before = on(range(number, number + times), happens)
        disturbed.publish()
        waits = [one for one in disturbed.waits if one != SETTLE]
        assert len(waits) == times, f"nothing happened in {request}"
        assert min(waits) >= shortest, request
        check_whole(disturbed, whole)


def test_a_registry_that_fails_now_and_then_is_asked_again_for_what_failed(
    world: Callable[[], World], whole: World
) -> None:
    """More often in one push than any question is asked again."""
    disturbed = world()
    disturbed.before = on(range(0, 10**9, 15), refused(503))
    disturbed.publish()
    assert len(disturbed.waits) > len(whole.requests) // 15
    check_whole(disturbed, whole)


def test_an_answer_that_is_lost_is_asked_for_again_in_any_step(world: Callable[[], World], whole: World) -> None:
    """The registry has done what it was asked for."""
    for number, _request in steps(whole):
        disturbed = world()
        disturbed.after = on(range(number, number + 1), cut)
        disturbed.publish()
        check_whole(disturbed, whole)


def test_a_process_that_is_killed_in_any_step_goes_on(world: Callable[[], World], whole: World) -> None:
    """By SIGKILL, which no handler sees; what the registry and the engine have is handed back at that moment."""
    for number, request in steps(whole):
        disturbed = world()
        before = dict(disturbed.registry.tags)
        left = disturbed.folder / "left"
        disturbed.folder.mkdir()

        def kill(_request: str, disturbed: World = disturbed, left: Path = left) -> Answer:
            held = disturbed.registry
            left.write_bytes(pickle.dumps((held.blobs, held.manifests, held.tags, disturbed.names)))
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        disturbed.after = on(range(number, number + 1), kill)
        process = FORK.Process(target=disturbed.publish)
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL, request
        held = disturbed.registry
        held.blobs, held.manifests, held.tags, disturbed.names = pickle.loads(left.read_bytes())  # noqa: S301 - its own
        disturbed.after = on(range(0), kill)
        check_names(disturbed, before, whole)
        disturbed.publish()
        check_whole(disturbed, whole)


def test_an_alias_that_someone_else_moves_is_ours_in_the_end(world: Callable[[], World], whole: World) -> None:
    for number, _request in steps(whole):
        disturbed = world()
        theirs = disturbed.image("of someone else", "2.18.1")

        def move(_request: str, disturbed: World = disturbed, theirs: str = theirs) -> None:
            disturbed.registry.tags |= dict.fromkeys(ALIASES, theirs)

        disturbed.before = on(range(number, number + 1), move)
        with contextlib.suppress(RegistryError):
            disturbed.publish()
        assert {disturbed.registry.tags[one] for one in ALIASES} <= {theirs, whole.registry.tags["latest"]}
        disturbed.publish()
        check_whole(disturbed, whole)


def test_an_entry_that_someone_else_adds_is_lost_between_look_and_put_alone(
    world: Callable[[], World], whole: World
) -> None:
    """There it is overwritten, and who has put it sees that when it looks again: both do, and here only we."""
    lost = []
    for number, request in steps(whole):
        disturbed = world()
        theirs: list[str] = []

        def add(_request: str, disturbed: World = disturbed, theirs: list[str] = theirs) -> None:
            theirs.append(disturbed.other(V3, Level.V3, "newer"))

        disturbed.before = on(range(number, number + 1), add)
        disturbed.publish()
        entries = {one.variant: one.digest for one in entries_of(disturbed.index())}
        assert entries[V1] == whole.registry.tags[FULL], request
        if entries[V3] not in theirs:
            lost.append(request)
    assert lost == [f"PUT /v2/{REPOSITORY}/manifests/{TAG}"]


def test_another_key_signs_again_and_moves_nothing(world: Callable[[], World], whole: World) -> None:
    other = KeySigner(PrivateKey.new())
    resigned = world()
    resigned.publish()
    before = dict(resigned.registry.tags)
    with pytest.raises(SignatureError, match="has images that are not signed"):
        resigned.publish(other)
    theirs = next(one.digest for one in entries_of(resigned.index()) if one.variant == V3)
    resigned.sign_for_others(theirs, other)
    resigned.publish(other)
    assert {tag: resigned.registry.tags[tag] for tag in (FULL, *ALIASES, TAG)} == {
        tag: before[tag] for tag in (FULL, *ALIASES, TAG)
    }
    for digest in (before[FULL], before[TAG]):
        for signer in (SIGNER, other):
            assert signer.is_signed(Registry(HOST), REPOSITORY, digest)
    resigned.publish(other)
    assert resigned.state() != whole.state()


@pytest.mark.usefixtures("whole")
def test_nothing_is_sent_twice(whole: World) -> None:
    whole.requests.clear()
    whole.publish()
    assert {one.partition(" ")[0] for one in whole.requests} <= {"HEAD", "GET"}
