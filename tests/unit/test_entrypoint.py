"""The runtime image's entrypoint, run by the shells of this machine on a made-up image and machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONTEXT = Path(__file__).parents[2] / "dockerfiles" / "context"
ENTRYPOINT = CONTEXT / "tf_serving_entrypoint.sh"

NOBODY = 65534


class World:
    """A made-up image and machine in a folder: the entrypoint with its paths turned there, a talking server.

    The script is run as a user who is not root, because root may read everything.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.chmod(0o755)
        self.models = root / "models"
        self.facts = root / "image.env"
        self.server = root / "tensorflow_model_server"
        self.models.mkdir()
        self.server.write_text('#!/bin/sh\necho "pid=$$"\nprintf "%s\\n" "$@"\n')
        self.server.chmod(0o755)
        text = ENTRYPOINT.read_text()
        for path, ours in {
            "=/usr/bin/tensorflow_model_server": f"={self.server}",
            "/usr/share/serving-factory/image.env": self.facts,
            "/models}": f"{self.models}}}",
        }.items():
            assert text.count(path) == 1, path
            text = text.replace(path, str(ours))
        self.script = root / "entrypoint.sh"
        self.script.write_text(text)

    def model(self, name: str = "model", *versions: str) -> Path:
        folder = self.models / name
        folder.mkdir()
        for version in versions or ("1",):
            (folder / version).mkdir()
            (folder / version / "saved_model.pb").write_bytes(b"")
        return folder

    def start(
        self, *arguments: str, shell: Sequence[str] = ("sh",), environment: Mapping[str, str] | None = None
    ) -> Outcome:
        as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with subprocess.Popen(
            [*shell, str(self.script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **(environment or {})},
            **as_nobody,  # type: ignore[call-overload]
        ) as process:
            output, said = process.communicate(timeout=20)
            return Outcome(process.pid, process.returncode, output.splitlines(), said)


class Outcome:
    """What a start came to: exit code, what was said, and the server's arguments if it was reached."""

    def __init__(self, pid: int, code: int, output: Sequence[str], said: str) -> None:
        self.code = code
        self.said = said
        self.server = list(output[1:])
        self.started = bool(output)
        self.replaced_the_shell = output[:1] == [f"pid={pid}"]


@pytest.fixture
def world() -> Iterator[World]:
    # Not tmp_path: its parents are closed to all but their owner, and the script runs as somebody else.
    with tempfile.TemporaryDirectory(prefix="entrypoint-") as folder:
        yield World(Path(folder))
        for path in Path(folder).rglob("*"):
            if path.is_dir():
                path.chmod(0o755)


SHELLS = [shell for shell in (("dash",), ("bash",), ("bash", "--posix"), ("busybox", "sh")) if shutil.which(shell[0])]


# --- the contract with upstream's image ---


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_server_is_started_as_upstream_does(world: World, shell: Sequence[str]) -> None:
    world.model("half_plus_two", "00000123")
    outcome = world.start("--enable_batching", "a b", shell=shell, environment={"MODEL_NAME": "half_plus_two"})
    assert outcome.code == 0
    assert outcome.server == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=half_plus_two",
        f"--model_base_path={world.models}/half_plus_two",
        "--enable_batching",
        "a b",
    ]
    assert outcome.said == ""
    assert outcome.replaced_the_shell


def test_ports_and_paths_come_from_the_environment(world: World) -> None:
    elsewhere = world.root / "elsewhere"
    (elsewhere / "m" / "1").mkdir(parents=True)
    environment = {"TF_SERVING_GRPC_PORT": "9000", "TF_SERVING_REST_PORT": "9001"}
    environment |= {"MODEL_BASE_PATH": str(elsewhere), "MODEL_NAME": "m"}
    outcome = world.start(environment=environment)
    assert outcome.said == ""
    assert outcome.server == [
        "--port=9000",
        "--rest_api_port=9001",
        "--model_name=m",
        f"--model_base_path={elsewhere}/m",
    ]


