"""What a matrix file chooses about images, on a real engine: their user, their base, and images made from them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving_factory.pipeline.digests import tree_entries

from .pipeline import BUILD_STAGES, IMAGES, LABEL, MATRIX, ROOT, V1, Checkout, docker
from .tiny import MAIN, tiny_checkout

if TYPE_CHECKING:
    from .demo_story import Demo

BASE = "debian:bookworm-slim"
RC = "2.21.0-rc1-cpu-v1"
NATIVE = "2.19.1-cpu-native"
BASES = f"{IMAGES}/bases"
# Bases of the same distribution as the toolchain's, in which something is different.
DOCKERFILE = """\
FROM serving-factory/base:bookworm AS other
RUN echo other > /etc/other-base

FROM other AS whole
RUN apt-get update \\
 && apt-get install -y --no-install-recommends ca-certificates libcpp-httplib0.11 libgrpc++1.51 libstdc++6 \\
 && cd /var/lib && apt-get download libre2-9

FROM whole AS incomplete
RUN dpkg --remove --force-depends libre2-9

FROM whole AS old
RUN sed -i 's/GLIBC 2.36-[^)]*) 2.36/GLIBC 2.31-13) 2.31/; s/) 2.36"/) 2.31"/; s/ 2\\.36$/ 2.31/' /usr/bin/ldd

