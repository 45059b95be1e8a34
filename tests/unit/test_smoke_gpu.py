"""A gpu image on fake GPUs: one that computes passes, and each way to be bad ends in its own error."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import cast

import pytest

from serving_factory.docker.engine import Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.errors import (
    FactoryError,
    GpuMissingError,
    GpuUnusedError,
    ServerNotReadyError,
    SmokeError,
    WrongAnswerError,
)
from serving_factory.smoke import gpu as on_gpus
from serving_factory.smoke.gpu import CPU, DENSE, GPU, MACHINE_CODE, PTX, WAYS, Gpu, Trial, gpu_in, runs, worst
from serving_factory.smoke.plan import GpuPlan, SmokePlan
from serving_factory.smoke.report import SmokeReport, to_json
from serving_factory.smoke.run import run_checks

from .fake_serving import MODEL, Behaviour
from .test_smoke import ALL, FakeEngine, Script, plan, smoke  # noqa: F401 - a fixture

A100 = "Created device GPU:0, name: NVIDIA A100-SXM4-40GB, compute capability: 8.0"
IGNORED = (
    "I gpu_device.cc:2400] Ignoring visible gpu device (device: 0, name: Tesla T4) with Cuda compute capability 7.5."
)
NO_DRIVER = "E cuda_driver.cc:318] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"


def scripts(**changes: Script) -> dict[str, Script]:
    """What the container of each way does: those with a GPU make a device of it; `gpu_ptx` stands for gpu-ptx."""
    given = {name.replace("_", "-"): script for name, script in changes.items()}
    return {way.check: given.get(way.check, Script(log=A100 if way.on_gpu else NO_DRIVER)) for way in WAYS}


@pytest.fixture
def gpu_plan(plan: SmokePlan, tmp_path: Path) -> SmokePlan:  # noqa: F811 - the fixture
    (tmp_path / "dense" / "1").mkdir(parents=True)
    (tmp_path / "dense" / "1" / "saved_model.pb").write_bytes(b"model")
    gpu = GpuPlan(
        access=GpuAccess.RUNTIME,
        driver="535.54.03",
        model=tmp_path / "dense",
        code=("sm_80", "sm_90", "compute_80"),
        library=False,
    )
    return dataclasses.replace(plan, variant="2.19.1-gpu-cuda12.2-v3", gpu=gpu)


def try_on_gpu(plan: SmokePlan, **changes: Script) -> tuple[SmokeReport, FakeEngine]:  # noqa: F811 - the fixture
    return smoke(plan, engine=FakeEngine(Script(), Script(), scripts(**changes)))


def failed(report: SmokeReport, check: str, error: type[FactoryError]) -> FactoryError:
    assert [item.name for item in report.checks if not item.ok] == [check]
    assert type(report.error) is error
    return report.error


def changed(plan: SmokePlan, **changes: object) -> SmokePlan:  # noqa: F811 - the fixture
    assert plan.gpu
    return dataclasses.replace(plan, gpu=dataclasses.replace(plan.gpu, **changes))  # type: ignore[arg-type]


def test_a_good_image_computes_on_the_gpu_in_every_way(gpu_plan: SmokePlan) -> None:
    report, engine = try_on_gpu(gpu_plan)
    assert report.error is None, report.error
    assert [item.name for item in report.checks] == [*ALL, *(way.check for way in WAYS)]
    assert report.skipped == ()
    assert report.gpu
    assert (report.gpu.name, report.gpu.capability) == ("NVIDIA A100-SXM4-40GB", "8.0")
    assert (report.gpu.access, report.gpu.driver) == ("--gpus all", "535.54.03")
    assert [(one.way, one.difference) for one in report.gpu.served] == [
        ("gpu-hidden", None),
        *((way.check, 0.0) for way in WAYS[1:]),
    ]
    text = {item.name: item.text for item in report.checks}["gpu"]
    assert text.startswith("NVIDIA A100-SXM4-40GB, capability 8.0: ready after ")
    assert "first answer" in text
    assert json.loads(to_json(report))["gpu"]["served"][1]["way"] == "gpu"
    assert engine.removed == 2 + len(WAYS)


def test_how_servers_on_a_gpu_are_started(gpu_plan: SmokePlan) -> None:
    _, engine = try_on_gpu(gpu_plan)
    plain, hardened, hidden, gpu, machine_code, ptx = (container.spec for container in engine.containers)
    assert [spec.gpu for spec in (plain, hardened, hidden)] == [None] * 3
    assert [spec.gpu for spec in (gpu, machine_code, ptx)] == [GpuAccess.RUNTIME] * 3
    for spec in (plain, hardened, hidden):
        assert dict(spec.environment)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert dict(hidden.environment)["CUDA_VISIBLE_DEVICES"] == ""
    for spec in (gpu, machine_code, ptx):
        assert spec.read_only
        assert (spec.cap_drop, spec.user) == (("ALL",), "12345")
        assert spec.mounts[0].target == "/models/dense"
        environment = dict(spec.environment)
        assert (environment["MODEL_NAME"], environment["CUDA_VISIBLE_DEVICES"]) == ("dense", "0")
        assert environment["NVIDIA_TF32_OVERRIDE"] == "0"
        assert "NVIDIA_VISIBLE_DEVICES" not in environment
    assert ("CUDA_DISABLE_PTX_JIT", "1") in machine_code.environment
    assert ("CUDA_FORCE_PTX_JIT", "1") in ptx.environment


def test_what_may_take_long_is_announced(gpu_plan: SmokePlan) -> None:
    notes: list[str] = []
    engine = cast("Engine", FakeEngine(Script(), Script(), scripts()))
    run_checks(engine, "i", plan=gpu_plan, cancel=Cancel(), emit_check=lambda _: None, emit_note=notes.append)
    assert notes == ["gpu-ptx: the driver translates all device code, which may take half an hour"]


def test_servers_on_a_gpu_do_not_share_it(gpu_plan: SmokePlan) -> None:
    """TensorFlow takes all memory of a GPU."""
    at_once: list[int] = []
    engine = FakeEngine(Script(), Script(), scripts())
    smoke(gpu_plan, engine=engine, after=lambda *_: at_once.append(len(engine.containers) - engine.removed))
    assert set(at_once) == {2}, "the two without a GPU, when a check has ended"


def test_a_release_without_rest_is_tried_over_grpc(gpu_plan: SmokePlan) -> None:
    old = dataclasses.replace(gpu_plan.server, flags=("port",), model_status=False)
    report, _ = try_on_gpu(dataclasses.replace(gpu_plan, server=old))
    assert report.error is None, report.error
    assert report.gpu


@pytest.mark.parametrize("reason", ["--gpu never", "the engine can give containers no GPU"])
def test_a_gpu_image_without_a_gpu_says_what_was_left_out(gpu_plan: SmokePlan, reason: str) -> None:
    report, _ = smoke(dataclasses.replace(gpu_plan, gpu=None, no_gpu=reason))
    assert report.error is None
    assert report.gpu is None
    assert report.skipped == tuple((way.check, reason) for way in WAYS)


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.check)
@pytest.mark.parametrize("log", [IGNORED, NO_DRIVER, "nothing of a GPU"])
def test_a_server_that_falls_back_to_the_cpu_in_silence_is_found(
    gpu_plan: SmokePlan, log: str, way: on_gpus.Way
) -> None:
    report, _ = try_on_gpu(gpu_plan, **{way.check: Script(log=log)})
    error = failed(report, way.check, GpuUnusedError)
    assert "computed on the CPU" in error.what
    assert ("no line of a device" if log == "nothing of a GPU" else log) in error.why
    assert log in error.why, "the container's log is shown"


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.check)
@pytest.mark.parametrize("error", [1.1e-4, -0.5, math.nan, math.inf])
def test_a_gpu_that_computes_wrongly_is_found(gpu_plan: SmokePlan, error: float, way: on_gpus.Way) -> None:
    report, _ = try_on_gpu(gpu_plan, **{way.check: Script(log=A100, behaviour=Behaviour(dense_error=error))})
    found = failed(report, way.check, WrongAnswerError)
    assert "The GPU answered dense wrongly." in found.what
    assert "1e-04 is allowed" in found.why


def test_what_a_gpu_rounds_otherwise_is_allowed(gpu_plan: SmokePlan) -> None:
    report, _ = try_on_gpu(gpu_plan, gpu=Script(log=A100, behaviour=Behaviour(dense_error=0.9e-4)))
    assert report.error is None, report.error
    assert report.gpu
    assert report.gpu.served[1].difference == pytest.approx(0.9e-4, rel=0.05)


def test_a_reference_from_a_gpu_is_none(gpu_plan: SmokePlan) -> None:
    report, _ = try_on_gpu(gpu_plan, gpu_hidden=Script(log=A100))
    assert "used a GPU that was hidden" in failed(report, "gpu-hidden", SmokeError).what


def test_an_empty_reference_is_none() -> None:
    with pytest.raises(SmokeError, match="nothing can be compared"):
        Trial(code=(), library=False).verify(CPU, "", [0.0, 0.0], seconds=(1, 1, 1))


@pytest.mark.parametrize("script", [Script(exits_with=134), Script(behaviour=Behaviour(load_error="no kernel image"))])
def test_a_server_that_does_not_start_on_a_gpu(gpu_plan: SmokePlan, script: Script) -> None:
    report, _ = try_on_gpu(gpu_plan, gpu_machine_code=script)
    failed(report, "gpu-machine-code", ServerNotReadyError)
    assert ("gpu-ptx", "not reached: gpu-machine-code failed") in report.skipped


def test_a_server_that_dies_of_the_question(gpu_plan: SmokePlan) -> None:
    report, _ = try_on_gpu(gpu_plan, gpu=Script(log=A100, behaviour=Behaviour(fails_dense="CUDA error 209")))
    assert "CUDA error 209" in failed(report, "gpu", SmokeError).why


def test_an_engine_that_names_gpus_and_gives_none(gpu_plan: SmokePlan) -> None:
    engine = FakeEngine(Script(), Script(), scripts())
    engine.refuses_gpus = 'could not select device driver "nvidia" with capabilities: [[gpu]]'
    report, _ = smoke(gpu_plan, engine=engine)
    error = failed(report, "gpu", GpuMissingError)
    assert engine.refuses_gpus in error.why
    assert "docker run --rm --gpus all" in error.remedy


# --- device code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "skipped"),
    [
        (("sm_80", "compute_90"), {"gpu-ptx": "the binary has no PTX for capability 8.0"}),
        (("sm_70", "compute_70"), {"gpu-machine-code": "not all of the binary has machine code for capability 8.0"}),
        (("sm_80", "compute_70"), {}),
    ],
)
def test_a_way_that_the_binary_has_no_code_for_is_left_out(
    gpu_plan: SmokePlan, code: tuple[str, ...], skipped: dict[str, str]
) -> None:
    report, _ = try_on_gpu(changed(gpu_plan, code=code))
    assert report.error is None, report.error
    assert dict(report.skipped) == skipped
    assert report.gpu
    assert {one.way for one in report.gpu.served} == {way.check for way in WAYS} - set(skipped)


def test_ptx_of_cublas_is_not_asked_for(gpu_plan: SmokePlan) -> None:
    report, engine = try_on_gpu(changed(gpu_plan, library=True))
    assert report.error is None, report.error
    assert [dict(container.spec.environment)["MODEL_NAME"] for container in engine.containers[2:]] == [
        *("dense",) * 3,
        MODEL,
    ]
    wrong = Script(log=A100, behaviour=Behaviour(wrong_protocol="gRPC"))
    report, _ = try_on_gpu(changed(gpu_plan, library=True), gpu_ptx=wrong)
    assert "half_plus_two wrongly" in failed(report, "gpu-ptx", WrongAnswerError).what


@pytest.mark.parametrize(
    ("code", "capability", "machine_code", "ptx"),
    [
        ("sm_80", "8.0", True, False),
        ("sm_80", "8.6", True, False),
        ("sm_86", "8.0", False, False),
        ("sm_80", "9.0", False, False),
        ("sm_90a", "9.0", True, False),
        ("sm_100a", "10.3", False, False),
        ("sm_100", "10.3", True, False),
        ("compute_70", "8.6", False, True),
        ("compute_86", "8.0", False, False),
        ("compute_90a", "9.0", False, True),
        ("compute_90a", "10.0", False, False),
        ("nonsense", "8.0", False, False),
    ],
)
def test_which_device_code_a_gpu_runs(code: str, capability: str, machine_code: bool, ptx: bool) -> None:  # noqa: FBT001
    assert (runs([code], capability), runs([code], capability, ptx=True)) == (machine_code, ptx)


# --- logs and answers -------------------------------------------------------------------------------------------------

BUS = "pci bus id: 0000:00:1e.0, compute capability"
MEMORY = "/job:localhost/replica:0/task:0/device:GPU:0 with 10759 MB memory"


@pytest.mark.parametrize(
    ("line", "gpu"),
    [
        (
            "Creating TensorFlow device (/device:GPU:0) -> (device: 0, name: Tesla K80, compute capability: 3.7)",
            Gpu("Tesla K80", "3.7"),
        ),
        (
            f"Created TensorFlow device ({MEMORY}) -> physical GPU (device: 0, name: Tesla V100-SXM2-16GB, {BUS}: 7.0)",
            Gpu("Tesla V100-SXM2-16GB", "7.0"),
        ),
        (
            f"Created device {MEMORY}:  -> device: 0, name: NVIDIA A100-SXM4-40GB MIG 1g.5gb, {BUS}: 8.0",
            Gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "8.0"),
        ),
        (A100, Gpu("NVIDIA A100-SXM4-40GB", "8.0")),
        (IGNORED, None),
        (NO_DRIVER, None),
        ("Created device_to_host_stream[0] = 0x55d, compute capability: 8.0", None),
        ("Created device GPU:0\nname: a name, compute capability: 8.0", None),
        ("", None),
    ],
)
def test_the_line_of_a_device_in_each_era(line: str, gpu: Gpu | None) -> None:
    assert gpu_in(f"before\n2026-01-31 12:00:00.1: I tensorflow/core/gpu_device.cc:1306] {line}\nafter") == gpu


def test_the_worst_difference() -> None:
    assert worst([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert worst([1.0], [1.0, 2.0]) == math.inf
    assert worst([math.nan, 1.0], [1.0, 1.0]) == math.inf


def test_what_is_asked_is_exact_in_each_protocol() -> None:
    assert [len(row) for row in DENSE.rows] == [256] * 8
    assert all(number * 128 == round(number * 128) for row in DENSE.rows for number in row)


def test_ways_differ_by_what_the_driver_may_use() -> None:
    assert [way.check for way in WAYS] == ["gpu-hidden", "gpu", "gpu-machine-code", "gpu-ptx"]
    added = [dict(way.environment.items() - GPU.environment.items()) for way in (MACHINE_CODE, PTX)]
    assert added == [{"CUDA_DISABLE_PTX_JIT": "1"}, {"CUDA_FORCE_PTX_JIT": "1"}]


def test_the_module_needs_no_more_than_python_3_8() -> None:
    """A machine with a GPU has what it has."""
    folder = Path(on_gpus.__file__).parents[1]
    for file in (
        folder / "smoke" / "gpu.py",
        folder / "errors.py",
        folder / "__init__.py",
        folder / "smoke" / "__init__.py",
    ):
        tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        own = {"serving_factory.errors"}
        assert {name for name in imported if str(name).split(".")[0] not in sys.stdlib_module_names} <= own
        slots = [one for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg in {"slots", "kw_only"}]
        assert slots == [], "dataclasses have them from 3.10 on"
