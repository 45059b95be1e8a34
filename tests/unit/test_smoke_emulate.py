"""The check on emulated CPUs, with fakes for containers and for qemu."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from serving_factory.catalogue.levels import LEVELS, Level, emulated_cpus, level_below, level_facts
from serving_factory.commands.report import measure, report_page
from serving_factory.docker.emulator import EMULATOR, Emulator, find_emulator
from serving_factory.docker.engine import Engine
from serving_factory.errors import EmulatorMissingError, LevelDiffersError, ServerNotReadyError, SmokeError
from serving_factory.pipeline.job import Job, Site, Use
from serving_factory.pipeline.records import write_record
from serving_factory.pipeline.stages import STAGES
from serving_factory.pipeline.stages.smoke import SMOKE
from serving_factory.recipes.recipe import recipe_for
from serving_factory.smoke import checks
from serving_factory.smoke.emulate import Emulated, plan_emulation
from serving_factory.smoke.plan import SmokePlan
from serving_factory.smoke.report import SmokeReport, to_json

from .fake_serving import Behaviour
from .matrices import ROOT, document, load
from .stage_records import record
from .test_smoke import FakeContainer, FakeEngine, Script, plan, smoke  # noqa: F401 - a fixture
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures

GUARD = "The TensorFlow library was compiled to use AVX2 instructions, but these aren't available on your machine."
V3, AVX = emulated_cpus()[Level.V3], emulated_cpus()[Level.AVX]
AVX_512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
SERVER = "/usr/lib/serving-factory/tensorflow_model_server"

# A qemu that does not know CPUs whose name it is given: `--version` is of the program that it runs.
QEMU = """#!/bin/sh
case "$1" in
    --version) echo "qemu-x86_64 version 7.2.22 (Debian 1:7.2)"; echo "Copyright (c) ..." ;;
    -cpu)
        case "$2" in
            *avx512f*) echo "qemu: warning: TCG doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]" >&2
                echo "qemu: TCG doesn't support requested features" >&2; exit 1 ;;
            *,enforce) ;;
            *) exit 3 ;;
        esac ;;
