"""`changes` on the demo's images, which are read from containers that never run."""

from __future__ import annotations

import json

from .demo_story import Demo
from .pipeline import MKL_V3, V1, Checkout, docker


def test_two_images_differ_as_their_variants_do_and_one_does_not_differ_from_itself(
    demo: Demo, checkout: Checkout
) -> None:
    containers = docker("ps", "--all", "--quiet", "--filter", "status=created")
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
    assert set(containers.split()) >= set(docker("ps", "--all", "--quiet", "--filter", "status=created").split())

    text = checkout.run("changes", "--since", "1").built().out
    assert text.endswith(f"Nothing changed: both are {old}.\n")
    assert "has no image nowhere:1" in checkout.run("changes", old, "nowhere:1").told(4)
