"""A release of upstream by the way over the network, where only stand-ins for the internet answer.

Engine, stand-ins and factory run in a network namespace that leads nowhere. What comes by which way:

    base image      a registry, with a password
    packages        an apt mirror whose index is signed, by HTTPS with a CA of its own
    Bazel           the release asset, by its checksum
    numpy           a Python package index
    sources         a code host: git by HTTP, at the release's commit
    archives        a forward proxy with a password, by the URLs that upstream's files have
    what no archive is had of (`bazel.overrides` of the matrix file): folders, here too
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.closed_network import gateway
from tests.integration.own_engine import OwnEngine, needs_root
from tests.integration.pipeline import ROOT, Checkout, Running, docker, wait_until
from tests.integration.registry import FOLDER, LocalRegistry, write_docker_config
from tests.integration.signed_archive import Signer

from .inputs import real_matrix
from .stand_ins import Config

__all__ = ["real_matrix"]

LONGEST = 6 * 3600.0
UPSTREAM = "/tensorflow/serving.git"
REGISTRY = "serving-factory-test/registry:real"
HOST = "localhost:5000"
BASE = f"{HOST}/rehearsal/base:1"

pytestmark = [pytest.mark.real, pytest.mark.timeout(LONGEST), needs_root]


@pytest.fixture
def engine() -> Iterator[OwnEngine]:
    with OwnEngine.run() as own:
        subprocess.run(own.inside("ip", "link", "set", "lo", "up"), check=True)
        yield own


class Inputs:
    """The inputs of an offline build, as a matrix file names them for its one release."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.document: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        (self.rule,) = self.document["per_release"]
        ((self.base, self.image),) = self.document["network"]["base_images"].items()

    def place(self, name: str) -> Path:
        return (self.file.parent / name).absolute()

    @property
    def archives(self) -> Path:
        return self.place(self.rule["bazel"]["distdir"])

    @property
    def asset(self) -> str:
        """Bazel's release asset, under a mirror."""
        version = self.rule["bazel"]["version"]
        return f"bazel/{version}/bazel-{version}-linux-x86_64"

    def online(self, **network: object) -> dict[str, Any]:
        """The same matrix without its folders, but for the overrides and patches."""
        bazel = {"version": self.rule["bazel"]["version"]}
        if overrides := self.rule["bazel"].get("overrides"):
            is_folder = isinstance(overrides, str)
            places = self.place(overrides) if is_folder else {k: str(self.place(v)) for k, v in overrides.items()}
            bazel["overrides"] = str(places) if is_folder else places
        rule = {"releases": self.rule["releases"], "toolchain": self.rule["toolchain"], "bazel": bazel}
        if "patches" in self.rule:
            rule["patches"] = [str(self.place(name)) for name in self.rule["patches"]]
        return {**self.document, "per_release": [rule], "network": network}


def built_image(tag: str, folder: Path, *arguments: str) -> str:
    docker("buildx", "build", "--quiet", "--load", "--tag", tag, *arguments, str(folder), seconds=300)
    return tag


def move(engine: OwnEngine, *images: str) -> None:
    """Give the engine images of the usual one."""
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "--host", engine.host, "load"], stdin=saved.stdout, check=True, capture_output=True)


def apt_mirror(folder: Path, packages: Path, sources: str, signer: Signer) -> None:
    """Make the archives that a base image's list of sources names: all packages are in the first."""
    packages_index = (packages / "Packages").read_text(encoding="utf-8")
    for line in re.findall(r"^deb +(?:\[.*\] +)?(.+)$", sources, re.MULTILINE):
        url, suite, *components = line.split()
        archive = folder / url.rstrip("/").rpartition("/")[2]
        suite_folder = archive / "dists" / suite
        names = [f"{component}/binary-amd64/Packages" for component in components]
        for name in names:
            (suite_folder / name).parent.mkdir(parents=True)
            (suite_folder / name).write_text(
                packages_index.replace("Filename: ./", "Filename: pool/"), encoding="utf-8"
            )
            if packages_index:
                (archive / "pool").symlink_to(packages)
            packages_index = ""
        head = f"Suite: {suite}\nCodename: {suite}\nComponents: {' '.join(components)}\nArchitectures: amd64\n"
        signer.sign(suite_folder, names, head)


def python_index(folder: Path, wheel: Path) -> None:
    page = folder / "simple" / wheel.name.partition("-")[0]
    page.mkdir(parents=True)
    (page / wheel.name).symlink_to(wheel)
    (page / "index.html").write_text(f'<html><body><a href="{wheel.name}">{wheel.name}</a></body></html>\n')


def packages_of(checkout: Checkout, inputs: Inputs, variant: str, folder: Path) -> Path:
    """What the build installs: with pip, as the wheel is to come from an index."""
    packages, matrix = folder / "packages", folder / "packages.yaml"
    packages.mkdir()
    network = {"base_images": {inputs.base: inputs.image}, "apt": {"mirror": str(packages)}}
    matrix.write_text(yaml.safe_dump(inputs.online(**network)))
    checkout.run("inputs", "packages", variant, "--matrix", str(matrix)).built()
    return packages


def images_for(engine: OwnEngine, inputs: Inputs, signer: Signer, folder: Path) -> None:
    """Give the engine a registry, and the base image with the signer's key in place of the distribution's."""
    folder.mkdir()
    (folder / "vendor.asc").write_text(signer.public)
    keys = "/etc/apt/trusted.gpg.d/"
    (folder / "Dockerfile").write_text(f"FROM {inputs.image}\nRUN rm -rf {keys}*\nCOPY vendor.asc {keys}\n")
    images = (built_image(REGISTRY, FOLDER), built_image(BASE, folder))
    move(engine, *images)
    docker("rmi", *images)


