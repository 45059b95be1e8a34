"""The whole line on the sample: what it builds, and what it does not build again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .demo_story import COPTS, FLAVOUR, Demo
from .pipeline import BUILD_STAGES, LABEL, MATRIX, ROOT, V1, V3, VARIANTS, Checkout, docker

NOTHING_TO_DO = dict.fromkeys(BUILD_STAGES, "up_to_date")
PACKAGED_ANEW = NOTHING_TO_DO | {"package": "finished", "smoke": "finished"}
ANSWER = [2.5, 3.0, 4.5]
OTHERS = tuple(name for name in VARIANTS if name != V3)
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def containers_created(mark: str, since: float) -> list[str]:
    """Containers of a checkout's images that the engine has created since a time."""
    window = ("--since", f"{since:.3f}", "--until", f"{time.time():.3f}")
    kinds = ("--filter", "type=container", "--filter", "event=create", "--filter", f"label={LABEL}={mark}")
    return docker("events", *window, *kinds).splitlines()


def docker_that_tells(folder: Path) -> dict[str, str]:
    """An environment in which each use of the docker command is written to `folder/calls`."""
    real = shutil.which("docker")
    assert real
    folder.mkdir()
    script = folder / "docker"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec {real} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_a_scratch_checkout_runs_its_own_package(demo: Demo) -> None:
    show = "import serving_factory; print(serving_factory.__file__)"
    printed = subprocess.run(
        [sys.executable, "-c", show], env=demo.checkout.environment(), capture_output=True, text=True, check=True
    )
    assert Path(printed.stdout.strip()).is_relative_to(demo.checkout.folder / "src")


def test_the_demo_builds_and_proves_all_variants(demo: Demo) -> None:
    results = demo.outcome.results
    assert list(results) == list(VARIANTS)
    for variant, result in results.items():
        assert result["facts"]["rest"] == result["facts"]["grpc"] == ANSWER
        assert result["image"] == f"{demo.checkout.repository}:{variant}"
        size = docker("image", "inspect", "--format", "{{.Size}}", result["image"]).strip()
        assert size == str(result["facts"]["image_size"])
        assert demo.checkout.record(variant, "compile")["outputs"]["actions"] >= 40
    assert demo.checkout.partial_files() == []
    assert demo.checkout.containers() == []


def test_the_records_tell_what_bazel_did(demo: Demo) -> None:
    """How much of it came from caches depends on the machine; that nothing is fetched for a second level does not."""
    for variant in VARIANTS:
        told = demo.checkout.record(variant, "compile")["outputs"]
        assert told["local_actions"] + told["disk_cache_hits"] + told["runners"]["internal"] == told["actions"]
        assert told["remote_cache_hits"] == 0
        assert variant == V1 or told["bytes_fetched"] == 0
        assert told["critical_path_seconds"] < told["wall_seconds"]
        assert told["peak_memory_bytes"] > 50 * 2**20


def test_the_second_demo_does_no_work(demo: Demo, tmp_path: Path) -> None:
    before, began = demo.checkout.state(*VARIANTS), time.time()
    env = docker_that_tells(tmp_path / "bin")
    outcome = demo.checkout.run("demo", "--json", env=env).built()
    for variant in VARIANTS:
        assert outcome.stages(variant) == NOTHING_TO_DO
        assert outcome.results[variant]["status"] == "up_to_date"
        assert outcome.results[variant]["facts"]["rest"] == ANSWER
    assert not (tmp_path / "bin" / "calls").exists(), "no build, so no use of the docker command"
    assert containers_created(demo.checkout.mark, began) == []
    assert demo.checkout.state(*VARIANTS) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("dockerfiles/context/tf_serving_entrypoint.sh", "set -eu\n", "set -eu\n# a changed template\n"),
        (MATRIX, f"{LABEL}: ", f"org.example.team: vision, {LABEL}: "),
    ],
    ids=["runtime-template", "label"],
)
def test_a_change_of_the_image_compiles_nothing(checkout: Checkout, file: str, old: str, new: str) -> None:
    checkout.edit(file, old, new)
    compiled, image = checkout.record(V1, "compile"), checkout.record(V1, "package")["outputs"]["image"]
    began = time.time()
    assert checkout.build_one().built().stages(V1) == PACKAGED_ANEW
    assert checkout.record(V1, "compile") == compiled
    assert checkout.record(V1, "package")["outputs"]["image"] != image
    second = checkout.record(V1, "package")["outputs"]
    checkout.edit(file, new, old)
    third = checkout.build_one().built()
    # The second image was never pushed, and had no name but those that package gave it; the first has one of a test's.
    name = f"{second['repository']}:{second['tags'][0]}"
    assert third.err.endswith(f"Removed 1 image that newer ones replaced: {name}.\n")
    assert docker("images", "--quiet", name) == ""
    assert docker("images", "--quiet", "--no-trunc", f"{second['repository']}:kept-{image[7:19]}").strip() == image
    assert containers_created(checkout.mark, began), "the new image was run, or the second demo's test proves nothing"


