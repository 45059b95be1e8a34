"""The inputs on a real engine: a mirror, a proxy, certificates of a closed network, none; and no trace of them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.docker.buildx import BuildRequest, build
from serving_factory.matrix.environment import given
from serving_factory.matrix.load import load_matrix
from serving_factory.pipeline.bazel import bazelrc
from serving_factory.pipeline.inputs import secret_files, secrets_of
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.stages.compile import devel_request
from serving_factory.recipes.recipe import recipe_for

from .closed_network import HOST, Authority, Proxy, Server, gateway
from .pipeline import MATRIX, MODEL, ROOT, V1, Checkout, docker, found_in, saved
from .test_pipeline import docker_that_tells

BASE = "serving-factory/base:bookworm"
SNAPSHOT = "20260301T000000Z"

pytestmark = pytest.mark.timeout(1200)  # on a bare machine a toolchain is installed


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("network") / "ca")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Checkout]:
    """A checkout without anything built; what it compiles comes from Bazel's cache, where that has it."""
    checkout = Checkout.make(tmp_path / "factory")
    yield checkout
    checkout.clear()


# --- apt --------------------------------------------------------------------------------------------------------------

DOCKERFILE = f"""\
FROM {BASE} AS built
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
COPY inputs.sh /factory/
RUN rm -rf /etc/apt/sources.list* && mkdir /etc/apt/sources.list.d \\
 && echo 'LIST' > /etc/apt/LISTFILE && ls -A /var/lib/apt/lists > /before
ARG APT_SNAPSHOT
RUN --mount=type=secret,id=network --mount=type=secret,id=ca --mount=type=tmpfs,target=/run/inputs \\
    . /factory/inputs.sh && : ONCE && apt_install closed-network=1.0
RUN [[ $(< /usr/share/closed-network) == arrived ]] && ls -A /var/lib/apt/lists | diff - /before \\
 && [[ -z $(ls -A /run/inputs) ]] && ! grep -rl 'ADDRESS' /etc /var/lib/apt /var/cache/apt
RUN --network=none --mount=type=tmpfs,target=/run/inputs . /factory/inputs.sh && apt_install closed-network=1.0
FROM scratch
COPY --from=built /usr/share/closed-network /
"""
ONE_LINE = ("sources.list", "deb [trusted=yes] http://nowhere.invalid/debian/ bookworm main")
DEB822 = (
    "sources.list.d/base.sources",
    r"Types: deb\nURIs: http://nowhere.invalid/debian\nSuites: bookworm\nComponents: main\nTrusted: yes",
)


def repository(folder: Path) -> None:
    """A Debian archive with one package, valid until long ago: what a snapshot looks like."""
    package = folder / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "usr" / "share").mkdir(parents=True)
    (package / "usr" / "share" / "closed-network").write_text("arrived\n")
    control = "Package: closed-network\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <a@b.c>\nDescription: one\n"
    (package / "DEBIAN" / "control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", str(package), str(folder / "c.deb")], capture_output=True, check=True)
    deb = (folder / "c.deb").read_bytes()
    index = f"{control}Filename: c.deb\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n\n".encode()
    place = folder / "dists" / "bookworm" / "main" / "binary-amd64"
    place.mkdir(parents=True)
    (place / "Packages").write_bytes(index)
    (folder / "dists" / "bookworm" / "Release").write_text(
        "Suite: bookworm\nCodename: bookworm\nComponents: main\nArchitectures: amd64\n"
        "Date: Sun, 01 Mar 2020 00:00:00 UTC\nValid-Until: Sun, 08 Mar 2020 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-amd64/Packages\n"
    )


@pytest.mark.parametrize(("file", "text"), [ONE_LINE, DEB822], ids=["list", "sources"])
def test_apt_installs_from_a_mirror_with_a_certificate_of_its_own(
    tmp_path: Path, authority: Authority, file: str, text: str
) -> None:
    repository(tmp_path / "served" / "apt" / SNAPSHOT / "debian")
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(ROOT / "dockerfiles" / "context" / "inputs.sh", context)
    dockerfile = DOCKERFILE.replace("echo 'LIST'", f"printf '%b\\n' '{text}'").replace("LISTFILE", file)
    dockerfile = dockerfile.replace("ONCE", uuid.uuid4().hex)  # nothing of it comes from an earlier run
    (context / "Dockerfile").write_text(dockerfile.replace("ADDRESS", gateway()))
    with Server.run(tmp_path / "served", authority) as server:
        secrets = {
            "network": f"export APT_MIRROR='https://{gateway()}:{server.port}/apt/{{snapshot}}'\n".encode(),
            "ca": authority.certificate.read_bytes(),
        }
        with secret_files(tmp_path, secrets) as files:
            request = BuildRequest(
                dockerfile=context / "Dockerfile",
                context=context,
                build_args=(("APT_SNAPSHOT", SNAPSHOT),),
                secrets=files,
                output=tmp_path / "out",
            )
            build(request, on_step=lambda _: None, log=io.StringIO())
        assert f"/apt/{SNAPSHOT}/debian/c.deb" in server.asked
    assert (tmp_path / "out" / "closed-network").read_text() == "arrived\n"


# --- a proxy, certificates, and no trace of them ----------------------------------------------------------------------


