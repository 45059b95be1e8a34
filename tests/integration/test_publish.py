"""`publish`, with a real registry: what other clients get by the one name, and what the registry is sent."""

from __future__ import annotations

import json
import multiprocessing
import signal
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import LEVELS
from serving_factory.docker.registry import MANIFESTS, ImageName, Manifest, Registry
from serving_factory.matrix.tags import Index
from serving_factory.matrix.variant import Platform, Variant
from serving_factory.pipeline.publish import Draft, entries_of, publish

from .pipeline import IMAGES, MATRIX, V1, V3, Checkout, docker
from .registry import FaultyProxy, LocalRegistry

TOOLS = Path(__file__).with_name("pull_tools")
IMAGE = f"{IMAGES}/pull-tools"
BASE = ("--build-context", "debian:bookworm-slim=docker-image://serving-factory/base:bookworm")
TARGETS = ("--target", "cpu-standard", "--target", "cpu-optimized")
FORK = multiprocessing.get_context("fork")
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


def publish_one(registry: LocalRegistry, index: Index, variant: Variant, build: Path) -> None:
    """As a job of the nightly: push an image of one level, and add it to the index."""
    place, asked = ImageName(registry.host, "team/at-once"), Registry(registry.host, credentials=registry.credentials)
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2}
    config["digest"] = asked.put_blob(place.repository, json.dumps({"variant": variant.id}).encode())
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFESTS[1], "config": config, "layers": []}).encode()
    image = Manifest(body=body, media_type=MANIFESTS[1])
    asked.put_manifest(place.repository, image.digest, image)
    draft = Draft(index=index, place=place, registry=asked, images={variant.id: image.digest})
    published, status = publish([draft], build, lambda _: None)[draft.name]
    assert (status, published.moved) == ("published", True)


def test_six_jobs_that_publish_at_once_lose_nothing(local_registry: LocalRegistry, tmp_path: Path) -> None:
    """Each is a process of its own, with a build folder of its own."""
    variants = [Variant(release="2.19.1", flavour=Flavour.CPU, level=level) for level in LEVELS]
    variants.append(replace(variants[0], platform=Platform.LINUX_ARM64))
    index = Index(tag=uuid.uuid4().hex, release="2.19.1", moves=False, variants=tuple(variants))
    processes = [
        FORK.Process(target=publish_one, args=(local_registry, index, one, tmp_path / str(number)))
        for number, one in enumerate(variants)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    held = Registry(local_registry.host, credentials=local_registry.credentials).manifest("team/at-once", index.tag)
    assert held
    assert {one.variant for one in entries_of(held)} == {one.id for one in variants}


@pytest.mark.usefixtures("logged_in")
def test_an_incomplete_set_is_refused(checkout: Checkout, local_registry: LocalRegistry) -> None:
    message = checkout.run(
        "publish", "--matrix", MATRIX, "--registry", f"{local_registry.host}/incomplete", "--variant", V1
    ).told(48)
    assert f"linux/amd64/v3: {V3}: compile has not run" in message
