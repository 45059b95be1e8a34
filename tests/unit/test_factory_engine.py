"""./factory, Docker and the sample's base image: what is installed, started, made, left alone, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fake_machine import BOOKWORM, JAMMY, TRIXIE, FakeMachine

BOOKWORM_ENTRIES = """\
Debian|bookworm|bookworm|http://mirror.example/debian/|main|{file}:1
Debian|bookworm-updates|bookworm-updates|http://mirror.example/debian/|main|{file}:1
Debian|bookworm-security|bookworm-security|http://mirror.example/security/|main|{file}:2
Someone else|bookworm|bookworm|http://other.example/|main|/etc/apt/sources.list.d/other.list:1"""

DEB822 = """\
# the machine's own
Types: deb
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
"""


def _bookworm(machine: FakeMachine, *, one_line: bool = False) -> None:
    file = machine.root / ("sources.list" if one_line else "debian.sources")
    file.write_text("# first\ndeb [arch=amd64] http://mirror.example/debian bookworm main\n" if one_line else DEB822)
    entries = BOOKWORM_ENTRIES.format(file=file)
    machine.become_root_of(
        BOOKWORM, entries=entries.splitlines()[0].replace(":1", ":2") if one_line else entries, docker_io=""
    )
    machine.set("candidates/docker.io", "20.10.24+dfsg1-1")
    machine.set("dockerd", "26.1.5+dfsg1")


def _with(machine: FakeMachine, **variables: str) -> FakeMachine:
    """The same machine, with more environment variables."""
    machine.environment.update(variables)
    return machine


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    machine.have_environment()
    return machine


class TestEngine:
    def test_that_is_there_is_left_alone(self, machine: FakeMachine) -> None:
        machine.become_root_of(BOOKWORM)
        machine.run_engine("23.0.1")
        assert machine.factory("build").code == 0
        assert not machine.calls("apt-get")

    def test_that_is_too_old_is_not_upgraded_under_its_users(self, machine: FakeMachine) -> None:
        machine.become_root_of(BOOKWORM)
        machine.run_engine("20.10.24+dfsg1")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "version 20.10.24+dfsg1; 23 or later is needed" in outcome.err
        assert not machine.calls("apt-get")

    @pytest.mark.parametrize(
        ("variables", "error", "message"),
        [
            ({}, "permission denied while trying to connect", "usermod -aG docker someone"),
            ({"DOCKER_HOST": "tcp://far:2375"}, "timeout", "DOCKER_HOST=tcp://far:2375 does not answer (timeout)"),
        ],
    )
    def test_that_does_not_answer_to_us(
        self, machine: FakeMachine, variables: dict[str, str], error: str, message: str
    ) -> None:
        machine.give("docker")
        machine.set("engine-error", error)
        outcome = _with(machine, **variables).factory("build")
        assert outcome.code == 69
        assert message in outcome.err

    @pytest.mark.parametrize(
        ("state", "variables", "message"),
        [
            ("docker-hangs", {"FACTORY_TEST_ENGINE_ANSWERS": "0.2"}, "no answer within 0.2 s"),
            ("docker-crashes", {}, "crashed: it ended with exit code 139"),
            ("docker-context", {}, "in the context mine"),
            ("nothing", {"DOCKER_CONTEXT": "nope"}, "DOCKER_CONTEXT=nope"),
            ("nothing", {"DOCKER_TLS_VERIFY": "1"}, "DOCKER_TLS_VERIFY=1"),
            ("nothing", {"DOCKER_API_VERSION": "9.9"}, "DOCKER_API_VERSION=9.9"),
        ],
    )
    def test_that_no_start_would_help(
        self, machine: FakeMachine, state: str, variables: dict[str, str], message: str
    ) -> None:
        machine.become_root_of(BOOKWORM)
        machine.give("docker", "dockerd", "iptables")
        machine.set("dockerd", "26.1.5")
        machine.set(state)
        outcome = _with(machine, **variables).factory("build")
        assert outcome.code == 69
        assert message in outcome.err
        assert not machine.calls("dockerd with")
        assert not machine.calls("apt-get")

    def test_without_buildx(self, machine: FakeMachine) -> None:
        machine.run_engine()
        machine.state("buildx").unlink()
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "Install docker-buildx" in outcome.err

    @pytest.mark.parametrize("package", ["docker-buildx", "docker-buildx-plugin"])
    def test_gets_buildx(self, machine: FakeMachine, package: str) -> None:
        machine.run_engine()
        machine.state("buildx").unlink()
        machine.become_root_of(TRIXIE, **{package: "1"})
        outcome = machine.factory("build")
        assert outcome.code == 0
        assert f"factory: installing {package}\n" in outcome.err

    def test_is_started_even_where_nothing_may_be_installed(self, machine: FakeMachine) -> None:
        machine.become_root_of(TRIXIE)
        machine.give("docker", "dockerd", "iptables")
        machine.set("dockerd", "26.1.5")
        machine.set("buildx")
        outcome = _with(machine, FACTORY_INSTALL="never").factory("build")
        assert outcome.code == 0
        assert "starting dockerd in the background" in outcome.err
        assert machine.calls("dockerd with") == ["dockerd with BUILDKIT_STEP_LOG_MAX_SIZE=-1 in /"]
        assert not machine.calls("apt-get")

    def test_is_started_by_the_service_manager(self, machine: FakeMachine) -> None:
        (machine.root / "run" / "systemd" / "system").mkdir(parents=True)
        machine.become_root_of(TRIXIE)
        machine.give("docker", "dockerd", "iptables", "systemctl")
        machine.set("dockerd", "26.1.5")
        machine.set("buildx")
        assert machine.factory("build").code == 0
        assert machine.calls("systemctl") == ["systemctl start docker"]

    def test_is_not_started_without_root(self, machine: FakeMachine) -> None:
        machine.give("docker", "dockerd", "iptables")
        machine.set("dockerd", "26.1.5")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "The Docker daemon is not running" in outcome.err

    def test_that_does_not_start_shows_its_log(self, machine: FakeMachine) -> None:
        machine.become_root_of(TRIXIE)
        machine.give("docker", "dockerd", "iptables")
        machine.set("dockerd", "26.1.5")
        machine.set("dockerd-broken")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "factory: | failed to start daemon: no iptables" in outcome.err
        assert "does not answer" in outcome.err


