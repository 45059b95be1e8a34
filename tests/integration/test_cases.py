"""The sample's image under the commands, environments and manifests of people who run TensorFlow Serving in public."""

from __future__ import annotations

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .containers import LABEL, STOPS_WITHIN, container, docker, exit_code, run, stop
from .pipeline import IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = Path(__file__).parents[2] / "samples" / "model_server" / "models" / "half_plus_two"
SERVER = "tensorflow_model_server"
PATH = f"/usr/bin/{SERVER}"
FLAGS = ("--port=8500", "--rest_api_port=8501", "--model_name=half_plus_two", "--model_base_path=/models/half_plus_two")
NAMED = ("-e", "MODEL_NAME=half_plus_two")
LOCKED_DOWN = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=12345")
CONFIG = (
    'model_config_list { config { name: "half_plus_two" base_path: "/m/half_plus_two" model_platform: "tensorflow" } }'
)
WESTMERE = "model name\t: Intel(R) Xeon(R) CPU X5660\nflags\t\t: fpu sse2 ssse3 popcnt\n"
NEEDS = "CUDA 12.2 needs driver 525.60.13 or later; this image is compiled for sm_80"
READY = 15.0  # seconds
SILENT = 0.2  # seconds in which a port that must be closed would have answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, and what it must come to: a server that answers, grows healthy and stops in time, or an end.

    Args:
        source: where it was found.
        options: of `docker run`.
        arguments: after the image.
        rest: the port that must answer; 0 for a container that ends by itself.
        grpc: the port that must be open.
        said: texts that its log must hold, one line each.
        unsaid: texts that it must not hold.
        code: its exit code, after `docker stop` where it serves.
    """

    source: str
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    rest: int = 8501
    grpc: int = 8500
    said: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ("is not read", "no port", "no health", "SIGTERM", "not find")
    code: int = 143


SERVES = {
    "as documented": Case(source="upstream's README", options=NAMED),
    "locked down": Case(source="", options=(*LOCKED_DOWN, *NAMED)),
    "path as entrypoint": Case(source="", options=("--entrypoint", PATH), arguments=FLAGS),
    "name as entrypoint": Case(source="GeekNekoS/Chara", options=("--entrypoint", SERVER), arguments=FLAGS),
    "kserve": Case(
        source="kserve's runtime", options=("--entrypoint", PATH, "--user=1000", "--read-only"), arguments=FLAGS
    ),
    "locked down without the script": Case(source="", options=(*LOCKED_DOWN, "--entrypoint", SERVER), arguments=FLAGS),
    "exec by name": Case(
        source="", options=("--entrypoint", "sh"), arguments=("-c", f'true; exec {SERVER} "$@"', "sh", *FLAGS)
    ),
    "exec by a relative path": Case(
        source="", options=("--entrypoint", "sh"), arguments=("-c", f'cd /usr/bin; exec ./{SERVER} "$@"', "sh", *FLAGS)
    ),
    "under docker's init": Case(source="", options=("--init", "--entrypoint", SERVER), arguments=FLAGS),
    "shell under docker's init": Case(
        source="",
        options=("--init", "--entrypoint", "sh"),
        arguments=("-c", f'{SERVER} "$@"; true', "sh", *FLAGS),
    ),
    "the script as entrypoint": Case(
        source="JesuFemi-O/Cruise", options=(*NAMED, "--entrypoint", "/usr/bin/tf_serving_entrypoint.sh")
    ),
    "the server's name among the arguments": Case(source="", options=NAMED, arguments=(SERVER, "--enable_batching")),
    "knative": Case(source="mylesagray/anpr-knative", options=(*NAMED, "-e", "PORT=8501")),
    "port": Case(
        source="serving#1540",
        options=(*NAMED, "-e", "PORT=8502"),
        said=("PORT is '8502' and is not read",),
        unsaid=("no port",),
    ),
    "port and its flag": Case(
        source="serving#1540",
        options=(*NAMED, "-e", "PORT=8080"),
        arguments=("--rest_api_port=8080",),
        rest=8080,
    ),
    "port is http": Case(
        source="Cloud Run, Heroku", options=(*NAMED, "-e", "PORT=8080", "-e", "TF_SERVING_PORT_IS_HTTP=1"), rest=8080
    ),
    "a Service named rest-api": Case(
        source="Kubernetes",
        options=(*NAMED, "-e", "REST_API_PORT=tcp://10.0.0.7:8501"),
        said=("REST_API_PORT is 'tcp://10.0.0.7:8501' and is not read",),
        unsaid=("no port",),
    ),
    "a Service named tf-serving-grpc": Case(
        source="Kubernetes",
        options=(*NAMED, "-e", "TF_SERVING_GRPC_PORT=tcp://10.0.0.7:8500"),
        said=("TF_SERVING_GRPC_PORT is 'tcp://10.0.0.7:8500', which is no port: it is ignored",),
        unsaid=("is not read",),
    ),
    "ports of our own": Case(
        source="",
        options=(*NAMED, "-e", "TF_SERVING_GRPC_PORT=9000", "-e", "TF_SERVING_REST_PORT=9001"),
        grpc=9000,
        rest=9001,
    ),
    "a configuration file": Case(
        source="", options=("-e", "MODEL_CONFIG_FILE=/m/models.config"), arguments=("--model_config_file_poll=0",)
    ),
    "base path of a whole disk": Case(
        source="", options=("-v", f"{MODEL}:/half_plus_two:ro", "-e", "MODEL_BASE_PATH=/", *NAMED)
    ),
    "links of a ConfigMap": Case(source="", options=("--read-only", "-e", "MODEL_CONFIG_FILE=/m/config/models.config")),
    "kubeflow and Seldon": Case(
        source="kubeflow",
        options=("--entrypoint", PATH, "--user=1000"),
        arguments=("--port=9000", "--rest_api_port=8500", *FLAGS[2:]),
        grpc=9000,
        rest=8500,
    ),
    "threads of mkl": Case(
        source="serving#1203, upstream's Dockerfile.mkl",
        options=(*NAMED, "-v", "ENV:mkl", "-e", "TENSORFLOW_INTRA_OP_PARALLELISM=4", "--cpus=1"),
        said=("the container's CPU quota allows 1 thread(s): OMP_NUM_THREADS=1 --tensorflow_inter_op_parallelism=2",),
    ),
    "gpu without a card": Case(
        source="",
        options=(*NAMED, "-v", "ENV:gpu"),
        said=(f"no NVIDIA driver is in this container ({NEEDS}).", "docker run --gpus all", "nvidia.com/gpu=all"),
    ),
    "GKE": Case(
        source="kubeflow#338",
        options=(
            *("-v", "ENV:gpu", "-v", "DRIVER:/usr/local/nvidia/lib64:ro", "--entrypoint", PATH),
            *("--device=/dev/null:/dev/nvidia0", "--device=/dev/null:/dev/nvidiactl"),
        ),
        arguments=FLAGS,
        said=(f"NVIDIA driver 535.54.03; {NEEDS}.",),
    ),
}
ENDS = {
    "a CPU without the level": Case(
        source="kserve's runtime",
        options=("-v", "ENV:v3", "-v", "CPU:/proc/cpuinfo:ro", "--entrypoint", PATH, "--user=1000"),
        arguments=FLAGS,
        said=("(Intel(R) Xeon(R) CPU X5660) lacks: avx2 fma. Use example/serving:2.19.1-cpu instead.",),
        code=78,
    ),
    "the same by the script, locked down": Case(
        source="",
        options=(*NAMED, "-v", "ENV:v3", "-v", "CPU:/proc/cpuinfo:ro", *LOCKED_DOWN),
        said=("(Intel(R) Xeon(R) CPU X5660) lacks: avx2 fma. Use example/serving:2.19.1-cpu instead.",),
        code=78,
    ),
    "a program": Case(
        source="serving#1228",
        arguments=("bash", "-c", "ls"),
        said=("'bash' is a program, but arguments go to the server.", "docker run --entrypoint bash IMAGE ..."),
        code=64,
    ),
    "one port for both": Case(source="", options=("-e", "TF_SERVING_GRPC_PORT=8501"), code=64, said=("both",)),
    "no configuration file": Case(source="", options=("-e", "MODEL_CONFIG_FILE=/absent"), code=66, said=("mounted?",)),
    "the version": Case(source="", arguments=("--version",), code=0, said=("TensorFlow ModelServer: 2.19.1",)),
    "the version without the script": Case(
        source="", options=("--entrypoint", SERVER), arguments=("--version",), code=0, said=("2.19.1",)
    ),
}
CHILDREN = {
    "own entrypoint": (
        f"FROM {{image}}\nCOPY --from=model / /models/half_plus_two/\nENTRYPOINT {json.dumps([SERVER, *FLAGS])}\n"
    ),
    "a script over ours": (
        "FROM {image}\nCOPY --from=model / /models/half_plus_two/\n"
        "COPY --chmod=0755 entrypoint.sh /usr/bin/tf_serving_entrypoint.sh\n"
    ),
    "a script under the init": (
        "FROM {image}\nCOPY --from=model / /models/half_plus_two/\nCOPY --chmod=0755 entrypoint.sh /my/\n"
        'ENTRYPOINT ["/usr/bin/tf_serving_init", "/my/entrypoint.sh"]\n'
    ),
    "a model inside": "FROM {image}\nCOPY --from=model / /models/half_plus_two/\nENV MODEL_NAME=half_plus_two\n",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The image, and the files that cases mount: the folder of each, by the first word of the option."""

    image: str
    folder: Path
    mounts: dict[str, str] = field(default_factory=dict)

    def options(self, case: Case) -> list[str]:
        """The case's options, with its mounts; the model is at /models and at /m."""
        options = ["-v", f"{MODEL}:/models/half_plus_two:ro", "-v", f"{self.folder}/m:/m:ro"]
        for word in case.options:
            name, _, rest = word.partition(":")
            place = {"ENV": f"{self.folder}/{rest}.env:/usr/share/serving-factory/image.env:ro"}.get(name)
            options.append(place or f"{self.folder}/{name}:{rest}" if name in {"ENV", "CPU", "DRIVER"} else word)
        return options


