"""The runtime image's entrypoint, run by the shells of this machine on a made-up image and machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CONTEXT = Path(__file__).parents[2] / "dockerfiles" / "context"
ENTRYPOINT = CONTEXT / "tf_serving_entrypoint.sh"

HASWELL = "fpu sse2 ssse3 fma movbe popcnt avx f16c abm bmi1 avx2 bmi2"
WESTMERE = "fpu sse2 ssse3 popcnt"
IMAGE_FACTS = """\
CPU_FLAGS="avx avx2 bmi1 bmi2 f16c fma abm movbe"
FLAVOUR=cpu
LEVEL=x86-64-v3
LOWER_IMAGE=example/serving:2.19.1-cpu
RELEASE=2.19.1
VARIANT=2.19.1-cpu-v3
"""
NOBODY = 65534


class World:
    """A made-up image and machine in a folder: the entrypoint with its paths turned there, a talking server.

    The script is run as a user who is not root, because root may read everything.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.chmod(0o755)
        self.models = root / "models"
        self.facts = root / "image.env"
        self.cpuinfo = root / "cpuinfo"
        self.cgroup = root / "cgroup"
        self.driver = root / "nvidia-version"
        self.server = root / "tensorflow_model_server"
        self.models.mkdir()
        self.cgroup.mkdir()
        self.facts.write_text(IMAGE_FACTS)
        self.cpu(HASWELL)
        self.server.write_text('#!/bin/sh\necho "pid=$$ threads=${OMP_NUM_THREADS-}"\nprintf "%s\\n" "$@"\n')
        self.server.chmod(0o755)
        text = ENTRYPOINT.read_text()
        for path, ours in {
            "/usr/bin/tensorflow_model_server": self.server,
            "/usr/share/serving-factory/image.env": self.facts,
            "/proc/cpuinfo": self.cpuinfo,
            "/sys/fs/cgroup": self.cgroup,
            "/proc/driver/nvidia/version": self.driver,
            "/usr/lib/x86_64-linux-gnu/libcuda.so": root / "libcuda.so",
            "/models}": f"{self.models}}}",
        }.items():
            assert text.count(path) == 1, path
            text = text.replace(path, str(ours))
        self.script = root / "entrypoint.sh"
        self.script.write_text(text)

    def cpu(self, flags: str) -> None:
        name = "model name\t: Intel(R) Xeon(R) CPU X5660"
        self.cpuinfo.write_text(f"vendor_id\t: GenuineIntel\n{name}\nflags\t\t: {flags}\nbugs\t\t: avx2\n\n" * 2)

    def model(self, name: str = "model", *versions: str) -> Path:
        folder = self.models / name
        folder.mkdir()
        for version in versions or ("1",):
            (folder / version).mkdir()
            (folder / version / "saved_model.pb").write_bytes(b"")
        return folder

    def start(
        self, *arguments: str, shell: Sequence[str] = ("sh",), environment: Mapping[str, str] | None = None
    ) -> Outcome:
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with subprocess.Popen(
            [*shell, str(self.script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **(environment or {})},
            **as_nobody,  # type: ignore[call-overload]
        ) as process:
            output, said = process.communicate(timeout=20)
            return Outcome(process.pid, process.returncode, output.splitlines(), said)


class Outcome:
    """What a start came to: exit code, what was said, and the server's arguments if it was reached."""

    def __init__(self, pid: int, code: int, output: Sequence[str], said: str) -> None:
        self.code = code
        self.said = said
        self.server = list(output[1:])
        self.started = bool(output)
        self.threads = output[0].partition("threads=")[2] if output else ""
        self.replaced_the_shell = bool(output) and output[0].startswith(f"pid={pid} ")


@pytest.fixture
def world() -> Iterator[World]:
    # Not tmp_path: its parents are closed to all but their owner, and the script runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="entrypoint-") as folder:
        yield World(Path(folder))
        for path in Path(folder).rglob("*"):
            if path.is_dir():
                path.chmod(0o755)


SHELLS = [shell for shell in (("dash",), ("bash",), ("bash", "--posix"), ("busybox", "sh")) if shutil.which(shell[0])]


# --- the contract with upstream's image ---


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_server_is_started_as_upstream_does(world: World, shell: Sequence[str]) -> None:
    world.model("half_plus_two", "00000123")
    outcome = world.start("--enable_batching", "a b", shell=shell, environment={"MODEL_NAME": "half_plus_two"})
    assert outcome.code == 0
    assert outcome.server == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=half_plus_two",
        f"--model_base_path={world.models}/half_plus_two",
        "--enable_batching",
        "a b",
    ]
    assert outcome.said == ""
    assert outcome.replaced_the_shell


