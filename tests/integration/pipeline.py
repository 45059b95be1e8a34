"""A checkout of the factory to try things in, and its commands as a user gives them: each one a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from serving_factory.docker.caches import drop_cache_mounts
from serving_factory.docker.engine import OWNER_LABEL
from serving_factory.pipeline import stages
from serving_factory.recipes.recipe import CACHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

ROOT = Path(__file__).parents[2]
PARTS = ("tasks.py", "matrix.yaml", "matrix.schema.json", "dockerfiles", "docs", "samples", "src")
MATRIX = "samples/matrix.yaml"
BAZEL_SCRIPT = "dockerfiles/context/bazel.sh"
MODEL = "samples/model_server"
LABEL = "test.serving-factory.mark"
"""On every image of a scratch checkout, and so on every container of it; the value is the checkout's mark."""

V1, V3, GPU_V1, GPU_V3, MKL_V3 = VARIANTS = (
    "2.19.1-cpu-v1",
    "2.19.1-cpu-v3",
    "2.19.1-gpu-cuda12.2-v1",
    "2.19.1-gpu-cuda12.2-sm80-90-v3",
    "2.19.1-mkl-v3",
)
BUILD_STAGES = stages.STAGES[: stages.STAGES.index(stages.FIRST_WITH_REGISTRY)]
IMAGES = f"serving-factory-test/{os.getpid()}"  # of the tests of this run: another one may end at any moment
LONGEST = 570.0  # seconds that one command may take
NOT_INHERITED = ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")


def docker(*arguments: str, seconds: float = 60.0) -> str:
    """What a docker command prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout


def found_in(chunks: Iterable[bytes], needles: Mapping[str, bytes]) -> set[str]:
    """Which texts, by their names, a stream holds."""
    longest, found, rest = max(map(len, needles.values())), set(), b""
    for chunk in chunks:
        text = rest + chunk
        found |= {name for name, needle in needles.items() if needle in text}
        rest = text[-longest:]
    return found


def saved(image: str) -> Iterator[bytes]:
    """An image as the engine saves it: layers as plain tar files, history and configuration as JSON."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as process:
        assert process.stdout
        while chunk := process.stdout.read(1 << 22):
            yield chunk
    assert process.returncode == 0


def processes_with(text: str) -> list[str]:
    """The command lines, on this machine and in its containers, that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if text in line:
                found.append(f"{path.parent.name}: {line}")
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something has come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: exit code, stdout and stderr; the rest reads what `--json` printed."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The summary, by variant."""
        summary = self.events[-1]
        assert summary["event"] == "summary", self
        return {result["variant"]: result for result in summary["results"]}

    @property
    def retried(self) -> list[str]:
        """What was tried again, and why."""
        return [event["text"] for event in self.events if event["event"] == "retried"]

    def stages(self, variant: str) -> dict[str, str]:
        """What became of each stage of a variant."""
        return {
            event["stage"]: event["event"]
            for event in self.events
            if event.get("variant") == variant and event["event"] not in {"progress", "retried"}
        }

    def built(self) -> Self:
        """Itself, if the command went well."""
        assert self.code == 0, self
        return self

    def error(self, code: int, kind: str, variant: str = V1) -> dict[str, Any]:
        """The one error that the command must have ended with."""
        assert self.code == code, self
        assert "Traceback" not in self.out + self.err, self
        assert [event["variant"] for event in self.events if event["event"] == "failed"] == [variant]
        error: dict[str, Any] = self.results[variant]["error"]
        assert (error["kind"], error["exit_code"]) == (kind, code)
        assert error["remedy"], "what to do must be said"
        return error

    def told(self, code: int) -> str:
        """The message of a command that ended before it had begun to work."""
        assert self.code == code, self
        assert "Traceback" not in self.out + self.err, self
        assert self.err.startswith("Error: "), self
        assert self.err.count("Error: ") == 1
        assert "What to do: " in self.err
        return self.err


