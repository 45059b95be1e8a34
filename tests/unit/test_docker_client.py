"""docker/client.py: what is wrong with Docker's settings is found by reading them, whatever the client says."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from serving_factory.docker import client, process
from serving_factory.errors import DockerCommandError, DockerSettingsError, EngineUnavailableError

from .stage_records import OBSTACLES

VARIABLES = (
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "BUILDX_CONFIG",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def docker_that(
    monkeypatch: pytest.MonkeyPatch, *, code: int, says: str = "", without: Mapping[str, int] | None = None
) -> None:
    """A docker command that ends so; and with another code where a variable of the environment is missing."""

    def run(
        argv: list[str], *, on_line: Callable[[str], None], timeout: float, env: Mapping[str, str] | None = None
    ) -> int:
        assert argv[0] == "docker"
        assert timeout
        if env is not None:
            return next((code for name, code in (without or {}).items() if name not in env), code)
        for line in says.splitlines():
            on_line(line)
        return code

    monkeypatch.setattr(process, "run", run)


def test_no_settings_are_good_settings(folder: Path) -> None:
    client.check_settings()
    auth = base64.b64encode(b"me:secret").decode()
    (folder / "config.json").write_text(
        json.dumps({"auths": {"a": {"auth": auth}, "b": {}}, "currentContext": "default"})
    )
    client.check_settings()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("DOCKER_HOST", "nonsense", "not the address"),
        ("DOCKER_HOST", "tcp://", "not the address"),
        ("DOCKER_CONTEXT", "nope", "no Docker context of that name"),
        ("DOCKER_CONTEXT", "caf\udce9", "no Docker context of that name"),
        ("DOCKER_API_VERSION", "latest", "not a version"),
        ("DOCKER_TLS_VERIFY", "1", "ca.pem"),
        ("DOCKER_CERT_PATH", "/no/such/folder", "/no/such/folder"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    docker_that(monkeypatch, code=1, says="whatever the client says")
    with pytest.raises(DockerSettingsError) as caught:
        client.run_docker("version")
    assert f"{name}={value}" in caught.value.what
    assert why in caught.value.why
    assert caught.value.remedy


@pytest.mark.parametrize(("code", "error"), [(0, DockerSettingsError), (1, EngineUnavailableError)])
def test_a_version_of_the_api_that_the_engine_does_not_speak(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[EngineUnavailableError]
) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", "1.99")
    docker_that(monkeypatch, code=1, says="client version 1.99 is too new", without={"DOCKER_API_VERSION": code})
    with pytest.raises(error) as caught:
        client.run_docker("info")
    assert type(caught.value) is error
    assert code or "DOCKER_API_VERSION=1.99" in caught.value.what


@pytest.mark.parametrize(
    "host", ["unix:///run/docker.sock", "tcp://10.0.0.1:2376", "ssh://me@host", "tcp://[::1]:2375"]
)
def test_addresses_of_engines(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setenv("DOCKER_CONTEXT", "nope")  # DOCKER_HOST goes first
    client.check_settings()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "JSON object"),
        ("{", "not JSON"),
        ('{"auths": []}', "auths"),
        ('{"proxies": []}', "proxies"),
        ('{"HttpHeaders": "x"}', "HttpHeaders"),
        ('{"auths": {"r.example": {"auth": "!!!"}}}', "auths.r.example.auth"),
        ('{"auths": {"r.example": {"auth": "bm9jb2xvbg=="}}}', "auths.r.example.auth"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(folder: Path, text: str, why: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(DockerSettingsError) as caught:
        client.check_settings()
    assert str(folder / "config.json") in caught.value.what
    assert why in caught.value.why
    assert caught.value.remedy


@pytest.mark.parametrize("obstacle", ["a folder", "a pipe", "a link to a device", "a link to itself"])
def test_a_configuration_that_cannot_be_read_is_named_and_not_waited_for(folder: Path, obstacle: str) -> None:
    OBSTACLES[obstacle](folder / "config.json")
    with pytest.raises(DockerSettingsError, match=re.escape(str(folder / "config.json"))) as caught:
        client.check_settings()
    assert caught.value.why
    assert caught.value.remedy


def test_the_current_context_of_the_configuration_must_exist(folder: Path) -> None:
    (folder / "config.json").write_text('{"currentContext": "gone"}')
    with pytest.raises(DockerSettingsError) as caught:
        client.check_settings()
    assert '"currentContext": "gone"' in caught.value.what
    assert "docker context use default" in caught.value.remedy


@pytest.mark.parametrize(("code", "says"), [(139, "Segmentation fault"), (1, ""), (2, "  \n")])
def test_a_client_that_crashes_is_not_an_engine_that_is_away(
    monkeypatch: pytest.MonkeyPatch, code: int, says: str
) -> None:
    docker_that(monkeypatch, code=code, says=says)
    with pytest.raises(DockerCommandError, match="crashed") as caught:
        client.run_docker("version")
    assert str(code) in caught.value.what


@pytest.mark.parametrize(
    ("says", "remedy"),
    [("Cannot connect to the Docker daemon", "./factory setup"), ("permission denied on the socket", "usermod")],
)
def test_an_engine_that_is_away(monkeypatch: pytest.MonkeyPatch, says: str, remedy: str) -> None:
    docker_that(monkeypatch, code=1, says=says)
    with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
        client.run_docker("version")
    assert not isinstance(caught.value, DockerCommandError)
    assert remedy in caught.value.remedy


def test_buildx_must_be_able_to_keep_its_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client.check_writable()
    assert not list((folder / "buildx").iterdir())
    (folder / "file").touch()
    monkeypatch.setenv("BUILDX_CONFIG", str(folder / "file" / "buildx"))
    with pytest.raises(DockerSettingsError, match=r"file/buildx") as caught:
        client.check_writable()
    assert "BUILDX_CONFIG" in caught.value.remedy


def test_room_is_measured_by_writing(folder: Path) -> None:
    client.check_space(folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(OSError, match="No such"):
        client.check_space(folder / "nowhere")
