"""`publish`, with a real registry: what other clients get by the one name, and what the registry is sent."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_factory.docker.registry import Registry

from .pipeline import MATRIX, V1, V3, Checkout, docker
from .registry import FaultyProxy, LocalRegistry

TOOLS = Path(__file__).with_name("pull_tools")
IMAGE = "serving-factory-test/pull-tools"
BASE = ("--build-context", "debian:bookworm-slim=docker-image://serving-factory/base:bookworm")
TARGETS = ("--target", "cpu-standard", "--target", "cpu-optimized")
LABEL = '{{index .Config.Labels "org.serving-factory.variant"}}'


@pytest.fixture(scope="module")
def tools() -> Iterator[str]:
    """The image with podman and skopeo."""
    docker("buildx", "build", "--load", "--tag", IMAGE, *BASE, str(TOOLS), seconds=300)
    yield IMAGE
    docker("image", "rm", IMAGE)


def by_docker(name: str, *platform: str) -> str:
    """The variant that the engine's classic store pulls."""
    docker("pull", "--quiet", *platform, name)
    found = docker("image", "inspect", "--format", LABEL, name).strip()
    docker("image", "rm", name)
    return found


def highest() -> str:
    """The highest of the two levels that this machine's CPU has."""
    flags = Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split()
    return V3 if {"avx2", "bmi2", "fma", "movbe"} <= set(flags) else V1


def test_one_name_for_each_cpu_and_each_client(
    whole_checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy, logged_in: Path, tools: str
) -> None:
    checkout, place = whole_checkout, f"{faulty_proxy.host}/{whole_checkout.repository}"
    publish = checkout.line("publish", "--registry", faulty_proxy.host, *TARGETS)
    dry = checkout.run(*publish, "--dry-run").built().out
    assert '"state": "to_push"' in dry
    assert {method for method, _ in faulty_proxy.requests} <= {"HEAD", "GET"}

    # Killed when the index is there by its digest and its tag is not: nothing is half published.
    faulty_proxy.fail(method="PUT", path="/manifests/2.19.1$", delay=30, cut=True)
    with checkout.start(*publish) as running:
        running.wait_for(lambda: faulty_proxy.count("PUT", "/manifests/2.19.1$") > 0, "the tag moves")
        running.send(signal.SIGKILL)
        running.process.wait()
    asked = Registry(local_registry.host, credentials=local_registry.credentials)
    assert asked.manifest_digest(checkout.repository, "2.19.1") is None

    # The same command goes on; a registry that fails and one with too many requests are asked again.
    faulty_proxy.fail(times=2, status=500, method="PUT", path="/manifests/")
    faulty_proxy.fail(status=429, method="GET", path="/manifests/2.19.1$", retry_after="1")
    outcome = checkout.run(*publish).built()
    assert "an earlier publish ended before its tag moved" in outcome.err
    assert outcome.err.count("; again in ") == 3
    (row,) = outcome.events[-1]["indexes"]
    assert (row["name"], row["status"]) == (f"{place}:2.19.1", "published")
    assert row["digest"] == asked.manifest_digest(checkout.repository, "2.19.1")
    assert [(one["platform"], one["variant"]) for one in row["entries"]] == [
        ("linux/amd64", V1),
        ("linux/amd64/v3", V3),
    ]
    for one in row["entries"]:
        assert asked.labels(checkout.repository, one["digest"])["org.serving-factory.variant"] == one["variant"]

    # An unchanged set sends nothing.
    faulty_proxy.requests.clear()
    assert checkout.run(*publish).built().events[-1]["indexes"][0]["status"] == "up_to_date"
    assert {method for method, _ in faulty_proxy.requests} <= {"HEAD", "GET"}

    # docs/one-name.md, "What a client gets".
    name = f"{local_registry.host}/{checkout.repository}:2.19.1"
    assert by_docker(name) == highest()
    pulled = {f"docker/{v}": by_docker(name, "--platform", f"linux/amd64/{v}") for v in ("v2", "v3", "v4")}
    assert pulled == {"docker/v2": V1, "docker/v3": V3, "docker/v4": V3}
    options = ("--rm", "--network", "host", "--privileged", "--volume", f"{logged_in}:/auth:ro")
    printed = docker("run", *options, tools, name, seconds=120)
    assert dict(line.split() for line in printed.splitlines()) == {
        "skopeo/": V1,
        "skopeo/v2": V1,
        "skopeo/v3": V3,
        "skopeo/v4": V1,
        "podman/": V1,
    }


@pytest.mark.usefixtures("logged_in")
def test_an_incomplete_set_is_refused(checkout: Checkout, local_registry: LocalRegistry) -> None:
    message = checkout.run(
        "publish", "--matrix", MATRIX, "--registry", f"{local_registry.host}/incomplete", "--variant", V1
    ).told(48)
    assert f"linux/amd64/v3: {V3}: compile has not run" in message
