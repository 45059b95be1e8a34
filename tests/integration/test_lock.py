"""`lock` and `build --locked`, against a real registry with a password and a server of files."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.matrix.load import load_matrix
from serving_factory.recipes.recipe import recipe_for
from tests.unit.http_servers import serving

from .pipeline import ROOT, Checkout, Outcome
from .registry import FaultyProxy, LocalRegistry, write_docker_config

BASE = "debian:bookworm"
BAZEL = "9.9.9"
"""A Bazel that the catalogue has never heard of."""
SHA256 = hashlib.sha256(b"bazel").hexdigest()
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

pytestmark = pytest.mark.usefixtures("logged_in")


@dataclass(frozen=True)
class Shelf:
    """A repository of the registry, filled over its HTTP API."""

    registry: LocalRegistry
    repository: str

    def _send(self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> str:
        """Send a request, and give the Location of the answer."""
        pair = base64.b64encode(f"{self.registry.username}:{self.registry.password}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}", "Content-Type": kind}
        connection = http.client.HTTPConnection(self.registry.host, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            assert response.status in {201, 202}, (method, path, response.status, response.read())
            return response.getheader("Location") or ""
        finally:
            connection.close()

    def _blob(self, body: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        place = self._send("POST", f"/v2/{self.repository}/blobs/uploads/").removeprefix(f"http://{self.registry.host}")
        self._send("PUT", f"{place}&digest={digest}", body)
        return {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(body)}

    def _manifest(self, document: Mapping[str, Any], tag: str = "") -> dict[str, Any]:
        body = json.dumps({"schemaVersion": 2, **document}).encode()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self._send("PUT", f"/v2/{self.repository}/manifests/{tag or digest}", body, str(document["mediaType"]))
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(body)}

    def image(self, architecture: str, *, tag: str = "", note: str = "") -> dict[str, Any]:
        """Put an image without layers; its descriptor."""
        rootfs = {"type": "layers", "diff_ids": []}
        config = {"os": "linux", "architecture": architecture, "author": note, "rootfs": rootfs}
        document = {"mediaType": MANIFEST, "config": self._blob(json.dumps(config).encode()), "layers": []}
        return {**self._manifest(document, tag), "platform": {"os": "linux", "architecture": architecture}}

    def index(self, *architectures: str, note: str = "", tag: str = "bookworm") -> str:
        """Put an image for several platforms under a tag; the index's digest."""
        images = [self.image(architecture, note=note) for architecture in architectures]
        return str(self._manifest({"mediaType": INDEX, "manifests": images}, tag)["digest"])

    def delete(self, digest: str) -> None:
        """Take an image away, and with it the tags that stand for it."""
        self._send("DELETE", f"/v2/{self.repository}/manifests/{digest}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A matrix whose base comes from a registry, and the commands on it."""

    file: Path
    document: dict[str, Any] = field(default_factory=dict)

    def write(self, **sections: object) -> None:
        self.document.update(sections)
        self.file.write_text(yaml.safe_dump(self.document), encoding="utf-8")

    @property
    def lock_file(self) -> Path:
        return self.file.with_suffix(".lock")

    def run(self, task: str, *arguments: str) -> Outcome:
        return Checkout(folder=ROOT).run(task, "--matrix", str(self.file), *arguments)

    def pins(self, code: int, *arguments: str) -> dict[str, dict[str, str]]:
        """The pins that `lock --json` tells, by name."""
        outcome = self.run("lock", "--json", *arguments)
        assert outcome.code == code, outcome
        assert "Traceback" not in outcome.out + outcome.err
        return {pin["name"]: pin for pin in json.loads(outcome.out)["pins"]}


@pytest.fixture
def shelf(local_registry: LocalRegistry, request: pytest.FixtureRequest) -> Shelf:
    return Shelf(local_registry, f"lock/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


@pytest.fixture
def place(tmp_path: Path, shelf: Shelf, faulty_proxy: FaultyProxy) -> Place:
    """The registry is asked by way of the proxy."""
    place = Place(file=tmp_path / "matrix.yaml")
    place.write(
        image={"repository": "team/serving"},
        releases=["2.19.1"],
        targets={"standard": {"flavour": "cpu", "levels": ["x86-64"]}},
        toolchain={"base": BASE},
        network={"base_images": {BASE: f"{faulty_proxy.host}/{shelf.repository}:bookworm"}},
    )
    return place


@pytest.fixture
def mirror(tmp_path: Path, place: Place) -> Iterator[Path]:
    """A folder that a server serves as the mirror of Bazel's releases; the matrix wants a Bazel from it."""
    folder = tmp_path / "mirror"
    (folder / BAZEL).mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with serving(partial(Quiet, directory=folder)) as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        place.write(bazel={"version": BAZEL}, network={**place.document["network"], "bazel_mirror": url})
        yield folder


def checksum(mirror: Path, text: str | None = None) -> None:
    asset = f"bazel-{BAZEL}-linux-x86_64"
    (mirror / BAZEL / f"{asset}.sha256").write_text(f"{SHA256}  {asset}\n" if text is None else text)


# --- locking ----------------------------------------------------------------------------------------------------------


def test_a_tag_is_pinned_to_the_digest_of_its_index(place: Place, shelf: Shelf, faulty_proxy: FaultyProxy) -> None:
    digest = shelf.index("amd64", "arm64")
    assert place.run("lock", "--dry-run").code == 0
    assert not place.lock_file.exists()
    told = place.run("lock")
    assert (told.code, told.err) == (0, "")
    assert f"{digest[:19]}" in told.out
    assert f'  "{BASE}": {digest}\n' in place.lock_file.read_text()
    recipe = recipe_for(load_matrix(place.file).variants[0], load_matrix(place.file))
    assert f"FROM {BASE}@{digest}" in recipe.devel
    asked = len(faulty_proxy.requests)
    again = place.lock_file.read_bytes()
    assert place.pins(0)[BASE]["change"] == "kept"
    assert (place.lock_file.read_bytes(), len(faulty_proxy.requests)) == (again, asked)


def test_generated_dockerfiles_hold_the_digests(place: Place, shelf: Shelf) -> None:
    digest = shelf.index("amd64")
    assert place.run("generate").code == 0
    place.pins(0)
    assert place.run("generate", "--check").code == 5
    assert place.run("generate").code == 0
    texts = [path.read_text() for path in place.file.parent.glob("dockerfiles/*/*.Dockerfile")]
    assert len(texts) == 2
    assert all(f"FROM {BASE}@{digest}" in text for text in texts)


def test_an_image_of_one_platform_must_be_for_the_right_one(place: Place, shelf: Shelf) -> None:
    shelf.image("arm64", tag="bookworm")
    assert "is not for linux/amd64" in place.run("lock").told(40)
    assert not place.lock_file.exists()
    digest = shelf.image("amd64", tag="bookworm")["digest"]
    assert place.pins(0)[BASE]["found"] == digest


def test_a_base_that_the_engine_has_is_not_locked(place: Place, faulty_proxy: FaultyProxy) -> None:
    place.write(network={"base_images": {BASE: "serving-factory/base:bookworm"}})
    assert place.pins(0) == {}
    assert faulty_proxy.requests == []
    assert not place.lock_file.exists()
    assert place.run("build", "--locked", "--dry-run").code == 0


def test_a_moved_tag_is_told_by_check_and_taken_by_update(place: Place, shelf: Shelf) -> None:
    old = shelf.index("amd64")
    place.pins(0)
    assert place.pins(0, "--check")[BASE]["change"] == "kept"
    new = shelf.index("amd64", note="a later one")
    told = place.run("lock", "--check")
    assert f"locked {old}\n  found  {new}" in told.told(72)
    assert place.pins(0)[BASE]["change"] == "kept"
    assert old in place.lock_file.read_text()
    assert place.pins(0, "--update", BASE)[BASE] == {
        "name": BASE,
        "kind": "base",
        "change": "moved",
        "locked": old,
        "found": new,
        "error": None,
    }
    assert new in place.lock_file.read_text()
    assert place.pins(0, "--check")[BASE]["change"] == "kept"


def test_a_deleted_tag_is_an_error_with_a_remedy(place: Place, shelf: Shelf) -> None:
    digest = shelf.index("amd64")
    place.pins(0)
    shelf.delete(digest)
    for arguments in (["--check"], ["--update"]):
        told = place.run("lock", *arguments).told(73)
        assert "no such tag" in told
        assert "toolchain.base" in told
    assert digest in place.lock_file.read_text(), "what was locked stays"


def test_a_locked_image_that_is_gone_under_a_moved_tag_is_an_error(place: Place, shelf: Shelf) -> None:
    digest = shelf.index("amd64")
    place.pins(0)
    shelf.index("amd64", note="a later one")
    shelf.delete(digest)
    assert "no longer has the locked one" in place.run("lock", "--check").told(73)


# --- registries that refuse -------------------------------------------------------------------------------------------


def test_a_wrong_password_is_an_error_of_its_own(
    place: Place, shelf: Shelf, faulty_proxy: FaultyProxy, tmp_path: Path, local_registry: LocalRegistry
) -> None:
    shelf.index("amd64")
    place.pins(0)
    before = place.lock_file.read_bytes()
    write_docker_config(tmp_path / "docker", local_registry, faulty_proxy.host, password="wrong")
    for arguments in (["--check"], ["--update"]):
        assert f"docker login {faulty_proxy.host}" in place.run("lock", *arguments).told(42)
    assert place.lock_file.read_bytes() == before


def test_a_rate_limit_is_waited_for(place: Place, shelf: Shelf, faulty_proxy: FaultyProxy) -> None:
    digest = shelf.index("amd64")
    faulty_proxy.fail(status=429, path="/manifests/", retry_after="2")
    outcome = place.run("lock")
    assert outcome.code == 0
    assert "rate limit is used up); again in 2.0 s" in outcome.err
    assert digest in place.lock_file.read_text()


def test_a_rate_limit_of_hours_is_an_error_of_its_own(place: Place, faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.fail(status=429, path="/manifests/", retry_after="21600")
    told = place.run("lock").told(44)
    assert "asks to wait 21600 s" in told
    assert faulty_proxy.count("HEAD", "/manifests/") == 1


def test_a_registry_that_keeps_failing_is_an_error_of_its_own(place: Place, faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.fail(status=503, times=99, path="/manifests/")
    outcome = place.run("lock")
    assert (outcome.code, outcome.err.count("; again in ")) == (43, 3)
    assert faulty_proxy.count("HEAD", "/manifests/") == 4


# --- checksums --------------------------------------------------------------------------------------------------------


def test_a_missing_checksum_is_fetched_from_the_mirror(place: Place, shelf: Shelf, mirror: Path) -> None:
    shelf.index("amd64")
    checksum(mirror)
    assert place.pins(0)[BAZEL]["found"] == SHA256
    assert f'  "{BAZEL}": "{SHA256}"\n' in place.lock_file.read_text()
    assert place.pins(0, "--check")[BAZEL]["change"] == "kept"
    checksum(mirror, "0" * 64)
    assert "A release does not change" in place.run("lock", "--check").told(72)


def test_what_could_be_pinned_is_pinned_where_the_rest_could_not(place: Place, shelf: Shelf, mirror: Path) -> None:
    digest = shelf.index("amd64")
    told = place.run("lock").told(73)
    assert f"bazel-{BAZEL}-linux-x86_64.sha256" in told
    assert digest in place.lock_file.read_text()
    checksum(mirror, "<html>Please log in</html>")
    assert "holds no checksum" in place.run("lock").told(45)
    checksum(mirror, f"{SHA256}  bazel-0.0.1-linux-x86_64\n")
    assert "holds no checksum" in place.run("lock").told(45)
    checksum(mirror)
    assert {name: pin["change"] for name, pin in place.pins(0).items()} == {BASE: "kept", BAZEL: "added"}


# --- building ---------------------------------------------------------------------------------------------------------


def test_a_locked_build_refuses_all_that_is_not_locked_before_any_work(
    place: Place, shelf: Shelf, mirror: Path
) -> None:
    shelf.index("amd64")
    checksum(mirror)
    for arguments in ([], ["--dry-run"]):
        told = place.run("build", "--locked", *arguments).told(71)
        assert f"{BASE}: no digest" in told
        assert f"Bazel {BAZEL}: no checksum" in told
    place.pins(0)
    assert place.run("build", "--locked", "--dry-run").code == 0


def test_buildkit_takes_a_pinned_base_from_the_mirror(
    place: Place, shelf: Shelf, local_registry: LocalRegistry, tmp_path: Path
) -> None:
    """The engine knows no proxy of ours: it asks the registry itself."""
    digest = shelf.index("amd64")
    place.write(network={"base_images": {BASE: f"{local_registry.host}/{shelf.repository}:bookworm"}})
    place.pins(0)
    recipe = recipe_for(load_matrix(place.file).variants[0], load_matrix(place.file))
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {recipe.toolchain.base}\nCOPY Dockerfile /\n")
    request = BuildRequest(
        dockerfile=context / "Dockerfile", context=context, contexts=recipe.base.contexts, output=tmp_path / "out"
    )
    log: list[str] = []
    with (tmp_path / "log").open("w+") as stream:
        build(request, on_step=lambda step: log.append(step.name), log=stream)
    assert (tmp_path / "out" / "Dockerfile").is_file()
    assert digest in (tmp_path / "log").read_text()