def test_a_configuration_file_takes_the_place_of_the_model(world: World) -> None:
    file = world.root / "models.config"
    file.write_text("")
    outcome = world.start(environment={"MODEL_CONFIG_FILE": str(file)})
    assert outcome.server == ["--port=8500", "--rest_api_port=8501", f"--model_config_file={file}"]
    assert outcome.said == ""


def test_a_server_without_rest_gets_no_rest_port(world: World) -> None:
    world.facts.write_text('RELEASE="1.7.0"\nREST="no"\n')
    assert world.start(environment={"TF_SERVING_REST_PORT": "9001"}).server[:2] == ["--port=8500", "--model_name=model"]
    world.facts.write_text('RELEASE="2.19.1"\nREST="yes"\n')
    assert "--rest_api_port=8501" in world.start().server


# --- ports ---


def ports(outcome: Outcome) -> list[str]:
    return [argument.partition("=")[2] for argument in outcome.server[:2]]


@pytest.mark.parametrize("value", ["8080", "8500", "8501", "9000", "tcp://10.0.0.1:8501", "http", "0", "99999"])
def test_port_and_rest_api_port_move_nothing(world: World, value: str) -> None:
    world.model()
    for name in ("PORT", "REST_API_PORT"):
        outcome = world.start(environment={name: value})
        assert ports(outcome) == ["8500", "8501"]
        unread = f"{name} is '{value}' and is not read, as by upstream's image: gRPC is on port 8500, REST on 8501."
        assert outcome.said.count("\n") == outcome.said.count(unread)
        assert (unread in outcome.said) == (value not in (["8500", "8501"] if name == "PORT" else ["8501"]))


def test_what_the_arguments_say_is_no_surprise(world: World) -> None:
    world.model()
    outcome = world.start("--rest_api_port=8080", environment={"PORT": "8080", "REST_API_PORT": "8080"})
    assert outcome.said == ""
    assert outcome.server[-1] == "--rest_api_port=8080"


@pytest.mark.parametrize("name", ["TF_SERVING_GRPC_PORT", "TF_SERVING_REST_PORT"])
@pytest.mark.parametrize("value", ["tcp://10.0.0.1:8501", "http", "-1", "85 01", "65536", "9" * 23])
def test_a_value_that_is_no_port_is_ignored_with_a_line(world: World, name: str, value: str) -> None:
    """Kubernetes sets such a variable for a Service that is named tf-serving-rest."""
    world.model()
    outcome = world.start(environment={name: value})
    assert ports(outcome) == ["8500", "8501"]
    default = "8500" if "GRPC" in name else "8501"
    assert outcome.said == (
        f"tf_serving_entrypoint: {name} is '{value}', which is no port: it is ignored, and the port is {default}.\n"
    )


def test_the_ends_of_the_range_are_ports_and_rest_can_be_none(world: World) -> None:
    for grpc, rest in (("1", "65535"), ("8500", "0")):
        environment = {"TF_SERVING_GRPC_PORT": grpc, "TF_SERVING_REST_PORT": rest}
        assert ports(world.start(environment=environment)) == [grpc, rest]