def test_a_changed_flag_compiles_that_variant_only(whole_checkout: Checkout) -> None:
    """The flag is one that no compiler knows, so that the build does not take long."""
    before = whole_checkout.state(*OTHERS)
    good = COPTS.format(mark=f"FACTORY_{whole_checkout.mark}")
    with whole_checkout.edited(MATRIX, FLAVOUR + good, FLAVOUR + good.replace("[", "[-fno-such-option, ")):
        outcome = whole_checkout.build()
        assert "-fno-such-option" in outcome.error(20, "CompileError", V3)["why"]
        assert all(outcome.stages(one) == NOTHING_TO_DO for one in OTHERS)
    outcome = whole_checkout.build().built()
    assert outcome.stages(V3)["compile"] == "finished"
    assert all(outcome.stages(one) == NOTHING_TO_DO for one in OTHERS)
    assert whole_checkout.state(*OTHERS) == before


def test_a_lost_image_is_packaged_again(whole_checkout: Checkout) -> None:
    """Not the first variant's: other tests may have a server of it running."""
    docker("rmi", "--force", whole_checkout.record(V3, "package")["outputs"]["image"])
    stages = whole_checkout.build("--variant", V3).built().stages(V3)
    assert stages.pop("smoke") in {"finished", "up_to_date"}, "as the image comes out the same, or not"
    assert stages == {stage: became for stage, became in PACKAGED_ANEW.items() if stage != "smoke"}


def test_a_dry_run_needs_no_engine(demo: Demo) -> None:
    outcome = demo.checkout.build("--dry-run", env=NO_ENGINE).built()
    assert '"run": []' in outcome.out
    assert '"because": "c' not in outcome.out


def test_a_stage_alone_wants_the_stage_before_it(checkout: Checkout) -> None:
    for task in ("inspect", "package", "smoke"):
        became = checkout.run(*checkout.line(task, "--variant", V1)).built().stages(V1)
        assert became == dict.fromkeys(("libraries", task) if task == "inspect" else (task,), "up_to_date")
    error = checkout.run(*checkout.line("smoke", "--variant", V3)).error(6, "NotBuiltError", V3)
    assert "./factory build" in error["remedy"]


def test_without_an_engine_the_line_says_so(checkout: Checkout) -> None:
    error = checkout.build_one(env=NO_ENGINE).error(11, "EngineUnavailableError")
    assert "Docker" in error["what"]
    assert checkout.build_one().built().stages(V1) == NOTHING_TO_DO


def test_generated_files_are_what_the_data_gives(tmp_path: Path) -> None:
    checkout = Checkout.make(tmp_path / "factory")
    shutil.copytree(ROOT / "dockerfiles", checkout.folder / "dockerfiles", dirs_exist_ok=True)
    shutil.copy2(ROOT / MATRIX, checkout.folder / MATRIX)  # the names in it are in the headers
    for matrix in ("matrix.yaml", MATRIX):
        checkout.run("generate", "--check", "--matrix", matrix).built()
    by_hand = "samples/dockerfiles/2.19.1/cpu.runtime.Dockerfile"
    checkout.edit(by_hand, "USER 65532:65532", "USER root")
    message = checkout.run("generate", "--check", "--matrix", MATRIX).told(5)
    assert "dockerfiles/2.19.1/cpu.runtime.Dockerfile: differs" in message
    checkout.run("generate", "--matrix", MATRIX).built()
    checkout.run("generate", "--check", "--matrix", MATRIX).built()
    assert "USER 65532:65532" in (checkout.folder / by_hand).read_text()