FROM other AS without-apt
RUN rm /usr/bin/apt-get
"""


def stages(first: str, *, last: str = "smoke") -> dict[str, str]:
    """What becomes of each stage where all before one are up to date."""
    index = BUILD_STAGES.index(first)
    found = {stage: "up_to_date" if i < index else "finished" for i, stage in enumerate(BUILD_STAGES)}
    return {stage: found[stage] for stage in BUILD_STAGES[: BUILD_STAGES.index(last) + 1]}


@pytest.fixture(scope="module")
def bases() -> Iterator[str]:
    """The images, by the names of their stages as tags; BuildKit keeps what they install from run to run."""
    for tag in re.findall(r" AS (\S+)", DOCKERFILE):
        command = ("docker", "buildx", "build", "--load", "--target", tag, "--tag", f"{BASES}:{tag}", "-")
        done = subprocess.run(command, input=DOCKERFILE, text=True, capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    yield BASES
    for tag in re.findall(r" AS (\S+)", DOCKERFILE):
        docker("rmi", "--force", f"{BASES}:{tag}")


@pytest.fixture
def based(checkout: Checkout, bases: str) -> Checkout:
    """A checkout whose images stand on a base of their own; `stand_on` says which."""
    checkout.edit(MATRIX, "  labels:", f'  base: {{cpu: "{BASE}"}}\n  labels:')
    checkout.edit(
        MATRIX,
        '"debian:bookworm": "serving-factory/base:bookworm"',
        f'"debian:bookworm": "serving-factory/base:bookworm", "{BASE}": "{bases}:whole"',
    )
    return checkout


def stand_on(checkout: Checkout, tag: str) -> None:
    checkout.edit(MATRIX, f"{BASES}:whole", f"{BASES}:{tag}")


def inside(image: str, script: str) -> list[str]:
    return docker("run", "--rm", "--entrypoint", "sh", image, "-c", script).split()


def test_the_documented_recipe_for_images_made_from_these(demo: Demo, sample_image: str, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8").partition("## Images made from these")[2]
    recipe = re.search(r"```dockerfile\n(.*?)```", section, re.DOTALL)
    assert recipe
    lines = recipe[1].splitlines()
    assert lines[0].startswith("FROM ")
    name = f"{demo.checkout.repository}:child"
    (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {demo.checkout.repository}:{V1}", *lines[1:]]))
    (tmp_path / "warm_up.sh").write_text("#!/bin/sh\nid -u\nstat -c %a /models/mine\n")
    docker("tag", sample_image, f"{demo.checkout.repository}:{V1}")  # a name that no other test has moved since
    docker("build", "--label", f"{LABEL}={demo.checkout.mark}", "--tag", name, str(tmp_path))
    assert docker("run", "--rm", "--entrypoint", "warm_up.sh", name).split() == ["65532", "755"]
    assert docker("run", "--rm", name, "--version").startswith("TensorFlow ModelServer: 2.19.1")


def test_another_user_makes_the_image_again_and_compiles_nothing(checkout: Checkout) -> None:
    checkout.edit(MATRIX, "  labels:", "  user: 1000\n  labels:")
    assert checkout.build_one().built().stages(V1) == stages("package")
    image = checkout.record(V1, "package")["outputs"]["image"]
    assert docker("inspect", "--format", "{{.Config.User}}", image).strip() == "1000:1000"


def test_another_base_compiles_nothing_and_its_libraries_come_from_it(based: Checkout) -> None:
    stand_on(based, "other")
    assert based.build_one().built().stages(V1) == {**stages("libraries")}
    made = based.record(V1, "libraries")["outputs"]
    assert made["collected"]
    assert {name.partition("=")[0] for name in made["packages"]} > {"ca-certificates", "libgrpc++1.51", "libssl3"}
    image = based.record(V1, "package")["outputs"]["image"]
    assert inside(image, "cat /etc/other-base; ls /var/lib/dpkg/status.d; ls -d /factory 2>/dev/null || echo none") == [
        "other",
        *sorted(name.partition("=")[0] for name in made["packages"]),
        "none",
    ]
    versions = inside(image, "sed -n 's/^Version: //p' /var/lib/dpkg/status.d/*")
    assert versions == [name.partition("=")[2] for name in sorted(made["packages"])]
    assert set(based.build_one().built().stages(V1).values()) == {"up_to_date"}


def test_what_the_base_has_is_not_copied(based: Checkout) -> None:
    assert based.build_one().built().stages(V1)["compile"] == "up_to_date"
    assert based.record(V1, "libraries")["outputs"]["packages"] == []
    image = based.record(V1, "package")["outputs"]["image"]
    rootfs = based.variant_folder(V1) / "libraries" / "rootfs"
    assert not [path for path in rootfs.rglob("*") if ".so" in path.name or path.name == "ca-certificates.crt"]
    assert int(inside(image, "wc -l < /etc/ssl/certs/ca-certificates.crt")[0]) > 1000


def test_without_a_network_packages_come_from_the_folder(based: Checkout, bases: str) -> None:
    folder = based.folder / "samples" / "packages"
    folder.mkdir()
    with_package = docker("create", f"{bases}:whole", "true").strip()
    names = docker("run", "--rm", f"{bases}:whole", "sh", "-c", "ls /var/lib/*.deb").split()
    for name in names:
        docker("cp", f"{with_package}:{name}", str(folder))
    docker("rm", with_package)
    fields = docker("run", "--rm", f"{bases}:whole", "dpkg-deb", "--field", *names)
    (deb,) = folder.iterdir()
    content = deb.read_bytes()
    index = f"{fields}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    (folder / "Packages").write_text(index)
    stand_on(based, "incomplete")
    based.edit(MATRIX, "network:\n", "network:\n  offline: true\n  apt: {mirror: packages}\n")
    assert based.build_one().built().stages(V1) == stages("libraries")
    assert [name.partition("=")[0] for name in based.record(V1, "libraries")["outputs"]["packages"]] == ["libre2-9"]


def test_a_base_without_apt_gets_what_it_has_not_from_the_devel_image(based: Checkout) -> None:
    before = based.record(V1, "compile")["outputs"]["facts"]["packages"].splitlines()
    stand_on(based, "without-apt")
    based.build_one().built()
    assert based.record(V1, "libraries")["outputs"]["packages"] == sorted(before)


def test_a_base_with_an_older_c_library_is_refused(based: Checkout) -> None:
    stand_on(based, "old")
    outcome = based.build_one()
    error = outcome.error(22, "InspectionError")
    assert re.search(r"glibc: needs glibc 2\.3\d, the runtime base has 2\.31", error["why"])
    assert "image.base" in error["remedy"]
    assert outcome.stages(V1)["extract"] == "up_to_date"


def times_and_modes(folder: Path) -> dict[str, tuple[float, int]]:
    """What a layer has of each path beside its content."""
    return {str(path.relative_to(folder)): (path.lstat().st_mtime, path.lstat().st_mode) for path in folder.rglob("*")}


def test_a_slim_base_has_a_shell_and_no_package_manager(checkout: Checkout, tmp_path: Path) -> None:
    checkout.edit(MATRIX, "  labels:", "  base: slim\n  labels:")
    assert checkout.build_one().built().stages(V1) == stages("libraries")
    image = checkout.record(V1, "package")["outputs"]["image"]
    absent = "command -v apt-get dpkg apt perl || echo none"
    assert inside(image, f"{absent}; bash -c 'echo bash'; TZ=Europe/Berlin date -d @0 +%H") == ["none", "bash", "01"]
    names = inside(image, "ls /var/lib/dpkg/status.d")
    assert {"base-files", "bash", "ca-certificates", "dash", "libc6", "libgcc-s1", "libgrpc++1.51", "tzdata"} <= set(
        names
    )
    assert inside(image, "stat -c %a%u /tmp /root /var/tmp") == ["17770", "7000", "17770"]
    assert inside(image, ". /etc/os-release; echo $ID; test -s /etc/ssl/certs/ca-certificates.crt; echo $?") == [
        "debian",
        "0",
    ]
    # The same packages give the same layer.
    folder, again = checkout.variant_folder(V1), tmp_path / "again"
    docker(
        *("buildx", "build", "--file", str(folder / "recipe" / "runtime.Dockerfile"), "--target", "libraries"),
        *("--build-context", f"artifact={folder / 'artifact'}", "--no-cache-filter", "runtime_base"),
        *("--build-context", "debian:bookworm=docker-image://serving-factory/base:bookworm"),
        *("--output", str(again), str(checkout.folder / "dockerfiles" / "context")),
        seconds=300,
    )
    assert tree_entries(again) == tree_entries(folder / "libraries")
    assert times_and_modes(again) == times_and_modes(folder / "libraries")


def test_a_release_of_the_files_own_is_built_under_its_name(checkout: Checkout) -> None:
    own = 'releases: [{name: 2.21.0-rc1, like: "2.19.1", source: model_server}]'
    checkout.edit(MATRIX, 'releases: ["2.19.1"]', own)
    outcome = checkout.build("--variant", RC).built()
    assert set(outcome.stages(RC).values()) == {"finished"}
    image = checkout.record(RC, "package")["outputs"]["image"]
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.version"] == "2.21.0-rc1"
    assert labels["org.serving-factory.like"] == "2.19.1"
    assert f"{checkout.repository}:{RC}" in outcome.results[RC]["image"]
    (version,) = (one for one in checkout.record(RC, "inspect")["outputs"]["findings"] if one["rule"] == "version")
    assert version["ok"] is None
    assert "says 2.19.1-rc0+dev.sha.no_git" in version["text"]
    assert "like: " in checkout.run("list", "--matrix", MATRIX, "--release", "2.21.0").told(4)


def test_an_image_for_this_machines_cpu_refuses_another(tmp_path: Path) -> None:
    """As a v3 image does; the variant is compiled, inspected and packaged, but needs no server."""
    with tiny_checkout(tmp_path / "factory") as checkout:
        target = "  cpu-standard:\n    flavour: cpu\n    levels: "
        checkout.edit(MATRIX, f"{target}[x86-64]", f"{target}[native]")
        checkout.edit(MAIN, "ModelServer: 2.19.1", r"ModelServer: 2.19.1-rc0\nTensorFlow Library: 2.19.1")
        for task in ("compile", "inspect", "package"):
            checkout.run(*checkout.line(task, "--variant", NATIVE)).built()
        flags = checkout.record(NATIVE, "inspect")["outputs"]["cpu_flags"]
        here = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        assert here
        assert set(flags) <= set(here[1].split())
        assert {"pni", "popcnt"} <= set(flags)
        image = checkout.record(NATIVE, "package")["outputs"]["image"]
        assert docker("run", "--rm", image, "--version").startswith("TensorFlow ModelServer: 2.19.1")
        lesser = tmp_path / "cpuinfo"
        lesser.write_text("model name\t: Another CPU\nflags\t\t: fpu sse2\n")
        command = ["docker", "run", "--rm", "-v", f"{lesser}:/proc/cpuinfo:ro", image, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 78
        assert "popcnt" in done.stderr
