"""docker/buildx.py and docker/solve_status.py, on lines recorded from buildx 0.13.1 and Docker Engine 26.1.5."""

from __future__ import annotations

import base64
import errno
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serving_factory.docker import buildx, client, process
from serving_factory.docker.buildx import BuildFailed, BuildRequest
from serving_factory.docker.process import Cancel
from serving_factory.docker.solve_status import SolveStatus, Step
from serving_factory.errors import (
    CancelledError,
    DiskFullError,
    DockerCommandError,
    DockerSettingsError,
    EngineLostError,
    EngineUnavailableError,
    FactoryError,
)

from .stage_records import OBSTACLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RECORDED = Path(__file__).with_name("recorded")
FAILED = (RECORDED / "buildx-0.13-failed.txt").read_text(encoding="utf-8").splitlines()
COLD = (RECORDED / "buildx-0.13-cold.txt").read_text(encoding="utf-8").splitlines()
RUN = '[2/2] RUN for i in 1 2 3; do echo "[$i / 60] Compiling foo"; done; echo bad >&2; sleep 1; exit 37'
REQUEST = BuildRequest(dockerfile=Path("/d/Dockerfile"), context=Path("/d"))


def compact(lines: Iterable[str]) -> list[str]:
    """The same messages as later versions of buildx write them: one line each."""
    text = "\n".join(lines)
    messages = re.findall(r"^\{$.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^\{$.*?^\}$\n?", "", text, flags=re.MULTILINE | re.DOTALL)
    return [json.dumps(json.loads(message)) for message in messages] + rest.splitlines()


def read(lines: Iterable[str], tail: int = 30) -> tuple[SolveStatus, list[Step]]:
    status = SolveStatus(tail=tail)
    steps = [step for line in lines for step in status.feed(line)]
    return status, steps + status.end()


def message(**members: object) -> str:
    return json.dumps(members)


def output(digest: str, data: bytes, stream: int = 1) -> dict[str, Any]:
    return {"vertex": digest, "stream": stream, "data": base64.b64encode(data).decode()}


def vertex(digest: str, name: str, **members: object) -> dict[str, Any]:
    return {"digest": digest, "name": name, **members}


STARTED = "2026-11-20T23:37:57.338664848Z"
COMPLETED = "2026-11-20T23:37:58.540448532Z"


class TestArgv:
    def test_plain_request_loads_an_image(self) -> None:
        assert REQUEST.argv(metadata=Path("/m")) == [
            "docker", "buildx", "build", "--progress=rawjson", "--provenance=false", "--metadata-file", "/m",
            "--file", "/d/Dockerfile", "--load", "/d",
        ]  # fmt: skip

    def test_everything(self) -> None:
        request = BuildRequest(
            dockerfile=Path("/d/devel.Dockerfile"),
            context=Path("/d"),
            target="binary",
            build_args=(("COPTS", "--copt=-mavx2 --copt=-mfma"), ("EMPTY", "")),
            contexts=(("source", "/src"), ("ubuntu:20.04", "docker-image://base:bookworm")),
            secrets=(("network", Path("/s/network")), ("ca", Path("/a,b"))),
            network="none",
            labels=(("org.opencontainers.image.title", "a b"),),
            tags=("one:1", "two:2"),
            output=Path("/out"),
        )
        assert request.argv(metadata=Path("/m")) == [
            "docker", "buildx", "build", "--progress=rawjson", "--provenance=false", "--metadata-file", "/m",
            "--file", "/d/devel.Dockerfile", "--target", "binary",
            "--build-arg", "COPTS=--copt=-mavx2 --copt=-mfma", "--build-arg", "EMPTY=",
            "--build-context", "source=/src", "--build-context", "ubuntu:20.04=docker-image://base:bookworm",
            "--label", "org.opencontainers.image.title=a b",
            "--secret", "id=network,src=/s/network", "--secret", 'id=ca,"src=/a,b"', "--network", "none",
            "--tag", "one:1", "--tag", "two:2",
            "--output", "type=local,dest=/out", "/d",
        ]  # fmt: skip

    def test_output_path_with_commas_and_quotes(self) -> None:
        argv = REQUEST.argv(metadata=Path("/m"), output=Path('/a,b/"c"'))
        assert argv[argv.index("--output") + 1] == 'type=local,"dest=/a,b/""c"""'