class Running:
    """A command that runs. As a context manager it leaves no process behind."""

    def __init__(self, argv: list[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._streams = (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115 - closed in __exit__
        out, err = self._streams
        self.process = subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in self._streams:
            stream.close()

    def printed(self) -> tuple[str, str]:
        """What it has printed so far, on stdout and on stderr."""
        out, err = (
            os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode() for stream in self._streams
        )
        return out, err

    def wait(self, seconds: float = LONGEST) -> Outcome:
        """Wait for its end."""
        code = self.process.wait(seconds)
        return Outcome(code, *self.printed())

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = LONGEST) -> None:
        """Wait for something that it does before its end."""
        assert wait_until(lambda: condition() or self.process.poll() is not None, seconds), f"{what}: never"
        assert self.process.poll() is None, f"it ended before {what}: {self.printed()}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the factory alone, not to its group."""
        os.kill(self.process.pid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A copy of this checkout, without git and without its build folder.

    Args:
        folder: where it is.
        mark: a word of 9 letters and digits, in the name and in a label of each of its images.
    """

    folder: Path
    mark: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:8]}")
    suffix: str = ""  # of its images' name

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Copy this checkout."""
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / part)
        checkout = cls(folder=folder)
        checkout.edit(
            MATRIX,
            "repository: serving-factory/sample",
            f"repository: {checkout.repository}\n  labels: {{{LABEL}: {checkout.mark}}}",
        )
        # The sample's actions take seconds, and a test waits for one of them to be told.
        checkout.edit(BAZEL_SCRIPT, "--show_progress_rate_limit=10", "--show_progress_rate_limit=0.5")
        return checkout

    def copy(self, folder: Path, *variants: str) -> Checkout:
        """Copy it with what it has built of these variants; it has the same mark."""
        others = {name for name in VARIANTS if name not in variants}
        shutil.copytree(self.folder, folder, symlinks=True, ignore=lambda _folder, names: others.intersection(names))
        checkout = Checkout(folder=folder, mark=self.mark)
        for variant in variants:
            checkout.claim_names(variant)
        return checkout

    def claim_names(self, variant: str) -> None:
        """Give a variant's image its names back: all copies share them, and another may have moved them.

        A name of its own keeps it: an image without one goes when another takes its place.
        """
        packaged = self.record(variant, "package")["outputs"]
        kept = f"kept-{packaged['image'].removeprefix('sha256:')[:12]}"
        for tag in (*packaged["tags"], *packaged["aliases"], kept):
            docker("tag", packaged["image"], f"{packaged['repository']}:{tag}")

    @property
    def repository(self) -> str:
        return f"serving-factory-test/line-{self.mark}{self.suffix}"

    def with_own_repository(self) -> Checkout:
        """Name its images as no other checkout does, so that no registry has anything of them. They are to be built."""
        own = replace(self, suffix="/own")
        self.edit(MATRIX, f"repository: {self.repository}\n", f"repository: {own.repository}\n")
        return own

    @property
    def caches(self) -> str:
        """How the ids of its cache mounts begin, once it has its own."""
        return f"test-{self.mark}"

    def take_own_caches(self) -> None:
        """Give it Bazel caches that no other checkout has; `drop_caches` takes them away."""
        files = [
            path
            for part in ("src", "dockerfiles/templates", "dockerfiles/context")
            for path in (self.folder / part).rglob("*.*")
        ]
        for path in files:
            if path.is_file() and CACHES in (text := path.read_text(encoding="utf-8")):
                path.write_text(text.replace(CACHES, self.caches), encoding="utf-8")
        # A cache mount's id is no part of what BuildKit knows a step by: sources that no build has seen are.
        with (self.folder / MODEL / ".bazelrc").open("a", encoding="utf-8") as file:
            file.write(f"\n# {self.mark}\n")

    def drop_caches(self) -> None:
        drop_cache_mounts(self.caches)

    def edit(self, name: str, old: str, new: str) -> None:
        """Change the one place of a file where a text is found."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    @contextlib.contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """Change a file for as long as the block lasts."""
        self.edit(name, old, new)
        try:
            yield
        finally:
            self.edit(name, new, old)

    # --- its commands -------------------------------------------------------------------------------------------------

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of its commands: its own package goes before the installed one, and keeps its bytecode."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        inherited["PATH"] += f":{ROOT / 'build' / '.setup'}"  # the emulator, where the set-up has fetched one
        return {**inherited, "PYTHONPATH": str(self.folder / "src"), "PYTHONDONTWRITEBYTECODE": "", **(env or {})}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Running:
        """Start `invoke ARGUMENTS` in it."""
        return Running([sys.executable, "-m", "invoke", *arguments], cwd=self.folder, env=self.environment(env))

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Run `invoke ARGUMENTS` in it, to its end."""
        with self.start(*arguments, env=env) as running:
            return running.wait()

    def line(self, task: str, *arguments: str) -> tuple[str, ...]:
        """The arguments of a task that works on the sample's matrix and prints JSON."""
        return (task, "--matrix", MATRIX, "--json", *arguments)

    def build(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Run `invoke build` on the sample's matrix, to its end."""
        return self.run(*self.line("build", *arguments), env=env)

    def build_one(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Build the variant that most tests make do with."""
        return self.build("--variant", V1, *arguments, env=env)

    # --- what it has made ---------------------------------------------------------------------------------------------

    def variant_folder(self, variant: str) -> Path:
        return self.folder / "build" / "samples" / variant

    def record_file(self, variant: str, stage: str) -> Path:
        return self.variant_folder(variant) / ("binary.json" if stage == "extract" else f"{stage}.json")

    def record(self, variant: str, stage: str) -> dict[str, Any]:
        """What a stage left behind."""
        return self.read_json(self.record_file(variant, stage))

    @staticmethod
    def read_json(file: Path) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return read

    def state(self, *variants: str) -> dict[str, tuple[int, str]]:
        """Path → time of the last change and content, of every record and log of these variants."""
        paths = [path for variant in variants for path in self.variant_folder(variant).rglob("*")]
        return {
            path.relative_to(self.folder).as_posix(): (path.stat().st_mtime_ns, path.read_text(encoding="utf-8"))
            for path in paths
            if path.suffix in {".json", ".log", ".xml"}
        }

    def compile_log(self, variant: str) -> str:
        path = self.variant_folder(variant) / "logs" / "compile.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def partial_files(self) -> list[Path]:
        """Files and folders that a stage was in the middle of."""
        build = self.folder / "build"
        locks = {".lock", ".matrix.lock"}
        return [path for path in build.rglob(".*") if path.name not in locks and "rootfs" not in path.parts]

    def containers(self, *, of_all: bool = False) -> list[str]:
        """Ids of the containers, running or not, that its factory started; or of all that its images run in."""
        columns = f'{{{{.ID}}}} {{{{.Label "{OWNER_LABEL}"}}}}'
        listed = docker("ps", "--all", "--format", columns, "--filter", f"label={LABEL}={self.mark}")
        rows = [line.partition(" ") for line in listed.splitlines()]
        return [identity for identity, _, owner in rows if of_all or owner.startswith("factory")]

    def toolchain_image(self, variant_folder: Path) -> str:
        """An image with what a variant was compiled with: all its steps are in BuildKit's cache."""
        name = f"{self.repository}:toolchain"
        argv = ["buildx", "build", "--target", "base_build", "--load", "--tag", name]
        argv += ["--label", f"{LABEL}={self.mark}"]  # so that it goes with the checkout
        argv += ["--build-context", "debian:bookworm=docker-image://serving-factory/base:bookworm"]
        argv += ["--file", str(variant_folder / "recipe" / "devel.Dockerfile")]
        docker(*argv, str(self.folder / "dockerfiles" / "context"), seconds=300)
        return name

    def unnamed_images(self) -> list[str]:
        """Ids of its images that have no name any more."""
        filters = ("--filter", "dangling=true", "--filter", f"label={LABEL}={self.mark}")
        return docker("images", "--quiet", *filters).split()

    def clear(self) -> None:
        """Remove its containers, its images and itself. Bazel's caches stay: the next tests are glad of them."""
        for container in self.containers(of_all=True):
            docker("rm", "--force", "--volumes", container)
        # The newest first: an image goes before the one that it was made of.
        for image in dict.fromkeys(docker("images", "--quiet", "--filter", f"label={LABEL}={self.mark}").split()):
            docker("rmi", "--force", image)
        shutil.rmtree(self.folder)
