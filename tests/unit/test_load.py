"""Load and its figures: what is sent when, what is counted, and when two servers may be said to differ."""

from __future__ import annotations

import itertools
import json
import math
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from serving_factory.docker.engine import ContainerSpec, Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.errors import CancelledError, FactoryError, LoadError, ServerNotReadyError, UsageError
from serving_factory.load import servers
from serving_factory.load.generator import Sample, closed_loop, open_loop
from serving_factory.load.inputs import inputs_for, picture
from serving_factory.load.rounds import Load, Measured, Plan, measure
from serving_factory.load.servers import GRPC, REST, Subject
from serving_factory.load.statistics import FEWEST_ROUNDS, Interval, interval, percentile, ratio_of, spread
from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke.answers import ServerAnswerError, Signature

from .fake_serving import Behaviour, FakeServing
from .test_smoke import FakeContainer, Script

# --- figures ----------------------------------------------------------------------------------------------------------


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [*range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0, 0.0)] == [50, 90, 99, 100, 1]
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) == math.inf


@pytest.mark.parametrize(
    ("rounds", "low", "high", "confidence"),
    [
        (1, 0, 0, 0.0),
        (2, 0, 1, 0.5),
        (5, 0, 4, 0.9375),
        (6, 0, 5, 0.96875),
        (7, 0, 6, 0.984375),
        (10, 1, 8, 0.978515625),
    ],
)
def test_an_interval_holds_the_median_with_its_confidence(rounds: int, low: int, high: int, confidence: float) -> None:
    """1 - 2 P(at most k of n are below the median), a binomial sum; 10 rounds: 1 - 2 (1 + 10) / 1024."""
    values = [float(number) for number in range(rounds)]
    found = interval([*values[rounds // 2 :], *values[: rounds // 2]])
    assert (found.middle, found.low, found.high) == ((rounds - 1) / 2, low, high)
    assert found.confidence == pytest.approx(confidence)


def test_an_interval_holds_the_actual_median_as_often_as_it_says() -> None:
    source = random.Random(17)  # noqa: S311
    for rounds in (6, 7, 11):
        found = [interval([source.expovariate(1.0) for _ in range(rounds)]) for _ in range(2000)]
        held = sum(one.low <= math.log(2) <= one.high for one in found) / len(found)
        assert held == pytest.approx(found[0].confidence, abs=0.015)


def noisy(source: random.Random, middle: float, noise: float, rounds: int) -> list[float]:
    return [middle * math.exp(source.gauss(0, noise)) for _ in range(rounds)]


def test_images_that_differ_by_more_than_the_noise_are_said_to_differ() -> None:
    source = random.Random(5)  # noqa: S311
    found = [ratio_of(noisy(source, 1.3, 0.02, 7), noisy(source, 1.0, 0.02, 7)).excludes(1.0) for _ in range(200)]
    assert all(found)


def test_the_same_image_is_seldom_said_to_differ_from_itself() -> None:
    source = random.Random(6)  # noqa: S311
    for noise in (0.001, 0.3):
        found = [
            ratio_of(noisy(source, 1.0, noise, 7), noisy(source, 1.0, noise, 7)).excludes(1.0) for _ in range(1000)
        ]
        assert 0 < sum(map(bool, found)) < 35, "1.6 % of them are expected"


def test_a_difference_below_the_noise_is_not_found() -> None:
    source = random.Random(7)  # noqa: S311
    found = [ratio_of(noisy(source, 1.02, 0.3, 7), noisy(source, 1.0, 0.3, 7)).excludes(1.0) for _ in range(200)]
    assert sum(map(bool, found)) < 12


def test_what_slows_down_whole_rounds_hides_no_difference() -> None:
    slow = [1.0, 3.0, 1.2, 0.4, 2.0, 1.0, 5.0]
    ratio = ratio_of([1.1 * one for one in slow], slow)
    assert ratio.excludes(1.0)
    assert [ratio.low, ratio.high] == pytest.approx([1.1, 1.1])


def test_too_few_rounds_say_nothing() -> None:
    assert ratio_of([2.0] * (FEWEST_ROUNDS - 1), [1.0] * (FEWEST_ROUNDS - 1)).excludes(1.0) is None
    assert ratio_of([2.0] * FEWEST_ROUNDS, [1.0] * FEWEST_ROUNDS).excludes(1.0) is True


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ((0.4014, 0.4, 12.34), "0.401 (0.4 to 12.3)"),
        ((1654.2, 99.96, 12345.6), "1654 (100 to 12346)"),
        ((7.0, 7.0, 7.0), "7"),
        ((7.0, 7.0, math.inf), "7 (7 to never)"),
    ],
)
def test_a_figure_has_three_digits_and_its_interval(figure: tuple[float, float, float], text: str) -> None:
    assert spread(Interval(*figure, 0.98)) == text


# --- sending ----------------------------------------------------------------------------------------------------------


def sample(**changed: object) -> Sample:
    values: dict[str, object] = {"seconds": 1.0, "latencies": (0.1,), "failures": (), "unsent": 0, "client": 0.1}
    return Sample(**{**values, **changed})  # type: ignore[arg-type]


def test_a_request_without_an_answer_counts_as_the_slowest() -> None:
    found = sample(latencies=tuple(n / 100 for n in range(1, 97)), failures=("cut",) * 2, unsent=2)
    assert found.latency(0.5) == 0.5
    assert found.latency(0.96) == 0.96
    assert found.latency(0.97) == math.inf
    assert found.per_second == 96


def test_a_closed_loop_sends_the_next_request_after_each_answer() -> None:
    most = [0, 0]

    def send() -> None:
        most[0] += 1
        most[1] = max(most)
        time.sleep(0.005)
        most[0] -= 1

    found = closed_loop([send, send], 0.1)
    assert most[1] <= 2
    assert 2 <= len(found.latencies) <= 40
    assert min(found.latencies) >= 0.005
    assert found.seconds >= 0.1
    assert 0 <= found.client < 1


def test_a_closed_loop_sends_at_least_once_on_each_connection() -> None:
    sent = []
    found = closed_loop([lambda: sent.append(1), lambda: sent.append(2), lambda: sent.append(3)], 0.0)
    assert len(sent) == len(found.latencies) == 3


def test_an_open_loop_keeps_its_schedule_whatever_the_answers_do() -> None:
    """The stall of one answer is in the latencies of all that were due meanwhile: no coordinated omission."""
    began, sent, stalls = time.perf_counter(), list[float](), iter([0.2])

    def send() -> None:
        sent.append(time.perf_counter() - began)
        time.sleep(next(stalls, 0.0))

    found = open_loop([send], rate=100, seconds=0.5)
    assert (len(found.latencies), found.unsent) == (50, 0)
    slow = sum(one > 0.1 for one in found.latencies)
    assert slow >= 8
    assert sorted(found.latencies)[25] < 0.1
    # A closed loop sees one slow request only.
    stalls = iter([0.2])
    assert sum(one > 0.1 for one in closed_loop([send], 0.5).latencies) < slow / 2
    assert sent[20] >= 0.19
    assert sent[49] >= 0.48


def test_an_open_loop_gives_up_on_a_server_that_falls_behind() -> None:
    found = open_loop([lambda: time.sleep(0.05)], rate=200, seconds=0.2)
    assert found.seconds < 3
    assert found.unsent > 10
    assert len(found.latencies) + found.unsent == 40
    assert found.latency(0.99) == math.inf


def test_failures_are_counted_and_end_nothing() -> None:
    calls = itertools.count()

    def send() -> None:
        if next(calls) % 2:
            raise ServerAnswerError("HTTP 500")

    found = open_loop([send], rate=40, seconds=0.5)
    assert (len(found.latencies), found.failures) == (10, ("HTTP 500",) * 10)
    assert found.per_second <= 20, "the time until the next one would be due counts, too"


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_fault_of_the_client_ends_all_connections() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        closed_loop([fails, lambda: time.sleep(0.001)], 60)
    assert wait_until(lambda: not any(one.name.startswith("load") for one in threading.enumerate()))


def test_the_client_counts_its_own_cpu() -> None:
    def work() -> None:
        until = time.thread_time() + 0.002
        while time.thread_time() < until:
            pass

    assert closed_loop([work], 0.1).client > 3 * closed_loop([lambda: time.sleep(0.01)], 0.1).client


# --- inputs -----------------------------------------------------------------------------------------------------------


def asked(kind: str, shape: tuple[int, ...], *sizes: int) -> list[tuple[str, pb.TensorProto, object]]:
    found = inputs_for("model", Signature({"x": kind}, {}, {"x": shape}), sizes)
    requests = [pb.PredictRequest.FromString(one.grpc) for one in found]
    assert {one.model_spec.name for one in requests} == {"model"}
    return [
        (one.name, request.inputs["x"], json.loads(one.rest)["instances"])
        for one, request in zip(found, requests, strict=True)
    ]


@pytest.mark.parametrize(
    ("shape", "sizes", "names", "shapes"),
    [
        ((-1, 2), (), ["1 row", "32 rows"], [[1, 2], [32, 2]]),
        ((-1,), (3,), ["3 rows"], [[3]]),
        ((), (3,), ["3 rows"], [[3]]),
        ((2, 2), (3,), ["3 rows"], [[2, 2]]),
        ((-1, -1, -1, 3), (4, 8), ["4²", "8²"], [[1, 4, 4, 3], [1, 8, 8, 3]]),
    ],
)
def test_a_size_is_the_length_of_what_the_signature_leaves_open(
    shape: tuple[int, ...], sizes: tuple[int, ...], names: list[str], shapes: list[list[int]]
) -> None:
    found = asked("DT_FLOAT", shape, *sizes)
    assert [name for name, _, _ in found] == names
    for (_, tensor, column), expected in zip(found, shapes, strict=True):
        assert [one.size for one in tensor.tensor_shape.dim] == expected
        flat, level = column, expected
        while level:
            assert isinstance(flat, list)
            assert len(flat) == level[0]
            flat, level = flat[0], level[1:]
        assert len(tensor.tensor_content) == 4 * math.prod(expected)


def test_both_protocols_send_the_same_numbers() -> None:
    ((_, tensor, column),) = asked("DT_FLOAT", (-1, 20), 2)
    numbers = struct.unpack("<40f", tensor.tensor_content)
    assert [*numbers] == [number for row in cast("list[list[float]]", column) for number in row]
    assert len(set(numbers)) == 13


@pytest.mark.parametrize(("kind", "size"), [("DT_INT32", 4), ("DT_INT64", 8), ("DT_UINT8", 1)])
def test_whole_numbers_are_indices_that_every_table_has(kind: str, size: int) -> None:
    ((_, tensor, column),) = asked(kind, (-1, 2), 1)
    assert tensor.dtype == pb.DataType.Value(kind)
    assert (tensor.tensor_content, column) == (bytes(2 * size), [[0, 0]])


def test_a_string_is_an_encoded_picture_of_each_format() -> None:
    found = asked("DT_STRING", (-1,), 16)
    assert [name for name, _, _ in found] == ["16² PNG", "16² JPEG"]
    png, jpeg = (tensor.string_val[0] for _, tensor, _ in found)
    assert png.startswith(b"\x89PNG")
    assert jpeg.startswith(b"\xff\xd8\xff")
    assert [list(column[0]) for _, _, column in found] == [["b64"]] * 2  # type: ignore[index]


def test_a_png_is_larger_than_a_jpeg_as_of_a_photograph() -> None:
    assert len(picture(256, "PNG")) > 2 * len(picture(256, "JPEG"))


def test_without_pillow_pictures_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(FactoryError, match="Pillow") as raised:
        picture(16, "PNG")
    assert ".[report]" in raised.value.remedy


def test_rows_of_several_inputs_name_them() -> None:
    signature = Signature({"a": "DT_FLOAT", "b": "DT_INT32"}, {}, {"a": (-1, 2), "b": (-1,)})
    (one,) = inputs_for("model", signature, (2,))
    assert json.loads(one.rest)["instances"] == [{"a": [-0.75, 0.125], "b": 0}] * 2
    tensors = pb.PredictRequest.FromString(one.grpc).inputs
    assert {name: len(tensor.tensor_content) for name, tensor in tensors.items()} == {"a": 16, "b": 8}


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    signature = Signature({"a": "DT_FLOAT", "b": "DT_INT32"}, {}, {"a": (-1, 2), "b": (3,)})
    with pytest.raises(UsageError, match="same number of rows"):
        inputs_for("model", signature, (2,))


def test_an_input_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`--sizes 9999`: the input x would be \[1, 9999, 9999, 3\]"):
        asked("DT_FLOAT", (-1, -1, -1, 3), 9999)


def test_inputs_of_another_type_are_refused() -> None:
    with pytest.raises(UsageError, match="x is DT_HALF"):
        asked("DT_HALF", (-1, 2))


# --- rounds -----------------------------------------------------------------------------------------------------------


class Containers:
    """An engine whose images are fake servers, by the image's name."""

    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.specs: list[ContainerSpec] = []
        self.running: list[str] = []
        self.most = 0
        self.servers: list[FakeServing] = []

    @contextmanager
    def container(self, spec: ContainerSpec) -> Iterator[FakeContainer]:
        script = self.scripts[spec.image]
        with FakeServing(None, script.behaviour, model=servers.MODEL) as server:
            self.specs.append(spec)
            self.servers.append(server)
            self.running.append(spec.image)
            self.most = max(self.most, len(self.running))
            try:
                yield FakeContainer(script, server, spec)
            finally:
                self.running.remove(spec.image)


A, B = Subject(name="a", image="a", cpus=1), Subject(name="b", image="b", cpus=2.5)


def plan(tmp_path: Path, **changed: object) -> Plan:
    values: dict[str, object] = {
        "subjects": (A, B),
        "model": tmp_path,
        "sizes": (1,),
        "rounds": 2,
        "seconds": 0.03,
        "connections": 2,
        "rates": (100.0,),
    }
    return Plan(**{**values, **changed})  # type: ignore[arg-type]


def run(
    engine: Containers, planned: Plan, *, cancel: Cancel | None = None
) -> tuple[Measured, list[tuple[int, int, str]]]:
    steps: list[tuple[int, int, str]] = []
    measured = measure(
        cast("Engine", engine),
        planned,
        cancel=cancel or Cancel(),
        on_step=lambda done, of, text: steps.append((done, of, text)),
    )
    return measured, steps


def test_each_round_starts_all_and_sends_every_load_to_one_after_the_other(tmp_path: Path) -> None:
    engine = Containers(a=Script(), b=Script())
    measured, steps = run(engine, plan(tmp_path))
    loads = [Load(protocol, "1 row", rate) for protocol in (REST, GRPC) for rate in (None, 100.0)]
    assert measured.loads() == loads
    assert {key: len(found) for key, found in measured.samples.items()} == dict.fromkeys(
        itertools.product((A, B), loads), 2
    )
    assert {one.name: len(found) for one, found in measured.starts.items()} == {"a": 2, "b": 2}
    assert [spec.image for spec in engine.specs] == ["a", "b", "b", "a"]
    assert (engine.most, engine.running) == (2, [])
    assert [text.split(": ")[1] for _, _, text in steps[:6]] == [
        *("a starts", "b starts", "a, REST, 1 row", "b, REST, 1 row", "a, REST, 1 row", "b, REST, 1 row")
    ]
    assert [done for done, _, _ in steps] == [*range(len(steps))]
    assert steps[-1][1] == len(steps)


def test_a_subject_has_its_limits_and_its_model(tmp_path: Path) -> None:
    spec = Subject(name="a", image="i", cpus=2.5, gpu=GpuAccess.CDI).spec(tmp_path, "factory-test")
    options = spec.options("n")
    assert options["nano_cpus"] == 2_500_000_000
    assert options["device_requests"]
    assert options["environment"] == {"MODEL_NAME": "model", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    assert options["labels"] == {"org.serving-factory.owner": "factory-test"}
    assert Subject(name="a", image="i").spec(tmp_path, "x").options("n")["nano_cpus"] is None


def test_rates_that_are_not_set_are_shares_of_the_slowest(tmp_path: Path) -> None:
    measured, _ = run(Containers(a=Script(), b=Script()), plan(tmp_path, rates=None, rounds=2))
    first = Load(GRPC, "1 row")
    slowest = min(measured.samples[one, first][0].per_second for one in (A, B))
    rates = [load.rate for load in measured.loads() if load.protocol == GRPC and load.rate]
    assert rates == [float(f"{slowest * share:.2g}") for share in (0.5, 0.8)]
    assert all(len(found) == 2 for found in measured.samples.values()), "the rates are those of the first round"


def test_a_release_without_rest_is_asked_over_grpc_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_REST_PATIENCE", 0.05)
    without = Script(behaviour=Behaviour())

    class NoRest(Containers):
        @contextmanager
        def container(self, spec: ContainerSpec) -> Iterator[FakeContainer]:
            with super().container(spec) as container:
                if spec.image == "b":
                    container.server.rest_port = 1
                yield container

    measured, _ = run(NoRest(a=Script(), b=without), plan(tmp_path))
    assert measured.without_rest == {B}
    assert {load.protocol for one, load in measured.samples if one is B} == {GRPC}
    assert {load.protocol for one, load in measured.samples if one is A} == {REST, GRPC}


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (Script(behaviour=Behaviour(load_error="Op type not registered 'DecodePng'"), log="the log"), "DecodePng"),
        (Script(behaviour=Behaviour(signature="other")), "no signature serving_default, but other"),
        (Script(exits_with=78, behaviour=Behaviour(available=False)), "the container ended"),
        (Script(exits_at_port=1), "the container ended"),
    ],
)
def test_a_server_that_does_not_serve_the_model_ends_the_run(tmp_path: Path, script: Script, why: str) -> None:
    engine = Containers(a=Script(), b=script)
    with pytest.raises(ServerNotReadyError) as raised:
        run(engine, plan(tmp_path, subjects=(B,), patience=2.0))
    assert why in raised.value.what
    assert script.log in raised.value.why
    assert engine.running == []


