"""The sample's images on emulated CPUs: right ones pass, and a binary of another level is found, unread."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.catalogue.levels import LEVELS, Level, emulated_cpus, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.docker.emulator import Emulator, find_emulator
from serving_factory.docker.engine import OWNER_LABEL, Engine
from serving_factory.docker.process import Cancel
from serving_factory.errors import LevelDiffersError
from serving_factory.smoke.checks import CHECKS
from serving_factory.smoke.emulate import plan_emulation
from serving_factory.smoke.plan import SmokePlan
from serving_factory.smoke.report import SmokeReport
from serving_factory.smoke.run import run_checks

from .demo_story import Demo
from .pipeline import GPU_V1, GPU_V3, ROOT, V1, V3, docker

OWNER = f"test-{os.getpid()}"
SERVER = "/usr/lib/serving-factory/tensorflow_model_server"
MODELS = ROOT / "samples" / "model_server" / "models"

# One instruction of each feature that traps where it is missing: lzcnt never does. Then what the CPU says that it has.
PROGRAM = r"""
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>

static char memory[32] __attribute__((aligned(32)));

static const struct { const char *name; int leaf, part, bit; } features[] = {
    {"pni", 1, 2, 0}, {"pclmulqdq", 1, 2, 1}, {"ssse3", 1, 2, 9}, {"fma", 1, 2, 12}, {"cx16", 1, 2, 13},
    {"sse4_1", 1, 2, 19}, {"sse4_2", 1, 2, 20}, {"movbe", 1, 2, 22}, {"popcnt", 1, 2, 23}, {"aes", 1, 2, 25},
    {"avx", 1, 2, 28}, {"f16c", 1, 2, 29},
    {"bmi1", 7, 1, 3}, {"avx2", 7, 1, 5}, {"bmi2", 7, 1, 8}, {"rtm", 7, 1, 11}, {"avx512f", 7, 1, 16},
    {"avx512dq", 7, 1, 17}, {"adx", 7, 1, 19}, {"avx512ifma", 7, 1, 21}, {"avx512cd", 7, 1, 28}, {"sha_ni", 7, 1, 29},
    {"avx512bw", 7, 1, 30}, {"avx512vl", 7, 1, 31}, {"gfni", 7, 2, 8}, {"vaes", 7, 2, 9}, {"vpclmulqdq", 7, 2, 10},
    {"lahf_lm", 0x80000001, 2, 0}, {"abm", 0x80000001, 2, 5}, {"sse4a", 0x80000001, 2, 6}, {"xop", 0x80000001, 2, 11},
    {"fma4", 0x80000001, 2, 16}, {"tbm", 0x80000001, 2, 21},
};

