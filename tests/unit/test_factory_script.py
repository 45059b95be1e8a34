"""./factory, on machines made of fakes: what it makes, what it leaves alone, and what it says."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .fake_machine import BOOKWORM, TRIXIE, FakeMachine


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


QEMU = "#!/bin/sh\necho 'qemu-x86_64 version 7.2.22 (Debian 1:7.2)'\n"
NEEDS_LIBRARIES = "#!/nowhere/ld.so\n"


def kept(machine: FakeMachine) -> Path:
    """Where the set-up keeps the emulator."""
    return machine.checkout / "build" / ".setup" / "qemu-x86_64-static"


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class TestInvoke:
    def test_gets_the_arguments_in_the_callers_folder(self, machine: FakeMachine) -> None:
        outcome = machine.factory("list", "--matrix", "a b.yaml", "", cwd=machine.root)
        assert outcome.code == 0
        assert outcome.out == f"in {machine.root} with list --matrix a b.yaml \n"

    def test_runs_without_arguments(self, machine: FakeMachine) -> None:
        assert machine.factory().out == f"in {machine.checkout} with \n"

    def test_hands_its_exit_code_on(self, machine: FakeMachine) -> None:
        machine.set("exit-code", "21")
        assert machine.factory("list").code == 21
        assert machine.factory("list").code == 21

    def test_is_found_through_a_link(self, machine: FakeMachine) -> None:
        link = machine.folder / "bin" / "input"
        link.symlink_to(machine.checkout / "factory")
        process = subprocess.run([link, "list"], env=machine.variables(), capture_output=True, text=True, check=True)
        assert process.stdout.endswith("with list\n")


class TestWarmStart:
    def test_only_looks_at_files(self, machine: FakeMachine) -> None:
        machine.have_environment()
        outcome = machine.factory("list")
        assert outcome.err == ""
        assert machine.calls() == [f"python3 -S -P {machine.checkout}/scripts/start.py list"]

    @pytest.mark.parametrize("task", ["demo", "build", "test"])
    def test_asks_docker_once(self, machine: FakeMachine, task: str) -> None:
        machine.have_environment()
        kept(machine).parent.mkdir(parents=True)
        kept(machine).write_text(QEMU)
        kept(machine).chmod(0o755)
        machine.run_engine()
        machine.set("image")
        assert machine.factory(task).err == ""
        assert len(machine.calls("docker")) == 1


class TestWhatATaskNeeds:
    @pytest.mark.parametrize(
        "arguments",
        [
            "", "list", "explain 2.19.1-cpu", "generate --check", "inspect", "tasks", "--list", "--help", "clean",
            "build --help", "build -h", "build --dry-run", "test --unit", "test --unit -k x", "-l build", "-V",
            "demo --help", "list --target build", "list --matrix samples/matrix.yaml", "-h build",
        ],
    )  # fmt: skip
    def test_no_engine(self, machine: FakeMachine, arguments: str) -> None:
        machine.have_environment()
        assert machine.factory(*arguments.split()).code == 0
        assert not machine.calls("docker")

    @pytest.mark.parametrize(
        "arguments",
        [
            "setup", "demo", "demo --json", "test", "test -k registry", "build", "build --release 2.19.1", "compile",
            "package", "smoke", "push --registry 127.0.0.1:5000", "list build",
            "clean --images", "clean --caches",
        ],
    )  # fmt: skip
    def test_an_engine(self, machine: FakeMachine, arguments: str) -> None:
        machine.have_environment()
        outcome = machine.factory(*arguments.split())
        assert outcome.code == 69
        assert "No Docker Engine" in outcome.err
        assert not machine.calls("invoke")

    @pytest.mark.parametrize(
        "arguments",
        [
            "demo", "test", "build --matrix samples/matrix.yaml", "smoke --matrix ./samples/matrix.yaml",
            "build --matrix=samples/../samples/matrix.yaml",
        ],
    )  # fmt: skip
    def test_the_base_image(self, machine: FakeMachine, arguments: str) -> None:
        machine.have_environment()
        (machine.checkout / "samples").mkdir()
        machine.run_engine()
        machine.set("registry")
        outcome = machine.factory(*arguments.split())
        assert outcome.code == 0
        assert "fetching debian:bookworm-slim" in outcome.err
        assert machine.calls("docker tag") == ["docker tag debian:bookworm-slim serving-factory/base:bookworm"]

    @pytest.mark.parametrize("arguments", ["build", "build --matrix other/matrix.yaml", "clean --images", "list"])
    def test_no_base_image(self, machine: FakeMachine, arguments: str) -> None:
        machine.have_environment()
        machine.run_engine()
        assert machine.factory(*arguments.split()).code == 0
        assert not machine.calls("docker pull")

    def test_the_samples_matrix_from_its_own_folder(self, machine: FakeMachine) -> None:
        samples = machine.checkout / "samples"
        samples.mkdir()
        machine.run_engine()
        machine.set("registry")
        assert machine.factory("build", "--matrix", "matrix.yaml", cwd=samples).code == 0
        assert machine.calls("docker tag")


class TestSetup:
    def test_reports_what_it_found(self, machine: FakeMachine) -> None:
        machine.run_engine()
        machine.set("image")
        outcome = machine.factory("setup")
        assert outcome.code == 0
        assert outcome.out.splitlines() == [
            "environment  .venv, Python 3.11.2",
            "engine       Docker Engine 26.1.5+dfsg1, buildx v0.13.1",
            "base image   serving-factory/base:bookworm, from a registry",
            "emulator     none",
        ]
        assert not machine.calls("invoke")

    def test_has_help_and_no_arguments(self, machine: FakeMachine) -> None:
        outcome = machine.factory("setup", "--help")
        assert outcome.code == 0
        assert "FACTORY_INSTALL=never" in outcome.out
        assert "#" not in outcome.out
        assert machine.factory("setup", "everything").code == 64
        assert machine.calls() == []

    @pytest.mark.parametrize("arguments", ["setup", "setup --help"])
    def test_says_that_output_was_lost(self, machine: FakeMachine, arguments: str) -> None:
        machine.run_engine()
        machine.set("image")
        code, err = machine.shell(f"{arguments} >/dev/full")
        assert code == 1
        assert "Not all of standard output could be written: No space left on device." in err
        assert "I/O error" not in err
        assert not machine.temporary()

    @pytest.mark.parametrize("arguments", ["setup", "setup --help"])
    def test_a_reader_that_has_read_enough_is_no_error(self, machine: FakeMachine, arguments: str) -> None:
        machine.run_engine()
        machine.set("image")
        assert machine.shell(f"{arguments} | true")[0] == 0
        assert not machine.temporary()

    @pytest.mark.parametrize(("arguments", "code"), [("setup", 69), ("setup everything", 64), ("list", 0)])
    def test_a_message_that_is_lost_changes_no_exit_code(self, machine: FakeMachine, arguments: str, code: int) -> None:
        assert machine.shell(f"{arguments} 2>/dev/full")[0] == code

    def test_waits_for_another_set_up(self, machine: FakeMachine) -> None:
        lock = machine.checkout / "build" / ".setup" / "lock"
        lock.parent.mkdir(parents=True)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            process = machine.start("list")
            assert process.stderr is not None
            assert process.stderr.readline() == "factory: waiting for another set-up to finish\n"
            assert not machine.calls("uv")
        assert process.communicate(timeout=10)[0].startswith("in ")

    def test_of_root_waits_for_the_whole_machine(self, machine: FakeMachine) -> None:
        machine.set("uid", "0")
        assert machine.factory("list").code == 0
        assert (machine.root / "run" / "lock" / "serving-factory.lock").exists()

    def test_cleans_up_when_interrupted_and_continues(self, machine: FakeMachine) -> None:
        machine.set("uv-hangs")
        process = machine.start("list")
        _wait_for(machine.state("uv-started").exists)
        assert machine.temporary()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert out == ""
        assert err.endswith("factory: interrupted; what was done so far is kept, the same command continues\n")
        assert not machine.temporary()
        machine.state("uv-hangs").unlink()
        assert machine.factory("list").code == 0

    def test_cleans_up_after_one_that_was_killed(self, machine: FakeMachine) -> None:
        machine.set("uv-hangs")
        process = machine.start("list")
        _wait_for(machine.state("uv-started").exists)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)
        assert machine.temporary()
        machine.state("uv-hangs").unlink()
        assert machine.factory("list").code == 0
        assert not machine.temporary()


class TestEmulator:
    @pytest.fixture(autouse=True)
    def _ready(self, machine: FakeMachine) -> None:
        machine.have_environment()
        machine.run_engine()
        machine.set("image")
        machine.give("dpkg-deb")

    def test_is_one_file_of_a_package_that_is_not_installed(self, machine: FakeMachine) -> None:
        machine.become_root_of(BOOKWORM)
        machine.have_package("qemu-user-static", qemu_x86_64_static=QEMU, qemu_arm_static=QEMU)
        outcome = machine.factory("setup")
        assert outcome.code == 0
        assert outcome.out.splitlines()[-1] == "emulator     qemu 7.2.22"
        assert "fetching qemu-x86_64-static" in outcome.err
        assert kept(machine).read_text() == QEMU
        assert not [call for call in machine.calls("apt-get") if " install " in call]
        assert not machine.temporary()
        downloads = machine.calls("apt-get -q download")
        assert machine.factory("setup").err == ""
        assert machine.calls("apt-get -q download") == downloads, "it is there"

    def test_is_in_another_package_from_debian_13_on(self, machine: FakeMachine) -> None:
        machine.become_root_of(TRIXIE)
        machine.have_package("qemu-user-static", qemu_x86_64_static="qemu-x86_64")
        machine.have_package("qemu-user", qemu_x86_64=QEMU)
        assert machine.factory("setup").out.endswith("emulator     qemu 7.2.22\n")

    def test_of_a_user_comes_without_an_update_of_the_lists(self, machine: FakeMachine) -> None:
        machine.become_root_of(BOOKWORM)
        machine.set("uid", "1000")
        machine.have_package("qemu-user-static", qemu_x86_64_static=QEMU)
        assert machine.factory("setup").out.endswith("emulator     qemu 7.2.22\n")
        assert not machine.calls("apt-get -q update")

    @pytest.mark.parametrize("why", ["no package", "needs libraries", "another distribution", "never"])
    def test_that_cannot_be_had_is_no_error(self, machine: FakeMachine, why: str) -> None:
        machine.become_root_of("ID=fedora\n" if why == "another distribution" else BOOKWORM)
        if why != "no package":
            program = NEEDS_LIBRARIES if why == "needs libraries" else QEMU
            machine.have_package("qemu-user-static", qemu_x86_64_static=program)
        if why == "never":
            machine.environment["FACTORY_INSTALL"] = "never"
        outcome = machine.factory("setup")
        assert outcome.code == 0
        assert outcome.out.endswith("emulator     none\n")
        assert "Install qemu-user-static by hand" in outcome.err
        assert not kept(machine).exists()

    def test_of_the_machine_is_used(self, machine: FakeMachine) -> None:
        path = machine.folder / "bin" / "qemu-x86_64-static"
        path.write_text(QEMU.replace("7.2.22", "10.0.13"))
        path.chmod(0o755)
        assert machine.factory("setup").out.endswith("emulator     qemu 10.0.13\n")

    def test_is_fetched_for_the_tests_and_no_other_task(self, machine: FakeMachine) -> None:
        machine.become_root_of(BOOKWORM)
        machine.have_package("qemu-user-static", qemu_x86_64_static=QEMU)
        assert machine.factory("demo").code == machine.factory("test", "--unit").code == 0
        assert not kept(machine).exists()
        assert machine.factory("test").code == 0
        assert kept(machine).exists()