@pytest.fixture(scope="module")
def machine(sample_image: str, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("machine")
    shutil.copytree(MODEL, folder / "m" / "half_plus_two")
    (folder / "m" / "models.config").write_text(CONFIG)
    # As Kubernetes mounts one: the files are links to links.
    (folder / "m" / "config" / "..data_1").mkdir(parents=True)
    (folder / "m" / "config" / "..data_1" / "models.config").write_text(CONFIG)
    (folder / "m" / "config" / "..data").symlink_to("..data_1")
    (folder / "m" / "config" / "models.config").symlink_to("..data/models.config")
    (folder / "CPU").write_text(WESTMERE)
    (folder / "DRIVER").mkdir()
    (folder / "DRIVER" / "libcuda.so.535.54.03").touch()
    (folder / "DRIVER" / "libcuda.so.1").symlink_to("libcuda.so.535.54.03")
    level = 'LEVEL="x86-64-v3"\nCPU_FLAGS="avx2 fma"\nLOWER_IMAGE="example/serving:2.19.1-cpu"\n'
    (folder / "v3.env").write_text(f'FLAVOUR="cpu"\n{level}REST="yes"\n')
    (folder / "mkl.env").write_text('FLAVOUR="mkl"\nREST="yes"\n')
    gpu = 'FLAVOUR="gpu"\nCUDA="12.2"\nDRIVER="525.60.13"\nCAPABILITIES="sm_80"\n'
    (folder / "gpu.env").write_text(gpu)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return Machine(sample_image, folder)


def address_of(container_id: str) -> str:
    return docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container_id).stdout.strip()


