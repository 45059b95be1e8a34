"""The way over the network, to stand-ins for the internet: git, a release asset, a registry, keys of vendors."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildFailed, BuildRequest, build

from .closed_network import GitServer, Server, gateway
from .pipeline import MATRIX, MODEL, ROOT, V1, Checkout, docker
from .registry import LocalRegistry
from .signed_archive import Signer, package

BASE = "serving-factory/base:bookworm"
RELEASES = "src/serving_factory/catalogue/data/releases.yaml"
CHECKSUMS = "src/serving_factory/catalogue/data/bazel.yaml"
COMMIT = "eab9c3529b785dc685ab8c687f298e67016c8f81"
# BuildKit downloads nothing whose checksum it knows from an earlier run.
ASSET = f'#!/bin/sh\nexec /usr/bin/bazel "$@"\n# {uuid.uuid4()}\n'.encode()
"""What is downloaded as Bazel's release: it leads to the Bazel that the distribution has."""

pytestmark = pytest.mark.timeout(1200)  # on a bare machine a toolchain is installed


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    checkout = Checkout.make(tmp_path / "factory")
    yield checkout
    checkout.clear()


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=nobody", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def committed(folder: Path) -> str:
    """Make a folder a repository with one commit."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "all")
    return git(folder, "rev-parse", "HEAD").strip()


def online(checkout: Checkout, base: str, bazel: str) -> tuple[Path, Path]:
    """Let a checkout build the sample like a release of upstream: the release's repository, and a submodule of it."""
    sources = checkout.folder / MODEL
    submodule = checkout.folder / "rules_cc"
    (sources / "third_party" / "rules_cc").rename(submodule)
    committed(submodule)
    git(sources, "init", "--quiet")
    git(sources, "submodule", "--quiet", "add", str(submodule), "third_party/rules_cc")
    (sources / ".gitmodules").write_text(
        '[submodule "rules_cc"]\n\tpath = third_party/rules_cc\n\turl = ../rules_cc.git\n'
    )
    checkout.edit(RELEASES, COMMIT, committed(sources))
    with (checkout.folder / CHECKSUMS).open("a", encoding="utf-8") as file:
        file.write(f'"4.2.3": {hashlib.sha256(ASSET).hexdigest()}\n')
    checkout.edit(RELEASES, "bazel_minimum: 6.5.0", "bazel_minimum: 4.2.3")
    checkout.edit(MATRIX, "source: model_server\n", "")
    checkout.edit(MATRIX, "    - libcpp-httplib-dev\n", "    - bazel-bootstrap\n    - libcpp-httplib-dev\n")
    checkout.edit(MATRIX, 'version: "4.2.3", package: bazel-bootstrap', 'version: "4.2.3"')
    checkout.edit(MATRIX, '{"debian:bookworm": "serving-factory/base:bookworm"}', f'{{"debian:bookworm": "{base}"}}')
    with (checkout.folder / MATRIX).open("a", encoding="utf-8") as file:
        file.write(f'  bazel_mirror: "{bazel}"\n')
    return sources, submodule


