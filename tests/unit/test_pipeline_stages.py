"""The stages as a list: what a new one takes, what a run without Docker does, and what heals."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from invoke.exceptions import Exit

from serving_factory.commands.build import build
from serving_factory.commands.shared import Asked, Checkout, RunOptions
from serving_factory.docker import process
from serving_factory.errors import ArtifactError
from serving_factory.pipeline import stages
from serving_factory.pipeline.events import Event, EventKind, Status, VariantResult
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import last_stage
from serving_factory.pipeline.runner import plan_stages
from serving_factory.pipeline.scheduler import PipelineRun
from serving_factory.pipeline.stages import stage
from serving_factory.pipeline.stages.compile import BINARY

from .fake_compile import FakeDocker
from .matrices import ROOT, SAMPLE
from .stage_records import OBSTACLES

UP_TO_DATE = EventKind.UP_TO_DATE.value
FIRST = ("compile", "extract", "libraries", "inspect", "package")
NEW = """
from collections.abc import Mapping
from dataclasses import dataclass

from serving_factory.pipeline.job import Job, Progress, Stage
from serving_factory.pipeline.records import Outputs
from serving_factory.pipeline.stages.extract import EXTRACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Outputs):
    functions: int

    def summary(self) -> Mapping[str, object]:
        return {"functions": self.functions}


def _inputs(job: Job) -> Mapping[str, object]:
    return {"binary": job.record(EXTRACT).outputs.sha256}


def _run(job: Job, progress: Progress) -> Counted:
    progress("counting")
    return Counted(functions=job.record(EXTRACT).outputs.instructions.functions)