def archive(checkout: Checkout, folder: Path) -> None:
    """Let the sample download one of its repositories, from a host that only the downloader's rules lead on."""
    folder.mkdir()
    (checkout.folder / MODEL / "third_party" / "rules_cc" / "mark").write_text(checkout.mark)  # no cache has it
    with tarfile.open(folder / "rules_cc.tar.gz", "w:gz") as tar:
        tar.add(checkout.folder / MODEL / "third_party" / "rules_cc", arcname="rules_cc")
    digest = hashlib.sha256((folder / "rules_cc.tar.gz").read_bytes()).hexdigest()
    checkout.edit(
        f"{MODEL}/WORKSPACE",
        'local_repository(\n    name = "rules_cc",\n    path = "third_party/rules_cc",\n)',
        'load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")\n'
        f'http_archive(\n    name = "rules_cc",\n    strip_prefix = "rules_cc",\n    sha256 = "{digest}",\n'
        '    urls = ["https://code.invalid/team/rules_cc.tar.gz"],\n)',
    )


def devel_image(checkout: Checkout, env: Mapping[str, str], tag: str) -> None:
    """Turn what was compiled into an image, with the inputs of the compile."""
    matrix = load_matrix(checkout.folder / MATRIX, given(env, checkout.folder))
    variant = next(variant for variant in matrix.variants if variant.id == V1)
    recipe = recipe_for(variant, matrix)
    job = Job(recipe=recipe, site=Site(build=checkout.folder / "build" / "samples", models=checkout.folder))
    with secret_files(checkout.folder, secrets_of(recipe.inputs, bazelrc(recipe))) as secrets:
        request = devel_request(
            recipe,
            dockerfile=job.dockerfile,
            staged=job.staged_inputs,
            target="binary_build",
            secrets=secrets,
            resources=job.resources.read_text(),
            tags=(tag,),
        )
        build(
            replace(request, context=checkout.folder / "dockerfiles" / "context"),
            on_step=lambda _: None,
            log=io.StringIO(),
        )


def test_secrets_open_the_inputs_and_leave_no_trace(closed: Checkout, authority: Authority, tmp_path: Path) -> None:
    archive(closed, tmp_path / "served")
    password, other, rule = (f"planted{uuid.uuid4().hex}" for _ in range(3))
    rules = tmp_path / "downloader.cfg"
    rules.write_text(f"rewrite code\\.invalid/team/(.*) {HOST}/$1\nblock {rule}.invalid\n")
    pem = authority.certificate.read_text()
    with Server.run(tmp_path / "served", authority) as server, Proxy.run(server, password) as proxy:
        env = {
            "HTTPS_PROXY": proxy.url,
            "SERVING_FACTORY_CA_CERTIFICATES": str(authority.certificate),
            "SERVING_FACTORY_DOWNLOADER_CONFIG": str(rules),
            "SERVING_FACTORY_PIP_INDEX": f"https://builder:{other}@pip.test/simple",
        }
        closed.build_one(env=env).built()
        assert server.asked == ["/rules_cc.tar.gz"]
        assert set(proxy.tunnels) == {f"{HOST}:443"}, "so the password, the rules and the CA were there to be seen"
        devel = f"{closed.repository}:devel"
        devel_image(closed, env, devel)
    planted = {"password": password, "index": other, "rule": rule, "certificate": pem.splitlines()[3]}
    needles = {**{name: text.encode() for name, text in planted.items()}, "mark": closed.mark.encode()}
    runtime = closed.record(V1, "package")["outputs"]["image"]
    try:
        for image in (devel, runtime):
            assert found_in(saved(image), needles) == {"mark"}, "the mark is there: what is planted would be found"
            shown = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
            assert found_in([shown.encode()], {k: v for k, v in needles.items() if k != "mark"}) == set()
    finally:
        docker("rmi", "--force", devel)
    files = [path for path in (closed.folder / "build").rglob("*") if path.is_file() and not path.is_symlink()]
    assert found_in((path.read_bytes() for path in files), needles) == {"mark"}
    assert closed.variant_folder(V1) / "logs" / "compile.log" in files
    assert closed.partial_files() == []


# --- no network at all ------------------------------------------------------------------------------------------------


def test_with_its_inputs_filled_the_sample_builds_without_network(closed: Checkout, tmp_path: Path) -> None:
    told = docker_that_tells(tmp_path / "bin")
    offline = {"PATH": f"{told['PATH']}:{os.environ['PATH']}", "SERVING_FACTORY_OFFLINE": "1"}
    compile_one = closed.line("compile", "--variant", V1)
    error = closed.run(*compile_one, env=offline).error(16, "FetchError")
    assert "[base_build" in error["what"]
    assert "network.apt.mirror" in error["remedy"]
    assert "Unable to locate package" in closed.compile_log(V1) or "resolve" in closed.compile_log(V1)
    packages = tmp_path / "packages"
    packages.mkdir()
    mirror = {"SERVING_FACTORY_APT_MIRROR": str(packages)}
    closed.run("inputs", "packages", V1, "--matrix", MATRIX, env=mirror).built()
    closed.run(*compile_one, env={**offline, **mirror}).built()
    calls = [line for line in (tmp_path / "bin" / "calls").read_text().splitlines() if "buildx build" in line]
    assert len(calls) == 2
    assert all("--network none" in call for call in calls)
