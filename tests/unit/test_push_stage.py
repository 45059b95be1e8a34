"""pipeline/stages/push.py: what is pushed, in which order, and what a registry must not lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from serving_factory.docker.engine import Engine
from serving_factory.docker.push import PushResult
from serving_factory.docker.registry import Manifest
from serving_factory.errors import (
    FactoryError,
    RegistryDeniedError,
    RegistryError,
    RegistryFaultError,
    SignatureError,
    TagTakenError,
)
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.records import Record, write_record
from serving_factory.pipeline.stages.package import PACKAGE_KEY_LABEL
from serving_factory.pipeline.stages.push import PUSH, try_pushes
from serving_factory.recipes.labels import RELEASE_LABEL
from serving_factory.recipes.recipe import recipe_for

from .matrices import load
from .stage_records import record

if TYPE_CHECKING:
    from serving_factory.proofs.signatures import Signer

IMAGE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MANIFEST, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BOTH = ("r.example/team", "s.example")
LABELS = {PACKAGE_KEY_LABEL: "a key", "org.serving-factory.binary.sha256": "b" * 64}
FULL, ALIASES = "2.19.1-cpu-v1-0123", ["2.19.1-cpu", "latest"]


@dataclass
class FakeRegistry:
    """Tags and what they stand for; and the configuration of each manifest."""

    held: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)
    labelled: dict[str, dict[str, str]] = field(default_factory=dict)
    refuses: FactoryError | None = None
    tried: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    lag: int = 0  # how many looks at what was pushed find nothing yet

    def try_push(self, repository: str) -> None:
        self.tried.append(repository)
        if self.refuses:
            raise self.refuses

    def manifest_digest(self, _repository: str, reference: str) -> str | None:
        if reference in self.held and self.lag:
            self.lag -= 1
            return None
        return self.held.get(reference)

    def config_digest(self, _repository: str, digest: str) -> str:
        return self.configs.get(digest, "")

    def manifest(self, _repository: str, reference: str) -> Manifest | None:
        return Manifest(body=reference.encode(), media_type="application/json")

    def put_manifest(self, _repository: str, reference: str, manifest: Manifest) -> None:
        self.moved.append(reference)
        self.held[reference] = manifest.body.decode()

    def labels(self, _repository: str, digest: str) -> dict[str, str]:
        return self.labelled.get(digest, {})


@dataclass
class FakeEngine:
    """Pushes to a FakeRegistry."""

    known: FakeRegistry
    pushed: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    faults: list[FactoryError] = field(default_factory=list)
    lies: bool = False
    places: list[str] = field(default_factory=list)
    others: dict[str, FakeRegistry] = field(default_factory=lambda: {"s.example": FakeRegistry()})

    def registry(self, host: str, **_: object) -> FakeRegistry:
        return self.known if host == "r.example" else self.others[host]

    def image_labels(self, image: str) -> dict[str, str]:
        assert image == IMAGE
        return LABELS

    def tag(self, _image: str, repository: str, tag: str) -> None:
        self.names.add(f"{repository}:{tag}")

    def remove_image(self, reference: str) -> None:
        self.names.discard(reference)

    def push(self, repository: str, tag: str, *, on_status: Callable[[str], None], **_: object) -> PushResult:
        self.places.append(repository)
        on_status("0 of 1 layers there")
        if self.faults:
            raise self.faults.pop(0)
        self.pushed.append(tag)
        if not self.lies:
            self.registry(repository.partition("/")[0]).held[tag] = MANIFEST
        return PushResult(digest=MANIFEST, pushed_layers=1)


@dataclass
class FakeSigner:
    """Signs at once, and remembers which tags the registry had then."""

    known: FakeRegistry
    identity: str = "key 1"
    signed: set[str] = field(default_factory=set)
    proven: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    refuses: FactoryError | None = None

    def sign(self, _registry: object, repository: str, digest: str) -> bool:
        assert repository == "team/serving"
        if self.refuses:
            raise self.refuses
        self.tags += self.known.held
        self.signed.add(digest)
        return True

    def is_signed(self, _registry: object, _repository: str, digest: str) -> bool:
        return digest in self.signed


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(FakeRegistry())


@pytest.fixture
def job(tmp_path: Path, engine: FakeEngine) -> Job:
    matrix = load(tmp_path)
    site = Site(build=tmp_path, models=tmp_path, registries=("r.example/team",), connect=lambda: cast("Engine", engine))
    made = Job(recipe=recipe_for(matrix.variants[0], matrix), site=site)
    write_record(made.folder, record("package", image=IMAGE, repository="serving", tags=(FULL,), aliases=ALIASES))
    return made


def run(job: Job) -> dict[str, object]:
    (place,) = PUSH.run(job, lambda _: None).places
    return asdict(place)


def test_full_tags_go_first(job: Job, engine: FakeEngine) -> None:
    assert run(job)["digests"] == dict.fromkeys([FULL, *ALIASES], MANIFEST)
    assert engine.pushed == [FULL]
    assert engine.known.moved == ALIASES
    assert engine.known.tried == ["team/serving"]
    assert engine.names == set()


@pytest.mark.parametrize(
    ("held", "configs"),
    [
        pytest.param(MANIFEST, {MANIFEST: IMAGE}, id="the configuration is the engine's image"),
        pytest.param(IMAGE, {}, id="the manifest is, as with containerd's store"),
    ],
)
def test_a_full_tag_that_is_there_is_no_work(job: Job, engine: FakeEngine, held: str, configs: dict[str, str]) -> None:
    engine.known.held[FULL], engine.known.configs = held, configs
    outputs = run(job)
    assert engine.pushed == []
    assert outputs["digests"] == dict.fromkeys([FULL, *ALIASES], held)


def test_what_another_machine_made_of_the_same_stays(job: Job, engine: FakeEngine) -> None:
    """As a clean runner does each night: only the times in its image are others."""
    engine.known.held, engine.known.configs, engine.known.labelled = {FULL: OLD}, {OLD: OTHER}, {OLD: LABELS}
    assert run(job)["digests"] == dict.fromkeys([FULL, *ALIASES], OLD)
    assert engine.pushed == []


@pytest.mark.parametrize("is_signed", [True, False])
def test_what_a_run_left_that_ended_before_it_signed_is_replaced(
    job: Job, engine: FakeEngine, signer: FakeSigner, *, is_signed: bool
) -> None:
    engine.known.held, engine.known.configs, engine.known.labelled = {FULL: OLD}, {OLD: OTHER}, {OLD: LABELS}
    signer.signed |= {OLD} if is_signed else set()
    digest = OLD if is_signed else MANIFEST
    assert run(job)["digests"] == dict.fromkeys([FULL, *ALIASES], digest)
    assert engine.pushed == ([] if is_signed else [FULL])
    assert digest in signer.signed


@pytest.mark.parametrize("labels", [{}, {PACKAGE_KEY_LABEL: "another"}, LABELS | {"model": "x"}])
@pytest.mark.parametrize("configs", [{OLD: OTHER}, {}])
def test_a_full_tag_names_one_image_for_ever(
    job: Job, engine: FakeEngine, configs: dict[str, str], labels: dict[str, str]
) -> None:
    engine.known.held, engine.known.labelled = {FULL: OLD, "latest": OLD}, {OLD: labels}
    engine.known.configs = configs
    with pytest.raises(TagTakenError) as caught:
        run(job)
    assert f"r.example/team/serving:{FULL}" in caught.value.what
    assert OLD in caught.value.why
    assert IMAGE in caught.value.why
    assert all(config in caught.value.why for config in configs.values())
    assert "image: {tags:" in caught.value.remedy
    assert engine.pushed == []
    assert engine.known.held == {FULL: OLD, "latest": OLD}


@pytest.fixture
def signer(job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> FakeSigner:
    made = FakeSigner(engine.known)

    def prove(
        _job: Job, registry: object, repository: str, digest: str, signer: FakeSigner, *, image: str, model: object
    ) -> None:
        assert (image, model) == (IMAGE, None)
        signer.sign(registry, repository, digest)
        signer.proven.add(digest)

    def has_proofs(_registry: object, _repository: str, digest: str, signer: FakeSigner) -> bool:
        return digest in signer.proven

    monkeypatch.setattr("serving_factory.pipeline.proofs.prove", prove)
    monkeypatch.setattr("serving_factory.proofs.signatures.has_proofs", has_proofs)
    job.site.signer = cast("Signer", made)
    return made


def test_a_digest_is_signed_before_an_alias_has_it(job: Job, engine: FakeEngine, signer: FakeSigner) -> None:
    engine.known.held["latest"], engine.known.configs = OLD, {MANIFEST: IMAGE}
    outputs = run(job)
    assert signer.tags == ["latest", FULL]
    assert engine.pushed == [FULL]
    assert engine.known.moved == ALIASES
    assert outputs["signed"] == (MANIFEST,)
    assert outputs["digests"] == dict.fromkeys([FULL, *ALIASES], MANIFEST)
    assert run(job)["digests"] == outputs["digests"]
    assert engine.known.moved == ALIASES, "what an alias stands for already is not sent"


def test_no_alias_moves_to_what_is_not_signed(job: Job, engine: FakeEngine, signer: FakeSigner) -> None:
    engine.known.held["latest"] = OLD
    signer.refuses = SignatureError("it is not signed with this key")
    with pytest.raises(SignatureError):
        run(job)
    assert engine.known.held == {"latest": OLD, FULL: MANIFEST}


@pytest.mark.usefixtures("signer")
def test_an_alias_that_someone_else_moves_at_the_same_time_is_an_error(
    job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_factory.docker.process.Cancel.wait", lambda *_: None)
    monkeypatch.setattr(engine.known, "put_manifest", lambda *_: engine.known.held.update(latest=OLD))
    with pytest.raises(RegistryError, match="someone else pushes the same tag"):
        run(job)


def test_what_is_signed_is_signed_once(job: Job, signer: FakeSigner) -> None:
    write_record(job.folder, record("smoke"))
    pushed = Record(
        variant=job.recipe.variant.id,
        stage="push",
        key=PUSH.key(job),
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        outputs=PUSH.run(job, lambda _: None),
    )
    write_record(job.folder, pushed)
    assert PUSH.reason(job) == ""
    for lost in (signer.signed, signer.proven):
        lost.clear()
        assert PUSH.reason(job) == "the image in the registry is missing or was changed"
        lost.add(MANIFEST)
    signer.identity = "key 2"
    assert PUSH.reason(job).startswith("what decides push has changed")


def test_aliases_move(job: Job, engine: FakeEngine) -> None:
    engine.known.held["latest"] = OLD
    run(job)
    assert engine.known.held["latest"] == MANIFEST


OURS = {"org.serving-factory.variant": "2.20.0-cpu-v1"}


@pytest.mark.parametrize(
    ("labels", "moves"),
    [
        ({**OURS, RELEASE_LABEL: "2.20.0"}, False),
        ({**OURS, RELEASE_LABEL: "2.19.1"}, True),
        ({**OURS, RELEASE_LABEL: "2.9.3"}, True),
        ({**OURS, RELEASE_LABEL: "nightly"}, True),
        ({RELEASE_LABEL: "20.04"}, True),
        ({}, True),
    ],
)
def test_an_alias_without_a_release_never_moves_to_an_earlier_one(
    job: Job, engine: FakeEngine, labels: dict[str, str], *, moves: bool
) -> None:
    engine.known.held = dict.fromkeys(ALIASES, OLD)
    engine.known.labelled = {OLD: labels}
    outputs = PUSH.run(job, lambda _: None)
    assert engine.pushed == [FULL]
    assert engine.known.moved == ["2.19.1-cpu", *(["latest"] if moves else [])]
    summary = outputs.summary()
    assert summary.get("not_moved", []) == ([] if moves else ["r.example/team/serving:latest stays at 2.20.0"])
    assert f"r.example/team/serving:{FULL}@{MANIFEST}" in str(summary["pushed"])
    assert PUSH.intact(job, outputs)


def test_each_registry_gets_the_image(job: Job, engine: FakeEngine) -> None:
    job = replace(
        job, site=Site(build=job.site.build, models=job.site.models, registries=BOTH, connect=job.site._connect)
    )
    outputs = PUSH.run(job, lambda _: None)
    assert [(one.registry, one.repository) for one in outputs.places] == [
        ("r.example", "team/serving"),
        ("s.example", "serving"),
    ]
    assert engine.places == ["r.example/team/serving", "s.example/serving"]
    assert PUSH.intact(job, outputs)
    del engine.others["s.example"].held[FULL]
    assert not PUSH.intact(job, outputs)
    write_record(job.folder, record("smoke"))
    assert PUSH.inputs(job)["registries"] == ["r.example", "s.example"]


def test_faults_are_tried_again_and_refusals_are_not(
    job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_factory.docker.process.Cancel.wait", lambda *_: None)
    engine.faults = [RegistryFaultError("it coughed."), RegistryFaultError("it coughed.")]
    run(job)
    engine.known.held.clear()
    engine.faults = [RegistryDeniedError("no"), RegistryFaultError("never seen")]
    with pytest.raises(RegistryDeniedError):
        run(job)
    assert len(engine.faults) == 1
    assert engine.names == set()


def test_nothing_is_pushed_where_the_registry_refuses(job: Job, engine: FakeEngine) -> None:
    engine.known.refuses = RegistryDeniedError("no")
    with pytest.raises(RegistryDeniedError):
        run(job)
    with pytest.raises(RegistryDeniedError):
        try_pushes([job, job], lambda _: None)
    assert len(engine.known.tried) == 2, "once for both jobs"
    assert engine.pushed == []


def test_a_registry_may_show_what_was_pushed_after_a_while(
    job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    monkeypatch.setattr("serving_factory.docker.process.Cancel.wait", lambda _, seconds: paused.append(seconds))
    engine.known.lag = 3
    run(job)
    assert sum(paused) > 3


def test_the_registry_must_hold_what_was_pushed(job: Job, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving_factory.docker.process.Cancel.wait", lambda *_: None)
    engine.lies = True
    with pytest.raises(RegistryError, match="holds nothing"):
        run(job)