COUNT = Stage(name="count", version=1, outputs=Counted, inputs=_inputs, run=_run, needs=(EXTRACT,))
"""


def run(job: Job, *names: str) -> tuple[VariantResult, list[str]]:
    """Run stages; the result, and what happened."""
    events: list[Event] = []
    (result,) = PipelineRun([job], [stage(name) for name in names], events.append).run().results
    return result, [_said(event) for event in events if event.kind is not EventKind.PROGRESS]


def _said(event: Event) -> str:
    why = f": {event.text}" if event.kind is EventKind.STARTED and event.text else ""
    return f"{event.stage} {event.kind.value}{why}"


def test_a_stage_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_docker: FakeDocker
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "count.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path / "more")])
    monkeypatch.setattr(stages, "STAGES", ("compile", "extract", "count", "inspect", "package", "smoke", "push"))
    job = fake_docker.job(tmp_path)
    whole = stages.stages_for(registry=False)
    assert [one.name for one in whole] == ["compile", "extract", "count", "inspect", "package", "smoke"]
    result, happened = run(job, "compile", "extract", "count")
    assert result.status is Status.BUILT, result.error
    assert happened[-2:] == ["count started", "count finished"]
    assert result.facts["functions"] == 2
    assert last_stage(job.folder, stages.STAGES) == "count"
    assert run(job, "compile", "extract", "count")[1] == [
        f"compile {UP_TO_DATE}",
        f"extract {UP_TO_DATE}",
        f"count {UP_TO_DATE}",
    ]
    (planned,) = plan_stages([job], whole)
    assert planned.run == ("inspect", "package", "smoke")
    (job.folder / "compile.json").unlink()
    assert "the last compile left no record" in str(run(job, "count")[0].error)


def test_a_second_run_does_nothing(tmp_path: Path, fake_docker: FakeDocker) -> None:
    result, _ = run(fake_docker.job(tmp_path), *FIRST)
    assert result.status is Status.BUILT, result.error
    again, happened = run(fake_docker.job(tmp_path), *FIRST)
    assert again.status is Status.UP_TO_DATE
    assert happened == [f"{name} {UP_TO_DATE}" for name in FIRST]
    assert [request.target for request in fake_docker.requests] == ["artifact", "launcher", None]


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("spoil", [remove, change])
@pytest.mark.parametrize(
    "file",
    ["artifact/rootfs/usr/lib/libm.so.6", f"artifact/{BINARY}", "artifact/facts/ldd", f"artifact/{BINARY}.debug"],
)
def test_an_artifact_that_lost_a_file_or_was_changed_is_taken_home_again(
    tmp_path: Path, fake_docker: FakeDocker, file: str, spoil: Callable[[Path], None]
) -> None:
    run(fake_docker.job(tmp_path), *FIRST)
    spoil(fake_docker.job(tmp_path).folder / file)
    result, happened = run(fake_docker.job(tmp_path), *FIRST)
    assert result.status is Status.BUILT, result.error
    assert happened[:2] == ["compile started: the artifact is missing or was changed", "compile finished"]
    assert [one for one in happened if one.startswith(("inspect", "package"))] == [
        f"inspect {UP_TO_DATE}",
        f"package {UP_TO_DATE}",
    ]
    assert run(fake_docker.job(tmp_path), *FIRST)[0].status is Status.UP_TO_DATE


def test_a_binary_that_a_user_replaced_is_put_back(tmp_path: Path, fake_docker: FakeDocker) -> None:
    run(fake_docker.job(tmp_path), *FIRST)
    place = fake_docker.job(tmp_path).folder / BINARY
    size = place.stat().st_size
    place.unlink()
    place.write_bytes(b"x" * size)
    _, happened = run(fake_docker.job(tmp_path), *FIRST)
    assert "extract started: the binary is missing or was changed" in happened
    assert "extract finished" in happened
    assert place.samefile(fake_docker.job(tmp_path).artifact / BINARY)


def lose(folder: Path) -> None:
    (folder / "compile.json").unlink()


def spoil_record(folder: Path) -> None:
    (folder / "compile.json").write_text("{", encoding="utf-8")


def forget_inputs(folder: Path) -> None:
    """As an earlier factory wrote it."""
    path = folder / "compile.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "inputs": {}, "key": "k"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "changes", "reason"),
    [
        (lose, {}, "the last compile left no record"),
        (spoil_record, {}, "the record of compile cannot be read"),
        (forget_inputs, {}, "what decides compile has changed"),
        (None, {"arguments": (("COPTS", "--copt=-O1"),)}, "what decides compile has changed: flags"),
        (None, {"arguments": (("COPTS", "--copt=-mavx2 --copt=-mfma"), ("APT_SNAPSHOT", "x"))}, "APT_SNAPSHOT"),
        (None, {"base": "debian:1", "platform": "p"}, "what decides compile has changed: base image, platform"),
        (None, {"source": "elsewhere"}, "what decides compile has changed: sources"),
        (None, {"devel": {"instructions": [], "files": {"a.sh": ""}}}, ": Dockerfile, "),
    ],
)
def test_what_is_compiled_again_says_why(
    tmp_path: Path,
    fake_docker: FakeDocker,
    change: Callable[[Path], None] | None,
    changes: Mapping[str, object],
    reason: str,
) -> None:
    job = fake_docker.job(tmp_path)
    assert run(job, *FIRST)[1][0] == "compile started", "there is nothing to say of the first time"
    if change:
        change(job.folder)
    recipe = replace(job.recipe, decisive={**job.recipe.decisive, **changes})
    (planned,) = plan_stages([replace(job, recipe=recipe)], [stage(name) for name in FIRST])
    assert reason in planned.because
    _, happened = run(replace(job, recipe=recipe), *FIRST)
    assert happened[0] == f"compile started: {planned.because}"
    assert f"extract {UP_TO_DATE}" in happened, "the same binary was made"


def test_each_stage_that_works_again_says_why(
    tmp_path: Path, fake_docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = fake_docker.job(tmp_path)
    run(job, *FIRST)
    fake_docker.engine.names.clear()
    assert run(fake_docker.job(tmp_path), *FIRST)[1][-2:] == [
        "package started: the image is missing or was changed",
        "package finished",
    ]
    monkeypatch.setattr("serving_factory.pipeline.job.data_digest", lambda name: f"another {name}")
    _, happened = run(fake_docker.job(tmp_path), *FIRST)
    changed = f"what decides extract has changed: {', '.join(stage('extract').data)}"
    assert f"extract started: {changed}" in happened
    again = replace(stage("extract"), version=99)
    assert again.reason(fake_docker.job(tmp_path)) == "what decides extract has changed: version of the stage"
    monkeypatch.undo()
    assert "what decides compile has changed" in str(run(other_flags(job), "package")[0].error)


def other_flags(job: Job) -> Job:
    return replace(job, recipe=replace(job.recipe, decisive={**job.recipe.decisive, "arguments": ()}))


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("file", ["compile.json", "binary.json", "package.json", "artifact", "trees.json"])
def test_what_is_no_file_is_named_or_made_again(
    tmp_path: Path, fake_docker: FakeDocker, file: str, obstacle: str
) -> None:
    job = fake_docker.job(tmp_path)
    run(job, *FIRST)
    place = tmp_path / "build" / file if file == "trees.json" else job.folder / file
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    OBSTACLES[obstacle](place)
    job = fake_docker.job(tmp_path)
    result, _ = run(job, *FIRST)
    job.site.memory.save()
    if obstacle == "a folder" and file.endswith(".json") and file != "trees.json":
        assert result.error is not None
        assert str(place) in result.error.what
        assert "move that folder away" in result.error.remedy
        place.rmdir()
        result, _ = run(fake_docker.job(tmp_path), *FIRST)
    assert result.error is None
    again, _ = run(fake_docker.job(tmp_path), *FIRST)
    assert again.status is Status.UP_TO_DATE


def test_a_build_that_left_no_fact_is_named(tmp_path: Path, fake_docker: FakeDocker) -> None:
    del fake_docker.facts["glibc"]
    result, _ = run(fake_docker.job(tmp_path), *FIRST)
    assert isinstance(result.error, ArtifactError)
    assert "facts/glibc" in result.error.what


# --- the way from a task to Docker ------------------------------------------------------------------------------------

MOST_FRAMES = 12


def own_frames(frame: FrameType | None) -> list[str]:
    """Functions of the factory on a stack, the outermost first."""
    summaries = traceback.StackSummary.extract(traceback.walk_stack(frame))
    places = [f"{Path(one.filename).name}:{one.name}" for one in summaries if "serving_factory" in one.filename]
    return places[::-1]


def test_there_are_few_frames_between_a_task_and_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run(argv: list[str], **_more: object) -> int:
        if argv[:3] == ["docker", "buildx", "build"]:
            main = own_frames(sys._current_frames()[threading.main_thread().ident or 0])
            own = own_frames(sys._getframe(1))
            # The main thread waits for messages meanwhile: that is not on the way.
            seen.append([*main[: main.index("scheduler.py:run") + 1], *own, "process.py:run"])
        return 1

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr("serving_factory.commands.build.budget_of", lambda *_, **__: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    asked = Asked(checkout=Checkout(ROOT, tmp_path), matrix=str(SAMPLE), variant=("2.19.1-cpu-v1",))
    with pytest.raises(Exit):  # the build fails
        build(RunOptions(asked=asked))
    (way,) = seen
    assert [way[0], way[2], way[-1]] == ["build.py:build", "scheduler.py:run", "process.py:run"]
    assert len(["tasks.py:build", *way]) <= MOST_FRAMES, way


# --- level native -----------------------------------------------------------------------------------------------------


def test_a_binary_for_the_building_machines_cpu_asks_for_its_instruction_sets(
    tmp_path: Path, fake_docker: FakeDocker
) -> None:
    fake_docker.facts["cpu-flags"] = "fpu pni hypervisor avx2 sha_ni avx512_vnni tsc"
    job = fake_docker.job(tmp_path, "native")
    result, _ = run(job, *FIRST)
    assert result.error is None
    assert job.record(stage("inspect")).outputs.cpu_flags == ("pni", "avx2", "sha_ni", "avx512_vnni")
    assert 'CPU_FLAGS="pni avx2 sha_ni avx512_vnni"' in (job.folder / "recipe" / "facts" / "image.env").read_text()
