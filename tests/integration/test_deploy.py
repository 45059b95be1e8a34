"""What `deploy` writes, used: Kustomize renders it, compose runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from PIL import Image

from .pipeline import MATRIX, ROOT, V1, Checkout, docker
from .registry import LocalRegistry

TOOLS = Path(__file__).with_name("deploy_tools")
BASE = ("--build-context", "debian:bookworm-slim=docker-image://serving-factory/base:bookworm")
GATEWAY = "serving-factory-test/gateway"
MODELS = ROOT / "samples" / "model_server" / "models"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with kubectl and docker-compose of Debian's next release."""
    folder = tmp_path_factory.mktemp("tools")
    docker("buildx", "build", *BASE, "--output", f"type=local,dest={folder}", str(TOOLS), seconds=300)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's packages, for the Python of Debian bookworm."""
    folder = tmp_path_factory.mktemp("wheels")
    environment = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    download = (environment / "bin" / "python", "-m", "pip", "download", "--quiet", "--dest", folder)
    chosen = ("--require-hashes", "--only-binary=:all:", "--python-version", "3.11")
    subprocess.run([*download, *chosen, "-r", ROOT / "examples" / "gateway" / "requirements.txt"], check=True)
    return folder


def build_gateway(name: str, wheels: Path, *more: str) -> str:
    """Build the gateway's image, as its README says for a machine without a package index."""
    arguments = ("--load", "--tag", name, *BASE, "--build-context", f"wheels={wheels}", *more)
    docker("buildx", "build", *arguments, str(ROOT / "examples" / "gateway"), seconds=600)
    return name


@pytest.fixture
def written(checkout: Checkout, local_registry: LocalRegistry, logged_in: Path) -> Path:
    """What `deploy` writes for an image in a registry."""
    del logged_in
    checkout.run(*checkout.line("push", "--registry", local_registry.host, "--variant", V1)).built()
    for kind in ("kubernetes", "compose"):
        assert checkout.run("deploy", kind, V1, "--matrix", MATRIX, "--output", "made").code == 0
    return checkout.folder / "made" / V1


def test_kustomize_renders_each_overlay_and_kubernetes_takes_the_result(written: Path, tools: Path) -> None:
    folders = sorted(path.parent for path in written.rglob("kustomization.yaml"))
    assert [folder.name for folder in folders] == ["base", "1-cpu", "8-cpu"]
    for folder in folders:
        done = subprocess.run([tools / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        found = list(yaml.safe_load_all(done.stdout))
        assert len(found) == 5
        for document in found:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        if folder.name != "base":
            belongs_together({one["kind"]: one for one in found}, folder.name)


def belongs_together(found: Mapping[str, Any], size: str) -> None:
    """Check that all parts of an overlay select its own pods and no others."""
    deployment = found["Deployment"]
    pods = deployment["spec"]["template"]["metadata"]["labels"]
    assert pods["app.kubernetes.io/instance"] == size
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= pods.items()
        assert "app.kubernetes.io/instance" in selector
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["cpu"] == size.partition("-")[0]
    assert len(container["args"]) == 2


# --- compose ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compose:
    """A compose file that runs."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self.argv, *words], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def predict(self) -> tuple[int, Any]:
        """Ask the gateway with a picture: status and answer."""
        address = self("port", "gateway", "8080").strip()
        request = urllib.request.Request(f"http://{address}/predict", picture(), {"Content-Type": "image/png"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextlib.contextmanager
def composed(tools: Path, file: Path, **environment: str) -> Iterator[Compose]:
    """Run a compose file for as long as the block lasts."""
    argv = (str(tools / "docker-compose"), "--file", str(file))
    compose = Compose(argv, {**os.environ, "MODELS": str(MODELS), "ADDRESS": "127.0.0.1:0", **environment})
    try:
        compose("up", "--detach", "--wait", "--no-build", "--quiet-pull")
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "20")


def picture() -> bytes:
    """A picture, which the gateway fits to the 256 numbers of the model."""
    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "PNG")
    return stream.getvalue()


OF_DENSE = {"MODEL_NAME": "dense", "IMAGE": "16x16x1"}


def test_compose_serves_by_way_of_the_gateway_outlives_the_server_and_goes_down_quickly(
    written: Path, tools: Path, wheels: Path
) -> None:
    gateway = build_gateway(f"{GATEWAY}:both", wheels)
    with composed(tools, written / "compose" / "compose.yaml", GATEWAY=gateway, **OF_DENSE) as compose:
        status, expected = compose.predict()
        assert (status, len(expected["predictions"])) == (200, 1)
        compose("pause", "serving")
        assert compose.predict()[0] == 504
        compose("unpause", "serving")
        assert compose.predict() == (200, expected)
        compose("kill", "serving")
        assert compose.predict()[0] in {503, 504}
        compose("up", "--detach", "--wait", "--no-build")
        assert compose.predict() == (200, expected)
        began = time.monotonic()
        compose("down")
        assert time.monotonic() - began < 3
    docker("rmi", gateway)


def test_one_container_serves_the_same(written: Path, tools: Path, wheels: Path) -> None:
    file = written / "compose" / "compose.single.yaml"
    base = yaml.safe_load(file.read_text())["services"]["gateway"]["build"]["args"]["BASE"]
    gateway = build_gateway(f"{GATEWAY}:single", wheels, "--build-arg", f"BASE={base}")
    with composed(tools, file, GATEWAY=gateway, **OF_DENSE) as compose:
        status, found = compose.predict()
        assert (status, len(found["predictions"])) == (200, 1)
    docker("rmi", gateway)
