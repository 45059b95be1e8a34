"""`embed` on a real engine: the sample's model in the demo's image, pushed and deployed; and what a failure leaves."""

from __future__ import annotations

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pipeline import MATRIX, ROOT, V1, Checkout, docker, wait_until
from .registry import LocalRegistry

MODEL = ROOT / "samples" / "model_server" / "models" / "half_plus_two"
GRAPH = MODEL / "00000123" / "saved_model.pb"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "12345")
BODY = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()


@pytest.fixture
def embedding(checkout: Checkout) -> Iterator[Checkout]:
    """A checkout whose images with models go at its end; the others stay for other tests."""
    before = names(checkout)
    yield checkout
    for name in names(checkout) - before:
        docker("rmi", name)


def names(checkout: Checkout) -> set[str]:
    form = "{{.Repository}}:{{.Tag}}"
    return set(docker("images", "--format", form, "--filter", f"reference={checkout.repository}").split())


def words(model: Path, *more: str) -> tuple[str, ...]:
    return ("embed", str(model), "--variant", V1, "--matrix", MATRIX, *more)


def answer(name: str) -> object:
    """Run an image as it is, without any right or setting, and ask it."""
    container = docker("run", "--detach", "--publish", "127.0.0.1::8501", *HARDENED, name).strip()
    try:
        address = docker("port", container, "8501").strip()
        request = urllib.request.Request(f"http://{address}/v1/models/half_plus_two:predict", BODY)
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    return json.load(response)["predictions"]
            except (OSError, urllib.error.URLError):
                assert time.monotonic() < deadline, docker("logs", container)
                time.sleep(0.05)
    finally:
        docker("rm", "--force", container)


@pytest.mark.usefixtures("logged_in")
def test_an_image_with_a_model_serves_as_it_is_and_is_pushed_and_deployed(
    embedding: Checkout, local_registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "half_plus_two"
    shutil.copytree(MODEL, model)
    model.chmod(0o700)
    (model / "00000123" / "saved_model.pb").chmod(0o600)
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    assert embedding.run("keys", "new", "--output", str(tmp_path)).code == 0
    with (embedding.folder / MATRIX).open("a", encoding="utf-8") as file:
        file.write(f"\nsigning: {{key: {tmp_path}/cosign.key}}\n")
    done = embedding.run(*words(model, "--json", "--registry", local_registry.host))
    assert done.code == 0, done
    found = json.loads(done.out)
    assert {one["name"] for one in found["checks"]} == {"ready", "REST", "gRPC", "version", "healthy", "stop"}
    assert "the server's binary names all 4 ops" in done.err
    assert answer(found["name"]) == [2.5, 3.0, 4.5]
    made = json.loads(docker("inspect", found["image"]))[0]
    assert made["Config"]["Labels"]["org.serving-factory.model.sha256"] == found["sha256"]
    base = json.loads(docker("inspect", f"{embedding.repository}:{V1}"))[0]
    assert made["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"], "one layer more"
    assert made["Created"][:19] == base["Created"][:19]

    again = embedding.run(*words(MODEL, "--registry", local_registry.host))
    assert (again.code, again.err) == (0, ""), "modes of the model's files are none of its content"
    assert again.out == f"Nothing to do: {found['name']} holds version 123 of half_plus_two already.\n"

    ((pushed, digest),) = (one.split("@") for one in found["pushed"])
    assert pushed == f"{local_registry.host}/{found['name']}"
    # It is signed, and what lies beside it names the model.
    checked = embedding.run("verify", f"{pushed}@{digest}", "--key", str(tmp_path / "cosign.pub"), "--json")
    verdicts = {one["name"]: one["verdict"] for one in json.loads(checked.out)["checks"]}
    assert (checked.code, verdicts["signature"], verdicts["sbom"], verdicts["provenance"]) == (0, "ok", "ok", "ok"), (
        checked
    )
    deployed = embedding.run("deploy", "kubernetes", V1, "--model", "embedded", "--matrix", MATRIX, "--dry-run")
    assert f"image: {local_registry.host}/{embedding.repository}@{digest}\n" in deployed.out
    assert "claimName" not in deployed.out


def test_a_model_that_fails_leaves_no_image_and_no_container(embedding: Checkout, tmp_path: Path) -> None:
    before, unnamed = names(embedding), embedding.unnamed_images()

    def fails(code: int, text: str, *more: str, graph: bytes = GRAPH.read_bytes()) -> None:
        (tmp_path / "m" / "1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(graph)
        ended = embedding.run(*words(tmp_path / "m", *more))
        assert (ended.code, ended.out, ended.err.count("Error: ")) == (code, "", 1), ended
        assert text in ended.err
        assert (names(embedding), embedding.containers(), embedding.unnamed_images()) == (before, [], unnamed)

    other_op, other_tensor = (
        GRAPH.read_bytes().replace(*pair) for pair in ((b"\x03Mul", b"\x03Mvl"), (b"y:0", b"q:0"))
    )
    fails(29, "needs ops that this server does not have: Mvl.", graph=other_op)
    fails(31, "Tensor q:0, specified in a signature, is not in the graph", graph=other_tensor)
    (tmp_path / "request.json").write_text('{"instances": [1.0], "expected": [2.6]}')
    fails(32, "predictions[0] is 2.5, expected 2.6", "--request", str(tmp_path / "request.json"))

    with embedding.start(*words(MODEL)) as running:
        running.wait_for(lambda: bool(embedding.containers()), "a container runs")
        running.send(signal.SIGINT)
        assert running.wait().code == 130
    assert wait_until(lambda: embedding.containers() == [])
    assert (names(embedding), embedding.unnamed_images()) == (before, unnamed)
