"""Pushing what the line has proven, to a real registry with a password.

Each test finds the registry without tags. The blobs stay, so that only the first test waits for them to be sent.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.registry import Registry

from .pipeline import BUILD_STAGES, MATRIX, V1, Checkout, docker
from .registry import FaultyProxy, LocalRegistry, write_docker_config

NOTHING_TO_DO = dict.fromkeys((*BUILD_STAGES, "push"), "up_to_date")
PUSHED = NOTHING_TO_DO | {"push": "finished"}
REFUSED = NOTHING_TO_DO | {"push": "failed"}
ALIASES = ["2.19.1-cpu-v1", "2.19.1-cpu-standard"]
SENDING = {"PUT", "PATCH"}  # a POST only asks whether an upload may begin


def full_tag(checkout: Checkout) -> str:
    (tag,) = checkout.record(V1, "package")["outputs"]["tags"]
    assert tag.startswith(f"2.19.1-cpu-v1-{checkout.record(V1, 'extract')['outputs']['sha256'][:12]}-")
    return str(tag)


def held(registry: LocalRegistry, checkout: Checkout) -> dict[str, str | None]:
    """The digest that the registry gives for each tag, asked without the proxy."""
    asked = Registry(registry.host, credentials=registry.credentials)
    return {tag: asked.manifest_digest(checkout.repository, tag) for tag in (full_tag(checkout), *ALIASES)}


@pytest.fixture(autouse=True)
def _no_tags(checkout: Checkout, local_registry: LocalRegistry) -> Iterator[None]:
    _delete(checkout, local_registry)
    yield
    _delete(checkout, local_registry)


def _delete(checkout: Checkout, local_registry: LocalRegistry) -> None:
    pair = f"{local_registry.username}:{local_registry.password}"
    headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    for digest in set(held(local_registry, checkout).values()) - {None}:
        connection = http.client.HTTPConnection(local_registry.host, timeout=10)
        connection.request("DELETE", f"/v2/{checkout.repository}/manifests/{digest}", headers=headers)
        assert connection.getresponse().status == http.HTTPStatus.ACCEPTED
        connection.close()


def sent(proxy: FaultyProxy, what: str) -> list[str]:
    """The paths, of blobs or manifests, to which something was sent."""
    return [path for method, path in proxy.requests if method in SENDING and f"/{what}/" in path]


def make_again(checkout: Checkout) -> None:
    """Have the engine, and the record, have another image with all that the packaged one has, but its time."""
    record = checkout.record(V1, "package")
    container = docker("create", record["outputs"]["image"]).strip()
    record["outputs"]["image"] = docker("commit", container).strip()
    docker("rm", container)
    checkout.record_file(V1, "package").write_text(json.dumps(record), encoding="utf-8")
    checkout.claim_names(V1)


@pytest.mark.usefixtures("logged_in")
def test_full_tags_go_first_and_the_registry_confirms(
    checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy
) -> None:
    checkout = checkout.with_own_repository()
    checkout.build_one().built()
    push = checkout.line("push", "--registry", faulty_proxy.host, "--variant", V1)
    assert checkout.run(*push).built().stages(V1) == {"push": "finished"}
    tags = [full_tag(checkout), *ALIASES]
    asked = "\n".join(map(" ".join, faulty_proxy.requests))
    assert [path.rpartition("/")[2] for path in sent(faulty_proxy, "manifests")] == tags, asked
    assert sent(faulty_proxy, "blobs"), "or the second push proves nothing"
    (outputs,) = checkout.record(V1, "push")["outputs"]["places"]
    assert list(outputs["digests"]) == tags
    assert outputs["digests"] == held(local_registry, checkout)
    assert len(set(outputs["digests"].values())) == 1
    assert docker("images", "--quiet", f"{faulty_proxy.host}/{checkout.repository}") == "", "a name is left"

    faulty_proxy.requests.clear()
    assert checkout.run(*push).built().stages(V1) == {"push": "up_to_date"}
    assert {method for method, _ in faulty_proxy.requests} == {"HEAD"}

    faulty_proxy.requests.clear()
    checkout.record_file(V1, "push").unlink()
    assert checkout.run(*push).built().stages(V1) == {"push": "finished"}
    assert sent(faulty_proxy, "blobs") == []
    assert checkout.record(V1, "push")["outputs"]["places"][0]["digests"] == outputs["digests"]

    # A clean runner makes another image of the same content, and no error of it.
    make_again(checkout)
    checkout.record_file(V1, "push").unlink()
    faulty_proxy.requests.clear()
    assert checkout.build_one("--registry", faulty_proxy.host).built().stages(V1)["push"] == "finished"
    assert {path for what in ("blobs", "manifests") for path in sent(faulty_proxy, what)} == set()
    assert checkout.record(V1, "push")["outputs"]["places"][0]["digests"] == outputs["digests"]


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_registry_that_refuses_the_password(
    checkout: Checkout, local_registry: LocalRegistry, tmp_path: Path, password: str | None
) -> None:
    push = ("--registry", local_registry.host)
    names = ("images", "--digests", "--format", "{{.Tag}} {{.Digest}}", f"{local_registry.host}/{checkout.repository}")
    before = docker(*names)  # another test may have pulled the image from there
    hosts = (local_registry.host,) if password else ("registry.example.com",)
    refused = write_docker_config(tmp_path / "refused", local_registry, *hosts, password=password)
    outcome = checkout.build_one(*push, env={"DOCKER_CONFIG": str(refused)})
    error = outcome.error(42, "RegistryDeniedError")
    assert local_registry.host in error["what"]
    assert "docker login" in error["remedy"]
    assert local_registry.password not in outcome.out
    assert outcome.stages(V1) == REFUSED
    assert set(held(local_registry, checkout).values()) == {None}
    assert docker(*names) == before

    accepted = write_docker_config(tmp_path / "accepted", local_registry)
    assert checkout.build_one(*push, env={"DOCKER_CONFIG": str(accepted)}).built().stages(V1) == PUSHED
    assert None not in held(local_registry, checkout).values()


def test_a_registry_that_is_down(checkout: Checkout, local_registry: LocalRegistry, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    push = ("--registry", f"127.0.0.1:{port}")
    env = {"DOCKER_CONFIG": str(write_docker_config(tmp_path / "docker", local_registry, f"127.0.0.1:{port}"))}
    outcome = checkout.build_one(*push, env=env)
    assert f"127.0.0.1:{port}" in outcome.error(41, "RegistryUnreachableError")["what"]
    assert outcome.stages(V1) == REFUSED

    with FaultyProxy.run(local_registry.host, port):
        assert checkout.build_one(*push, env=env).built().stages(V1) == PUSHED
    assert None not in held(local_registry, checkout).values()


@pytest.mark.usefixtures("logged_in")
def test_a_registry_that_fails_twice_and_then_works(
    checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy
) -> None:
    faulty_proxy.fail(times=2, status=500, method="PUT", path="/manifests/")
    outcome = checkout.build_one("--registry", faulty_proxy.host).built()
    assert outcome.stages(V1) == PUSHED
    found = [re.search(r": attempt (\d) failed .*; again in ", text) for text in outcome.retried]
    assert [match and match[1] for match in found] == ["1", "2"]
    assert None not in held(local_registry, checkout).values()


@pytest.mark.usefixtures("logged_in")
def test_a_registry_that_keeps_failing(
    checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy
) -> None:
    """It takes the full tag and no alias: then no alias has moved, and what is there is whole."""
    fault = faulty_proxy.fail(times=99, status=500, method="PUT", path=f"/manifests/{ALIASES[0]}$")
    push = ("--registry", faulty_proxy.host)
    outcome = checkout.build_one(*push)
    outcome.error(43, "RegistryFaultError")
    assert outcome.stages(V1) == REFUSED
    there = held(local_registry, checkout)
    assert there.pop(full_tag(checkout))
    assert set(there.values()) == {None}

    fault.times = 0
    assert checkout.build_one(*push).built().stages(V1) == PUSHED
    assert None not in held(local_registry, checkout).values()


@pytest.mark.usefixtures("logged_in")
def test_two_registries_get_an_image_in_one_run_and_latest_never_goes_back(
    checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy
) -> None:
    """The proxy is another registry by its name; both have the same content."""
    checkout.edit(
        MATRIX,
        "  labels:",
        "  aliases: ['{id}', {tag: 'latest{flavour-suffix}', where: {levels: [x86-64]}}]\n  labels:",
    )
    both = ("--registry", local_registry.host, "--registry", f"{faulty_proxy.host}/second")
    outcome = checkout.build_one(*both).built()
    pushed = outcome.results[V1]["facts"]["pushed"]
    tags = [full_tag(checkout), V1, "latest"]
    expected = [f"{host}/{checkout.repository}:{tag}" for host in (both[1], both[3]) for tag in tags]
    assert [name.partition("@")[0] for name in pushed] == expected
    asked = Registry(local_registry.host, credentials=local_registry.credentials)
    first, second = (asked.manifest_digest(f"{folder}{checkout.repository}", "latest") for folder in ("", "second/"))
    assert first == second is not None

    # A later release takes `latest` in the first registry.
    newer = f"{local_registry.host}/{checkout.repository}:latest"
    image = checkout.record(V1, "package")["outputs"]["image"]
    docker("tag", image, f"{checkout.repository}:{V1}")
    text = f"FROM {checkout.repository}:{V1}\nLABEL org.opencontainers.image.version=2.20.0\n"
    subprocess.run(["docker", "build", "--tag", newer, "-"], input=text, text=True, capture_output=True, check=True)
    docker("push", newer)
    docker("rmi", newer)
    facts = checkout.build_one(*both).built().results[V1]["facts"]
    assert facts["not_moved"] == [f"{local_registry.host}/{checkout.repository}:latest stays at 2.20.0"]
    assert [name.partition("@")[0] for name in facts["pushed"]] == [name for name in expected if name != newer]
    held_now = str(asked.manifest_digest(checkout.repository, "latest"))
    assert asked.labels(checkout.repository, held_now)["org.opencontainers.image.version"] == "2.20.0"