class TestSolveStatus:
    @pytest.mark.parametrize("lines", [FAILED, compact(FAILED)], ids=["indented", "compact"])
    def test_recorded_failure(self, lines: list[str]) -> None:
        status, steps = read(lines)
        assert status.failed is not None
        assert status.failed.name == RUN
        assert status.failed.error.endswith("did not complete successfully: exit code: 37")
        assert tuple(status.failed.tail) == (
            "[1 / 60] Compiling foo", "[2 / 60] Compiling foo", "[3 / 60] Compiling foo", "bad",
        )  # fmt: skip
        assert [step.kind for step in steps if step.name == RUN] == ["started", "log", "log", "log", "log", "error"]
        assert status.stray[0] == "Dockerfile.fail:2"
        assert status.stray[-1].startswith("ERROR: failed to solve: process")

    @pytest.mark.parametrize("lines", [COLD, compact(COLD)], ids=["indented", "compact"])
    def test_recorded_success(self, lines: list[str]) -> None:
        status, steps = read(lines)
        assert (status.steps, status.cached, status.failed, status.stray) == (3, 0, None, [])
        slow = [step for step in steps if step.place == "[one 2/3]"]
        assert [step.kind for step in slow] == ["started", "log", "log", "done"]
        assert [step.text for step in slow[1:3]] == ["hello", "err"]
        assert slow[3].seconds == pytest.approx(1.2018, abs=0.001)
        assert ("[one 1/3]", "cached") in [(step.place, step.kind) for step in steps]

    def test_output_is_cut_into_lines_per_step_and_stream(self) -> None:
        _, steps = read(
            [
                message(vertexes=[vertex("a", "[1/2] RUN a", started=STARTED), vertex("b", "[2/2] RUN b")]),
                message(logs=[output("a", b"[12 / 60] Comp"), output("b", "hä".encode()[:2])]),
                message(logs=[output("a", b"warning: x\n", stream=2), output("a", b"iling x\r\n\nla")]),
                message(logs=[output("b", "hä".encode()[2:] + b"\n\x1b[1;31mred\x1b[0m\n")]),
                message(logs=[output("a", b"st")]),
            ]
        )
        assert [(step.place, step.text) for step in steps if step.kind == "log"] == [
            ("[1/2]", "warning: x"),
            ("[1/2]", "[12 / 60] Compiling x"),
            ("[1/2]", ""),
            ("[2/2]", "hä"),
            ("[2/2]", "red"),
            ("[1/2]", "last"),
        ]

    def test_last_words_come_before_the_end_of_their_step(self) -> None:
        _, steps = read(
            [
                message(vertexes=[vertex("a", "[1/1] RUN a", started=STARTED)]),
                message(
                    vertexes=[vertex("a", "[1/1] RUN a", started=STARTED, completed=COMPLETED, error="broken")],
                    logs=[output("a", b"line\nlast words")],
                ),
            ]
        )
        assert [(step.kind, step.text) for step in steps] == [
            ("started", ""), ("log", "line"), ("log", "last words"), ("error", "broken"),
        ]  # fmt: skip

    def test_only_the_last_lines_are_kept(self) -> None:
        status, _ = read(
            [
                message(vertexes=[vertex("a", "[1/1] RUN a", started=STARTED)]),
                message(logs=[output("a", b"".join(b"%d\n" % number for number in range(100)))]),
                message(vertexes=[vertex("a", "", started=STARTED, completed=COMPLETED, error="broken")]),
            ],
            tail=3,
        )
        assert status.failed is not None
        assert tuple(status.failed.tail) == ("97", "98", "99")

    def test_the_step_that_failed_by_itself_is_named_not_the_cancelled_ones(self) -> None:
        status, _ = read(
            [
                message(
                    vertexes=[
                        vertex("a", "[1/2] RUN a", started=STARTED, completed=COMPLETED, error="context canceled"),
                        vertex("b", "[2/2] RUN b", started=STARTED, completed=COMPLETED, error="exit code: 1"),
                    ]
                )
            ]
        )
        assert status.failed is not None
        assert status.failed.name == "[2/2] RUN b"

    @pytest.mark.parametrize(
        "lines",
        [
            ["#1 some text"],
            ["{not json}"],
            ["{"],
            ["{", '  "half": "a message"'],
            ["{", "broken", "}"],
            ['{"other": "json"}'],
            ["[1]"],
            [""],
        ],
    )
    def test_text_in_between_is_kept_and_harms_nothing(self, lines: list[str]) -> None:
        status, steps = read([*lines, *COLD])
        assert status.stray == lines
        assert [step.text for step in steps if not step.name] == lines
        assert status.steps == 3

    def test_message_after_a_half_one_is_read(self) -> None:
        status, _ = read(["{", '  "vertexes": [', *COLD])
        assert status.stray == ["{", '  "vertexes": [']
        assert status.steps == 3

    def test_warnings_are_reported(self) -> None:
        short = base64.b64encode(b"Empty continuation line").decode()
        _, steps = read([message(warnings=[{"vertex": "a", "short": short}])])
        assert [(step.kind, step.text) for step in steps] == [("log", "warning: Empty continuation line")]

    def test_unknown_and_broken_members_harm_nothing(self) -> None:
        status, _ = read([message(vertexes=[{}], logs=[{"data": "A"}], warnings=[{}], statuses=None, new=[1])])
        assert status.stray == []


