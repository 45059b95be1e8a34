"""What lies at the server's path in a runtime image: the CPU check, threads, the driver, the start of the server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from .launchers import CONTEXT, World

HASWELL = "fpu sse2 ssse3 fma movbe popcnt avx f16c abm bmi1 avx2 bmi2"
WESTMERE = "fpu sse2 ssse3 popcnt"
V3 = {
    "CPU_FLAGS": "avx avx2 bmi1 bmi2 f16c fma abm movbe",
    "FLAVOUR": "cpu",
    "LEVEL": "x86-64-v3",
    "LOWER_IMAGE": "example/serving:2.19.1-cpu",
}
GPU = {"FLAVOUR": "gpu", "CUDA": "12.2", "DRIVER": "525.60.13", "CAPABILITIES": "sm_80 sm_90"}
NEEDS = "CUDA 12.2 needs driver 525.60.13 or later; this image is compiled for sm_80 sm_90"
REMEDIES = (
    "Start the container with its cards: docker run --gpus all, or with CDI --device nvidia.com/gpu=all; "
    "in Kubernetes the resource nvidia.com/gpu"
)


@pytest.fixture
def world() -> World:
    made = World()
    made.facts(**V3)
    cpu(made, HASWELL)
    return made


def cpu(world: World, flags: str) -> None:
    name = "model name\t: Intel(R) Xeon(R) CPU X5660"
    world.write("proc/cpuinfo", f"vendor_id\t: GenuineIntel\n{name}\nflags\t\t: {flags}\nbugs\t\t: avx2\n\n" * 2)


# --- the server ---


def test_the_launcher_becomes_the_server_with_the_same_arguments(world: World) -> None:
    outcome = world.start("--port=8500", "a b", "")
    assert outcome.code == 0
    assert outcome.said == ""
    assert outcome.server == ["--port=8500", "a b", ""]
    assert outcome.same_process


def test_the_servers_exit_code_is_the_launchers(world: World) -> None:
    (world.root / "usr/lib/serving-factory/tensorflow_model_server").write_text("#!/bin/sh\nexit 3\n")
    assert world.start().code == 3


def test_a_launcher_without_its_server_says_what_is_missing(world: World) -> None:
    server = world.root / "usr/lib/serving-factory/tensorflow_model_server"
    server.chmod(0o644)
    outcome = world.start()
    assert outcome.code == 126
    assert f"cannot run {server}: Permission denied" in outcome.said
    server.unlink()
    outcome = world.start()
    assert outcome.code == 127
    assert f"the server itself is not at {server}. Copy that file too" in outcome.said


def test_a_closed_input_is_not_taken_for_the_announcement(world: World) -> None:
    """The socket that announces the server must be none of the standard streams."""
    (world.root / "usr/lib/serving-factory/tensorflow_model_server").write_text(
        "#!/bin/sh\nreadlink /proc/$$/fd/0 /proc/$$/fd/3\n"
    )
    done = subprocess.run(["sh", "-c", f"exec {world.program} <&-"], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"socket:\[\d+\]\n", done.stdout), "of 0 and 3 only 3 is open"


# --- the CPU ---


def test_a_smaller_cpu_is_refused_with_the_image_to_use(world: World) -> None:
    cpu(world, WESTMERE)
    outcome = world.start("--version")
    assert outcome.code == 78
    assert not outcome.started
    assert outcome.said == (
        "this image is made for CPUs of level x86-64-v3, and the CPU of this machine (Intel(R) Xeon(R) CPU X5660) "
        "lacks: avx avx2 bmi1 bmi2 f16c fma abm movbe. Use example/serving:2.19.1-cpu instead. In a virtual machine "
        "the CPU may have more than it shows: then let the machine pass on the host's CPU type.\n"
    )


def test_one_missing_flag_is_enough_and_no_part_of_a_name_counts(world: World) -> None:
    cpu(world, HASWELL.replace(" avx2 ", " avx512f xavx2 avx2x "))
    outcome = world.start()
    assert outcome.code == 78
    assert "lacks: avx2." in outcome.said


def test_without_a_lower_image_the_remedy_is_general(world: World) -> None:
    cpu(world, WESTMERE)
    world.facts(**{**V3, "LOWER_IMAGE": ""})
    assert "Use an image of a lower level instead." in world.start().said


@pytest.mark.parametrize("cpuinfo", [None, "", "processor\t: 0\nFeatures\t: fp asimd\n", "flags", "flags\n"])
def test_what_cannot_be_compared_stops_nothing(world: World, cpuinfo: str | None) -> None:
    world.write("proc/cpuinfo", cpuinfo or "")
    if cpuinfo is None:
        (world.root / "proc/cpuinfo").unlink()
    assert world.start().started


def test_an_image_without_facts_or_with_no_flags_runs_anywhere(world: World) -> None:
    cpu(world, WESTMERE)
    world.facts(CPU_FLAGS="", LEVEL="x86-64")
    assert world.start().started
    (world.root / "usr/share/serving-factory/image.env").unlink()
    assert world.start().started


def test_facts_without_quotes_and_an_unended_last_line_are_read(world: World) -> None:
    cpu(world, WESTMERE)
    world.write("usr/share/serving-factory/image.env", "LEVEL=x86-64-v2\nCPU_FLAGS=sse4_2")
    assert (
        "level x86-64-v2, and the CPU of this machine (Intel(R) Xeon(R) CPU X5660) lacks: sse4_2." in world.start().said
    )


def test_the_facts_do_not_mix_with_the_environment(world: World) -> None:
    cpu(world, WESTMERE)
    outcome = world.start(environment={"CPU_FLAGS": "", "LEVEL": "none"})
    assert outcome.code == 78
    assert "level x86-64-v3" in outcome.said


# --- an image with several levels ---


WHOLE = f"{HASWELL} avx512f avx512bw"
LEVELS = {
    "FLAVOUR": "cpu",
    "LEVEL": "x86-64",
    "CPU_FLAGS": "",
    "LEVEL_1": "x86-64-v4",
    "CPU_FLAGS_1": f"{V3['CPU_FLAGS']} avx512f avx512bw",
    "LEVEL_2": "x86-64-v3",
    "CPU_FLAGS_2": V3["CPU_FLAGS"],
}


@pytest.fixture
def levels(world: World) -> World:
    """An image with x86-64, x86-64-v3 and x86-64-v4: each server says which it is, and ends."""
    world.facts(**LEVELS)
    for folder in ("", "x86-64-v3/", "x86-64-v4/"):
        text = "#!/bin/sh\necho pid=$$\necho A=\necho B=\necho ${0%/*} $*\n".replace("${0%/*}", folder or "lowest")
        world.write(f"usr/lib/serving-factory/{folder}tensorflow_model_server", text).chmod(0o755)
    return world


@pytest.mark.parametrize(
    ("flags", "level", "server"),
    [
        (WHOLE, "x86-64-v4", "x86-64-v4/"),
        (HASWELL, "x86-64-v3", "x86-64-v3/"),
        (HASWELL.replace(" bmi2", ""), "x86-64", "lowest"),
        (WESTMERE, "x86-64", "lowest"),
    ],
)
def test_the_highest_level_that_the_cpu_has_is_started(levels: World, flags: str, level: str, server: str) -> None:
    cpu(levels, flags)
    outcome = levels.start("--port=1")
    assert outcome.server == [f"{server} --port=1"]
    assert outcome.said == f"the server of level {level} is started, by the CPU (Intel(R) Xeon(R) CPU X5660)\n"
    assert outcome.same_process
    assert levels.start("--version").said == "", "what is asked for must not be mixed with it"


def test_a_machine_that_says_nothing_of_its_cpu_gets_the_lowest(levels: World) -> None:
    (levels.root / "proc/cpuinfo").unlink()
    assert levels.start().server == ["lowest"]


@pytest.mark.parametrize(("level", "server"), [("x86-64", "lowest"), ("x86-64-v3", "x86-64-v3/"), ("", "x86-64-v4/")])
def test_the_environment_overrules_the_cpu(levels: World, level: str, server: str) -> None:
    cpu(levels, WHOLE)
    outcome = levels.start(environment={"TF_SERVING_CPU_LEVEL": level})
    assert outcome.server == [server]
    assert ("by TF_SERVING_CPU_LEVEL" in outcome.said) == bool(level)


def test_a_level_that_the_cpu_has_not_is_refused(levels: World) -> None:
    cpu(levels, HASWELL)
    outcome = levels.start(environment={"TF_SERVING_CPU_LEVEL": "x86-64-v4"})
    assert outcome.code == 78
    assert outcome.said.startswith(
        "this server is made for CPUs of level x86-64-v4, and the CPU of this machine (Intel(R) Xeon(R) CPU X5660) "
        "lacks: avx512f avx512bw. Use another TF_SERVING_CPU_LEVEL or none instead."
    )
    assert not outcome.started


def test_a_level_that_the_image_has_not_is_refused(levels: World) -> None:
    outcome = levels.start(environment={"TF_SERVING_CPU_LEVEL": "v3"})
    assert outcome.code == 64
    assert outcome.said == (
        "TF_SERVING_CPU_LEVEL is 'v3', and this image has no server of that level. "
        "It has: x86-64, x86-64-v3, x86-64-v4\n"
    )


def test_an_image_with_one_level_knows_its_own_and_no_other(world: World) -> None:
    assert world.start(environment={"TF_SERVING_CPU_LEVEL": "x86-64-v3"}).started
    outcome = world.start(environment={"TF_SERVING_CPU_LEVEL": "x86-64"})
    assert (outcome.code, outcome.said[-15:]) == (64, "has: x86-64-v3\n")


def test_the_lowest_level_is_checked_as_that_of_any_image(levels: World) -> None:
    levels.facts(**{**LEVELS, "LEVEL": "x86-64-v2", "CPU_FLAGS": "sse4_2"})
    cpu(levels, "fpu")
    assert levels.start().code == 78


def test_a_missing_server_of_a_level_is_named(levels: World) -> None:
    (levels.root / "usr/lib/serving-factory/x86-64-v3/tensorflow_model_server").unlink()
    outcome = levels.start()
    assert outcome.code == 127
    assert "x86-64-v3/tensorflow_model_server. Copy that file too" in outcome.said


# --- threads ---


def _version_2(world: World, quota: str) -> None:
    world.write("sys/fs/cgroup/cpu.max", f"{quota} 100000\n")


def _version_1(world: World, quota: str) -> None:
    world.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{'-1' if quota == 'max' else quota}\n")
    world.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")


@pytest.mark.parametrize("set_quota", [_version_1, _version_2])
@pytest.mark.parametrize(("quota", "threads"), [("400000", "4"), ("250000", "2"), ("50000", "1"), ("max", "")])
def test_mkl_takes_its_threads_from_the_cpu_quota(
    world: World, set_quota: Callable[[World, str], None], quota: str, threads: str
) -> None:
    set_quota(world, quota)
    world.facts(FLAVOUR="mkl")
    outcome = world.start("--port=1")
    flags = [f"--tensorflow_intra_op_parallelism={threads}", "--tensorflow_inter_op_parallelism=2"] if threads else []
    assert outcome.environment["OMP_NUM_THREADS"] == threads
    assert outcome.server == [*flags, "--port=1"]
    said = f"the container's CPU quota allows {threads} thread(s): {' '.join((f'OMP_NUM_THREADS={threads}', *flags))}\n"
    assert outcome.said == (said if threads else "")


@pytest.mark.parametrize(
    ("environment", "arguments", "threads", "server"),
    [
        (
            {"TENSORFLOW_INTRA_OP_PARALLELISM": "4", "TENSORFLOW_INTER_OP_PARALLELISM": "2", "OMP_NUM_THREADS": "6"},
            [],
            "6",
            ["--tensorflow_intra_op_parallelism=4", "--tensorflow_inter_op_parallelism=2"],
        ),
        (
            {"TENSORFLOW_INTER_OP_PARALLELISM": "-1"},
            ["--tensorflow_intra_op_parallelism=9"],
            "8",
            ["--tensorflow_inter_op_parallelism=-1", "--tensorflow_intra_op_parallelism=9"],
        ),
        (
            {"TENSORFLOW_INTRA_OP_PARALLELISM": "", "OMP_NUM_THREADS": "4,2"},
            [],
            "4,2",
            ["--tensorflow_intra_op_parallelism=8", "--tensorflow_inter_op_parallelism=2"],
        ),
    ],
    ids=["upstream's variables", "an argument goes first", "empty is unset"],
)
def test_what_is_given_goes_before_the_quota(
    world: World, environment: dict[str, str], arguments: list[str], threads: str, server: list[str]
) -> None:
    _version_2(world, "800000")
    world.facts(FLAVOUR="mkl")
    outcome = world.start(*arguments, environment=environment)
    assert outcome.environment["OMP_NUM_THREADS"] == threads
    assert outcome.server == server


@pytest.mark.parametrize("value", ["many", "2x", "-2", "99999999999999999999"])
def test_a_number_of_threads_that_is_none_is_ignored_with_a_line(world: World, value: str) -> None:
    world.facts(FLAVOUR="mkl")
    name = "TENSORFLOW_INTRA_OP_PARALLELISM"
    outcome = world.start(environment={name: value})
    assert outcome.said == f"{name} is '{value}', which is no number of threads, and is ignored\n"
    assert outcome.server == []


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_a_server_that_only_answers_needs_no_threads(world: World, arguments: list[str]) -> None:
    _version_2(world, "400000")
    world.facts(FLAVOUR="mkl")
    outcome = world.start(*arguments)
    assert (outcome.said, outcome.server, outcome.environment["OMP_NUM_THREADS"]) == ("", arguments, "")


def test_other_flavours_leave_threads_alone(world: World) -> None:
    _version_2(world, "400000")
    outcome = world.start(environment={"TENSORFLOW_INTRA_OP_PARALLELISM": "4"})
    assert (outcome.said, outcome.server, outcome.environment["OMP_NUM_THREADS"]) == ("", [], "")


# --- the driver ---

KERNEL_MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Jun 27 15:04:05 UTC 2023\nGCC version:  gcc 9.4.0\n"
)
LOADER = "usr/lib/x86_64-linux-gnu"


def library(world: World, folder: str, version: str) -> None:
    """What a container runtime mounts: the file, and the link that the loader looks for."""
    world.write(f"{folder}/libcuda.so.{version}")
    (world.root / folder / "libcuda.so.1").symlink_to(f"libcuda.so.{version}")


def cards(world: World, *names: str) -> None:
    for name in names or ("nvidiactl", "nvidia-uvm", "nvidia0"):
        world.write(f"dev/{name}")


@pytest.fixture
def gpu(world: World) -> World:
    world.facts(**GPU)
    return world


def test_a_driver_that_fits_is_named(gpu: World) -> None:
    library(gpu, LOADER, "535.54.03")
    cards(gpu)
    outcome = gpu.start()
    assert outcome.said == f"NVIDIA driver 535.54.03; {NEEDS}.\n"
    assert outcome.started
    assert outcome.environment["LD_LIBRARY_PATH"] == ""


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("470.82.01", True),
        ("525.60.11", True),
        ("525.60", True),
        ("525.9.99", True),
        ("525.60.13", False),
        ("525.60.13.01", False),
        ("525.125.06", False),
        ("1000.1", False),
    ],
)
def test_the_whole_version_is_compared(gpu: World, version: str, *, old: bool) -> None:
    library(gpu, LOADER, version)
    cards(gpu)
    outcome = gpu.start()
    assert (f"the NVIDIA driver here, {version}, is too old: {NEEDS}. Update" in outcome.said) == old
    assert outcome.started


def test_the_machines_driver_alone_is_none(gpu: World) -> None:
    """/proc/driver/nvidia/version is there in every container of a machine with a card."""
    assert gpu.start().said == f"no NVIDIA driver is in this container ({NEEDS}). {REMEDIES}.\n"
    gpu.write("proc/driver/nvidia/version", KERNEL_MODULE.format("535.54.03"))
    outcome = gpu.start()
    assert outcome.said.startswith("no NVIDIA driver is in this container, though the machine has 535.54.03 (CUDA 12.2")
    assert outcome.said.endswith(f"{REMEDIES}.\n")
    assert outcome.started


def test_a_library_without_a_card_and_a_card_without_a_library_are_distinguished(gpu: World) -> None:
    cards(gpu)
    assert "the driver's libcuda.so.1 is not" in gpu.start().said
    assert "NVIDIA_DRIVER_CAPABILITIES must name compute" in gpu.start().said
    (gpu.root / "dev/nvidia0").unlink()
    library(gpu, LOADER, "535.54.03")
    assert "the NVIDIA driver 535.54.03 is in this container, but no card is" in gpu.start().said


def test_the_version_is_the_kernel_modules_where_the_library_does_not_say_it(gpu: World) -> None:
    gpu.write(f"{LOADER}/libcuda.so.1")
    cards(gpu)
    gpu.write("proc/driver/nvidia/version", KERNEL_MODULE.format("470.82.01"))
    assert "driver here, 470.82.01, is too old" in gpu.start().said


@pytest.mark.parametrize("folder", ["usr/local/nvidia/lib64", "usr/local/nvidia/lib", "usr/lib/wsl/lib"])
def test_a_driver_where_no_loader_looks_is_shown_to_the_server(gpu: World, folder: str) -> None:
    """Google Kubernetes Engine mounts it there; the image's own LD_LIBRARY_PATH may have been replaced."""
    library(gpu, folder, "535.54.03")
    cards(gpu)
    outcome = gpu.start(environment={"LD_LIBRARY_PATH": "/my/libraries"})
    assert outcome.said == f"NVIDIA driver 535.54.03; {NEEDS}.\n"
    assert outcome.environment["LD_LIBRARY_PATH"] == f"/my/libraries:{gpu.root}/{folder}"
    assert gpu.start().environment["LD_LIBRARY_PATH"] == f"{gpu.root}/{folder}"
    path = f"/my/libraries:{gpu.root}/{folder}:/other"
    assert gpu.start(environment={"LD_LIBRARY_PATH": path}).environment["LD_LIBRARY_PATH"] == path