@pytest.mark.parametrize(
    ("environment", "rest", "said"),
    [
        ({"TF_SERVING_PORT_IS_HTTP": "1", "PORT": "8080"}, "8080", ""),
        ({"TF_SERVING_PORT_IS_HTTP": "true", "PORT": "8080"}, "8080", ""),
        ({"TF_SERVING_PORT_IS_HTTP": "1"}, "8501", ""),
        ({"TF_SERVING_PORT_IS_HTTP": "1", "PORT": "tcp://h:1"}, "8501", "PORT is 'tcp://h:1', which is no port"),
        ({"TF_SERVING_PORT_IS_HTTP": "0", "PORT": "8080"}, "8501", "PORT is '8080' and is not read"),
        ({"TF_SERVING_PORT_IS_HTTP": "8080"}, "8501", "TF_SERVING_PORT_IS_HTTP is '8080', neither 1 nor 0"),
        ({"TF_SERVING_PORT_IS_HTTP": "1", "PORT": "8080", "TF_SERVING_REST_PORT": "9001"}, "9001", "PORT is '8080'"),
    ],
)
def test_port_is_the_http_port_where_that_is_said(
    world: World, environment: dict[str, str], rest: str, said: str
) -> None:
    world.model()
    outcome = world.start(environment=environment)
    assert ports(outcome) == ["8500", rest]
    assert said in outcome.said
    assert bool(outcome.said) == bool(said)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {"TF_SERVING_GRPC_PORT": "9000", "TF_SERVING_REST_PORT": "9000"}),
        ([], {"TF_SERVING_GRPC_PORT": "8501"}),
        ([], {"TF_SERVING_PORT_IS_HTTP": "1", "PORT": "8500"}),
        (["--port=8501"], {}),
        (["--rest_api_port=8500"], {}),
    ],
)
def test_both_protocols_on_one_port_are_refused(
    world: World, arguments: list[str], environment: dict[str, str]
) -> None:
    outcome = world.start(*arguments, environment=environment)
    assert outcome.code == 64
    assert "gRPC and REST each need a port of their own" in outcome.said
    assert "Set TF_SERVING_GRPC_PORT or TF_SERVING_REST_PORT." in outcome.said
    assert not outcome.started


@pytest.mark.parametrize(
    "arguments", [["--rest_api_port=9001"], ["--port=9001"], ["--version"], ["--port=0", "--rest_api_port=0"]]
)
def test_what_the_arguments_set_right_is_no_clash(world: World, arguments: list[str]) -> None:
    environment = {"TF_SERVING_GRPC_PORT": "9000", "TF_SERVING_REST_PORT": "9000"}
    assert world.start(*arguments, environment=environment).started


def test_without_rest_its_port_clashes_with_none(world: World) -> None:
    world.facts.write_text('REST="no"')
    assert world.start(environment={"TF_SERVING_GRPC_PORT": "8501"}).started


# --- arguments ---


@pytest.mark.parametrize("arguments", [["bash", "-c", "ls"], ["/bin/sh"], ["echo"]])
def test_a_program_as_an_argument_is_reported(world: World, arguments: list[str]) -> None:
    outcome = world.start(*arguments)
    assert outcome.code == 64
    assert not outcome.started
    assert outcome.said == (
        f"tf_serving_entrypoint: '{arguments[0]}' is a program, but arguments go to the server. "
        f"To run it instead: docker run --entrypoint {arguments[0]} IMAGE ...\n"
    )


def test_a_word_that_is_neither_goes_to_the_server_with_a_line(world: World) -> None:
    world.model()
    outcome = world.start("no-such-program", "--port=1")
    assert outcome.server[-2:] == ["no-such-program", "--port=1"]
    assert "'no-such-program' is no flag of the server's" in outcome.said
    assert world.start("").server[-1] == ""


@pytest.mark.parametrize("name", ["tensorflow_model_server", "/usr/bin/tensorflow_model_server"])
def test_the_servers_own_name_before_its_flags_is_left_out(world: World, name: str) -> None:
    world.model()
    outcome = world.start(name, "--enable_batching")
    assert outcome.server[-2:] == [f"--model_base_path={world.models}/model", "--enable_batching"]
    assert outcome.said == ""


# --- the model ---


def test_a_model_that_is_not_mounted_is_reported_and_waited_for(world: World) -> None:
    outcome = world.start(environment={"MODEL_NAME": "absent"})
    assert outcome.started
    assert f"there is no model at {world.models}/absent yet: nothing is mounted there." in outcome.said
    assert f"docker run -v DIR:{world.models}/absent" in outcome.said
    assert len(outcome.said.splitlines()) == 1