def ask(host: str, port: int) -> object:
    """What the server predicts for 1, 2 and 5; waits until it answers."""
    url, body = f"http://{host}:{port}/v1/models/half_plus_two:predict", b'{"instances": [1.0, 2.0, 5.0]}'
    return eventually(lambda: json.load(urllib.request.urlopen(urllib.request.Request(url, body), timeout=2)))


def eventually(question: Callable[[], object]) -> object:
    """The first answer that is no error of the connection."""
    end = time.monotonic() + READY
    while True:
        try:
            return question()
        except (OSError, urllib.error.URLError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def is_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=SILENT):
            return True
    except OSError:
        return False


def health(container_id: str) -> str:
    """What the image's health check says when it succeeds."""
    end = time.monotonic() + READY
    while (done := docker("exec", container_id, "/usr/bin/tf_serving_health", check=False)).returncode:
        assert time.monotonic() < end, done.stdout
        time.sleep(0.1)
    return done.stdout.strip()


def log(container_id: str) -> str:
    done = docker("logs", container_id)
    return done.stdout + done.stderr


def check_server(container_id: str, case: Case) -> None:
    """It answers, is healthy, has said what it should, and stops in time."""
    host = address_of(container_id)
    assert ask(host, case.rest) == {"predictions": [2.5, 3.0, 4.5]}
    assert is_open(host, case.grpc)
    for port in {8500, 8501} - {case.rest, case.grpc}:
        assert not is_open(host, port)
    assert health(container_id) in {"half_plus_two is AVAILABLE", f"the REST port, {case.rest}, answers"}
    lines = log(container_id).splitlines()
    for text in case.said:
        assert [text in line for line in lines].count(True) == 1, lines
    assert not [line for line in lines for text in case.unsaid if text in line]
    assert stop(container_id) < STOPS_WITHIN
    assert exit_code(container_id) == case.code


@pytest.mark.parametrize("case", SERVES.values(), ids=SERVES.keys())
def test_it_serves(machine: Machine, case: Case) -> None:
    with container(machine.image, *case.arguments, options=machine.options(case)) as name:
        check_server(name, case)


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS.keys())
def test_it_ends(machine: Machine, case: Case) -> None:
    done = run(machine.image, *case.arguments, options=machine.options(case))
    assert done.returncode == case.code, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert len(said) == (1 if case.code else 2)
    for text in case.said:
        assert text in "\n".join(said)