class TestEngineInstallation:
    def test_from_the_distribution(self, machine: FakeMachine) -> None:
        machine.become_root_of(
            TRIXIE, **{"docker.io": "26.1.5+dfsg1-9", "docker-buildx": "0.13.1-3", "docker-cli": "26.1.5"}
        )
        machine.give("iptables")
        machine.set("dockerd", "26.1.5")
        outcome = machine.factory("build")
        assert outcome.code == 0
        assert "installing Docker Engine 26.1.5+dfsg1-9 from Debian GNU/Linux 13 (trixie)" in outcome.err
        [call] = [line for line in machine.calls("apt-get") if " install " in line]
        assert call.endswith("--no-install-recommends docker.io docker-buildx iptables docker-cli")

    @pytest.mark.parametrize("one_line", [False, True])
    def test_from_the_next_release_where_the_distributions_is_too_old(
        self, machine: FakeMachine, *, one_line: bool
    ) -> None:
        _bookworm(machine, one_line=one_line)
        outcome = machine.factory("build")
        assert outcome.code == 0
        assert "bookworm's own, 20.10.24+dfsg1-1, is too old" in outcome.err
        texts = {path.name: path.read_text() for path in machine.state("sources").iterdir()}
        if one_line:
            assert texts == {
                "this-2.list": "deb [arch=amd64] http://mirror.example/debian bookworm main\n",
                "next-2.list": "deb [arch=amd64] http://mirror.example/debian trixie main\n",
            }
        else:
            assert "Suites: trixie trixie-updates" in texts["next-1.sources"]
            assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" in texts["next-1.sources"]
            assert "Suites: bookworm bookworm-updates" in texts["this-1.sources"]
            assert "security" not in "".join(texts.values())

    def test_from_the_next_release_touches_nothing_else(self, machine: FakeMachine) -> None:
        _bookworm(machine)
        assert machine.factory("build").code == 0
        [call] = [line for line in machine.calls("apt-get") if " install " in line]
        assert "--no-remove" in call
        assert " -t " not in call, "a target release would take libraries from there, too"
        assert "Package: *\nPin: release n=trixie*\nPin-Priority: 50\n" in machine.state("pin").read_text()
        assert not machine.temporary()
        assert [path.name for path in (machine.root / "etc").iterdir()] == ["os-release"]

    @pytest.mark.parametrize("reason", ["FACTORY_INSTALL=never", "only as root", "Debian and Ubuntu only"])
    def test_is_refused_with_the_reason(self, machine: FakeMachine, reason: str) -> None:
        _bookworm(machine)
        if "never" in reason:
            machine = _with(machine, FACTORY_INSTALL="never")
        elif "root" in reason:
            machine.set("uid", "1000")
        else:
            (machine.root / "etc" / "os-release").write_text("ID=fedora\n")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "No Docker Engine" in outcome.err
        assert reason in outcome.err
        assert not [line for line in machine.calls("apt-get") if " install " in line]

    def test_says_where_the_distribution_has_none(self, machine: FakeMachine) -> None:
        machine.become_root_of("PRETTY_NAME='Debian 11'\nID=debian\nVERSION_CODENAME=bullseye\n")
        machine.set("candidates/docker.io", "20.10.5+dfsg1-1")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "Debian 11 has no Docker Engine 23 or later (docker.io: 20.10.5+dfsg1-1)" in outcome.err

    def test_that_fails_shows_why(self, machine: FakeMachine) -> None:
        _bookworm(machine)
        machine.set("apt-broken")
        outcome = machine.factory("build")
        assert outcome.code == 69
        assert "factory: | E: Unable to correct problems" in outcome.err
        assert "apt could not install from Debian's trixie" in outcome.err