def test_a_server_that_is_never_ready_ends_the_run_in_time(tmp_path: Path) -> None:
    with pytest.raises(ServerNotReadyError, match=r"not within 0\.1 s; last: NOT_FOUND: Servable"):
        run(Containers(a=Script(behaviour=Behaviour(available=False))), plan(tmp_path, subjects=(A,), patience=0.1))


def test_a_server_that_answers_no_request_ends_the_run_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: object) -> list[float]:
        raise LookupError("no kernel")

    monkeypatch.setattr(FakeServing, "predict", predict)
    engine = Containers(a=Script(log="a line of the log"))
    with pytest.raises(LoadError, match="a gave no usable answer") as raised:
        run(engine, plan(tmp_path, subjects=(A,)))
    assert "no kernel" in raised.value.why
    assert "a line of the log" in raised.value.why
    assert engine.running == []


def test_a_cancelled_run_leaves_no_container(tmp_path: Path) -> None:
    engine, cancel = Containers(a=Script(), b=Script()), Cancel()

    def on_step(done: int, _of: int, _text: str) -> None:
        if done == 5:
            cancel.ask()

    with pytest.raises(CancelledError):
        measure(cast("Engine", engine), plan(tmp_path), cancel=cancel, on_step=on_step)
    assert engine.running == []


def test_the_estimate_grows_with_all_that_is_measured(tmp_path: Path) -> None:
    one = plan(tmp_path, seconds=2.0, rates=(), rounds=1, subjects=(A,), protocols=(GRPC,))
    assert one.estimate(1) == 2.0 + 3.0
    assert plan(tmp_path, seconds=2.0, rates=None, rounds=3).estimate(2) == 3 * 2 * (2.0 + 2 * 2 * 7.0)
