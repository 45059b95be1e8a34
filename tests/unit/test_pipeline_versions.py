"""A stage that makes something else of the same inputs has another version, and its key covers the data that it reads.

What each stage makes of fixed inputs is in golden/stages.json. When that changes on purpose, raise the stage's version
and run `GOLDEN=write pytest tests/unit/test_pipeline_versions.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.catalogue import data as catalogue_data
from serving_factory.inspection import elf, instruction_set
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.job import Job, Site, Stage
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import DEVEL_STAGES, STAGES, stage
from serving_factory.pipeline.stages.compile import BINARY
from serving_factory.smoke import report
from serving_factory.smoke import run as smoke_run

from . import test_push_stage
from .fake_compile import FakeDocker
from .matrices import ROOT
from .stage_records import record
from .test_smoke import FakeEngine, Script

HOST = "r.example/team"
IMPORTED_LATE = (elf, instruction_set, report, smoke_run)
GOLDEN = Path(__file__).parent / "golden" / "stages.json"
OF_THE_RECIPE = {"base", "base_digest", "source", "copts", "configs", "arguments"}
ALL = (*STAGES, *DEVEL_STAGES)
Runner = Callable[[str, Job], Mapping[str, Any]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs a stage on fixed inputs: what it records, and in which order it pushes."""

    monkeypatch.setattr("serving_factory.smoke.checks.LEAST_UPTIME", 0.0)
    # A template's text is in the image's key, and so in its tag: it is no other way of making an image.
    for name in ("package", "devel"):
        monkeypatch.setattr(f"serving_factory.pipeline.stages.{name}._image_key", lambda _job: "0" * 64)

    def run(name: str, job: Job) -> Mapping[str, Any]:
        pushed: list[str] = []
        if name == "smoke":
            models = ROOT / "samples" / "model_server" / "models"
            site = SimpleNamespace(
                engine=FakeEngine(Script(), Script(), {"emulated": Script()}),
                emulator=SimpleNamespace(path=models, version="7.2.22", why_not=lambda _cpu: ""),
                models=models,
                owner="o",
                strays=0,
                build=job.site.build,
            )
            job = replace(job, site=cast("Site", site))
        elif stage(name).pushes:
            engine = test_push_stage.FakeEngine(test_push_stage.FakeRegistry())
            pushed = engine.pushed
            connect = partial(cast, "Engine", engine)
            job = replace(job, site=Site(build=job.site.build, models=tmp_path, registries=(HOST,), connect=connect))
        outputs = asdict(stage(name).run(job, lambda _text: None))
        kept = {key: value for key, value in outputs.items() if key not in OF_THE_RECIPE}
        if name == "smoke":
            kept["checks"] = list(outputs["checks"])
            kept["emulated"].pop("ready")
        found: dict[str, Any] = json.loads(
            json.dumps({"outputs": kept, "pushed": pushed} if pushed else {"outputs": kept})
        )
        return found

    return run


@pytest.fixture
def job(tmp_path: Path, fake_docker: FakeDocker) -> Job:
    """A variant with a whole artifact, and with the records of all stages."""
    job = fake_docker.job(tmp_path)
    stage("compile").run(job, lambda _text: None)
    fake_docker.requests.clear()
    sha256 = file_digest(job.artifact / BINARY)
    changes: dict[str, dict[str, Any]] = {
        "compile": {"binary_sha256": sha256},
        "extract": {"sha256": sha256},
        **{name: {"repository": "serving"} for name in ("package", "devel")},
    }
    for name in ALL:
        write_record(job.folder, record(name, variant=job.recipe.variant.id, **changes.get(name, {})))
    return job


@contextmanager
def names_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The catalogue's files that are read in this block, as if nothing had been read before."""
    read: set[str] = set()

    def read_yaml(name: str) -> Any:  # noqa: ANN401 - as the original
        read.add(name)
        return _parsed(name)

    modules = [module for name, module in sys.modules.items() if name.startswith("serving_factory.")]
    with monkeypatch.context() as patch:
        for module in modules:
            _forget(module)
            if module is not catalogue_data and hasattr(module, "read_yaml"):
                patch.setattr(module, "read_yaml", read_yaml)
        yield read


_parsed = cache(catalogue_data.read_yaml)


def _forget(module: ModuleType) -> None:
    for value in vars(module).values():
        if callable(getattr(value, "cache_clear", None)):
            value.cache_clear()


def run_and_look(
    one: Stage[Any], job: Job, made: Runner, monkeypatch: pytest.MonkeyPatch
) -> tuple[Mapping[str, Any], set[str]]:
    """What a stage makes; and the files that it reads whose content is in its key neither by digest nor by value."""
    with names_read(monkeypatch) as by_value:
        one.inputs(job)
        job.recipe.variant.id  # noqa: B018 - it has the level in it, and decides only where things lie
    with names_read(monkeypatch) as read:
        found = made(one.name, job)
    return found, read - by_value - set(one.data)


@pytest.mark.parametrize("name", ALL)
def test_a_stages_version_and_data_decide_what_it_makes(
    name: str, job: Job, made: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    one, known = stage(name), golden.get(name, {"version": 0})
    outputs, uncovered = run_and_look(one, job, made, monkeypatch)
    found = {"version": one.version, **outputs}
    if os.environ.get("GOLDEN") == "write" and known["version"] < one.version:
        golden[name] = found
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    assert found == known, f"{name} makes something else: raise its version (what to do: the first lines of this file)"
    assert uncovered == set(), f"{name} reads files that its key does not cover: name them in its `data`"


def test_a_file_that_no_key_covers_is_found(job: Job, made: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(stage("extract"), data=())
    assert run_and_look(bare, job, made, monkeypatch)[1] == set(stage("extract").data)


@pytest.mark.parametrize("name", ALL)
def test_another_version_and_other_data_are_another_key(name: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage(name)
    key = one.key(job)
    assert replace(one, version=one.version + 1).key(job) != key
    monkeypatch.setattr("serving_factory.pipeline.job.data_digest", lambda _name: "another")
    assert (one.key(job) != key) == bool(one.data)
