"""docs/serve.md: its commands, run in their order as a user would type them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .pipeline import ROOT, V1, Checkout, docker
from .registry import LocalRegistry
from .test_deploy import GATEWAY, build_gateway

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
SCRIPT, EXPECTED = (re.compile(rf"```{language}\n(.*?)```", re.DOTALL) for language in ("sh", "text"))


def blocks() -> Iterator[tuple[str, list[str]]]:
    """The script of each section, and the texts that its output must hold, in their order."""
    for section in PAGE.split("\n## ")[1:]:
        (script,) = SCRIPT.findall(section)
        yield script, [line for text in EXPECTED.findall(section) for line in text.splitlines()]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def docker_commands(logged_in: Path, tools: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes `docker compose` and `kubectl` commands, and the gateway's image, which no registry here has a base for."""
    (logged_in / "cli-plugins").mkdir()
    (logged_in / "cli-plugins" / "docker-compose").symlink_to(tools / "docker-compose")
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    image = build_gateway(f"{GATEWAY}:page", wheels)
    monkeypatch.setenv("GATEWAY", image)
    yield
    docker("rmi", image)


def run(script: str, checkout: Checkout, environment: Mapping[str, str]) -> str:
    """Run a script as a user would, and return what it prints, without line breaks."""
    found = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=checkout.folder,
        env=checkout.environment(environment),
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # openssl prints what the server sends first, if that comes soon enough
        timeout=240,
        check=False,
    )
    assert found.returncode == 0, f"{script}\n{found.stdout}\n{found.stderr}"
    return re.sub(r"\s+", " ", found.stdout)


@pytest.mark.usefixtures("docker_commands")
def test_every_command_of_the_page_does_what_it_says(checkout: Checkout, local_registry: LocalRegistry) -> None:
    name, rest, http, grpc = f"serving-{checkout.mark}", free_port(), free_port(), free_port()
    environment = {"ADDRESS": f"127.0.0.1:{http}", "COMPOSE_PROJECT_NAME": name}
    here = {
        "./factory": f"{sys.executable} -m invoke",
        "registry.example.com": local_registry.host,
        "my-serving": name,
        "-p 8501:": f"-p 127.0.0.1:{rest}:",
        "-p 8500:": f"-p 127.0.0.1:{grpc}:",
        "localhost:8501": f"localhost:{rest}",
        "localhost:8500": f"localhost:{grpc}",
        "localhost:8080": f"localhost:{http}",
    }
    try:
        for script, expected in blocks():
            for old, new in here.items():
                script = script.replace(old, new)  # noqa: PLW2901
                expected = [line.replace(old, new) for line in expected]  # noqa: PLW2901
            printed, place = run(script, checkout, environment), 0
            for line in expected:
                place = printed.find(line, place)
                assert place >= 0, f"{line}: not in {printed}"
            if "invoke which" in script:
                _, found, rest_of_it = printed.partition(f"variant {V1} image ")
                assert found
                here["IMAGE"] = rest_of_it.split()[0]
    finally:
        for command in (["docker", "rm", "--force", name], ["docker", "compose", "--project-name", name, "down"]):
            subprocess.run(command, capture_output=True, check=False)
