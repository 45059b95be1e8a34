"""./factory and the environment .venv: what makes it, from where, and what is said when it cannot be made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .fake_machine import BOOKWORM, JAMMY, REPOSITORY, TRIXIE, FakeMachine


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def _with(machine: FakeMachine, **variables: str) -> FakeMachine:
    """The same machine, with more environment variables."""
    machine.environment.update(variables)
    return machine


class TestEnvironment:
    def test_is_made_from_the_lock(self, machine: FakeMachine) -> None:
        outcome = machine.factory("list")
        assert "making the environment .venv from uv.lock" in outcome.err
        python = machine.folder / "bin" / "python3"
        assert machine.calls("uv") == [f"uv sync --frozen --project {machine.checkout} --python {python}"]
        assert machine.calls("index") == ["index  downloads never"]

    @pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml"])
    def test_is_brought_up_to_date(self, machine: FakeMachine, name: str) -> None:
        machine.have_environment()
        with (machine.checkout / name).open("a") as file:
            file.write("# changed\n")
        assert machine.factory("list").code == 0
        assert machine.calls("uv sync")

    def test_is_made_again_after_a_move(self, machine: FakeMachine) -> None:
        machine.have_environment()
        stamp = machine.checkout / ".venv" / ".factory-stamp"
        stamp.write_text(stamp.read_text().replace(str(machine.checkout), "/elsewhere"))
        (machine.checkout / ".venv" / "old").touch()
        assert machine.factory("list").code == 0
        assert not (machine.checkout / ".venv" / "old").exists()

    def test_is_not_taken_for_ready_when_it_failed(self, machine: FakeMachine) -> None:
        machine.set("uv-broken")
        outcome = machine.factory("list")
        assert outcome.code == 69
        assert "factory: | error: no route to host" in outcome.err
        assert "The environment could not be made." in outcome.err
        machine.state("uv-broken").unlink()
        assert machine.factory("list").code == 0

    def test_brings_its_own_uv(self, machine: FakeMachine) -> None:
        machine.take("uv")
        outcome = machine.factory("list")
        assert outcome.code == 0
        assert re.search(r"fetching uv \d+\.\d+\.\d+ from PyPI into build/\.uv", outcome.err)
        [call] = [line for line in machine.calls("python3") if "pip install" in line]
        assert "--require-hashes" in call
        assert (machine.checkout / "build" / ".uv" / "bin" / "uv").exists()
        assert not machine.temporary()

    def test_pins_uv_with_checksums(self) -> None:
        lines = (REPOSITORY / "scripts" / "uv.txt").read_text().splitlines()
        assert re.fullmatch(r"uv==\d+\.\d+\.\d+ \\", lines[1])
        assert len(lines) > 10
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines[2:])

    @pytest.mark.parametrize("where", ["UV_DEFAULT_INDEX", "PIP_INDEX_URL", "pip.conf"])
    def test_comes_from_the_configured_index(self, machine: FakeMachine, where: str) -> None:
        index = "http://user:secret@index.example/simple"
        if where == "pip.conf":
            (machine.root / "etc" / "pip.conf").write_text(f"[global]\nindex-url = {index}\n")
        else:
            machine = _with(machine, **{where: index})
        assert machine.factory("list").code == 0
        assert [line.split()[1] for line in machine.calls("uv")] == ["export", "venv", "pip", "pip"]
        assert set(machine.calls("index")) == {f"index {index} downloads never"}
        assert not [line for line in machine.calls("uv") if "secret" in line]
        assert [line for line in machine.calls("uv pip sync") if "--require-hashes" in line]

    def test_needs_a_new_python(self, machine: FakeMachine) -> None:
        machine.state("python-new").unlink()
        outcome = machine.factory("list")
        assert outcome.code == 69
        assert "Python 3.11 or later with its venv module is missing." in outcome.err

    @pytest.mark.parametrize(
        ("release", "candidates", "installed"),
        [
            (BOOKWORM, {"python3": "3.11.2-1"}, "python3 python3-venv"),
            (TRIXIE, {"python3": "3.13.5-1"}, "python3 python3-venv"),
            (JAMMY, {"python3": "3.10.6-1~22.04", "python3.11-venv": "3.11.0~rc1-1"}, "python3.11 python3.11-venv"),
        ],
        ids=["bookworm", "trixie", "jammy"],
    )
    def test_installs_a_python(
        self, machine: FakeMachine, release: str, candidates: dict[str, str], installed: str
    ) -> None:
        machine.state("python-new").unlink()
        machine.take("python3")
        machine.become_root_of(release, **candidates)
        outcome = machine.factory("list")
        assert outcome.code == 0
        assert f"factory: installing {installed}\n" in outcome.err
        [call] = [line for line in machine.calls("apt-get") if " install " in line]
        assert call.endswith(f" install --no-install-recommends {installed}")
        assert "-o DPkg::Lock::Timeout=300" in call
        assert "DEBIAN_FRONTEND=noninteractive" in machine.calls()

    def test_says_when_the_distribution_has_no_python(self, machine: FakeMachine) -> None:
        machine.state("python-new").unlink()
        machine.become_root_of(JAMMY, python3="3.10.6-1~22.04")
        outcome = machine.factory("list")
        assert outcome.code == 69
        assert "Ubuntu 22.04.5 LTS has none" in outcome.err

    @pytest.mark.parametrize("name", ["a\nb", "caf\udce9"], ids=["line break", "latin-1"])
    def test_says_that_its_path_cannot_be_used(self, tmp_path: Path, name: str) -> None:
        machine = FakeMachine(tmp_path / name)
        outcome = machine.factory("list")
        assert outcome.code == 69
        assert "a line break or is not UTF-8. Move the checkout" in outcome.err
        assert not machine.calls("uv")
