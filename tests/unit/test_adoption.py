"""Records of an earlier factory, as it left them: what was compiled is not compiled again, or a line says why it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from serving_factory.pipeline.adoption import adopt_old_records
from serving_factory.pipeline.digests import file_digest
from serving_factory.pipeline.events import EventKind
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import record_path
from serving_factory.pipeline.runner import plan_stages
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import stage
from serving_factory.pipeline.stages.compile import BINARY, COMPILE
from serving_factory.pipeline.stages.extract import EXTRACT
from serving_factory.recipes.pins import Base
from serving_factory.recipes.recipe import key_of

from .fake_compile import FakeDocker

OLD = Path(__file__).parent / "recorded" / "old_records"


def write_old(job: Job, name: str, **changes: Any) -> str:  # noqa: ANN401 - any field of the outputs
    """Write a record as an earlier factory did; its key."""
    document = json.loads((OLD / record_path(Path(), name).name).read_text(encoding="utf-8"))
    document["variant"] = job.recipe.variant.id
    document["started"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()  # nothing was changed after that
    document["key"] = changes.pop("key", document["key"])
    document["outputs"] |= changes
    record_path(job.folder, name).write_text(json.dumps(document), encoding="utf-8")
    return str(document["key"])


@pytest.fixture
def job(tmp_path: Path, fake_docker: FakeDocker) -> Job:
    """A variant that an earlier factory compiled and extracted."""
    job = fake_docker.job(tmp_path)
    COMPILE.run(job, lambda _text: None)
    fake_docker.requests.clear()
    recipe, sha256 = job.recipe, file_digest(job.artifact / BINARY)
    fake_docker.facts["bazel"] = f"bazel {recipe.toolchain.bazel.version}"
    (job.artifact / "facts" / "bazel").write_text(fake_docker.facts["bazel"], encoding="utf-8")
    base_id = job.site.base_id(recipe.base)
    write_old(job, "compile", binary_sha256=sha256, base=recipe.base.image, base_digest=base_id, source=recipe.source)
    options = {"copts": list(recipe.variant.all_copts), "configs": list(recipe.toolchain.configs)}
    write_old(job, "extract", sha256=sha256, **options)
    os.link(job.artifact / BINARY, job.folder / BINARY)
    return job


def happened(job: Job) -> list[str]:
    events: list[str] = []
    names = [stage(name) for name in ("compile", "extract", "libraries", "inspect")]
    PipelineRun(
        [job],
        names,
        lambda event: None if event.kind is EventKind.PROGRESS else events.append(f"{event.stage} {event.kind}"),
    ).run()
    return events


def test_what_an_earlier_factory_compiled_is_kept(job: Job, fake_docker: FakeDocker) -> None:
    (line,) = adopt_old_records([job])
    assert job.recipe.variant.id in line
    assert "kept" in line
    compiled = job.record(COMPILE)
    assert (compiled.outputs.actions, compiled.seconds) == (65, 41.34), "what Bazel did is still known"
    assert happened(job)[:2] == [f"compile {EventKind.UP_TO_DATE}", f"extract {EventKind.STARTED}"]
    assert fake_docker.requests == []
    assert adopt_old_records([job]) == []


def test_sources_that_changed_since_are_compiled_again_as_ever(job: Job) -> None:
    adopt_old_records([job])
    changed = replace(job, recipe=replace(job.recipe, source="https://example.com/serving.git#" + "1" * 40))
    (planned,) = plan_stages([changed], [COMPILE, EXTRACT])
    assert planned.because == "what decides compile has changed"


def test_the_files_that_were_built_with_prove_options_that_no_record_holds(job: Job) -> None:
    """As a machine without secrets leaves them: the Dockerfile has its resources, and fewer mounts."""
    job = options_of_bazel(job)
    dockerfile = (
        "RUN {}{}--mount=type=tmpfs,target=/run/doors \\\n    {}--mount=type=bind,from=distdir,target=/d \\\n    x\n"
        'ARG BAZEL_RESOURCES="{}"\n'
    )
    secrets = [f"--mount=type=secret,id={name} " for name in ("network", "ca", "bazelrc")]
    files = {name: f"text of {name}" for name in ("apply_patches.sh", "bazel.sh", "doors.sh", "init.c")}
    files |= {fix.script: "a fix" for fix in job.recipe.toolchain.fixes}
    arguments = [("COPTS", dict(job.recipe.build_args)["COPTS"]), ("BAZEL_OPTIONS", "--x")]
    job = replace(job, recipe=replace(job.recipe, build_args=tuple(arguments)))
    compile_key = key_of(
        devel=dockerfile.format(*secrets, ""),
        files=list(files.items()),
        arguments=arguments,
        base=job.recipe.base.image,
        source=job.recipe.source,
        platform=job.recipe.variant.platform,
    )
    nothing: dict[str, object] = {"cpu": None, "bazel": None, "overrides": {}, "patches": []}
    base_id, source = job.site.base_id(job.recipe.base), job.recipe.source
    binary, base = file_digest(job.artifact / BINARY), job.recipe.base.image
    key = key_of(recipe=compile_key, base=base_id, source=source, **nothing)
    write_old(job, "compile", key=key, binary_sha256=binary, base=base, base_digest=base_id, source=source)
    folder = job.folder / "recipe" / "devel"
    folder.mkdir(parents=True)
    for name, text in {"Dockerfile": dockerfile.format("", "", "", "--jobs=2"), **files}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bazel.sh").write_text("another", encoding="utf-8")
    assert "compiled again" in adopt_old_records([job])[0]
    (folder / "bazel.sh").write_text(files["bazel.sh"], encoding="utf-8")
    assert "kept" in adopt_old_records([job])[0]


def without_extract(job: Job) -> Job:
    record_path(job.folder, "extract").unlink()
    return job


def other_binary(job: Job) -> Job:
    (job.artifact / BINARY).unlink()
    (job.artifact / BINARY).write_bytes(b"another")
    return job


def other_options(job: Job) -> Job:
    write_old(job, "extract", sha256=file_digest(job.artifact / BINARY), copts=["-mavx"])
    return job


def no_facts(job: Job) -> Job:
    (job.artifact / "facts" / "ldd").unlink()
    return job


def other_bazel(job: Job) -> Job:
    bazel = replace(job.recipe.toolchain.bazel, version="9.9.9")
    return replace(job, recipe=replace(job.recipe, toolchain=replace(job.recipe.toolchain, bazel=bazel)))


def other_base(job: Job) -> Job:
    return replace(job, recipe=replace(job.recipe, base=Base("debian:bookworm", "mine:1")))


def options_of_bazel(job: Job) -> Job:
    inputs = replace(job.recipe.inputs, key_args=(("BAZEL_OPTIONS", "--x"),))
    return replace(job, recipe=replace(job.recipe, inputs=inputs))


def with_override(job: Job) -> Job:
    folder = job.site.build / "zlib"
    folder.mkdir()
    (folder / "BUILD").write_text("", encoding="utf-8")
    inputs = replace(job.recipe.inputs, overrides=(("zlib", folder),))
    return replace(job, recipe=replace(job.recipe, inputs=inputs))


def capabilities(job: Job) -> Job:
    changed = replace(
        job, recipe=replace(job.recipe, variant=replace(job.recipe.variant, cuda="12.2", capabilities=("9.0",)))
    )
    if changed.folder != job.folder:
        job.folder.rename(changed.folder)
    return changed


def garbage(job: Job) -> Job:
    write_old(job, "compile", binary_sha256=file_digest(job.artifact / BINARY), base=job.recipe.base.image, source=7)
    return job


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_extract, "which options"),
        (other_binary, "not the recorded ones"),
        (other_options, "other options"),
        (no_facts, "facts/ldd"),
        (other_bazel, "another Bazel"),
        (other_base, "another base image"),
        (options_of_bazel, "options of Bazel"),
        (with_override, "overrides"),
        (capabilities, "compute capabilities"),
        (garbage, "not whole"),
    ],
)
def test_what_cannot_be_known_is_compiled_again_and_a_line_says_why(
    job: Job, change: Callable[[Job], Job], why: str
) -> None:
    changed = change(job)
    (line,) = adopt_old_records([changed])
    assert "compiled again" in line
    assert why in line
    assert COMPILE.read(changed.folder) is None


def test_the_same_overrides_are_known_by_their_files(job: Job) -> None:
    changed = with_override(job)
    staged = job.folder / "recipe" / "doors" / "overrides" / "zlib"
    staged.mkdir(parents=True)
    os.link(job.site.build / "zlib" / "BUILD", staged / "BUILD")
    (line,) = adopt_old_records([changed])
    assert "kept" in line


def test_an_override_that_was_changed_in_place_is_seen(job: Job) -> None:
    changed = with_override(job)
    staged = job.folder / "recipe" / "doors" / "overrides" / "zlib"
    staged.mkdir(parents=True)
    os.link(job.site.build / "zlib" / "BUILD", staged / "BUILD")
    future = time.time() + 7200
    os.utime(staged / "BUILD", (future, future))
    (line,) = adopt_old_records([changed])
    assert "overrides" in line


def test_many_are_one_line(job: Job) -> None:
    assert len(adopt_old_records([job, job])) == 1
