"""What the tests on a real engine share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from .build_grid import build_grid_python
from .demo_story import Demo, run_demo
from .fixtures_registry import faulty_proxy, local_registry, logged_in
from .pipeline import ROOT, V1, VARIANTS, Checkout, docker
from .tiny import tiny_checkout

__all__ = ["build_grid_python", "faulty_proxy", "local_registry", "logged_in"]

TOOLS = Path(__file__).with_name("deploy_tools")
BASE = ("--build-context", "debian:bookworm-slim=docker-image://serving-factory/base:bookworm")

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # its reaper is an image that no closed network has


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test is the first to need what is built waits for it, on a bare machine for minutes."""
    for item in items:
        if {"demo", "built"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(1200))


def work_unit(name: str) -> str:
    """What a test runs with on one worker: its file; or all on one checkout's copies, which share images' names."""
    shared = re.search(r"[-[](demo|built)[]-]", name)
    return shared[1] if shared else name.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Spread the tests over the workers of `-n`."""
    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = work_unit
    return scheduler


@pytest.fixture(scope="session", params=["demo"])  # the parameter is in the names of its tests, for the scheduler
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, run once in a checkout of its own; everything after it builds on what it left."""
    checkout = Checkout.make(tmp_path_factory.mktemp("demo") / "factory")
    try:
        yield run_demo(checkout)
    finally:
        checkout.clear()


@pytest.fixture(scope="session", params=["built"])
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout with one variant built, the cheapest: tests on copies of it run beside those on the demo."""
    checkout = Checkout.make(tmp_path_factory.mktemp("built") / "factory")
    try:
        checkout.build_one().built()
        yield checkout
    finally:
        checkout.clear()


@pytest.fixture
def checkout(built: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy to change, with one variant built."""
    copy = built.copy(tmp_path / "factory", V1)
    yield copy
    shutil.rmtree(copy.folder)


@pytest.fixture
def whole_checkout(demo: Demo, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the demo's checkout to change, with all its variants built."""
    copy = demo.checkout.copy(tmp_path / "factory", *VARIANTS)
    yield copy
    shutil.rmtree(copy.folder)


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with kubectl, docker-compose and cosign of Debian's next release."""
    folder = tmp_path_factory.mktemp("tools")
    docker("buildx", "build", *BASE, "--output", f"type=local,dest={folder}", str(TOOLS), seconds=300)
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's packages, for the Python of Debian bookworm."""
    folder = tmp_path_factory.mktemp("wheels")
    environment = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    download = (environment / "bin" / "python", "-m", "pip", "download", "--quiet", "--dest", folder)
    chosen = ("--require-hashes", "--only-binary=:all:", "--python-version", "3.11")
    subprocess.run([*download, *chosen, "-r", ROOT / "examples" / "gateway" / "requirements.txt"], check=True)
    return folder


@pytest.fixture(scope="session")
def sample_image(demo: Demo) -> str:
    """The id of the demo's image for x86-64."""
    return str(demo.checkout.record(V1, "package")["outputs"]["image"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout whose sample is one file, for all tests of a module."""
    with tiny_checkout(tmp_path_factory.mktemp("tiny") / "factory") as checkout:
        yield checkout
