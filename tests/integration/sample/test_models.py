"""Which models are loaded, which are not and why, and how versions are swapped."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import grpc
import pytest

from .conftest import MODELS, CreateServer, StartServer
from .sample_server import SampleServer, start
from .serving_protos import PREDICTION_SERVICE, ServingProtos

NO_RETRY = "--max_num_load_retries=0"
OLD_ANSWER, NEW_ANSWER = 3.0, 4.0
"""Of half_plus_two and of its successor, to x = 2."""
ONES, TWOS = (1, 1, 1, 1), (1, 2, 2, 1)


def put_version(models: Path, name: str, version: str, source: Path) -> None:
    """Add a version as a deployment should: complete at once, by a rename."""
    staging = models / "staging"
    shutil.copytree(source, staging)
    (models / name).mkdir(exist_ok=True)
    staging.rename(models / name / version)


def write_model(models: Path, write_models: ModuleType, name: str, nodes: list[bytes]) -> None:
    model = write_models.Model(f"{name}/1", nodes, (-1, 1), (-1, 1))
    folder = models / model.path
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(model.saved_model())


def only_status(server: SampleServer, model: str) -> dict[str, Any]:
    (status,) = server.get(f"/v1/models/{model}").body["model_version_status"]
    return dict(status)


def test_committed_models_are_what_the_script_writes(write_models: ModuleType) -> None:
    assert write_models.differences(MODELS) == []


def test_a_changed_model_is_found(write_models: ModuleType, tmp_path: Path) -> None:
    write_models.write(tmp_path)
    (tmp_path / "dense/1/saved_model.pb").write_bytes(b"")
    assert len(write_models.differences(tmp_path)) == 1


def test_dense_computes_what_it_says(start_server: StartServer, write_models: ModuleType) -> None:
    server = start_server(MODELS, "dense")
    rows = [[((7 * row + column) % 13 - 6) / 8 for column in range(256)] for row in range(3)]
    expected = [dense_in_python(write_models, row) for row in rows]
    for actual_row, expected_row in zip(server.predict("dense", rows), expected, strict=True):
        assert actual_row == pytest.approx(expected_row, rel=1e-4, abs=1e-5)


def dense_in_python(write_models: ModuleType, row: list[float]) -> list[float]:
    """The perceptron again, from its definition: the same numbers in the same order, in doubles."""
    numbers = write_models.pseudo_random(seed=write_models.DENSE_SEED)
    sizes = write_models.DENSE_SIZES
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes), start=1):
        scale = write_models.dense_scale(rows)
        weights = [next(numbers) * scale for _ in range(rows * columns)]
        biases = [next(numbers) * scale for _ in range(columns)]
        row = [sum(value * weights[i * columns + j] for i, value in enumerate(row)) + biases[j] for j in range(columns)]
        if layer < len(sizes) - 1:
            row = [max(value, 0.0) for value in row]
    return row


def test_picture_computes_what_it_says(start_server: StartServer, write_models: ModuleType) -> None:
    server = start_server(MODELS, "picture")
    for height, width in ((6, 5), (7, 8), (1, 1)):
        pixels = [
            [[((7 * (y * width + x) + c) % 13) * 20.0 for c in range(3)] for x in range(width)] for y in range(height)
        ]
        (actual,) = server.predict("picture", [pixels])
        assert actual == pytest.approx(picture_in_python(write_models, pixels), rel=1e-4, abs=1e-3)


Pixels = list[list[list[float]]]


def picture_in_python(write_models: ModuleType, pixels: Pixels) -> list[float]:
    """The convolutional network again, from its definition; TensorFlow's rule of padding SAME is in `convolved`."""
    numbers = write_models.pseudo_random(seed=write_models.PICTURE_SEED)
    for taken, given in itertools.pairwise(write_models.PICTURE_CHANNELS):
        scale = write_models.dense_scale(9 * taken)
        weights = [next(numbers) * scale for _ in range(9 * taken * given)]
        pixels = convolved(pixels, weights, [next(numbers) for _ in range(given)])
    channels, classes = len(pixels[0][0]), write_models.PICTURE_CLASSES
    scale = write_models.dense_scale(channels)
    weights = [next(numbers) * scale for _ in range(channels * classes)]
    flat = [pixel for row in pixels for pixel in row]
    mean = [sum(pixel[c] for pixel in flat) / len(flat) for c in range(channels)]
    return [sum(mean[c] * weights[c * classes + k] for c in range(channels)) for k in range(classes)]


