"""line/upstream.py: who is asked, how often, and what an answer means; against a small server on loopback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.errors import DownloadError, RegistryError, RegistryUnreachableError, VanishedError
from serving_factory.matrix.settings import Network, Proxies
from serving_factory.matrix.variant import Platform
from serving_factory.pipeline.pins import Upstream
from serving_factory.recipes.pins import NeededBase

from .test_registry import FakeRegistry, Shelf, fake

__all__ = ["fake"]

NETWORK = Network()
SHA256 = "ab" * 32
ASSET = "bazel-3.0.0-linux-x86_64"


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def upstream(network: Network = NETWORK) -> Upstream:
    return Upstream(network, lambda text: pytest.fail(f"retried: {text}"))


def test_a_deleted_base_that_the_catalogue_knows_of_has_its_replacement(fake: FakeRegistry) -> None:
    name = "nvidia/cuda:10.0-base-ubuntu16.04"
    with pytest.raises(VanishedError, match="no such tag") as caught:
        upstream().digest(NeededBase(name=name, asked=f"{fake.host}/{name}"))
    assert "Name ubuntu:16.04 at toolchain.base" in caught.value.remedy
    assert fake.asked == ["HEAD /v2/nvidia/cuda/manifests/10.0-base-ubuntu16.04"]


def test_an_image_must_be_for_all_platforms_that_are_asked_for(fake: FakeRegistry) -> None:
    shelf = Shelf(fake)
    digest = shelf.put({"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}}]})
    shelf.documents["1"] = shelf.documents[digest]
    base = NeededBase(name="u:1", asked=f"{fake.host}/u:1", platforms=(Platform.LINUX_AMD64,))
    assert upstream().digest(base) == digest
    with pytest.raises(RegistryError, match="is not for linux/arm64") as caught:
        upstream().digest(replace(base, platforms=(Platform.LINUX_AMD64, Platform.LINUX_ARM64)))
    assert "linux/amd64" in caught.value.why


def test_a_registry_that_does_not_answer_is_asked_once() -> None:
    asker, base = upstream(), NeededBase(name="u:1", asked="127.0.0.1:1/u:1")
    with pytest.raises(RegistryUnreachableError) as first:
        asker.digest(base)
    with pytest.raises(RegistryUnreachableError) as second:
        asker.digest(replace(base, name="u:2", asked="127.0.0.1:1/u:2"))
    assert first.value is second.value
    assert "network.base_images" in first.value.remedy
    assert "network.proxies" in first.value.remedy


@pytest.mark.parametrize(
    "text", [SHA256, f"{SHA256}\n", f"{SHA256}  {ASSET}\n", f"{SHA256.upper()} *{ASSET}\n", f"{SHA256}  out/{ASSET}\n"]
)
def test_a_checksum_is_read_as_sha256sum_writes_it(fake: FakeRegistry, text: str) -> None:
    fake.handler = lambda _, request: request.reply(200, text.encode())
    network = replace(NETWORK, bazel_mirror=f"http://{fake.host}/bazel/")
    assert upstream(network).checksum("3.0.0") == SHA256
    assert fake.asked == [f"GET /bazel/3.0.0/{ASSET}.sha256"]


@pytest.mark.parametrize("text", ["", "x", SHA256[:-1], f"{SHA256}  bazel-3.0.1-linux-x86_64", f"{SHA256}\n{SHA256}"])
def test_anything_else_is_no_checksum(fake: FakeRegistry, text: str) -> None:
    fake.handler = lambda _, request: request.reply(200, text.encode())
    with pytest.raises(DownloadError, match="holds no checksum"):
        upstream(replace(NETWORK, bazel_mirror=f"http://{fake.host}")).checksum("3.0.0")


def test_a_networks_proxy_is_asked_for_checksums(fake: FakeRegistry) -> None:
    fake.handler = lambda _, request: request.reply(200, SHA256.encode())
    network = replace(NETWORK, bazel_mirror="http://mirror.example.com", proxies=Proxies(http=f"http://{fake.host}"))
    assert upstream(network).checksum("3.0.0") == SHA256
    assert fake.asked == [f"GET http://mirror.example.com/3.0.0/{ASSET}.sha256"]
