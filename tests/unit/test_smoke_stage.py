"""Whether the smoke stage tries an image on a GPU, and when its record is enough."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from serving_factory.commands.report import measure, report_page
from serving_factory.docker.engine import Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.doctor import probes
from serving_factory.errors import GpuDriverError, GpuMissingError
from serving_factory.inspection.facts import DeviceCode
from serving_factory.pipeline.job import Job, Site, Use
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.runner import plan_stages
from serving_factory.pipeline.stages import STAGES
from serving_factory.pipeline.stages.smoke import SMOKE, Smoked
from serving_factory.recipes.recipe import recipe_for
from serving_factory.smoke.gpu import WAYS

from .matrices import ROOT, document, load
from .stage_records import record
from .test_smoke import FakeEngine, Script
from .test_smoke_gpu import scripts
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

MODELS = ROOT / "samples" / "model_server" / "models"
NONE_GIVEN = "the engine can give containers no GPU"


class GpuEngine(FakeEngine):
    """An engine that gives GPUs in a way, or none."""

    def __init__(self, access: GpuAccess | None) -> None:
        super().__init__(Script(), Script(), scripts())
        self.access = access

    def gpu(self) -> GpuAccess | None:
        return self.access

    def remove_strays(self, _owner: str) -> int:
        return 0


Made = Callable[..., tuple[Job, GpuEngine]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a job, whose image is packaged, and its engine."""
    monkeypatch.setattr("serving_factory.smoke.checks.LEAST_UPTIME", 0.0)
    monkeypatch.setattr("serving_factory.smoke.checks._POLL", 0.01)
    monkeypatch.setattr("serving_factory.smoke.swap._POLL", 0.002)
    monkeypatch.setattr("serving_factory.smoke.swap._REQUESTS_AFTER", 2)
    monkeypatch.setattr(probes, "gpu_driver", lambda: "535.54.03")
    shutil.copytree(MODELS, tmp_path / "models")

    def make(
        access: GpuAccess | None,
        use: Use = Use.AUTO,
        *,
        flavour: str = "gpu",
        codes: tuple[str, ...] = ("sm_70", "sm_80", "sm_90", "compute_90"),
        compat: bool = False,
    ) -> tuple[Job, GpuEngine]:
        levels = {"flavour": flavour, "levels": ["x86-64-v3"]}
        matrix = load(tmp_path, document(targets={flavour: levels}, toolchain={"cuda_compat": compat}))
        engine = GpuEngine(access)
        connect = partial(cast, "Engine", engine)
        site = Site(build=tmp_path / "build", models=tmp_path / "models", connect=connect)
        job = Job(recipe=recipe_for(matrix.variants[0], matrix), site=site, gpu=use, emulate=Use.NEVER)
        for stage in STAGES[: STAGES.index("smoke")]:
            write_record(job.folder, record(stage, variant=job.recipe.variant.id))
        found = DeviceCode(fat_binaries={" ".join(codes): 1}, sizes=dict.fromkeys(codes, 1))
        write_record(job.folder, record("extract", device_code=found))
        return job, engine

    return make


def smoke(job: Job, said: list[str] | None = None) -> Smoked:
    """Run the stage, and write its record; `said` gets its progress."""
    outputs = SMOKE.run(job, (said if said is not None else []).append)
    write_record(job.folder, replace(record("smoke", key=SMOKE.key(job)), outputs=outputs))
    return job.record(SMOKE).outputs


def enough_for(job: Job) -> set[Use]:
    return {use for use in Use if not SMOKE.reason(replace(job, gpu=use))}


@pytest.mark.parametrize("access", GpuAccess)
def test_a_gpu_that_the_engine_can_give_is_used(made: Made, access: GpuAccess) -> None:
    job, engine = made(access)
    outputs = smoke(job)
    found = outputs.gpu
    assert found
    assert (found.access, found.driver, found.capability) == (access.value, "535.54.03", "8.0")
    assert [one.way for one in found.served] == [way.check for way in WAYS if way.check != "gpu-ptx"]
    assert {spec.gpu for spec in (one.spec for one in engine.containers)} == {None, access}
    assert enough_for(job) == set(Use), "nothing is done again"
    assert outputs.summary()["gpu"] == "NVIDIA A100-SXM4-40GB"
    reported = {**measure("v", {"smoke": job.record(SMOKE)}), "compiled": "then", "build_command": None}
    assert re.search(r"^  tried on GPU +NVIDIA A100-SXM4-40GB, capability 8.0$", report_page([reported]), re.MULTILINE)


@pytest.mark.parametrize(
    ("access", "use", "reason"),
    [
        (None, Use.AUTO, NONE_GIVEN),
        (None, Use.NEVER, "--gpu never"),
        (GpuAccess.CDI, Use.NEVER, "--gpu never"),
    ],
)
def test_a_record_without_a_gpu_is_enough_unless_one_is_required(
    made: Made, access: GpuAccess | None, use: Use, reason: str
) -> None:
    job, engine = made(access, use)
    said: list[str] = []
    assert smoke(job, said).gpu is None
    assert said[:2] == [f"not tried on a GPU: {reason}", "not tried on emulated CPUs: --emulate never"]
    assert len(engine.containers) == 2
    assert {one.spec.gpu for one in engine.containers} == {None}
    assert f'"reason": "{reason}"' in (job.folder / "smoke-report.json").read_text(encoding="utf-8")
    assert enough_for(job) == {Use.AUTO, Use.NEVER}