@pytest.fixture(scope="module")
def children(machine: Machine) -> Iterator[Callable[[str], str]]:
    """Builds an image from ours; gives its name."""
    ours, made = f"{IMAGES}/cases:ours", [f"{IMAGES}/cases:ours"]
    docker("tag", machine.image, ours)
    context = machine.folder / "context"
    context.mkdir()
    (context / "entrypoint.sh").write_text(
        f'#!/bin/sh\n# As upstream\'s: without exec.\n{SERVER} {" ".join(FLAGS)} "$@"\n'
    )

    def build(text: str) -> str:
        name = f"{IMAGES}/cases:{len(made)}"
        made.append(name)
        (context / "Dockerfile").write_text(text.format(image=ours))
        contexts = ("--build-context", f"model={MODEL}")
        docker("buildx", "build", "--load", "--label", LABEL, "--tag", name, *contexts, str(context))
        return name

    yield build
    docker("image", "rm", "--force", *made)


@pytest.mark.parametrize("text", CHILDREN.values(), ids=CHILDREN.keys())
def test_an_image_made_from_it_serves(children: Callable[[str], str], text: str) -> None:
    with container(children(text)) as name:
        check_server(name, Case(source=""))


def test_a_container_is_healthy_by_dockers_own_account(machine: Machine) -> None:
    with container(machine.image, *FLAGS, options=machine.options(SERVES["name as entrypoint"])) as name:
        for _ in range(150):
            if (status := docker("inspect", "--format", "{{.State.Health.Status}}", name).stdout.strip()) == "healthy":
                break
            time.sleep(0.1)
        assert status == "healthy"


def test_a_copied_and_committed_model_is_served(machine: Machine) -> None:
    """The way of upstream's documentation to an image with a model inside."""
    committed = f"{IMAGES}/cases:committed"
    with container(machine.image) as base:
        docker("cp", str(MODEL), f"{base}:/models/half_plus_two")
        docker("commit", "--change", "ENV MODEL_NAME half_plus_two", base, committed)
    try:
        with container(committed) as name:
            check_server(name, Case(source=""))
    finally:
        docker("image", "rm", "--force", committed)


@pytest.mark.parametrize("shared", ["pid", "pid and network"])
def test_each_of_several_containers_has_its_own_health(machine: Machine, shared: str) -> None:
    """As in a pod, and beside the other servers of a machine whose processes a container shares."""
    with ExitStack() as stack:
        first = stack.enter_context(container(machine.image, options=[*machine.options(Case(source="")), *NAMED]))
        others = [f"--pid=container:{first}", *([f"--network=container:{first}"] if "network" in shared else [])]
        ports = ("-e", "TF_SERVING_GRPC_PORT=9000", "-e", "TF_SERVING_REST_PORT=9001")
        second = stack.enter_context(container(machine.image, options=[*others, *ports, "-e", "MODEL_NAME=absent"]))
        host = stack.enter_context(
            container(machine.image, options=["--pid=host", *machine.options(Case(source="")), *NAMED])
        )
        assert health(first) == "half_plus_two is AVAILABLE"
        assert health(host) == "half_plus_two is AVAILABLE"
        done = docker("exec", second, "/usr/bin/tf_serving_health", check=False)
        assert (done.returncode, done.stdout) == (1, "nothing answers on the REST port, 9001\n")
        for name in (host, second, first):
            assert stop(name) < STOPS_WITHIN


def test_a_shell_that_passes_no_signal_on_is_reported(machine: Machine) -> None:
    """The one case that the launcher cannot hold: it says so, and how to."""
    script = ("-c", f"{SERVER} {' '.join(FLAGS)}; true")
    options = [*machine.options(Case(source="")), "--entrypoint", "sh"]
    with container(machine.image, *script, options=options) as name:
        assert health(name) == "half_plus_two is AVAILABLE"
        assert "Start the server with exec, or put /usr/bin/tf_serving_init before" in log(name)
        assert stop(name, grace=1) >= 1
    with container(machine.image, "-c", f"trap 'exit 3' TERM; {script[1]}", options=options) as name:
        assert health(name) == "half_plus_two is AVAILABLE"
        assert "SIGTERM" not in log(name)


def test_a_question_beside_the_server_changes_nothing(machine: Machine) -> None:
    with container(machine.image, options=[*machine.options(Case(source="")), *NAMED]) as name:
        assert health(name) == "half_plus_two is AVAILABLE"
        assert "2.19.1" in docker("exec", name, SERVER, "--version").stdout
        assert health(name) == "half_plus_two is AVAILABLE"