def test_ports_and_paths_come_from_the_environment(world: World) -> None:
    elsewhere = world.root / "elsewhere"
    (elsewhere / "m" / "1").mkdir(parents=True)
    environment = {"PORT": "9000", "REST_API_PORT": "9001", "MODEL_BASE_PATH": str(elsewhere), "MODEL_NAME": "m"}
    outcome = world.start(environment=environment)
    assert outcome.server == [
        "--port=9000",
        "--rest_api_port=9001",
        "--model_name=m",
        f"--model_base_path={elsewhere}/m",
    ]


def test_a_configuration_file_takes_the_place_of_the_model(world: World) -> None:
    file = world.root / "models.config"
    file.write_text("")
    outcome = world.start(environment={"MODEL_CONFIG_FILE": str(file)})
    assert outcome.server == ["--port=8500", "--rest_api_port=8501", f"--model_config_file={file}"]
    assert outcome.said == ""


def test_a_server_without_rest_gets_no_rest_port(world: World) -> None:
    world.facts.write_text(IMAGE_FACTS + "REST=no")
    assert "--rest_api_port=8501" not in world.start().server


@pytest.mark.parametrize("name", ["PORT", "REST_API_PORT"])
@pytest.mark.parametrize("value", ["tcp://10.0.0.1:8501", "http", "-1", "85 01"])
def test_a_port_that_is_no_number_is_named(world: World, name: str, value: str) -> None:
    outcome = world.start(environment={name: value})
    assert outcome.code == 64
    assert f"{name} is '{value}', which is no port number." in outcome.said
    assert not outcome.started


@pytest.mark.parametrize("name", ["PORT", "REST_API_PORT"])
@pytest.mark.parametrize("value", ["0", "65536", "99999999999999999999999"])
def test_a_port_out_of_range_is_named(world: World, name: str, value: str) -> None:
    outcome = world.start(environment={name: value})
    assert outcome.code == 64
    assert f"{name} is '{value}', and a port is a number from 1 to 65535." in outcome.said
    assert len(outcome.said.splitlines()) == 1
    assert not outcome.started


def test_the_ends_of_the_range_are_ports(world: World) -> None:
    assert world.start(environment={"PORT": "1", "REST_API_PORT": "65535"}).started


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {"PORT": "9000", "REST_API_PORT": "9000"}),
        ([], {"PORT": "8501"}),
        (["--port=8501"], {}),
        (["--rest_api_port=8500"], {}),
    ],
)
def test_both_protocols_on_one_port_are_refused(
    world: World, arguments: list[str], environment: dict[str, str]
) -> None:
    outcome = world.start(*arguments, environment=environment)
    assert outcome.code == 64
    assert "gRPC and REST each need a port of their own." in outcome.said
    assert not outcome.started


@pytest.mark.parametrize(
    "arguments", [["--rest_api_port=9001"], ["--port=9001"], ["--version"], ["--port=0", "--rest_api_port=0"]]
)
def test_what_the_arguments_set_right_is_no_clash(world: World, arguments: list[str]) -> None:
    assert world.start(*arguments, environment={"PORT": "9000", "REST_API_PORT": "9000"}).started


def test_without_rest_its_port_clashes_with_none(world: World) -> None:
    world.facts.write_text(IMAGE_FACTS + "REST=no")
    assert world.start(environment={"PORT": "8501"}).started


# --- the CPU ---


def test_a_smaller_cpu_is_refused_with_the_image_to_use(world: World) -> None:
    world.cpu(WESTMERE)
    outcome = world.start("--version")
    assert outcome.code == 78
    assert not outcome.started
    assert "level x86-64-v3" in outcome.said
    assert "(Intel(R) Xeon(R) CPU X5660) lacks: avx avx2 bmi1 bmi2 f16c fma abm movbe." in outcome.said
    assert "Use example/serving:2.19.1-cpu instead." in outcome.said
    assert len(outcome.said.splitlines()) == 1


def test_one_missing_flag_is_enough_and_no_part_of_a_name_counts(world: World) -> None:
    world.cpu(HASWELL.replace(" avx2 ", " avx512f xavx2 avx2x "))
    outcome = world.start()
    assert outcome.code == 78
    assert "lacks: avx2." in outcome.said