def test_what_is_required_now_is_done_and_named(made: Made) -> None:
    job, _ = made(None)
    smoke(job)
    required, _ = made(GpuAccess.CDI, Use.REQUIRE)
    assert SMOKE.key(required) == SMOKE.key(job), "what was pushed is not pushed again"
    (plan,) = plan_stages([required], [SMOKE])
    assert (plan.run, plan.because) == (("smoke",), "a GPU is required, and the last smoke had none")
    smoke(required)
    assert enough_for(job) == set(Use)
    assert plan_stages([required], [SMOKE])[0].run == ()


def test_a_required_gpu_that_cannot_be_had_is_an_error(made: Made) -> None:
    job, engine = made(None, Use.REQUIRE)
    with pytest.raises(GpuMissingError, match="a GPU is required") as caught:
        smoke(job)
    assert "nvidia-ctk runtime configure" in caught.value.remedy
    assert engine.containers == []


@pytest.mark.parametrize("use", [Use.AUTO, Use.REQUIRE])
def test_a_driver_that_is_too_old_is_refused_before_anything_is_started(
    made: Made, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "gpu_driver", lambda: "525.60.11")
    job, engine = made(GpuAccess.RUNTIME, use)
    with pytest.raises(GpuDriverError, match="driver is too old") as caught:
        smoke(job)
    assert caught.value.why == "CUDA 12.2 needs driver 525.60.13 or later, not 525.60.11."
    assert engine.containers == []
    smoke(replace(job, gpu=Use.NEVER))
    assert len(engine.containers) == 2


@pytest.mark.parametrize(("driver", "refused"), [("470.82.01", False), ("460.32.03", True)])
def test_an_older_driver_is_enough_where_cuda_compat_serves_it(
    made: Made, monkeypatch: pytest.MonkeyPatch, driver: str, *, refused: bool
) -> None:
    monkeypatch.setattr(probes, "gpu_driver", lambda: driver)
    job, _ = made(GpuAccess.RUNTIME, compat=True)
    with pytest.raises(GpuDriverError) if refused else nullcontext():
        assert smoke(job).gpu


def test_a_driver_that_is_not_known_is_no_hindrance(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "gpu_driver", lambda: None)
    job, _ = made(GpuAccess.CDI, Use.REQUIRE)
    found = smoke(job).gpu
    assert found
    assert found.driver is None


def test_other_flavours_are_never_tried_on_a_gpu(made: Made) -> None:
    job, engine = made(GpuAccess.CDI, Use.REQUIRE, flavour="cpu")
    assert smoke(job).gpu is None
    assert {one.spec.gpu for one in engine.containers} == {None}
    assert enough_for(job) == set(Use)
    assert "gpu-" not in (job.folder / "smoke-report.json").read_text(encoding="utf-8")


def test_the_model_that_a_gpu_computes_is_in_the_key_of_gpu_images_alone(made: Made) -> None:
    keys = {}
    for flavour in ("cpu", "gpu"):
        before = SMOKE.key(made(None, flavour=flavour)[0])
        weights = made(None, flavour=flavour)[0].site.models / "dense" / "1" / "saved_model.pb"
        weights.write_bytes(weights.read_bytes() + b"\0")
        keys[flavour] = SMOKE.key(made(None, flavour=flavour)[0]) != before
    assert keys == {"cpu": False, "gpu": True}


def test_cublas_in_the_image_decides_what_its_ptx_is_asked(made: Made) -> None:
    job, engine = made(GpuAccess.CDI, codes=("sm_80", "compute_80"))
    libraries = job.artifact / "rootfs" / "usr" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libcublas.so.12").touch()
    SMOKE.run(job, lambda _text: None)
    assert dict(engine.containers[-1].spec.environment)["MODEL_NAME"] == "half_plus_two"


@pytest.mark.parametrize("task", ["smoke", "build"])
def test_a_required_gpu_is_looked_for_before_any_work(
    factory: Factory,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    monkeypatch.setattr(Engine, "connect", lambda _report: GpuEngine(None))
    ended = factory(task, "--gpu", "require", "--target", "gpu-optimized", "--release", "2.19.1")
    assert ended.code == GpuMissingError.exit_code
    assert "a GPU is required, and the engine can give containers none" in ended.err
    assert "compile" not in ended.out
    assert not list(tmp_path.rglob("compile.json"))


def test_a_gpu_cannot_be_required_of_others(factory: Factory) -> None:  # noqa: F811 - the fixture
    ended = factory("smoke", "--gpu", "require", "--target", "cpu-optimized")
    assert ended.code == 2
    assert "`--gpu require` is for gpu variants, and none is chosen" in ended.err
    assert "`--gpu` must be auto, require or never, got 'yes'" in factory("build", "--gpu", "yes").err
