"""A checkout whose sample is one C++ file, with Bazel caches of its own: for tests of what goes wrong in a build."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.unit.http_servers import QuietHandler, serving

from .pipeline import MODEL, V1, Checkout, docker

PACKAGE = f"{MODEL}/tensorflow_serving/model_servers"
BUILD = f"{PACKAGE}/BUILD"
MAIN = f"{PACKAGE}/main.cc"
WORKSPACE = f"{MODEL}/WORKSPACE"
KEPT = {"models", "third_party", "WORKSPACE", "LICENSE", ".bazelignore", ".bazelrc"}
PROGRAM = '#include <cstdio>\nint main() { std::puts("TensorFlow ModelServer: 2.19.1"); }\n'


def slow() -> str:
    """A piece of C++ that takes seconds to compile: Bazel tells of an action when it has run for two."""
    return f"static char const big[] = {{{','.join('1' * 2_500_000)}}};\nint slow() {{ return big[1]; }}\n"


@contextlib.contextmanager
def tiny_checkout(folder: Path) -> Iterator[Checkout]:
    """Make it, and in the end take it and its caches away."""
    checkout = Checkout.make(folder)
    for path in (folder / MODEL).iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / PACKAGE).mkdir(parents=True)
    (folder / MAIN).write_text(f"// {checkout.mark}: BuildKit has nothing of it\n{PROGRAM}")
    (folder / BUILD).write_text('cc_binary(name = "tensorflow_model_server", srcs = ["main.cc"])\n')
    checkout.take_own_caches()
    try:
        yield checkout
    finally:
        checkout.clear()
        checkout.drop_caches()


def in_caches(checkout: Checkout, folder: Path, cache: str, command: str) -> None:
    """Run a shell command in one of its caches, which is /cache there."""
    docker("buildx", "build", *_step_in(checkout, folder, cache, command))


@contextlib.contextmanager
def cache_held(checkout: Checkout, folder: Path, cache: str) -> Iterator[subprocess.Popen[str]]:
    """Have a build use one of its caches for as long as the block lasts."""
    words = _step_in(checkout, folder, cache, "echo it is held; sleep 300")
    command = ["docker", "buildx", "build", "--progress", "plain", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr
            assert any(line.endswith(" it is held\n") for line in process.stderr if "echo" not in line)
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # docker and its plugin


def _step_in(checkout: Checkout, folder: Path, cache: str, command: str) -> list[str]:
    """Write the build whose step runs the command, and give the words that start it."""
    mount = f"--mount=type=cache,id={checkout.caches}-{cache},target=/cache"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        f"FROM serving-factory/base:bookworm\nRUN {mount} : {os.urandom(8).hex()}; {command}\n"
    )
    return ["--output", f"type=local,dest={folder / 'out'}", str(folder)]


@contextlib.contextmanager
def limited_memory(checkout: Checkout, size: int, folder: Path) -> Iterator[dict[str, str]]:
    """Give the environment in which the engine's build steps have so many bytes of memory together.

    The engine puts them below the cgroup that `--cgroup-parent` names; a stand-in for the docker command adds it. To
    BuildKit all steps are others then: so that the toolchain is not installed again, the variant V1 must have been
    compiled, and what it was compiled with is handed in.
    """
    toolchain = checkout.toolchain_image(checkout.variant_folder(V1))
    root = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not root.is_dir():
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
    cgroup = root / f"factory-{checkout.mark}"
    cgroup.mkdir()
    (cgroup / limit).write_text(str(size))
    real = shutil.which("docker")
    folder.mkdir()
    stand_in = folder / "docker"
    parent = f"--cgroup-parent=/{cgroup.name} --build-context base_build=docker-image://{toolchain}"
    stand_in.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "buildx build" ]; then shift 2; set -- buildx build {parent} "$@"; fi\n'
        f'exec {real} "$@"\n'
    )
    stand_in.chmod(0o755)
    try:
        yield {"PATH": f"{folder}:{os.environ['PATH']}"}
    finally:
        for below in sorted(cgroup.rglob("*"), reverse=True):
            if below.is_dir():
                below.rmdir()
        cgroup.rmdir()


@dataclass(slots=True)
class Archives:
    """A server of one archive, for the engine's build steps to reach. It cuts its answers while `cut` is set."""

    address: str
    sha256: str
    size: int
    cut: threading.Event

    @contextlib.contextmanager
    def depend(self, checkout: Checkout, *, sha256: str = "") -> Iterator[None]:
        """Have the server's sources need the archive."""
        rule = (
            'workspace(name = "tf_serving")\n\n'
            'load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")\n\n'
            f'http_archive(name = "dep", sha256 = "{sha256 or self.sha256}", urls = ["{self.address}"])\n'
        )
        with (
            checkout.edited(WORKSPACE, 'workspace(name = "tf_serving")\n', rule),
            checkout.edited(BUILD, '["main.cc"', '["main.cc", "@dep//:empty.h"'),
        ):
            yield


@contextlib.contextmanager
def archives() -> Iterator[Archives]:
    """Run the server on the bridge that the engine's build steps are on."""
    content = _archive()
    cut = threading.Event()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if cut.is_set():
                self.wfile.write(content[:50])
                self.wfile.flush()
                # closed with a reset, not an end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.wfile.write(content)

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()

    bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with serving(Handler, host=bridge) as server:
        address = f"http://{bridge}:{server.server_port}/{os.urandom(4).hex()}/dep.tar.gz"
        yield Archives(address=address, sha256=hashlib.sha256(content).hexdigest(), size=len(content), cut=cut)


def _archive() -> bytes:
    """An archive that no cache has: it holds a random word."""
    buffer = io.BytesIO()
    files = {"WORKSPACE": "", "BUILD": 'exports_files(["empty.h"])\n', "empty.h": f"// {os.urandom(64).hex()}\n"}
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()
