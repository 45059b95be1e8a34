"""`publish`: which indexes a run is about, what of them is missing, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.commands import publish as publishing
from serving_factory.commands.publish import State
from serving_factory.docker.engine import Engine
from serving_factory.docker.registry import ImageName
from serving_factory.pipeline.job import Job, Site

from .matrices import write
from .test_publish import FakeRegistry
from .test_tasks import Ended, Factory, factory, module  # noqa: F401 - fixtures

MATRIX = """\
image: {repository: team/serving}
releases: ["2.18.1", "2.19.1"]
targets:
  old: {flavour: cpu, levels: [x86-64]}
  new: {flavour: cpu, levels: [x86-64-v3]}
  own: {flavour: cpu, levels: [native]}
  fast: {flavour: mkl, levels: [x86-64-v3], releases: ["2.19.1"]}
"""
PLACE = ImageName("r.example", "team/serving")
V1, V3, MKL = "2.19.1-cpu-v1", "2.19.1-cpu-v3", "2.19.1-mkl-v3"
NAME = "r.example/team/serving:2.19.1"


class Registry(FakeRegistry):
    """A registry, and where this factory's images are: `pushed`, `to_push`, or not in `states`."""

    states: dict[str, State]

    def where(self, job: Job, chosen: frozenset[str]) -> publishing._Where:
        id_ = job.recipe.variant.id
        state = self.states.get(id_, State.MISSING)
        if state is State.MISSING or (state is State.TO_PUSH and id_ not in chosen):
            return publishing._Where(State.MISSING, "compile has not run")
        digests = {PLACE: self.image(id_)} if state is State.PUSHED else {}
        return publishing._Where(state, digests=digests)

    def push(self, name: str, options: Any) -> None:  # noqa: ANN401
        assert name == "push"
        assert not options.asked.target
        for id_ in options.asked.variant:
            assert self.states[id_] is State.TO_PUSH
            self.states[id_] = State.PUSHED
            self.asked.append(("push", id_))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    made = Registry()
    made.states = {V1: State.PUSHED, V3: State.TO_PUSH}
    engine = cast("Engine", SimpleNamespace(registry=lambda *_, **__: made))
    site = Site(build=tmp_path / "build", models=tmp_path, connect=lambda: engine)
    monkeypatch.setattr(publishing, "site_of", lambda *_: site)
    monkeypatch.setattr(publishing, "_where", made.where)
    monkeypatch.setattr(publishing, "run_stage", made.push)
    monkeypatch.setattr("serving_factory.pipeline.publish.SETTLE", 0.0)
    return made


@pytest.fixture
def publish(factory: Factory, registry: Registry, tmp_path: Path) -> Callable[..., Ended]:  # noqa: F811 - the fixture
    del registry
    file = write(tmp_path, MATRIX)

    def run(*words: str, text: str = MATRIX) -> Ended:
        file.write_text(text)
        return factory("publish", "--matrix", str(file), "--registry", "r.example", *words)

    return run


