"""The runtime image's launcher, compiled as the devel Dockerfile compiles it, on a made-up image and machine."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

CONTEXT = Path(__file__).parents[2] / "dockerfiles" / "context"
TEMPLATE = CONTEXT.parent / "templates" / "launcher.Dockerfile.j2"
SOURCES = sorted(CONTEXT.glob("launcher*.c"))
PATIENCE = 1  # seconds that the health check waits in these tests

# Prints what it was started with. Given --wait, it then waits for the end of its input.
SERVER = """\
#!/bin/sh
echo "pid=$$"
echo "OMP_NUM_THREADS=${OMP_NUM_THREADS-}"
echo "LD_LIBRARY_PATH=${LD_LIBRARY_PATH-}"
for argument; do echo "$argument"; done
case $* in *--wait*) read -r _ ;; esac
"""


def compiler_options() -> list[str]:
    """The options that the Dockerfile gives to the compiler."""
    (line,) = re.findall(r"c_compiler \}\} (.*) -o tensorflow_model_server ", TEMPLATE.read_text(encoding="utf-8"))
    return str(line).split()


@cache
def compiled() -> tuple[Path, Path]:
    """The launcher, and the folder that it takes for the root: short, for a socket has its name."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here; the integration tests compile and run the launcher too")
    folder = Path(tempfile.mkdtemp(prefix="launcher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root, program = folder / "root", folder / "tensorflow_model_server"
    defined = [f'-DROOT="{root}"', f"-DPATIENCE={PATIENCE}"]
    subprocess.run([compiler, *compiler_options(), *defined, "-o", program, *SOURCES], check=True, timeout=60)
    return program, root


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a start came to."""

    code: int
    said: str  # on standard error, without the launcher's name
    environment: Mapping[str, str]  # the server's, as far as it prints it, if it was reached
    server: Sequence[str]  # its arguments
    same_process: bool  # whether the server is the launcher's own process

    @property
    def started(self) -> bool:
        return bool(self.environment)


class World:
    """A made-up image and machine."""

    def __init__(self) -> None:
        self.program, self.root = compiled()
        shutil.rmtree(self.root, ignore_errors=True)
        self.write("usr/lib/serving-factory/tensorflow_model_server", SERVER).chmod(0o755)

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def facts(self, **facts: str) -> None:
        self.write("usr/share/serving-factory/image.env", "".join(f'{name}="{text}"\n' for name, text in facts.items()))

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Outcome:
        with self._process(arguments, environment) as process:
            output, error = process.communicate(timeout=20)
        lines = output.splitlines()
        return Outcome(
            code=process.returncode,
            said=error.removeprefix("tensorflow_model_server: "),
            environment=dict(line.split("=", 1) for line in lines[1:3]),
            server=lines[3:],
            same_process=lines[:1] == [f"pid={process.pid}"],
        )

    @contextmanager
    def running(self, *arguments: str) -> Iterator[int]:
        """Start a server that goes on until the block ends; gives its process's number."""
        with self._process((*arguments, "--wait"), None) as process:
            assert process.stdout is not None
            try:
                process.stdout.readline()
                yield process.pid
            finally:
                process.kill()

    def health(self) -> tuple[int, str]:
        """Run the health check: its exit code, and its line."""
        link = self.program.with_name("tf_serving_health")
        if not link.is_symlink():
            link.symlink_to(self.program)
        done = subprocess.run([link], capture_output=True, text=True, timeout=20, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout.rstrip("\n")

    def _process(self, arguments: Sequence[str], environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        given = {"PATH": os.environ["PATH"], **(environment or {})}
        return subprocess.Popen([self.program, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=given)