def convolved(pixels: Pixels, weights: list[float], biases: list[float]) -> Pixels:
    """Three by three in steps of two, and Relu: what is outside is zero, the odd row or column of it at the end."""
    height, width, taken, given = len(pixels), len(pixels[0]), len(pixels[0][0]), len(biases)

    def starts(length: int) -> range:
        before = max(0, ((length + 1) // 2 - 1) * 2 + 3 - length) // 2
        return range(-before, length - before, 2)

    def output(top: int, left: int, o: int) -> float:
        total = biases[o]
        for i, j, c in itertools.product(range(3), range(3), range(taken)):
            if 0 <= top + i < height and 0 <= left + j < width:
                total += pixels[top + i][left + j][c] * weights[((i * 3 + j) * taken + c) * given + o]
        return max(total, 0.0)

    return [[[output(top, left, o) for o in range(given)] for left in starts(width)] for top in starts(height)]


def test_a_convolution_of_another_kind_is_refused(
    start_server: StartServer, write_models: ModuleType, models_folder: Path
) -> None:
    m = write_models
    padding = m.block(2, "SAME")
    ones, twos = (m.block(1, b"".join(m.number(3, stride) for stride in strides)) for strides in (ONES, TWOS))
    refused = {
        "ones": ({"padding": padding, "strides": ones}, "UNIMPLEMENTED", "with strides"),
        "no_strides": ({"padding": padding}, "INVALID_ARGUMENT", "NodeDef missing attr 'strides' from Op<name=Conv2D"),
        "no_padding": ({"strides": twos}, "INVALID_ARGUMENT", "NodeDef missing attr 'padding' from Op<name=Conv2D"),
    }
    for name, (attributes, _, _) in refused.items():
        filter_ = m.constant("filter", (1, 1, 1, 1), [1.0])
        nodes = [m.placeholder("x"), filter_, m.operation("y", "Conv2D", "x", "filter", **attributes)]
        write_model(models_folder, m, name, nodes)
    entries = (f'config {{ name: "{one}" base_path: "/models/{one}" model_platform: "tensorflow" }}' for one in refused)
    (models_folder / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
    server = start_server(models_folder, "ignored", "--model_config_file=/models/models.config")
    for name, (_, code, message) in refused.items():
        status = only_status(server, name)
        assert (status["state"], status["status"]["error_code"]) == ("END", code)
        assert message in status["status"]["error_message"]


def test_broadcasting_and_every_small_op(
    start_server: StartServer, write_models: ModuleType, models_folder: Path
) -> None:
    m = write_models
    nodes = [
        m.placeholder("x"),
        m.constant("row", (1, 3), [1.0, 2.0, 3.0]),
        m.operation("product", "Mul", "x", "row"),  # [n,1] times [1,3]
        m.operation("same", "Identity", "product"),
        m.constant("shift", (3,), [0.0, -10.0, 0.5]),
        m.operation("sum", "AddV2", "same", "shift"),
        m.operation("y", "Relu", "sum"),
    ]
    write_model(models_folder, m, "small", nodes)
    server = start_server(models_folder, "small")
    assert server.predict("small", [[1.0], [4.0]]) == [[1.0, 0.0, 3.5], [4.0, 0.0, 12.5]]


def test_shapes_that_do_not_fit_are_a_bad_request(start_server: StartServer) -> None:
    server = start_server(MODELS, "dense")
    answer = server.post("/v1/models/dense:predict", {"instances": [[1.0, 2.0]]})
    assert answer.code == 400
    assert answer.body["error"] == "Matrix size-incompatible: In[0]: [1,2], In[1]: [256,512]"


def test_two_models_from_a_config_file(start_server: StartServer, models_folder: Path) -> None:
    put_version(models_folder, "half_plus_two", "00000123", MODELS / "half_plus_two/00000123")
    put_version(models_folder, "three", "7", MODELS / "half_plus_two_next/00000124")
    (models_folder / "models.config").write_text(
        """model_config_list {
          config { name: "two" base_path: "/models/half_plus_two" model_platform: "tensorflow" }
          config { name: "three" base_path: "/models/three" model_platform: "tensorflow" }
        }"""
    )
    server = start_server(models_folder, "ignored", "--model_config_file=/models/models.config")
    assert server.predict("two", [2.0]) == [OLD_ANSWER]
    assert server.predict("three", [2.0]) == [NEW_ANSWER]
    assert server.get("/v1/models/ignored").code == 404


def test_the_newest_number_wins_not_the_last_name(start_server: StartServer, models_folder: Path) -> None:
    put_version(models_folder, "half", "9", MODELS / "half_plus_two/00000123")
    put_version(models_folder, "half", "0010", MODELS / "half_plus_two_next/00000124")
    put_version(models_folder, "half", "not-a-version", MODELS / "half_plus_two/00000123")
    server = start_server(models_folder, "half")
    assert server.states("half") == {"10": "AVAILABLE"}
    assert server.predict("half", [2.0]) == [NEW_ANSWER]


def test_an_unsupported_op_is_named_and_the_server_lives(
    start_server: StartServer, write_models: ModuleType, models_folder: Path
) -> None:
    write_model(
        models_folder,
        write_models,
        "sigmoid",
        [write_models.placeholder("x"), write_models.operation("y", "Sigmoid", "x")],
    )
    server = start_server(models_folder, "sigmoid")  # the default is to retry for minutes: not for this
    status = only_status(server, "sigmoid")
    assert (status["version"], status["state"], status["status"]["error_code"]) == ("1", "END", "NOT_FOUND")
    assert "Op type not registered 'Sigmoid'" in status["status"]["error_message"]
    assert "Op type not registered 'Sigmoid'" in server.log()
    assert server.post("/v1/models/sigmoid:predict", {"instances": [1.0]}).code == 404


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"\xff\xff\xffnot a protobuf", "DATA_LOSS", "Can't parse /models/broken/1/saved_model.pb as binary proto"),
        (b"", "NOT_FOUND", "Could not find meta graph def matching supplied tags: { serve }"),
        (None, "NOT_FOUND", "Could not find SavedModel .pb at supplied export directory path"),
    ],
)
def test_a_broken_model_is_told_and_the_server_lives(
    start_server: StartServer, models_folder: Path, content: bytes | None, code: str, message: str
) -> None:
    folder = models_folder / "broken" / "1"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "saved_model.pb").write_bytes(content)
    status = only_status(start_server(models_folder, "broken", NO_RETRY), "broken")
    assert (status["state"], status["status"]["error_code"]) == ("END", code)
    assert message in status["status"]["error_message"]


