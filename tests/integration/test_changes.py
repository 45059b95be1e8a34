"""`changes` on the demo's images: in containers that never run, and in a registry without an engine."""

from __future__ import annotations

import json
from pathlib import Path

from .demo_story import Demo
from .pipeline import MKL_V3, V1, Checkout, docker
from .registry import LocalRegistry

NOWHERE = {"DOCKER_HOST": "tcp://127.0.0.1:9"}


def test_two_images_differ_as_their_variants_do_and_one_does_not_differ_from_itself(
    demo: Demo, whole_checkout: Checkout, local_registry: LocalRegistry, logged_in: Path, tmp_path: Path
) -> None:
    checkout, containers = whole_checkout, demo.checkout.containers(of_all=True)
    old, new = (str(demo.checkout.record(variant, "package")["outputs"]["image"]) for variant in (V1, MKL_V3))
    (found,) = json.loads(checkout.run("changes", old, new, "--json").built().out)["images"]
    assert (found["before"]["image"], found["after"]["image"]) == (old, new)
    assert {"flavour", "level", "flags", "configs"} <= set(found["binary_reasons"])
    assert found["image_reasons"][0] == "binary"
    changed = {(one["kind"], one["name"]): (one["before"], one["after"]) for one in found["changes"]}
    assert changed["fact", "level"] == ("x86-64", "x86-64-v3")
    binaries = [demo.checkout.record(variant, "extract")["outputs"]["sha256"] for variant in (V1, MKL_V3)]
    assert changed["fact", "binary"] == tuple(binaries)
    assert changed["package", "libgomp1"][0] is None
    assert ("fact", "compiler") not in changed
    assert set(containers) >= set(demo.checkout.containers(of_all=True))

    text = checkout.run("changes", "--since", "1").built().out
    assert text.endswith(f"Nothing changed: both are {old}.\n")
    assert "has no image nowhere:1" in checkout.run("changes", old, "nowhere:1").told(4)

    # The same of a registry with a password.
    assert logged_in.is_dir()
    place = f"{local_registry.host}/changes"
    for tag, image in (("old", old), ("new", new)):
        docker("tag", image, f"{place}:{tag}")
        docker("push", "--quiet", f"{place}:{tag}")
        docker("image", "rm", f"{place}:{tag}")
    there = json.loads(checkout.run("changes", f"{place}:old", f"{place}:new", "--json", env=NOWHERE).built().out)
    assert there["images"][0]["changes"] == found["changes"]
    assert f"has no image {place}:absent" in checkout.run("changes", f"{place}:old", f"{place}:absent").told(40)
    nobody = {**NOWHERE, "DOCKER_CONFIG": str(tmp_path / "nobody")}
    assert "docker login" in checkout.run("changes", f"{place}:old", f"{place}:new", env=nobody).told(42)