def serve(inputs: Inputs, packages: Path, signer: Signer, served: Path) -> None:
    """Fill the folder that is served."""
    apt_mirror(served / "apt", packages, docker("run", "--rm", inputs.image, "cat", "/etc/apt/sources.list"), signer)
    asset = served / inputs.asset
    asset.parent.mkdir(parents=True)
    asset.symlink_to(inputs.place(inputs.rule["bazel"]["binary"]))
    for wheel in inputs.archives.glob("*.whl"):
        python_index(served, wheel)


def code_host(inputs: Inputs, folder: Path) -> Path:
    """The sources' repository with a branch, as upstream's has one for each release: BuildKit asks for branches."""
    source = inputs.place(inputs.rule["source"])
    commit = ("git", "-C", str(source), "rev-parse", "HEAD")
    head = subprocess.run(commit, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(("git", "clone", "--quiet", "--bare", str(source), str(folder)), check=True)
    subprocess.run(("git", "-C", str(folder), "branch", "--force", "release", head), check=True)
    return folder


def start_registry(engine: OwnEngine, account: Path) -> None:
    """Start it in the engine's network, and put the base image there; the engine forgets it."""
    on_engine = ("--host", engine.host, "--config", str(account))
    docker(*on_engine, "run", "--detach", "--network", "host", REGISTRY)
    ask = engine.inside("curl", "--silent", f"http://{HOST}/v2/")
    assert wait_until(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0)
    docker(*on_engine, "push", BASE, seconds=300)
    docker(*on_engine, "rmi", BASE)


def test_a_release_is_built_over_the_network(real_matrix: Path, engine: OwnEngine, tmp_path: Path) -> None:
    inputs, checkout, signer = Inputs(real_matrix), Checkout.make(tmp_path / "factory"), Signer.make(tmp_path / "key")
    variant = checkout.run("list", "--matrix", str(real_matrix), "--ids").built().out.split()[0]
    serve(inputs, packages_of(checkout, inputs, variant, tmp_path), signer, tmp_path / "served")
    images_for(engine, inputs, signer, tmp_path / "base")
    account = write_docker_config(tmp_path / "docker", LocalRegistry(host=HOST))
    env = {"DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(account)}
    start_registry(engine, account)
    address = gateway("--host", engine.host)
    config = Config(
        address=address,
        authority=str(tmp_path / "ca"),
        served=str(tmp_path / "served"),
        archives=str(inputs.archives),
        repositories={UPSTREAM: str(code_host(inputs, tmp_path / "served.git"))},
        password="correct-horse",
    )
    with running_stand_ins(engine, config, tmp_path / "config.json") as (ports, ended):
        near = f"https://{address}:{ports['https']}"
        matrix = tmp_path / "online.yaml"
        network = {
            "base_images": {inputs.base: BASE},
            "apt": {"mirror": f"{near}/apt/{{archive}}"},
            "pip_index": f"{near}/simple",
            "bazel_mirror": f"http://{address}:{ports['http']}/bazel",
            "git_mirrors": {"https://github.com/": f"http://{address}:{ports['git']}/"},
            "ca_certificates": str(tmp_path / "ca" / "ca.pem"),
        }
        matrix.write_text(yaml.safe_dump(inputs.online(**network)))
        # What has been compiled here before need not be compiled again; archives come over the network.
        checkout.edit("dockerfiles/context/cache.Dockerfile", "-bazel-repository,", "-test-no-repository,")
        caches = ("--file", str(tmp_path / "caches.tar"))
        checkout.run("cache", "export", *caches, "--matrix", str(real_matrix)).built()
        checkout.run("cache", "import", *caches, "--matrix", str(matrix), env=env).built()
        # The authority of the outer network, if its environment names one, has been of use to `inputs packages`.
        env |= {"HTTPS_PROXY": ports["proxy"], "NO_PROXY": address, "SERVING_FACTORY_CA_CERTIFICATES": ""}
        words = ("build", "--matrix", str(matrix), "--variant", variant, "--json")
        argv = engine.inside(sys.executable, "-m", "invoke", *words)
        with Running(argv, cwd=checkout.folder, env=checkout.environment(env)) as running:
            result = running.wait(LONGEST).built().results[variant]
        asked = ended()
    assert result["facts"]["rest"] == [2.5, 3.0, 4.5]
    assert f"/{inputs.asset}" in asked["http"]
    assert any(path.startswith(UPSTREAM) for path in asked["git"])
    assert {Path(path).suffix for path in asked["https"]}.issuperset({".deb", ".whl", ".gz"})
    assert "github.com:443" in asked["tunnels"]


@contextlib.contextmanager
def running_stand_ins(
    engine: OwnEngine, config: Config, file: Path
) -> Iterator[tuple[dict[str, str], Callable[[], dict[str, list[str]]]]]:
    """Give their ports, and a function that ends them and tells what they were asked."""
    file.write_text(json.dumps(asdict(config)))
    argv = engine.inside(sys.executable, "-m", "tests.real.stand_ins", str(file))
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def ended() -> dict[str, list[str]]:
            out, _ = process.communicate(timeout=30)
            asked: dict[str, list[str]] = json.loads(out)
            return asked

        try:
            yield json.loads(process.stdout.readline()), ended
        finally:
            process.kill()