class TestBaseImage:
    def _machine(self, machine: FakeMachine) -> None:
        machine.run_engine()
        _bookworm(machine)

    def test_is_made_with_debootstrap_where_no_registry_answers(self, machine: FakeMachine) -> None:
        self._machine(machine)
        outcome = machine.factory("setup")
        assert outcome.code == 0
        assert "the registry does not answer; making the base image with debootstrap instead" in outcome.err
        assert "installing debootstrap debian-archive-keyring" in outcome.err
        assert "serving-factory/base:bookworm, made with debootstrap\n" in outcome.out
        [call] = machine.calls("debootstrap")
        assert call.startswith("debootstrap --variant=minbase --force-check-gpg bookworm ")
        assert call.endswith(" http://mirror.example/debian")
        assert "LABEL org.serving-factory.base=debootstrap" in machine.calls("docker import")[0]
        assert not machine.temporary()

    def test_has_the_machines_sources_and_is_slim(self, machine: FakeMachine) -> None:
        self._machine(machine)
        assert machine.factory("demo").code == 0
        assert machine.state("image-sources").read_text().splitlines() == [
            "deb http://mirror.example/debian bookworm main",
            "deb http://mirror.example/debian bookworm-updates main",
            "deb http://mirror.example/security bookworm-security main",
        ]
        files = machine.state("image-files").read_text().splitlines()
        assert "./usr/share/doc/bash/copyright" in files
        assert "./usr/share/doc/bash/README" not in files
        assert "./usr/share/man/man1/bash.1" not in files

    def test_on_ubuntu_comes_from_debootstraps_own_mirror(self, machine: FakeMachine) -> None:
        self._machine(machine)
        machine.become_root_of(JAMMY, entries="Ubuntu|jammy|jammy|http://mirror.example/ubuntu/|main|/x:1")
        assert machine.factory("demo").code == 0
        [call] = machine.calls("debootstrap")
        assert call.endswith("/base")
        assert machine.state("image-sources").read_text() == "deb its-own bookworm main\n"

    def test_needs_root(self, machine: FakeMachine) -> None:
        machine.run_engine()
        outcome = machine.factory("demo")
        assert outcome.code == 69
        assert "docker tag IMAGE serving-factory/base:bookworm" in outcome.err

    def test_needs_leave_to_install(self, machine: FakeMachine) -> None:
        self._machine(machine)
        outcome = _with(machine, FACTORY_INSTALL="never").factory("demo")
        assert outcome.code == 69
        assert "needs the packages: debootstrap debian-archive-keyring" in outcome.err