def test_the_sample_is_built_from_a_code_host_a_release_asset_and_a_registry(
    checkout: Checkout, local_registry: LocalRegistry, logged_in: Path, tmp_path: Path
) -> None:
    base = f"{local_registry.host}/online/{checkout.mark}:bookworm"
    docker("tag", BASE, base)
    docker("push", base)
    docker("rmi", base)
    asset = tmp_path / "served" / "4.2.3" / "bazel-4.2.3-linux-x86_64"
    asset.parent.mkdir(parents=True)
    asset.write_bytes(ASSET + b"# another one\n")
    with Server.run(tmp_path / "served", None) as files:
        address = f"http://{gateway()}"
        sources, submodule = online(checkout, base, f"{address}:{files.port}")
        repositories = {"/tensorflow/serving.git": sources / ".git", "/tensorflow/rules_cc.git": submodule / ".git"}
        with GitServer.run(repositories) as host:
            env = {
                "DOCKER_CONFIG": str(logged_in),
                "SERVING_FACTORY_GIT_MIRRORS": f"https://github.com/={address}:{host.port}/",
            }
            told = checkout.run("build", "--matrix", MATRIX, "--variant", V1, "--dry-run", env=env).built()
            assert f"{address}:{host.port}/tensorflow/serving.git" in told.out + told.err
            assert f"{address}:{files.port}/4.2.3/{asset.name}" in told.out + told.err
            error = checkout.build_one(env=env).error(17, "ChecksumError")
            assert hashlib.sha256(ASSET).hexdigest() in json.dumps(error)
            asset.write_bytes(ASSET)
            checkout.build_one(env=env).built()
    assert f"/4.2.3/{asset.name}" in files.asked
    assert {path.split("/info")[0] for path in host.asked if "/info" in path} == set(repositories)
    record = checkout.record(V1, "compile")
    assert json.dumps(record).count(git(sources, "rev-parse", "HEAD").strip()) >= 1
    assert checkout.record(V1, "smoke")["outputs"]


# --- keys -------------------------------------------------------------------------------------------------------------

GPU = ROOT / "dockerfiles" / "2.10.0" / "gpu.devel.Dockerfile"
NVIDIA = "https://developer.download.nvidia.com/compute"
REPOSITORY = "/cuda/repos/ubuntu1804/x86_64"
INSTALLED = """
FROM keys AS installed
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN --mount=type=secret,id=network --mount=type=tmpfs,target=/run/inputs \\
    mkdir -p /etc/apt/sources.list.d \\
 && echo "deb [signed-by=/keyrings/nvidia-cuda.gpg] MIRROR/cuda/repos/ubuntu1804/x86_64 /" \\
      > /etc/apt/sources.list.d/nvidia.list \\
 && source /factory/inputs.sh && apt_install a-vendors-own=1.0
FROM scratch AS found
COPY --from=installed /usr/share/a-vendors-own /
"""


@pytest.mark.parametrize("fault", ["", "another key", "another signature"])
def test_a_vendors_packages_are_installed_if_key_and_signature_are_right(tmp_path: Path, fault: str) -> None:
    signer, other = (Signer.make(tmp_path / name) for name in ("signer", "other"))
    served = tmp_path / "served"
    repository, context = served / REPOSITORY[1:], tmp_path / "context"
    package(repository, "a-vendors-own")
    (other if fault == "another signature" else signer).sign_flat(repository)
    learning = served / "machine-learning/repos/ubuntu1804/x86_64"
    learning.mkdir(parents=True)
    (repository / "3bf863cc.pub").write_text((other if fault == "another key" else signer).public)
    (learning / "7fa2af80.pub").write_text(signer.public)
    context.mkdir()
    for name in ("inputs.sh", "apt_key.sh"):
        (context / name).write_bytes((ROOT / "dockerfiles/context" / name).read_bytes())
        (context / name).chmod(0o755)
    with Server.run(served, None) as server:
        mirror = f"http://{gateway()}:{server.port}"
        text = (GPU.read_text() + INSTALLED).replace(NVIDIA, mirror).replace("MIRROR", mirror)
        text = re.sub(r"(?<=\.pub )[0-9A-F]{40}", signer.fingerprint, text)
        (context / "Dockerfile").write_text(text)
        log = io.StringIO()
        request = BuildRequest(
            dockerfile=context / "Dockerfile",
            context=context,
            target="found",
            contexts=(("ubuntu:18.04", f"docker-image://{BASE}"),),
            output=tmp_path / "out",
        )
        if fault:
            with pytest.raises(BuildFailed):
                build(request, on_step=lambda _: None, log=log)
            required = "apt_key: /nvidia/3bf863cc.pub holds the key" if fault == "another key" else "NO_PUBKEY"
            assert required in log.getvalue()
            assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        else:
            build(request, on_step=lambda _: None, log=log)
            assert (tmp_path / "out" / "a-vendors-own").read_text() == "arrived\n"