esac
"""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """A made-up emulator, and the only one that this machine has."""
    (tmp_path / "programs").mkdir()
    path = tmp_path / "programs" / EMULATOR
    path.write_text(QEMU, encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return Emulator(path, "7.2.22")


Try = Callable[..., tuple[SmokeReport, FakeContainer]]


@pytest.fixture
def on(plan: SmokePlan, qemu: Emulator) -> Try:  # noqa: F811 - the fixture
    """Tries an image of a level on emulated CPUs; the report, and the container that it was tried in."""

    def try_it(
        level: Level, script: Script | None = None, flags: tuple[str, ...] = ()
    ) -> tuple[SmokeReport, FakeContainer]:
        emulation, no_emulation = plan_emulation(qemu, level, (*level_facts(level).cpuinfo, *flags))
        asked = dataclasses.replace(plan, emulation=emulation, no_emulation=no_emulation)
        engine = FakeEngine(Script(), Script(), {"emulated": script or Script()})
        report, _ = smoke(asked, engine=engine)
        return report, engine.containers[-1]

    return try_it


def text_of(report: SmokeReport) -> str:
    return next(one.text for one in report.checks if one.name == "emulated")


# --- a good image -----------------------------------------------------------------------------------------------------


def test_a_good_image_serves_on_its_level_and_ends_on_the_one_below(on: Try, qemu: Emulator) -> None:
    report, container = on(Level.V3)
    assert report.error is None, report.error
    assert report.emulated
    assert report.emulated == Emulated(qemu="7.2.22", cpu=V3, ready=report.emulated.ready, lower_cpu=AVX, ended=132)
    assert "on avx refused with 78, and without the launcher ended with exit code 132 (SIGILL)" in text_of(report)
    assert str(report.emulated) == (
        "served on Haswell-noTSX; ended with exit code 132 (SIGILL) on SandyBridge (qemu 7.2.22)"
    )
    spec = container.spec
    assert spec.entrypoint == ("/usr/bin/tf_serving_init",)
    assert spec.command[:4] == ("/qemu", "-cpu", f"{V3},enforce", SERVER)
    assert "--port=8500" in spec.command
    assert (spec.read_only, spec.cap_drop, spec.user) == (True, ("ALL",), "12345")
    assert [(one.source, one.target) for one in spec.mounts[1:2]] == [(qemu.path, "/qemu")]
    launcher, server = container.commands
    assert launcher == ("/usr/bin/tensorflow_model_server", "--version")
    assert server[:4] == ("/qemu", "-cpu", f"{AVX},enforce", SERVER)
    assert "--port=8510" in server, "the first server has the other port"


def test_the_container_sees_a_cpu_of_the_level_below(on: Try) -> None:
    container = on(Level.V3)[1]
    flags = container.files["/proc/cpuinfo"].splitlines()[-1].split(":")[1].split()
    assert set(flags) == {"fpu", "sse", "sse2", *level_facts(Level.AVX).cpuinfo}


def test_the_lowest_level_has_none_below(on: Try) -> None:
    report, container = on(Level.V1)
    assert report.emulated
    assert (report.emulated.lower_cpu, report.emulated.ended) == (None, None)
    assert container.commands == []
    assert text_of(report).startswith("served on x86-64 after ")


def test_a_level_that_qemu_does_not_emulate_is_tried_on_the_one_below_alone(on: Try) -> None:
    report, container = on(Level.V4)
    assert report.error is None, report.error
    assert report.emulated == Emulated(qemu="7.2.22", cpu=None, ready=None, lower_cpu=V3, ended=132)
    assert text_of(report) == (
        "not served on x86-64-v4: qemu 7.2.22 does not emulate avx512f; on x86-64-v3 refused with 78, and without the "
        "launcher ended with exit code 132 (SIGILL)"
    )
    assert container.spec.command[0] == SERVER, "on this machine's own CPU, for as long as the others are tried"


def test_what_upstreams_own_flags_add_is_given(on: Try) -> None:
    report, container = on(Level.V1, flags=("sse4_1", "ssse3"))
    assert report.error is None
    assert container.spec.command[2] == f"{emulated_cpus()[Level.V1]},sse4_1=on,ssse3=on,xsave=on,enforce"


# --- one that is not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        Script(exits_with=132),
        Script(exits_with=134, log=f"F {GUARD}\nqemu: uncaught target signal 6"),
        Script(exits_at_port=132),
    ],
)
@pytest.mark.parametrize("level", [Level.V1, Level.V3])
def test_a_server_that_needs_more_than_its_level_is_found(on: Try, level: Level, script: Script) -> None:
    report, _ = on(level, dataclasses.replace(script))
    error = report.error
    assert isinstance(error, LevelDiffersError)
    assert f"On an emulated CPU of exactly {level} (qemu 7.2.22, -cpu {emulated_cpus()[level]})" in error.what
    assert "died of an instruction that this level does not have" in error.what
    assert script.log in error.why.replace("\n  ", "\n")
    assert report.emulated is None
    assert '"type": "LevelDiffersError"' in to_json(report)


def test_another_end_is_no_proof_of_that(on: Try) -> None:
    report, _ = on(Level.V3, Script(exits_with=134, log="terminate called after throwing an instance of"))
    assert isinstance(report.error, ServerNotReadyError)
    assert report.error.what.startswith("On an emulated CPU of exactly x86-64-v3 (qemu 7.2.22, ")


def test_a_server_that_answers_wrongly_there(on: Try) -> None:
    report, _ = on(Level.V1, Script(behaviour=Behaviour(wrong_protocol="gRPC")))
    assert report.error
    assert "answered half_plus_two wrongly over gRPC" in report.error.what
    assert report.error.what.startswith("On an emulated CPU of exactly x86-64 ")


def test_a_launcher_that_does_not_refuse(on: Try) -> None:
    report, _ = on(Level.V3, Script(launcher=(0, "TensorFlow ModelServer: 2.19.1")))
    assert type(report.error) is SmokeError
    assert report.error.what == ("The launcher does not refuse a CPU of avx: it ended with exit code 0, expected 78.")


@pytest.mark.parametrize(
    ("lower", "said"),
    [
        (None, "The server of x86-64-v3 still ran after 60 s on an emulated CPU of avx"),
        ((0, "bye"), "ended with exit code 0 on an emulated CPU of avx"),
        ((134, "terminate called"), "ended with exit code 134 (SIGABRT) on an emulated CPU of avx"),
        ((139, ""), "ended with exit code 139 (SIGSEGV) on an emulated CPU of avx"),
    ],
)
def test_a_server_that_does_not_die_of_the_level_below(on: Try, lower: tuple[int, str] | None, said: str) -> None:
    report, _ = on(Level.V3, Script(lower=lower))
    assert isinstance(report.error, LevelDiffersError)
    assert said in report.error.what
    assert "--emulate never" in report.error.remedy


def test_tensorflows_guard_counts_as_that_death(on: Try) -> None:
    report, _ = on(Level.V3, Script(lower=(134, GUARD)))
    assert report.error is None
    assert report.emulated
    assert report.emulated.ended == 134


# --- the emulator -----------------------------------------------------------------------------------------------------


def test_the_emulator_is_looked_for_on_path_and_among_the_programs_of_the_setup(
    qemu: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = qemu.path.parent
    assert find_emulator(programs) == qemu
    monkeypatch.setenv("PATH", str(programs))
    assert find_emulator(None) == qemu
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_emulator(None) is None
    assert find_emulator(tmp_path) is None


def test_a_program_that_is_no_qemu_is_none(qemu: Emulator) -> None:
    qemu.path.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert find_emulator(qemu.path.parent) is None


def test_it_says_what_of_a_cpu_it_does_not_emulate(qemu: Emulator) -> None:
    assert qemu.why_not(V3) == ""
    assert qemu.why_not(emulated_cpus()[Level.V4]) == "qemu 7.2.22 does not emulate avx512f"
    qemu.path.write_text(QEMU.replace("*,enforce) ;;", ""), encoding="utf-8")
    assert qemu.why_not("Nonesuch") == "qemu 7.2.22 does not emulate Nonesuch"


def test_an_emulator_that_has_no_cpu_for_an_image_is_none(qemu: Emulator) -> None:
    qemu.path.write_text(QEMU.replace("*avx512f*", "*"), encoding="utf-8")
    assert plan_emulation(qemu, Level.V3, ()) == (None, "qemu 7.2.22 does not emulate avx512f")


def test_every_level_has_an_emulated_cpu_and_one_below() -> None:
    assert tuple(emulated_cpus()) == LEVELS
    assert emulated_cpus()[Level.V4] == ",".join([V3, *(f"{name}=on" for name in AVX_512)]), "qemu emulates none of it"
    assert set(level_facts(Level.V4).cpuinfo) == {*level_facts(Level.V3).cpuinfo, *AVX_512}
    assert [level_below(level) for level in (*LEVELS, Level.NATIVE)] == [None, *LEVELS[:-1], None]


# --- the stage --------------------------------------------------------------------------------------------------------

Made = Callable[..., tuple[Job, FakeEngine]]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a job, whose image is packaged, and its engine."""
    monkeypatch.setattr(checks, "LEAST_UPTIME", 0.0)
    monkeypatch.setattr(checks, "_POLL", 0.01)
    monkeypatch.setattr("serving_factory.smoke.swap._POLL", 0.002)
    monkeypatch.setattr("serving_factory.smoke.swap._REQUESTS_AFTER", 2)
    monkeypatch.setenv("PATH", "/nowhere")

    def make(use: Use, programs: Path | None, *, level: str = "x86-64-v3") -> tuple[Job, FakeEngine]:
        matrix = load(tmp_path, document(targets={"cpu": {"flavour": "cpu", "levels": [level]}}))
        engine = FakeEngine(Script(), Script(), {"emulated": Script()})
        engine.__dict__["remove_strays"] = lambda _owner: 0
        site = Site(
            build=tmp_path / "build",
            models=ROOT / "samples" / "model_server" / "models",
            programs=programs,
            connect=partial(cast, "Engine", engine),
        )
        job = Job(recipe=recipe_for(matrix.variants[0], matrix), site=site, emulate=use)
        for stage in STAGES[: STAGES.index("smoke")]:
            write_record(job.folder, record(stage, variant=job.recipe.variant.id))
        return job, engine

    return make