def test_a_failed_load_is_tried_again_as_often_as_asked(start_server: StartServer, models_folder: Path) -> None:
    (models_folder / "broken" / "1").mkdir(parents=True)
    flags = ["--max_num_load_retries=2", "--load_retry_interval_micros=0"]
    server = start_server(models_folder, "broken", *flags)
    assert only_status(server, "broken")["state"] == "END"
    assert server.log().count("Loading servable: {name: broken version: 1} failed") == 3


def test_what_may_come_right_is_told_at_once_and_tried_again(start_server: StartServer, models_folder: Path) -> None:
    folder = models_folder / "half" / "1"
    folder.mkdir(parents=True)
    server = start_server(models_folder, "half", "--max_num_load_retries=1000", "--load_retry_interval_micros=500000")
    status = only_status(server, "half")
    assert (status["state"], status["status"]["error_code"]) == ("LOADING", "NOT_FOUND")
    assert "Could not find SavedModel .pb" in status["status"]["error_message"]
    shutil.copy(MODELS / "half_plus_two/00000123/saved_model.pb", folder)
    server.wait_for_state("half", "1", "AVAILABLE")
    assert only_status(server, "half")["status"] == {"error_code": "OK", "error_message": ""}


def test_a_broken_new_version_leaves_the_old_one_in_place(start_server: StartServer, models_folder: Path) -> None:
    put_version(models_folder, "half", "1", MODELS / "half_plus_two/00000123")
    server = start_server(models_folder, "half", NO_RETRY)
    (models_folder / "half" / "2").mkdir()
    server.wait_for_state("half", "2", "END")
    assert server.states("half") == {"2": "END", "1": "AVAILABLE"}
    assert server.predict("half", [2.0]) == [OLD_ANSWER]