def failing(command: str, said: bytes) -> list[str]:
    """What buildx reports of a RUN whose command said something and ended with exit code 2."""
    error = f'process "/bin/sh -c {command}" did not complete successfully: exit code: 2'
    name = f"[1/1] RUN {command}"
    return [
        message(vertexes=[vertex("a", name, started=STARTED)]),
        message(logs=[output("a", said)]),
        message(vertexes=[vertex("a", name, started=STARTED, completed=COMPLETED, error=error)]),
        f"ERROR: failed to solve: {error}",
    ]


class FakeRun:
    """Stands for process.run: hands over recorded lines, and does what buildx does with its files."""

    def __init__(
        self,
        lines: Iterable[str],
        code: int,
        *,
        files: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        error: BaseException | None = None,
        version_code: int = 0,
    ) -> None:
        self.version_code = version_code
        self.lines, self.code, self.files, self.metadata = lines, code, files or {}, metadata or {}
        self.error = error
        self.argv: list[str] = []
        self.waits: list[float] = []

    def __call__(
        self, argv: list[str], *, on_line: Callable[[str], None], cancel: Cancel | None = None, **limits: float
    ) -> int:
        assert cancel is None
        assert limits, "no command runs without a limit"
        if argv[:2] == ["docker", "version"] or argv[:3] == ["docker", "buildx", "inspect"]:
            on_line(f"said by {' '.join(argv[:-1] if argv[3:] else argv)}")
            return self.version_code
        self.argv = argv
        self.waits += [limits["answer_within"]]
        if "--output" in argv:
            folder = Path(argv[argv.index("--output") + 1].partition("dest=")[2])
            for name, text in self.files.items():
                (folder / name).write_text(text)
        for line in self.lines:
            on_line(line)
        if self.error is not None:
            raise self.error
        if self.code == 0:
            Path(argv[argv.index("--metadata-file") + 1]).write_text(json.dumps(self.metadata))
        return self.code


def build(
    monkeypatch: pytest.MonkeyPatch, run: FakeRun, request: BuildRequest = REQUEST
) -> tuple[buildx.BuildResult, str]:
    monkeypatch.setattr(process, "run", run)
    log = io.StringIO()
    return buildx.build(request, on_step=lambda _: None, log=log), log.getvalue()