def smoked(job: Job) -> list[str]:
    """Run the stage, and write its record; its progress."""
    said: list[str] = []
    outputs = SMOKE.run(job, said.append)
    write_record(job.folder, dataclasses.replace(record("smoke", key=SMOKE.key(job)), outputs=outputs))
    return said


def test_where_there_is_an_emulator_it_is_used_and_reported(
    made: Made, qemu: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    job, engine = made(Use.AUTO, qemu.path.parent)
    smoked(job)
    found = job.record(SMOKE).outputs.emulated
    assert found
    assert (found.qemu, found.cpu, found.lower_cpu, found.ended) == ("7.2.22", V3, AVX, 132)
    assert len(engine.containers) == 3
    page = report_page([{**measure("v", {"smoke": job.record(SMOKE)}), "compiled": "then", "build_command": None}])
    assert "served on Haswell-noTSX; ended with" in " ".join(page.split())
    assert all(not SMOKE.reason(dataclasses.replace(job, emulate=use)) for use in Use), "nothing is done again"
    other = made(Use.REQUIRE, qemu.path.parent)[0]
    qemu.path.write_text(QEMU.replace("7.2.22", "10.0.13"), encoding="utf-8")
    assert SMOKE.reason(other) == "", "nor with another version of qemu"


def test_without_one_the_image_is_smoked_and_the_report_says_what_is_missing(made: Made) -> None:
    job, engine = made(Use.AUTO, None)
    reason = "there is no qemu-x86_64-static on this machine; `./factory setup` brings it"
    assert smoked(job)[0] == f"not tried on emulated CPUs: {reason}"
    assert job.record(SMOKE).outputs.emulated is None
    assert len(engine.containers) == 2
    assert f'"reason": "{reason}"' in (job.folder / "smoke-report.json").read_text(encoding="utf-8")
    required = made(Use.REQUIRE, None)[0]
    assert SMOKE.reason(required) == "an emulated CPU is required, and the last smoke had none"
    assert SMOKE.key(required) == SMOKE.key(job), "what was pushed is not pushed again"
    with pytest.raises(EmulatorMissingError, match="an emulated CPU is required") as caught:
        smoked(required)
    assert "./factory setup" in caught.value.remedy


def test_one_that_is_too_old_is_no_error_unless_it_is_required(
    made: Made, qemu: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    qemu.path.write_text(QEMU.replace("*avx512f*", "*"), encoding="utf-8")
    assert smoked(made(Use.AUTO, qemu.path.parent)[0])[0] == (
        "not tried on emulated CPUs: qemu 7.2.22 does not emulate avx512f"
    )
    with pytest.raises(EmulatorMissingError, match="does not emulate avx512f"):
        smoked(made(Use.REQUIRE, qemu.path.parent)[0])


def test_an_image_for_this_machines_own_cpu_is_tried_on_no_other(made: Made, qemu: Emulator) -> None:
    job, engine = made(Use.REQUIRE, qemu.path.parent, level="native")
    assert smoked(job)[0] == "not tried on emulated CPUs: there is no emulated CPU of native on linux/amd64"
    assert len(engine.containers) == 2
    assert SMOKE.reason(job) == ""


def test_never_asks_for_none(made: Made, qemu: Emulator) -> None:
    assert smoked(made(Use.NEVER, qemu.path.parent)[0])[0] == "not tried on emulated CPUs: --emulate never"


@pytest.mark.parametrize("task", ["smoke", "build"])
def test_a_required_emulator_is_looked_for_before_any_work(
    factory: Factory,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    monkeypatch.setattr(Engine, "connect", lambda _report: FakeEngine(Script(), Script()))
    monkeypatch.setenv("PATH", "/nowhere")
    ended = factory(task, "--emulate", "require", "--target", "cpu-optimized", "--release", "2.19.1")
    assert ended.code == EmulatorMissingError.exit_code
    assert "an emulated CPU is required, and there is no qemu-x86_64-static on this machine" in ended.err
    assert not list(tmp_path.rglob("compile.json"))
    assert "`--emulate` must be auto, require or never, got 'yes'" in factory(task, "--emulate", "yes").err