def test_without_a_lower_image_the_remedy_is_general(world: World) -> None:
    world.cpu(WESTMERE)
    world.facts.write_text(IMAGE_FACTS.replace("example/serving:2.19.1-cpu", ""))
    assert "Use an image of a lower level instead." in world.start().said


@pytest.mark.parametrize("cpuinfo", [None, "", "processor\t: 0\nFeatures\t: fp asimd\n", "flags"])
def test_what_cannot_be_compared_stops_nothing(world: World, cpuinfo: str | None) -> None:
    world.model()
    if cpuinfo is None:
        world.cpuinfo.unlink()
    else:
        world.cpuinfo.write_text(cpuinfo)
    assert world.start().started


def test_an_image_without_facts_or_with_no_flags_runs_anywhere(world: World) -> None:
    world.cpu(WESTMERE)
    world.facts.write_text('CPU_FLAGS=""\nLEVEL=x86-64\n')
    assert world.start().started
    world.facts.unlink()
    assert world.start().started


def test_the_image_facts_do_not_mix_with_the_environment(world: World) -> None:
    world.cpu(WESTMERE)
    outcome = world.start(environment={"CPU_FLAGS": "", "cpu_flags": "", "LEVEL": "none"})
    assert outcome.code == 78
    assert "level x86-64-v3" in outcome.said


# --- the model ---


def test_a_model_that_is_not_mounted_is_reported_and_waited_for(world: World) -> None:
    outcome = world.start(environment={"MODEL_NAME": "absent"})
    assert outcome.started
    assert f"there is no model at {world.models}/absent yet: nothing is mounted there." in outcome.said
    assert f"docker run -v DIR:{world.models}/absent" in outcome.said
    assert len(outcome.said.splitlines()) == 1


def test_a_model_without_a_numeric_version_is_reported_and_waited_for(world: World) -> None:
    world.model("model", "v1", "1a", "latest")
    (world.models / "model" / "7").write_text("a file is no version")
    outcome = world.start()
    assert outcome.started
    assert "holds no folder with a number for a name" in outcome.said


def test_an_empty_model_folder_has_no_version(world: World) -> None:
    (world.models / "model").mkdir()
    assert "holds no folder with a number for a name" in world.start().said


def test_a_version_mounted_as_the_model_is_recognised(world: World) -> None:
    (world.models / "model").mkdir()
    (world.models / "model" / "saved_model.pb").write_bytes(b"")
    outcome = world.start()
    assert outcome.started
    assert f"Mount that model one deeper: docker run -v DIR:{world.models}/model/1" in outcome.said


@pytest.mark.parametrize("closed", [".", "model", "model/1", "model/1/saved_model.pb"])
def test_what_may_not_be_read_ends_the_container(world: World, closed: str) -> None:
    world.model()
    path = world.models / closed
    path.chmod(0)
    outcome = world.start()
    assert outcome.code == 77
    assert not outcome.started
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    group = NOBODY if os.geteuid() == 0 else os.getegid()
    place = str(path) if closed == "." else f"{world.models}/{closed}"
    assert f"{place} is there, but this container's user, {user}:{group}, may not read it" in outcome.said
    assert f"it belongs to {os.geteuid()}:{path.stat().st_gid} and has mode 0" in outcome.said
    assert len(outcome.said.splitlines()) == 1


def test_only_the_newest_version_must_be_readable(world: World) -> None:
    folder = world.model("model", "9", "0010", "8")
    (folder / "9").chmod(0)
    assert world.start().started
    (folder / "0010").chmod(0)
    outcome = world.start()
    assert outcome.code == 77
    assert "model/0010 is there" in outcome.said


def test_a_model_that_is_a_file_ends_the_container(world: World) -> None:
    (world.models / "model").write_text("")
    outcome = world.start()
    assert outcome.code == 66
    assert "is a file" in outcome.said