int main(int argc, char **argv)
{
    unsigned r[4];

    switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 1: __asm__ volatile("addsubps %%xmm0, %%xmm0" ::: "xmm0"); break;
    case 2: __asm__ volatile("pshufb %%xmm0, %%xmm0" ::: "xmm0"); break;
    case 3: __asm__ volatile("pminsd %%xmm0, %%xmm0" ::: "xmm0"); break;
    case 4: __asm__ volatile("pcmpgtq %%xmm0, %%xmm0" ::: "xmm0"); break;
    case 5: __asm__ volatile("popcnt %%eax, %%eax" ::: "eax"); break;
    case 6: __asm__ volatile("cmpxchg16b %0" : "+m"(memory) :: "rax", "rbx", "rcx", "rdx"); break;
    case 11: __asm__ volatile("vaddps %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); break;
    case 21: __asm__ volatile("vpaddd %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); break;
    case 22: __asm__ volatile("vfmadd231ps %%ymm0, %%ymm0, %%ymm0" ::: "xmm0"); break;
    case 23: __asm__ volatile("vcvtph2ps %%xmm0, %%xmm0" ::: "xmm0"); break;
    case 24: __asm__ volatile("movbe %0, %%eax" :: "m"(memory) : "eax"); break;
    case 25: __asm__ volatile("andn %%eax, %%eax, %%eax" ::: "eax"); break;
    case 26: __asm__ volatile("pdep %%eax, %%eax, %%eax" ::: "eax"); break;
    case 31: __asm__ volatile("vpaddd %%zmm0, %%zmm0, %%zmm0" ::: "xmm0"); break;
    default:
        for (unsigned i = 0; i < sizeof features / sizeof features[0]; i++) {
            __cpuid_count(features[i].leaf, 0, r[0], r[1], r[2], r[3]);
            if (r[features[i].part] >> features[i].bit & 1)
                printf("%s ", features[i].name);
        }
    }
    return 0;
}
"""
TRAPS = {Level.V2: range(1, 7), Level.AVX: (11,), Level.V3: range(21, 27), Level.V4: (31,)}


@pytest.fixture(scope="module")
def qemu() -> Emulator:
    found = find_emulator(ROOT / "build" / ".setup")
    if found is None:
        pytest.skip("no qemu-x86_64-static: `./factory setup` fetches it on Debian and Ubuntu")
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("cpu")
    (folder / "cpu.c").write_text(PROGRAM, encoding="utf-8")
    subprocess.run(["cc", "-O1", "-static", "-o", folder / "cpu", folder / "cpu.c"], check=True)
    return folder / "cpu"


def test_an_emulated_cpu_has_its_level_and_nothing_else(qemu: Emulator, program: Path) -> None:
    for level in LEVELS:
        cpu = emulated_cpus()[level]
        if level is Level.V4:
            assert "avx512" in qemu.why_not(cpu), "if qemu emulates it now, docs/smoke.md says too little"
            continue
        said = subprocess.run(
            [qemu.path, "-cpu", f"{cpu},enforce", program], capture_output=True, text=True, check=True
        )
        assert said.stderr == ""
        has = set(said.stdout.split())
        assert has == set(level_facts(level).cpuinfo), level
        for needs, numbers in TRAPS.items():
            dies = LEVELS.index(needs) > LEVELS.index(level)
            for number in numbers:
                ran = subprocess.run([qemu.path, "-cpu", cpu, program, str(number)], capture_output=True, check=False)
                assert (ran.returncode == -4) == dies, (level, needs, number, ran)


Smoke = Callable[..., SmokeReport]


@pytest.fixture
def smoke(qemu: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smoke:
    """Runs the checks on an image as one of a level: nothing has read its binary."""
    monkeypatch.setattr("serving_factory.smoke.run.CHECKS", tuple(one for one in CHECKS if one.emulated))

    monkeypatch.setattr("serving_factory.smoke.checks.DEATH_LIMIT", 3.0)

    def run(image: str, level: Level, *, own: bool = True) -> SmokeReport:
        emulation, why_not = plan_emulation(qemu, level, level_facts(level).cpuinfo)
        assert emulation
        emulation = emulation if own else replace(emulation, cpu="", no_cpu="none")
        plan = SmokePlan(
            variant="a-variant",
            model=MODELS / "half_plus_two",
            next_model=MODELS / "half_plus_two_next",
            reported_version="2.19.1",
            server=releases()["2.19.1"].server,
            scratch=tmp_path,
            owner=OWNER,
            emulation=emulation,
            no_emulation=why_not,
            no_gpu="not asked for",
        )
        return run_checks(Engine.connect(), image, plan=plan, cancel=Cancel(), emit_check=lambda _check: None)

    return run


@pytest.fixture(scope="module")
def mislabelled(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], str]]:
    """Makes an image of one variant that has another one's binary in it."""
    made: list[str] = []

    def make(variant: str, binary: str) -> str:
        image, other = (demo.checkout.record(one, "package")["outputs"]["image"] for one in (variant, binary))
        file = tmp_path_factory.mktemp("mislabelled") / "tensorflow_model_server"
        container, target = (docker("create", one).strip() for one in (other, image))
        docker("cp", f"{container}:{SERVER}", str(file))
        docker("cp", str(file), f"{target}:{SERVER}")
        made.append(docker("commit", target).strip())
        docker("rm", container, target)
        return made[-1]

    yield make
    for name in made:
        docker("rmi", "--force", name)


def test_the_demos_images_have_served_and_died(qemu: Emulator, demo: Demo) -> None:
    for variant in (V1, V3, GPU_V1, GPU_V3):
        level = Level.V1 if variant.endswith("v1") else Level.V3
        found = demo.checkout.record(variant, "smoke")["outputs"]["emulated"]
        assert found["cpu"] == emulated_cpus()[level]
        assert found["qemu"] == qemu.version
        assert found["ended"] in ({None} if level is Level.V1 else {132, 134})


def test_a_higher_binary_in_a_lower_image_is_found_without_disassembly(
    smoke: Smoke, mislabelled: Callable[[str, str], str]
) -> None:
    for lower, higher in ((V1, V3), (GPU_V1, GPU_V3)):
        image = mislabelled(lower, higher)
        error = smoke(image, Level.V1).error
        assert isinstance(error, LevelDiffersError), error
        assert "On an emulated CPU of exactly x86-64 " in error.what


def test_a_lower_binary_in_a_higher_image_is_found(smoke: Smoke, mislabelled: Callable[[str, str], str]) -> None:
    report = smoke(mislabelled(V3, V1), Level.V3)
    assert isinstance(report.error, LevelDiffersError)
    assert "The server of x86-64-v3 still ran after 3 s on an emulated CPU of avx" in report.error.what
    assert docker("ps", "--all", "--quiet", "--filter", f"label={OWNER_LABEL}={OWNER}") == ""


def test_where_qemu_has_no_cpu_of_the_level_the_one_below_is_tried(smoke: Smoke, demo: Demo) -> None:
    """As of x86-64-v4, of which the sample has no image: its server runs on this machine's own CPU meanwhile."""
    report = smoke(demo.checkout.record(V3, "package")["outputs"]["image"], Level.V3, own=False)
    assert report.error is None, report.error
    assert report.emulated
    assert (report.emulated.cpu, report.emulated.lower_cpu) == (None, emulated_cpus()[Level.AVX])
    assert report.emulated.ended in {132, 134}
    assert next(one.text for one in report.checks if one.name == "emulated").startswith("not served on x86-64-v3: none")
