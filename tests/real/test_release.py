"""A release of upstream from folders alone, by one `build`: all stages of all variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.version import Version

from serving_factory.catalogue.levels import cpuinfo_names
from serving_factory.catalogue.upstream_flags import upstream_flags
from tests.integration.pipeline import BUILD_STAGES, ROOT, Checkout, docker

from .inputs import real_matrix

__all__ = ["real_matrix"]

LONGEST = 12 * 3600.0
CPU_FLAGS = "org.serving-factory.cpu-flags"

pytestmark = [pytest.mark.real, pytest.mark.timeout(LONGEST)]


def test_all_variants_are_built_through_smoke(real_matrix: Path) -> None:
    factory = Checkout(folder=ROOT)
    arguments = ("--matrix", str(real_matrix), "--json")
    listed = {one["variant"]: one for one in json.loads(factory.run("list", *arguments).built().out)["variants"]}
    with factory.start("build", *arguments) as running:
        results = running.wait(LONGEST).built().results
    assert set(results) == set(listed)
    for variant, result in results.items():
        assert tuple(result["stages"]) == BUILD_STAGES, result
        image = result["image"]
        labels = json.loads(docker("image", "inspect", image, "--format", "{{json .Config.Labels}}"))
        flags = upstream_flags(Version(listed[variant]["release"]))
        sure = {feature for flag in flags if not flag.namespaces for feature in flag.features}
        assert set(cpuinfo_names(sure)) <= set(labels[CPU_FLAGS].split()), "what upstream's files add is told"