def test_a_driver_in_a_folder_of_the_loaders_cache_is_found(gpu: World) -> None:
    """As CDI adds folders: the cache holds paths, each ended by NUL."""
    library(gpu, "usr/lib/wsl/drivers/nv_1", "535.54.03")
    cards(gpu)
    gpu.write("etc/ld.so.cache", "glibc-ld.so.cache1.1\0libcuda.so.1\0/gone/libcuda.so.1\0")
    assert "libcuda.so.1 is not" in gpu.start().said
    gpu.write("etc/ld.so.cache", "x\0/gone/libcuda.so.1\0/usr/lib/wsl/drivers/nv_1/libcuda.so.1\0/lib/libm.so.6\0")
    assert gpu.start().said == f"NVIDIA driver 535.54.03; {NEEDS}.\n"


def test_wsl2_has_one_device_and_no_version(gpu: World) -> None:
    library(gpu, "usr/lib/wsl/lib", "1.1")
    cards(gpu, "dxg")
    outcome = gpu.start()
    assert outcome.said == f"the version of the NVIDIA driver is not known here, under WSL2; {NEEDS}.\n"
    assert outcome.environment["LD_LIBRARY_PATH"] == f"{gpu.root}/usr/lib/wsl/lib"


def test_slices_of_a_card_are_named(gpu: World) -> None:
    library(gpu, LOADER, "535.54.03")
    cards(gpu, "nvidiactl", "nvidia0", "nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap2")
    assert "MIG" not in gpu.start().said
    cards(gpu, "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31")
    assert gpu.start().said == f"NVIDIA driver 535.54.03, MIG slices of a card; {NEEDS}.\n"


def test_only_a_gpu_image_that_serves_looks_for_a_driver(world: World) -> None:
    assert world.start().said == ""
    world.facts(**GPU)
    assert world.start("--version").said == ""


# --- form ---


@pytest.mark.parametrize("name", ["launcher.h", *sorted(path.name for path in CONTEXT.glob("launcher*.c"))])
def test_the_dockerfile_copies_each_source(name: str) -> None:
    text = (CONTEXT.parent / "templates" / "launcher.Dockerfile.j2").read_text(encoding="utf-8")
    (copied,) = re.findall(r"^COPY (launcher.*) /factory/launcher/$", text, re.MULTILINE)
    assert name in copied.split()