def test_a_model_without_a_numeric_version_is_reported_and_waited_for(world: World) -> None:
    world.model("model", "v1", "1a", "latest")
    (world.models / "model" / "7").write_text("a file is no version")
    outcome = world.start()
    assert outcome.started
    assert "holds no folder with a number for a name" in outcome.said


def test_an_empty_model_folder_has_no_version(world: World) -> None:
    (world.models / "model").mkdir()
    assert "holds no folder with a number for a name" in world.start().said


def test_a_version_mounted_as_the_model_is_recognised(world: World) -> None:
    (world.models / "model").mkdir()
    (world.models / "model" / "saved_model.pb").write_bytes(b"")
    outcome = world.start()
    assert outcome.started
    assert f"Mount that model one deeper: docker run -v DIR:{world.models}/model/1" in outcome.said


@pytest.mark.parametrize("closed", [".", "model", "model/1", "model/1/saved_model.pb"])
def test_what_may_not_be_read_ends_the_container(world: World, closed: str) -> None:
    world.model()
    path = world.models / closed
    path.chmod(0)
    outcome = world.start()
    assert outcome.code == 77
    assert not outcome.started
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    group = NOBODY if os.geteuid() == 0 else os.getegid()
    place = str(path) if closed == "." else f"{world.models}/{closed}"
    assert f"{place} is there, but this container's user, {user}:{group}, may not read it" in outcome.said
    assert f"it belongs to {os.geteuid()}:{path.stat().st_gid} and has mode 0" in outcome.said
    assert len(outcome.said.splitlines()) == 1


def test_only_the_newest_version_must_be_readable(world: World) -> None:
    folder = world.model("model", "9", "0010", "8")
    (folder / "9").chmod(0)
    assert world.start().started
    (folder / "0010").chmod(0)
    outcome = world.start()
    assert outcome.code == 77
    assert "model/0010 is there" in outcome.said


def test_a_model_that_is_a_file_ends_the_container(world: World) -> None:
    (world.models / "model").write_text("")
    outcome = world.start()
    assert outcome.code == 66
    assert "is a file" in outcome.said


def test_a_configuration_file_must_be_there_and_readable(world: World) -> None:
    file = world.root / "models.config"
    outcome = world.start(environment={"MODEL_CONFIG_FILE": str(file)})
    assert outcome.code == 66
    assert f"MODEL_CONFIG_FILE is {file}, and there is no such file" in outcome.said
    folder = world.start(environment={"MODEL_CONFIG_FILE": str(world.root)})
    assert folder.code == 66
    assert f"MODEL_CONFIG_FILE is {world.root}, and that is a folder" in folder.said
    file.write_text("")
    file.chmod(0)
    assert world.start(environment={"MODEL_CONFIG_FILE": str(file)}).code == 77
    assert world.start(f"--model_config_file={file}").code == 77


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--version"], {}),
        (["--help"], {}),
        ([], {"MODEL_BASE_PATH": "s3://bucket/models"}),
        (["--model_base_path=gs://bucket/m"], {}),
        (["--model_config_file=gs://bucket/models.config"], {}),
        ([], {"MODEL_CONFIG_FILE": "gs://bucket/models.config"}),
    ],
)
def test_nothing_is_said_where_there_is_nothing_to_check(
    world: World, arguments: list[str], environment: dict[str, str]
) -> None:
    outcome = world.start(*arguments, environment=environment)
    assert outcome.started
    assert outcome.said == ""


def test_an_argument_goes_before_the_environment(world: World) -> None:
    world.model("other")
    outcome = world.start(f"--model_base_path={world.models}/other")
    assert outcome.said == ""
    assert outcome.server[-1] == f"--model_base_path={world.models}/other"


# --- form ---


@pytest.mark.parametrize("script", sorted(CONTEXT.rglob("*.sh")), ids=lambda path: str(path.name))
def test_scripts_are_shellcheck_clean_and_executable(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None
    command = [shellcheck, "--external-sources", str(script)]
    done = subprocess.run(command, cwd=CONTEXT.parents[1], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)
