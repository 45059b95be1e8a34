"""An engine that dies under a build: one of our own, in namespaces of its own, so that nobody else's is touched."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving_factory.engine.buildx import BuildRequest, Step, build
from serving_factory.errors import EngineUnavailableError

from .line import V1, docker, wait_until
from .tiny import tiny_checkout

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd"), reason="only root can start an engine of its own"
)

BASE = "serving-factory/base:bookworm"
DOCKERFILE = f"FROM {BASE}\nRUN --network=none echo done > /file && sleep 3\nFROM scratch\nCOPY --from=0 /file /\n"


@dataclass(slots=True)
class OwnEngine:
    """An engine without a network. Its processes and mounts go with the namespaces that it runs in.

    Args:
        folder: for all that it keeps.
    """

    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        options = {"host": self.host, "data-root": "root", "exec-root": "exec", "pidfile": "pid", "config-file": "json"}
        paths = {name: value if ":" in value else str(self.folder / value) for name, value in options.items()}
        (self.folder / "json").write_text("{}")
        # Numbers of processes that were killed: they mean others in the new namespace, as after a boot.
        (self.folder / "pid").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)
        command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "dockerd"]
        command += [word for name, value in paths.items() for word in (f"--{name}", value)]
        command += ["--iptables=false", "--ip6tables=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        assert wait_until(self.answers, 60), (self.folder / "log").read_text()

    def answers(self) -> bool:
        asked = ["docker", "--host", self.host, "version"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the engine a signal; it is gone after that, and all its containers with it."""
        if self.process is None:
            return
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for engine in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                os.kill(int(engine), number)
        self.process.wait(30)
        self.process = None

    def has_the_base(self) -> None:
        """Give it the base image, as it can download none."""
        image = self.folder / "base.tar"
        docker("save", "--output", str(image), BASE)
        docker("--host", self.host, "load", "--input", str(image))


@pytest.fixture
def engine() -> Iterator[OwnEngine]:
    with tempfile.TemporaryDirectory(prefix="engine-") as name:  # the paths of sockets must be short
        own = OwnEngine(Path(name))
        try:
            own.start()
            own.has_the_base()
            yield own
        finally:
            own.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_build_works_on_the_engine_that_comes_back(
    engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    request = BuildRequest(dockerfile=context / "Dockerfile", context=context, output=tmp_path / "out")

    def end_it(step: Step) -> None:
        if step.kind == "started" and "sleep" in step.name:
            engine.end(number)

    with pytest.raises(EngineUnavailableError, match="went away") as caught:
        build(request, on_step=end_it, log=io.StringIO())
    assert caught.value.why
    assert not (tmp_path / "out").exists()
    engine.start()
    build(request, on_step=lambda _: None, log=io.StringIO())
    assert (tmp_path / "out" / "file").read_text() == "done\n"


def test_a_compile_whose_engine_dies_is_told_and_leaves_no_record(engine: OwnEngine, tmp_path: Path) -> None:
    with tiny_checkout(tmp_path / "factory") as checkout:
        command = checkout.line("compile", "--variant", V1)
        with checkout.start(*command, env={"DOCKER_HOST": engine.host}) as running:
            running.wait_for(lambda: "[base_build " in running.printed()[0], "the first step")
            engine.end()
            outcome = running.wait()
        assert "went away" in outcome.error(11, "EngineUnavailableError")["what"]
        assert not checkout.record_file(V1, "compile").exists()
        assert checkout.partial_files() == []