def test_a_configuration_file_must_be_there_and_readable(world: World) -> None:
    file = world.root / "models.config"
    outcome = world.start(environment={"MODEL_CONFIG_FILE": str(file)})
    assert outcome.code == 66
    assert f"MODEL_CONFIG_FILE is {file}, and there is no such file" in outcome.said
    folder = world.start(environment={"MODEL_CONFIG_FILE": str(world.root)})
    assert folder.code == 66
    assert f"MODEL_CONFIG_FILE is {world.root}, and that is a folder" in folder.said
    file.write_text("")
    file.chmod(0)
    assert world.start(environment={"MODEL_CONFIG_FILE": str(file)}).code == 77
    assert world.start(f"--model_config_file={file}").code == 77


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--version"], {}),
        (["--help"], {}),
        ([], {"MODEL_BASE_PATH": "s3://bucket/models"}),
        (["--model_base_path=gs://bucket/m"], {}),
        (["--model_config_file=gs://bucket/models.config"], {}),
        ([], {"MODEL_CONFIG_FILE": "gs://bucket/models.config"}),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_check(
    world: World, arguments: list[str], environment: dict[str, str]
) -> None:
    outcome = world.start(*arguments, environment=environment)
    assert outcome.started
    assert outcome.said == ""


def test_an_argument_goes_before_the_environment(world: World) -> None:
    world.model("other")
    outcome = world.start(f"--model_base_path={world.models}/other")
    assert outcome.said == ""
    assert outcome.server[-1] == f"--model_base_path={world.models}/other"


# --- threads ---


def _version_2(world: World, quota: str) -> None:
    (world.cgroup / "cpu.max").write_text(f"{quota} 100000\n")


def _version_1(world: World, quota: str) -> None:
    (world.cgroup / "cpu").mkdir()
    (world.cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{'-1' if quota == 'max' else quota}\n")
    (world.cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize("set_quota", [_version_1, _version_2])
@pytest.mark.parametrize(("quota", "threads"), [("400000", "4"), ("250000", "2"), ("50000", "1"), ("max", "")])
def test_mkl_takes_its_threads_from_the_cpu_quota(
    world: World, set_quota: Callable[[World, str], None], quota: str, threads: str
) -> None:
    set_quota(world, quota)
    world.facts.write_text(IMAGE_FACTS.replace("FLAVOUR=cpu", "FLAVOUR=mkl"))
    outcome = world.start()
    assert outcome.threads == threads
    assert (f"OMP_NUM_THREADS={threads}" in outcome.said) == bool(threads)


def test_threads_are_left_alone_when_given_or_not_required(world: World) -> None:
    _version_2(world, "400000")
    assert world.start().threads == ""
    world.facts.write_text(IMAGE_FACTS.replace("FLAVOUR=cpu", "FLAVOUR=mkl"))
    assert world.start(environment={"OMP_NUM_THREADS": "3"}).threads == "3"
    (world.cgroup / "cpu.max").write_text("")
    assert world.start().threads == ""


# --- form ---


@pytest.mark.parametrize("script", sorted(CONTEXT.rglob("*.sh")), ids=lambda path: str(path.name))
def test_scripts_are_shellcheck_clean_and_executable(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None
    command = [shellcheck, "--external-sources", str(script)]
    done = subprocess.run(command, cwd=CONTEXT.parents[1], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


# --- gpu --------------------------------------------------------------------------------------------------------------

GPU = (
    IMAGE_FACTS.replace("FLAVOUR=cpu", 'FLAVOUR="gpu"')
    + 'CUDA="12.2"\nDRIVER="525.60.13"\nCAPABILITIES="sm_80 sm_90"\n'
)
NEEDS = "CUDA 12.2 needs driver 525.60.13 or later; this image is compiled for sm_80 sm_90"
KERNEL_MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Jun 27 15:04:05 UTC 2023\nGCC version:  gcc 9.4.0\n"
)


@pytest.mark.parametrize(
    ("kernel_module", "library", "said"),
    [
        ("535.54.03", "", f"NVIDIA driver 535.54.03; {NEEDS}."),
        ("470.82.01", "", f"the NVIDIA driver here, 470.82.01, is too old: {NEEDS}."),
        ("", "550.54.15", f"NVIDIA driver 550.54.15; {NEEDS}."),
        ("", "", f"no NVIDIA driver is here ({NEEDS}). Was the container started with docker run --gpus all?"),
    ],
)
def test_a_gpu_image_reports_the_driver_found_and_needed(
    world: World, kernel_module: str, library: str, said: str
) -> None:
    world.facts.write_text(GPU)
    world.model()
    if kernel_module:
        world.driver.write_text(KERNEL_MODULE.format(kernel_module))
    if library:
        (world.root / f"libcuda.so.{library}").touch()
    outcome = world.start()
    assert said in outcome.said
    assert outcome.started


def test_only_a_gpu_image_looks_for_a_driver(world: World) -> None:
    world.model()
    assert "driver" not in world.start().said
    world.facts.write_text(GPU)
    assert "driver" not in world.start("--version").said