def test_what_is_not_pushed_is_pushed_and_then_published(publish: Callable[..., Ended], registry: Registry) -> None:
    ended = publish("--variant", V1, "--variant", V3, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert registry.asked[:3] == [("GET", "2.19.1"), ("push", V3), ("GET", "2.19.1")]
    line = json.loads(ended.out)
    (row,) = line["indexes"]
    assert (line["event"], line["schema_version"], row["name"], row["status"]) == ("indexes", 1, NAME, "published")
    assert row["digest"] == registry.tags["2.19.1"]
    assert [(one["platform"], one["variant"], one["state"]) for one in row["images"]] == [
        ("linux/amd64", V1, "pushed"),
        ("linux/amd64/v3", V3, "pushed"),
    ]
    assert {one["platform"]: one["digest"] for one in row["entries"]} == registry.entries()
    registry.asked.clear()
    ended = publish("--variant", V1)
    assert ended.out.endswith(f"{NAME}  up to date: {row['digest']}\n")
    assert registry.puts() == []


def test_a_chosen_variant_means_its_index_with_all_levels(publish: Callable[..., Ended], registry: Registry) -> None:
    ended = publish("--variant", V1)
    assert ended.code == 48
    assert ended.err.startswith(f"Error: images are missing of {NAME}\n  linux/amd64/v3: {V3}: compile has not run\n")
    assert "--partial" in ended.err
    assert registry.puts() == []


def test_a_partial_index_says_what_it_lacks(publish: Callable[..., Ended], registry: Registry) -> None:
    ended = publish("--variant", V1, "--partial")
    assert ended.code == 0
    assert f"Note: missing in {NAME}: linux/amd64/v3: {V3}: compile has not run" in ended.err
    assert list(registry.entries()) == ["linux/amd64"]
    registry.states = {V3: State.PUSHED}
    registry.tags.clear()
    ended = publish("--variant", V3, "--partial")
    assert f"{NAME} has no entry without a variant" in ended.err
    assert list(registry.entries()) == ["linux/amd64/v3"]


def test_an_index_without_any_image_is_not_published(publish: Callable[..., Ended], registry: Registry) -> None:
    ended = publish("--release", "2.19.1", "--partial")
    assert ended.code == 0
    assert list(registry.tags) == ["2.19.1"]
    assert f"missing in {NAME}-mkl: linux/amd64: {MKL}" in ended.err
    registry.states = {}
    registry.tags.clear()
    ended = publish("--release", "2.18.1", "--partial")
    assert (ended.code, "--partial" in ended.err) == (48, False), "there are no others"


def test_what_another_publisher_put_there_is_not_missing(publish: Callable[..., Ended], registry: Registry) -> None:
    registry.states = {V3: State.PUSHED}
    assert publish("--variant", V3, "--partial").code == 0
    registry.states = {V1: State.PUSHED}
    ended = publish("--variant", V1, "--json")
    assert (ended.code, ended.err) == (0, "")
    images = json.loads(ended.out)["indexes"][0]["images"]
    assert [one["state"] for one in images] == ["pushed", "in_index"]
    assert list(registry.entries()) == ["linux/amd64", "linux/amd64/v3"]


def test_a_dry_run_asks_and_sends_nothing(publish: Callable[..., Ended], registry: Registry) -> None:
    ended = publish("--release", "2.19.1", "--dry-run", "--json")
    assert ended.code == 0
    rows = json.loads(ended.out)["indexes"]
    assert [(row["name"], row["status"]) for row in rows] == [(NAME, "complete"), (f"{NAME}-mkl", "incomplete")]
    assert {method for method, _ in registry.asked} == {"GET"}
    assert "to push" in publish("--release", "2.19.1", "--dry-run").out


def test_without_a_registry_or_an_index_nothing_is_asked(
    publish: Callable[..., Ended],
    factory: Factory,  # noqa: F811 - the fixture
    registry: Registry,
    tmp_path: Path,
) -> None:
    ended = factory("publish", "--matrix", str(write(tmp_path, MATRIX)))
    assert (ended.code, "give --registry" in ended.err) == (2, True)
    ended = publish("--target", "own")
    assert (ended.code, "no index has any of the chosen variants" in ended.err) == (2, True)
    assert registry.asked == []


def test_a_tag_that_an_alias_has_too_is_an_error_of_the_plan(publish: Callable[..., Ended], registry: Registry) -> None:
    """By default only where something is published: the file of one who does not is left alone."""
    clash = MATRIX.replace("fast:", "mkl:")
    ended = publish("--dry-run", text=clash)
    assert ended.code == 3
    assert "2.19.1-mkl-v3 and the index of 2.19.1-mkl would both be tagged 2.19.1-mkl" in ended.err
    assert "Add indexes: with another one." in ended.err
    assert "by default indexes has '{release}{flavour-suffix}{gpu-suffix}'" in ended.err
    assert registry.asked == []


def test_each_registry_has_an_index(publish: Callable[..., Ended], registry: Registry) -> None:
    registry.states = {V1: State.PUSHED, V3: State.PUSHED}
    second = publish("--variant", V1, "--registry", "s.example", "--json", "--dry-run")
    names = [row["name"] for row in json.loads(second.out)["indexes"]]
    assert names == [NAME, "s.example/team/serving:2.19.1"]
