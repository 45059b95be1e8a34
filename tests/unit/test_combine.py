"""`combine`: what an image with all levels holds, what it is made of, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from serving_factory.catalogue.levels import Level
from serving_factory.commands import build as building
from serving_factory.commands import combine as combining
from serving_factory.commands.build import Run
from serving_factory.docker.engine import Engine
from serving_factory.pipeline.build_lock import hold_matrix_lock
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.proofs import higher_binary
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages.package import PACKAGE, built_binary, image_tags
from serving_factory.proofs.provenance import provenance
from serving_factory.proofs.sbom import sbom
from serving_factory.recipes.labels import image_env, image_json, image_labels
from serving_factory.recipes.recipe import combined_recipe, recipe_for

from .matrices import load, write
from .published_image import described
from .stage_records import record
from .test_tasks import Ended, Factory, factory, module  # noqa: F401 - fixtures

MATRIX = """\
image: {repository: team/serving, combined: ["{release}{flavour-suffix}-all"]}
releases: ["2.19.1"]
targets:
  old: {flavour: cpu, levels: [x86-64]}
  new: {flavour: cpu, levels: [x86-64-v3]}
  newest: {flavour: cpu, levels: [x86-64-v4]}
  mkl: {flavour: mkl, levels: [x86-64-v3]}