class TestBuild:
    def test_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        metadata = {"containerimage.config.digest": "sha256:c", "containerimage.digest": "sha256:m"}
        result, _ = build(monkeypatch, FakeRun(COLD, 0, metadata=metadata))
        assert (result.digests, result.steps, result.cached) == (("sha256:c", "sha256:m"), 3, 0)

    def test_image_of_an_engine_that_names_only_the_manifest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _ = build(monkeypatch, FakeRun(COLD, 0, metadata={"containerimage.digest": "sha256:m"}))
        assert result.digests == ("sha256:m",)

    def test_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, log = build(monkeypatch, FakeRun(["stray text", *COLD], 0))
        lines = log.splitlines()
        assert lines[0] == "stray text"
        assert "[internal] load build definition from Dockerfile done in 0.0 s" in lines
        assert "[one 1/3] cached" in lines
        place = lines.index("[one 2/3] RUN echo hello && echo err >&2 && sleep 1")
        assert lines[place : place + 4] == [
            "[one 2/3] RUN echo hello && echo err >&2 && sleep 1",
            "[one 2/3] hello",
            "[one 2/3] err",
            "[one 2/3] done in 1.2 s",
        ]

    def test_failing_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(BuildFailed) as caught:
            build(monkeypatch, FakeRun(FAILED, 1))
        assert caught.value.step == RUN
        assert caught.value.tail[-1] == "bad"
        assert caught.value.exit_code == 37
        assert "Dockerfile.fail:2" in caught.value.text

    def test_failure_before_any_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(BuildFailed) as caught:
            build(monkeypatch, FakeRun(['ERROR: unable to prepare context: path "/d" not found'], 1))
        assert (caught.value.step, caught.value.tail, caught.value.exit_code) == ("", (), 1)
        assert "unable to prepare context" in str(caught.value)

    def test_command_never_looks_like_a_lost_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = failing("echo is the docker daemon running", b"Cannot connect to the Docker daemon\n")
        with pytest.raises(BuildFailed) as caught:
            build(monkeypatch, FakeRun(lines, 1))
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        "line",
        [
            "ERROR: Cannot connect to the Docker daemon at unix:///nope. Is the docker daemon running?",
            "ERROR: permission denied while trying to connect to the Docker daemon socket",
            "ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
        ],
    )
    def test_no_engine_or_one_that_is_lost(self, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
        with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
            build(monkeypatch, FakeRun([line], 1))
        assert not isinstance(caught.value, EngineLostError), "it has reported nothing"
        assert caught.value.why == line
        assert caught.value.remedy
        begun = next(text for text in failing("make", b"") if text.startswith("{"))
        with pytest.raises(EngineLostError, match="went away") as caught:
            build(monkeypatch, FakeRun([begun, line], 1))
        assert caught.value.why == line
        assert caught.value.remedy

    @pytest.mark.parametrize("line", ["unknown flag: --progress", "ERROR: invalid progress mode rawjson"])
    def test_no_buildx_or_an_old_one(self, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
        with pytest.raises(DockerCommandError, match="buildx"):
            build(monkeypatch, FakeRun([line, "", "Usage:  docker [OPTIONS] COMMAND [ARG...]"], 125))

    def test_no_docker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = FileNotFoundError(errno.ENOENT, "No such file or directory", "docker")
        with pytest.raises(EngineUnavailableError, match="docker command"):
            build(monkeypatch, FakeRun([], 0, error=error))

    def test_full_disk_of_the_engine_in_the_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = failing("ld -o x", b"ld: final link failed: No space left on device\n")
        with pytest.raises(DiskFullError, match=r"A disk is full: the Docker engine's, in \[") as full:
            build(monkeypatch, FakeRun(lines, 1))
        assert full.value.why == "ld: final link failed: No space left on device"

    def test_command_that_only_names_a_full_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = failing("grep 'no space left on device' log", b"grep: log: No such file or directory\n")
        with pytest.raises(BuildFailed):
            build(monkeypatch, FakeRun(lines, 1))

    def test_full_disk_of_the_engine_in_buildx_own_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(DiskFullError):
            build(monkeypatch, FakeRun(["ERROR: write /var/lib/docker/x: no space left on device"], 1))

    def test_full_disk_of_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(DiskFullError, match="This machine's disk"):
            build(monkeypatch, FakeRun([], 0, error=error))

    def test_other_errors_of_this_machine_have_the_remedy_of_their_errno(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(FactoryError, match="ls -ld"):
            build(monkeypatch, FakeRun([], 0, error=PermissionError(errno.EACCES, "no")))


class TestFailureIsAsked:
    """What no command of the Dockerfile did is found out by asking, not read from buildx's text."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        return tmp_path

    def lines(self) -> list[str]:
        """What buildx 0.13 says where the folder that it exports to is on a full disk."""
        step = vertex("a", "exporting to client directory", started=STARTED)
        return [message(vertexes=[step]), "ERROR: failed to solve: Canceled: context canceled"]

    def test_a_disk_that_is_full_while_files_are_exported(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        places: list[Path] = []

        def full(folder: Path) -> None:
            places.append(folder)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(client, "check_space", full)
        request = BuildRequest(dockerfile=Path("/d/Dockerfile"), context=Path("/d"), output=tmp_path / "out")
        with pytest.raises(DiskFullError, match="This machine's disk is full"):
            build(monkeypatch, FakeRun(self.lines(), 1), request)
        assert [place.parent for place in places] == [tmp_path], "the disk that the files go to"

    def test_an_engine_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(EngineLostError):
            build(monkeypatch, FakeRun(self.lines(), 1, version_code=1))
        with pytest.raises(BuildFailed):
            build(monkeypatch, FakeRun(self.lines(), 1))

    def test_a_home_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "file" / "x"))
        with pytest.raises(DockerSettingsError, match="file/x"):
            build(monkeypatch, FakeRun(["ERROR: mkdir: not a directory"], 1))

    def test_a_context_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_CONTEXT", "nope")
        with pytest.raises(DockerSettingsError, match="DOCKER_CONTEXT=nope"):
            build(monkeypatch, FakeRun(["ERROR: something"], 1))

    def test_a_builder_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BUILDX_BUILDER", "nope")
        with pytest.raises(DockerSettingsError, match="BUILDX_BUILDER=nope") as caught:
            build(monkeypatch, FakeRun(['ERROR: no builder "nope" found'], 1, version_code=1))
        assert caught.value.why == "said by docker buildx inspect"
        with pytest.raises(BuildFailed):
            build(monkeypatch, FakeRun(["ERROR: something else"], 1))

    def test_an_engine_that_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        late = TimeoutError(errno.ETIMEDOUT, "docker printed nothing within 120 s")
        busy, silent = FakeRun([], 0, error=late), FakeRun([], 0, error=late, version_code=1)
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            build(monkeypatch, busy)
        assert busy.waits == [buildx.FIRST_WORD, buildx.BUSY], "it answers questions: it gets more time"
        with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
            build(monkeypatch, silent)
        assert silent.waits == [buildx.FIRST_WORD]
        assert "said by docker version" in caught.value.why


class TestOutputFolder:
    def request(self, output: Path) -> BuildRequest:
        return BuildRequest(dockerfile=Path("/d/Dockerfile"), context=Path("/d"), output=output)

    def test_new(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        result, _ = build(monkeypatch, FakeRun(COLD, 0, files={"x": "new"}), self.request(out))
        assert result.digests == ()
        assert (out / "x").read_text() == "new"
        assert out.stat().st_mode & 0o777 == 0o755
        assert list(out.parent.iterdir()) == [out]

    def test_replaced_as_a_whole(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "old").write_text("old")
        build(monkeypatch, FakeRun(COLD, 0, files={"x": "new"}), self.request(out))
        assert [path.name for path in out.iterdir()] == ["x"]
        assert list(tmp_path.iterdir()) == [out]

    @pytest.mark.parametrize("obstacle", OBSTACLES)
    def test_whatever_was_there_is_replaced(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, obstacle: str
    ) -> None:
        out = tmp_path / "out"
        OBSTACLES[obstacle](out)
        build(monkeypatch, FakeRun(COLD, 0, files={"x": "new"}), self.request(out))
        assert (out / "x").read_text() == "new"
        assert not out.is_symlink()
        assert list(tmp_path.iterdir()) == [out]

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt(), CancelledError("Ctrl-C")])
    def test_nothing_partial_is_left(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException | None
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "old").write_text("old")
        run = FakeRun(FAILED, 1, files={"x": "half"}, error=error)
        with pytest.raises(type(error) if error else BuildFailed):
            build(monkeypatch, run, self.request(out))
        assert [path.name for path in out.iterdir()] == ["old"]
        assert list(tmp_path.iterdir()) == [out]

    def test_what_a_killed_factory_left_is_removed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".out.partial-dead").mkdir()
        (tmp_path / ".other.partial-alive").mkdir()
        build(monkeypatch, FakeRun(COLD, 0), self.request(tmp_path / "out"))
        assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-alive", "out"]

    def test_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "old").write_text("old")
        rename = Path.rename

        def failing(self: Path, target: Path) -> Path:
            if target == out and self.name == "files":
                raise OSError(errno.EIO, "I/O error")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(FactoryError, match="I/O error"):
            build(monkeypatch, FakeRun(COLD, 0, files={"x": "new"}), self.request(out))
        assert [path.name for path in out.iterdir()] == ["old"]
        assert list(tmp_path.iterdir()) == [out]