def test_a_model_that_is_not_there_is_waited_for_with_closed_ports(
    create_server: CreateServer, models_folder: Path
) -> None:
    container = create_server(models_folder, "half")
    container.start()
    time.sleep(3)  # a second is the pause between two looks
    log = container.logs().decode()
    assert log.count("filesystem access error") == 1
    assert "Running gRPC ModelServer" not in log
    put_version(models_folder, "half", "1", MODELS / "half_plus_two/00000123")
    assert start(container).states("half") == {"1": "AVAILABLE"}


def test_without_further_looks_a_missing_model_is_not_waited_for(
    start_server: StartServer, models_folder: Path
) -> None:
    server = start_server(models_folder, "half", "--file_system_poll_wait_seconds=0")
    assert server.get("/v1/models/half").code == 404


class Clients:
    """Clients of both inputs that ask without pause until they are told to stop, and count what they get."""

    def __init__(self, server: SampleServer, protos: ServingProtos) -> None:
        self.answers: Counter[float] = Counter()
        self.failures: list[str] = []
        self._server, self._protos = server, protos
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[ask]) for ask in (self._rest, self._rest, self._grpc)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answer: float, count: int = 300) -> None:
        """Wait until this answer was given so many more times."""
        target = self.answers[answer] + count
        for _ in range(600):
            if self.answers[answer] >= target or self.failures:
                return
            self._stop.wait(0.05)
        raise AssertionError(f"{answer} was given {self.answers[answer]} times, {target} were expected")

    def _run(self, ask: Callable[[grpc.Channel], float]) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._server.grpc_port}") as channel:
            while not self._stop.is_set():
                try:
                    self.answers[ask(channel)] += 1
                except (OSError, AssertionError, grpc.RpcError) as problem:
                    self.failures.append(repr(problem))

    def _rest(self, _channel: grpc.Channel) -> float:
        return float(self._server.predict("half", [2.0])[0])

    def _grpc(self, channel: grpc.Channel) -> float:
        request = self._protos.predict_request("half", [2.0])
        response = self._protos.call(channel, PREDICTION_SERVICE, "Predict", request)
        return float(response.outputs["y"].float_val[0])


def test_versions_are_swapped_under_load_without_a_failed_request(
    start_server: StartServer, protos: ServingProtos, models_folder: Path
) -> None:
    put_version(models_folder, "half", "123", MODELS / "half_plus_two/00000123")
    server = start_server(models_folder, "half")
    with Clients(server, protos) as clients:
        clients.wait_for(OLD_ANSWER)
        put_version(models_folder, "half", "124", MODELS / "half_plus_two_next/00000124")
        server.wait_for_state("half", "123", "END")
        clients.wait_for(NEW_ANSWER)
        shutil.rmtree(models_folder / "half" / "124")  # and back
        server.wait_for_state("half", "123", "AVAILABLE")
        server.wait_for_state("half", "124", "END")
        clients.wait_for(OLD_ANSWER)
    assert clients.failures == []
    assert set(clients.answers) == {OLD_ANSWER, NEW_ANSWER}
