"""What `deploy` writes, used: Kustomize renders it, podman and compose run it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
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

from .conftest import BASE
from .containers import container
from .pipeline import MATRIX, ROOT, V1, Checkout, docker, wait_until
from .registry import PORT, LocalRegistry, write_docker_config

NODE = Path(__file__).with_name("podman_image")
GATEWAY = "serving-factory-test/gateway"
MODELS = ROOT / "samples" / "model_server" / "models"


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


# --- podman, as a node that a pod is started on -----------------------------------------------------------------------


@pytest.fixture
def node(written: Path, tools: Path, local_registry: LocalRegistry, tmp_path: Path) -> Iterator[str]:
    """A container with podman, a claim named `models` as the manifests have it, and an overlay's manifests in /node."""
    image = docker("buildx", "build", "--quiet", "--load", str(NODE), seconds=300).strip()
    overlay = written / "kubernetes" / "overlays" / "1-cpu"
    manifests = subprocess.run([tools / "kubectl", "kustomize", overlay], capture_output=True, check=True).stdout
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "manifests.yaml").write_bytes(manifests)
    # The registry is on a loopback address, which is another one in a container.
    registry = docker("ps", "--quiet", "--filter", f"publish={local_registry.host.rpartition(':')[2]}").strip()
    address = docker(
        "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", registry
    ).strip()
    places = f'[[registry]]\nprefix = "{local_registry.host}"\nlocation = "{address}:{PORT}"\ninsecure = true\n'
    (tmp_path / "node" / "registries.conf").write_text(places)
    write_docker_config(tmp_path / "node", local_registry, f"{address}:{PORT}", local_registry.host)
    options = ["--privileged", "--init", "--publish", "127.0.0.1::8501", "--volume", "/var/lib/containers"]
    options += ["--volume", f"{tmp_path / 'node'}:/node:ro", "--volume", f"{MODELS}:/models:ro"]
    options += ["--env", "REGISTRY_AUTH_FILE=/node/config.json"]
    options += ["--env", "CONTAINERS_REGISTRIES_CONF=/node/registries.conf"]
    with container(image, options=options) as name:
        claim = 'podman volume create models && cp -r /models/half_plus_two "$(podman volume mount models)/model"'
        docker("exec", name, "sh", "-euc", claim)
        yield name
    docker("rmi", image)


def test_podman_serves_the_deployment_without_privileges_and_stops_it_in_time(node: str, written: Path) -> None:
    def podman(*words: str) -> str:
        return docker("exec", node, "podman", *words).strip()

    podman("kube", "play", "/node/manifests.yaml")  # what no podman has, such as an autoscaler, is left out
    (pod,) = podman("pod", "ps", "--format", "{{.Name}}").split()
    url = f"http://{docker('port', node, '8501').split()[0]}/v1/models/model"
    assert wait_until(lambda: answers(url))
    asked = urllib.request.Request(f"{url}:predict", b'{"instances": [1.0, 2.0, 5.0]}')
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert json.load(answer) == {"predictions": [2.5, 3.0, 4.5]}

    server = f"{pod}-serving"
    (found,) = json.loads(podman("inspect", server))
    deployment = yaml.safe_load((written / "kubernetes" / "base" / "deployment.yaml").read_text())
    (described,) = deployment["spec"]["template"]["spec"]["containers"]
    assert found["ImageName"] == described["image"]
    assert described["image"].endswith(f"@{found['ImageDigest']}")
    assert (found["HostConfig"]["NanoCpus"], found["HostConfig"]["Memory"]) == (10**9, 2 * 2**30)
    process = docker(
        "exec", node, "cat", *(f"/proc/{found['State']['Pid']}/{name}" for name in ("status", "mountinfo"))
    )
    status = dict(line.split(":\t") for line in process.splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    assert (int(status["CapPrm"], 16), int(status["CapBnd"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = {fields[4]: fields[5].split(",")[0] for line in process.splitlines() if len(fields := line.split()) > 9}
    assert (mounts["/"], mounts["/models"], mounts["/tmp"]) == ("ro", "ro", "rw")
    podman("healthcheck", "run", server)  # the liveness probe; without systemd podman does not repeat it

    began = time.monotonic()
    podman("pod", "stop", pod)
    assert time.monotonic() - began < 5, "its grace is 20 s, and podman's own 10 s"
    assert podman("inspect", "--format", "{{.State.ExitCode}}", server) == "143"


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200  # type: ignore[no-any-return]
    except OSError:
        return False


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
    project = {"COMPOSE_PROJECT_NAME": f"test-{os.getpid()}"}  # the file's own name may be that of another run of tests
    compose = Compose(argv, {**os.environ, **project, "MODELS": str(MODELS), "ADDRESS": "127.0.0.1:0", **environment})
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
