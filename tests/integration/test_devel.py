"""The devel image: upstream's in paths and tools, pushed by the rules of every image."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving_factory.docker.registry import Registry

from .pipeline import V1, Checkout, docker
from .registry import LocalRegistry, write_docker_config

LOOK = """\
set -e
pwd
sha256sum /usr/local/bin/tensorflow_model_server
tensorflow_model_server --version
ls /tensorflow-serving/tensorflow_serving/model_servers/main.cc
curl --version | head -n 1
python -m pip --version
pip install --no-index --dry-run nothing-of-that-name 2>&1 | grep ERROR
command -v bazel
"""
# As in public Dockerfiles: the server is taken out of the devel image.
CHILD = "FROM scratch\nCOPY --from={image} /usr/local/bin/tensorflow_model_server /tensorflow-serving/LICENSE /\n"


@pytest.mark.usefixtures("logged_in")
def test_a_devel_image_is_made_of_the_binary_that_was_tried_and_pushed(
    checkout: Checkout, local_registry: LocalRegistry, tmp_path: Path
) -> None:
    push = checkout.line("push", "--devel", "--registry", local_registry.host, "--variant", V1)
    refused = write_docker_config(tmp_path / "refused", local_registry, password="wrong")
    assert "docker login" in checkout.run(*push, env={"DOCKER_CONFIG": str(refused)}).told(42)
    assert not checkout.record_file(V1, "devel").exists(), "credentials are tried before anything is made"

    outcome = checkout.run(*push).built()
    assert outcome.stages(V1) == {"devel": "finished", "push_devel": "finished"}
    made = checkout.record(V1, "devel")["outputs"]
    binary = checkout.record(V1, "compile")["outputs"]["binary_sha256"]
    (full,) = made["tags"]
    assert full.startswith(f"{V1}-{binary[:12]}-")
    assert full.endswith("-devel")
    assert made["aliases"] == [f"{V1}-devel", "2.19.1-cpu-standard-devel"]

    asked = Registry(local_registry.host, credentials=local_registry.credentials)
    tags = [full, *made["aliases"]]
    digests = [str(asked.manifest_digest(checkout.repository, tag)) for tag in tags]
    name = f"{local_registry.host}/{checkout.repository}"
    pushed = [f"{name}:{tag}@{digest}" for tag, digest in zip(tags, digests, strict=True)]
    assert outcome.results[V1]["facts"]["pushed"] == pushed
    assert {asked.config_digest(checkout.repository, digest) for digest in digests} == {made["image"]}
    labels = asked.labels(checkout.repository, digests[0])
    assert labels["org.opencontainers.image.title"] == "TensorFlow Serving 2.19.1, cpu, x86-64, devel"
    assert labels["org.serving-factory.binary.sha256"] == binary

    local = f"{checkout.repository}:{V1}-devel"
    printed = docker("run", "--rm", "--network", "none", local, "bash", "-c", LOOK).splitlines()
    assert printed[:4] == [
        "/tensorflow-serving",
        f"{binary}  /usr/local/bin/tensorflow_model_server",
        "TensorFlow ModelServer: 2.19.1-rc0+dev.sha.no_git",
        "TensorFlow Library: 2.19.1",
    ]
    beginnings = [
        "/tensorflow-serving/",
        "curl ",
        "pip ",
        "ERROR: Could not find",
        "ERROR: No matching",
        "/usr/bin/bazel",
    ]
    assert [line[: len(start)] for line, start in zip(printed[4:], beginnings, strict=True)] == beginnings
    text = CHILD.format(image=local)
    subprocess.run(["docker", "build", "--quiet", "-"], input=text, text=True, capture_output=True, check=True)

    again = checkout.run(*push).built()
    assert again.stages(V1) == {"devel": "up_to_date", "push_devel": "up_to_date"}
    assert again.results[V1]["facts"]["pushed"] == pushed