"""
FLAGS = {"x86-64": (), "x86-64-v3": ("avx2",), "x86-64-v4": ("avx2", "avx512f")}


def written(job: Job, *, rootfs: str = "f" * 64) -> Job:
    """A job with the records of a build."""
    variant = job.recipe.variant
    digest = variant.level.value[-1] * 64
    for stage, changes in (
        ("compile", {}),
        ("extract", {"sha256": digest}),
        ("libraries", {"rootfs": rootfs}),
        ("inspect", {"cpu_flags": FLAGS[variant.level.value]}),
        ("package", {"size": 100 * 2**20}),
    ):
        write_record(job.folder, record(stage, variant=variant.id, **changes))
    return job


def combined(folder: Path) -> Job:
    """The job of an image with three levels, whose parts are built."""
    matrix = load(folder, MATRIX)
    site = Site(build=folder, models=folder, connect=lambda: cast("Engine", None))
    lowest, *higher = (written(Job(recipe=recipe_for(one, matrix), site=site)) for one in matrix.variants[:3])
    job = combining._combined([lowest, *higher], ("2.19.1-all",))
    combining._give_records(job, lowest)
    return job


def test_the_image_says_what_its_launcher_chooses_among(tmp_path: Path) -> None:
    job = combined(tmp_path)
    recipe, binary = job.recipe, built_binary(job)
    assert recipe.variant.id == "2.19.1-cpu-all"
    lines = image_env(recipe, binary).splitlines()
    assert [line for line in lines if "LEVEL" in line or "CPU_FLAGS" in line] == [
        'LEVEL="x86-64"',
        'CPU_FLAGS=""',
        'LEVEL_1="x86-64-v4"',
        'CPU_FLAGS_1="avx2 avx512f"',
        'LEVEL_2="x86-64-v3"',
        'CPU_FLAGS_2="avx2"',
    ]
    document = json.loads(image_json(recipe, binary))
    assert [(one["level"], one["sha256"]) for one in document["higher"]] == [
        ("x86-64-v3", "3" * 64),
        ("x86-64-v4", "4" * 64),
    ]
    labels = image_labels(recipe, binary)
    assert labels["org.serving-factory.higher-levels"] == "x86-64-v3 x86-64-v4"
    assert labels["org.opencontainers.image.title"] == "TensorFlow Serving 2.19.1, cpu, all levels"


def test_provenance_speaks_of_each_binary(tmp_path: Path) -> None:
    made = [higher_binary(one) for one in combined(tmp_path).higher]
    assert [(one.level, one.binary_sha256) for one in made] == [("x86-64-v3", "3" * 64), ("x86-64-v4", "4" * 64)]
    assert all(one.compile_key == "k" for one in made)
    about = described(higher=tuple(made))
    servers = [one for one in json.loads(sbom(about))["components"] if one["name"] == "tensorflow_model_server"]
    assert {one["hashes"][0]["content"] for one in servers} == {about.binary_sha256, "3" * 64, "4" * 64}
    external = json.loads(provenance(about))["predicate"]["buildDefinition"]["externalParameters"]
    assert [one["level"] for one in external["higher"]] == ["x86-64-v3", "x86-64-v4"]


def test_each_binary_is_copied_and_the_libraries_once(tmp_path: Path) -> None:
    matrix = load(tmp_path, MATRIX)
    plain = recipe_for(matrix.variants[0], matrix)
    made = combined_recipe(plain, (Level.V3, Level.V4), ("all",)).runtime
    added = [line for line in made.splitlines() if line not in plain.runtime.splitlines()]
    copy = "COPY --link --chmod=0755 --from={0} tensorflow_model_server /usr/lib/serving-factory/{0}/"
    assert added == [copy.format("x86-64-v3"), copy.format("x86-64-v4")]


def test_the_key_covers_every_binary(tmp_path: Path) -> None:
    job = combined(tmp_path)
    (full,), aliases = image_tags(job)
    assert (full.startswith("2.19.1-cpu-all-"), aliases) == (True, ("2.19.1-all",))
    key = PACKAGE.key(job)
    part = job.higher[-1]
    write_record(part.folder, record("extract", variant=part.recipe.variant.id, sha256="9" * 64))
    assert PACKAGE.key(job) != key
    ((other,), _) = image_tags(job)
    assert [a == b for a, b in zip(full.rsplit("-", 2), other.rsplit("-", 2), strict=True)] == [True, False, False]


def test_it_has_the_records_and_files_of_its_lowest_level(tmp_path: Path) -> None:
    """Twice: the second time they are there already."""
    combined(tmp_path)
    for name in ("artifact", "libraries"):
        (tmp_path / "2.19.1-cpu-v1" / name).mkdir()
    for _ in range(2):
        job = combined(tmp_path)
        assert (job.folder / "artifact").samefile(tmp_path / "2.19.1-cpu-v1" / "artifact")
        for needed in PACKAGE.needs:
            assert job.record(needed).variant == "2.19.1-cpu-v1"


@pytest.fixture
def combine(
    factory: Factory,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Ended]:
    """Run `combine` with levels that are built, but for those in `reasons`."""

    def site_of(_asked: object, registries: Sequence[str], _signer: object) -> Site:
        return Site(build=tmp_path / "build", models=tmp_path, registries=registries)

    def carry_out(run: Run) -> None:
        run.prepare()
        assert [one.name for one in run.stages] == ["package", "smoke", *(["push"] if run.options.registry else [])]
        for job in run.jobs:
            made = record("package", size=120 * 2**20, tags=("full",), aliases=job.recipe.aliases)
            write_record(job.folder, made)

    monkeypatch.setattr(combining, "site_of", site_of)
    monkeypatch.setattr(combining, "carry_out", carry_out)

    def run(*words: str, reasons: dict[str, str] | None = None, libraries: str = "f" * 64) -> Ended:
        def why_not_ready(job: Job, _stage: Any) -> str:  # noqa: ANN401
            written(job, rootfs=libraries if job.recipe.variant.level is Level.V4 else "f" * 64)
            return (reasons or {}).get(job.recipe.variant.id, "")

        monkeypatch.setattr(combining, "why_not_ready", why_not_ready)
        return factory("combine", "--matrix", str(write(tmp_path, MATRIX)), *words)

    return run


def test_sizes_are_compared_with_those_of_images_with_one_level(combine: Callable[..., Ended]) -> None:
    ended = combine("--target", "old", "--registry", "r.example", "--json")
    assert (ended.code, ended.err) == (0, "")
    line = json.loads(ended.out)
    (image,) = line["images"]
    assert (line["event"], image["variant"], image["names"]) == (
        "combined",
        "2.19.1-cpu-all",
        ["r:full", "r:2.19.1-all"],
    )
    assert image["size"] == 120 * 2**20
    assert [(one["level"], one["image_size"]) for one in image["levels"]] == [
        (level, 100 * 2**20) for level in ("x86-64", "x86-64-v3", "x86-64-v4")
    ]
    assert "x86-64-v3" in combine("--target", "old").out


def test_a_level_that_is_not_built_is_refused(combine: Callable[..., Ended]) -> None:
    ended = combine("--target", "old", reasons={"2.19.1-cpu-v3": "smoke has not run"})
    assert ended.code == 6
    assert ended.err.startswith("Error: not all levels are built: 2.19.1-cpu-v3\n  2.19.1-cpu-v3: smoke has not run\n")
    assert re.search(r"\./factory build --matrix \S+/matrix.yaml --variant 2.19.1-cpu-v3$", ended.err.rstrip())


def test_levels_with_different_libraries_are_refused(combine: Callable[..., Ended]) -> None:
    ended = combine("--target", "old", libraries="0" * 64)
    assert ended.code == 24
    assert "the levels have different libraries" in ended.err


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(combine: Callable[..., Ended], tmp_path: Path) -> None:
    ended = combine("--target", "old", "--registry", "r.example", "--dry-run", "--json")
    assert (ended.code, ended.err) == (0, "")
    (image,) = json.loads(ended.out)["images"]
    assert image["run"] == ["package", "smoke", "push"]
    full, alias = image["names"]
    assert full.startswith("r.example/team/serving:2.19.1-cpu-all-")
    assert alias == "r.example/team/serving:2.19.1-all"
    assert image["size"] == 100 * 2**20 + 2 * image["levels"][0]["binary_size"]
    assert [one["level"] for one in image["levels"]] == ["x86-64", "x86-64-v3", "x86-64-v4"]
    assert not (tmp_path / "build" / "2.19.1-cpu-all").exists()

    text = combine("--target", "old", "--dry-run").out
    assert f"\nNames:\n  {full.removeprefix('r.example/')}\n" in text
    assert text.endswith("\nNothing was built or pushed.\n")
    combine("--target", "old")
    record_of_it = tmp_path / "build" / "2.19.1-cpu-all" / "package.json"
    before = record_of_it.read_bytes()
    assert json.loads(combine("--target", "old", "--dry-run", "--json").out)["images"][0]["run"] == ["package", "smoke"]
    assert record_of_it.read_bytes() == before
    refused = combine("--target", "old", "--dry-run", reasons={"2.19.1-cpu-v3": "smoke has not run"})
    assert (refused.code, "not all levels are built" in refused.err) == (6, True)


def test_another_factory_that_works_here_is_not_disturbed(
    combine: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(combining, "carry_out", building.carry_out)
    with hold_matrix_lock(tmp_path / "build"):
        ended = combine("--target", "old")
    assert "another factory works with this matrix file" in ended.err
    assert not (tmp_path / "build" / "2.19.1-cpu-all").exists()


def test_one_level_is_not_combined(combine: Callable[..., Ended]) -> None:
    ended = combine("--target", "mkl")
    assert (ended.code, "none of the chosen variants belongs to an image with several levels" in ended.err) == (2, True)
