"""The gateway of examples/: settings, what it makes of requests, batches, and its HTTP answers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
from gateway import serving_pb2 as pb
from gateway.app import Gateway, make_app
from gateway.batching import Batcher
from gateway.processing import Input, RefusedError, postprocess, preprocess
from gateway.serving import Serving
from gateway.settings import Mode, Settings, SettingsError, read_settings
from gateway.tensors import Array, UnknownTypeError, from_proto, to_proto
from PIL import Image
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from serving_factory.smoke import messages_pb2

FLOATS = Input(name="x", kind=np.float32, shape=(-1,))
IMAGES = Input(name="x", kind=np.float32, shape=(-1, 4, 6, 3))


def png(width: int, height: int, color: object = (255, 0, 0)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), cast("Any", color)).save(out, "PNG")
    return out.getvalue()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_variables_the_settings_are_the_defaults() -> None:
    assert read_settings({}) == read_settings({"MODE": "", "IMAGE": ""}) == Settings()


def test_variables_are_read() -> None:
    settings = read_settings({"MODE": "single", "IMAGE": "16x8x1", "DEADLINE_SECONDS": "0.5", "BATCH_ROWS": "32"})
    assert (settings.mode, settings.image, settings.deadline, settings.batch_rows) == (Mode.SINGLE, (16, 8, 1), 0.5, 32)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MODE", "both"),
        ("IMAGE", "16x8"),
        ("IMAGE", "16x8x4"),
        ("IMAGE", "0x8x1"),
        ("DEADLINE_SECONDS", "nan"),
        ("DEADLINE_SECONDS", "-1"),
        ("ATTEMPTS", "0"),
        ("MAX_BODY_BYTES", "10M"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("GATEWAY_PORT", "70000"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable) as error:
        read_settings({variable: text})
    assert repr(text) in str(error.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"MODE": "x", "ATTEMPTS": "x"})
    assert len(str(error.value).splitlines()) == 2


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pb.DT_FLOAT, pb.DT_DOUBLE, pb.DT_INT32, pb.DT_INT64, pb.DT_UINT8, pb.DT_BOOL])
def test_tensors_keep_their_values_and_shape(dtype: int) -> None:
    rows = np.array([[0, 1], [1, 0]])
    assert np.array_equal(from_proto(to_proto(rows, dtype)), rows)


def test_messages_are_those_that_the_smoke_checks_speak() -> None:
    ours, theirs = (
        {
            f"{name}.{field.name}": (field.number, field.type)
            for name, message in file.DESCRIPTOR.message_types_by_name.items()
            for field in message.fields
        }
        for file in (pb, messages_pb2)
    )
    assert theirs.items() <= ours.items()


def test_values_outside_of_tensor_content_are_read() -> None:
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=3)])
    assert from_proto(pb.TensorProto(dtype=pb.DT_INT64, tensor_shape=shape, int64_val=[7])).tolist() == [7, 7, 7]
    texts = pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape, string_val=[b"a", b"b", b"c"])
    assert from_proto(texts).tolist() == [b"a", b"b", b"c"]


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnknownTypeError, match="DT_COMPLEX64"):
        from_proto(pb.TensorProto(dtype=pb.DT_COMPLEX64))


# --- requests and answers ---------------------------------------------------------------------------------------------


def test_json_rows_become_the_models_type() -> None:
    rows = preprocess(b'{"instances": [1, 2.5]}', "application/json", FLOATS, Settings())
    assert rows.dtype == np.float32
    assert rows.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"instances": 1}',
        b'{"instances": []}',
        b'{"instances": [[1], [1, 2]]}',
        b'{"instances": ["a"]}',
    ],
)
def test_json_that_is_no_list_of_rows_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        preprocess(body, "application/json", FLOATS, Settings())
    assert refused.value.status == 400


def test_an_image_is_fitted_to_the_models_input() -> None:
    rows = preprocess(png(60, 40), "image/png", IMAGES, Settings())
    assert rows.shape == (1, 4, 6, 3)
    assert rows[0, 0, 0].tolist() == [1.0, 0.0, 0.0]


def test_an_image_for_a_model_of_flat_rows_has_the_size_of_the_settings() -> None:
    rows = preprocess(png(60, 40), "image/png", Input("x", np.uint8, (-1, 128)), Settings(image=(16, 8, 1)))
    assert rows.shape == (1, 128)
    assert rows.dtype == np.uint8


def test_a_model_that_decodes_images_gets_the_file() -> None:
    assert preprocess(png(2, 2), "image/png", Input("b", np.bytes_, (-1,)), Settings())[0] == png(2, 2)


@pytest.mark.parametrize(
    ("body", "content_type", "expected", "status"),
    [
        (png(30, 30), "image/png", IMAGES, 413),
        (png(3, 3)[:40], "image/png", IMAGES, 400),
        (png(3, 3), "image/jpeg", IMAGES, 400),
        (png(3, 3), "image/png", FLOATS, 415),
        (png(3, 3), "image/gif", IMAGES, 415),
        (png(3, 3), "", IMAGES, 415),
    ],
    ids=["pixels", "cut", "other-format", "no-size", "type", "no-type"],
)
def test_an_image_that_cannot_be_served_is_refused(
    body: bytes, content_type: str, expected: Input, status: int
) -> None:
    with pytest.raises(RefusedError) as refused:
        preprocess(body, content_type, expected, Settings(max_pixels=800))
    assert refused.value.status == status


def test_answers_are_tensorflow_servings() -> None:
    one, two = np.array([[1.0], [2.0]]), np.array([3, 4])
    assert postprocess({"y": one}) == {"predictions": [[1.0], [2.0]]}
    assert postprocess({"a": one, "b": two}) == {"predictions": [{"a": [1.0], "b": 3}, {"a": [2.0], "b": 4}]}


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(
    sizes: list[int], *, rows: int, predict: Callable[[Array], Awaitable[Mapping[str, Array]]] | None = None
) -> tuple[list[int], list[Any]]:
    """Send requests of these sizes at once; give the sizes of the calls, and what each request got."""
    calls: list[int] = []

    async def double(array: Array) -> Mapping[str, Array]:
        calls.append(len(array))
        return {"y": array * 2}

    async def run() -> list[Any]:
        batcher = Batcher(predict or double, rows=rows, delay=0.01)
        sent = [np.arange(100 * i, 100 * i + size) for i, size in enumerate(sizes)]
        return await asyncio.gather(*map(batcher.predict, sent), return_exceptions=True)

    return calls, asyncio.run(run())


def test_requests_at_once_share_calls_and_get_their_own_rows() -> None:
    calls, answers = batches([1, 2, 1, 3, 4, 5], rows=4)
    assert sorted(calls) == [3, 4, 4, 5]
    assert [answer["y"].tolist() for answer in answers] == [
        [2 * (100 * i + j) for j in range(size)] for i, size in enumerate([1, 2, 1, 3, 4, 5])
    ]


def test_without_batching_each_request_is_a_call() -> None:
    assert batches([1, 1], rows=1)[0] == [1, 1]


def test_what_went_wrong_with_a_batch_went_wrong_with_each_request() -> None:
    async def refuse(_: Array) -> Mapping[str, Array]:
        raise RefusedError(503, "gone")

    assert [answer.status for answer in batches([1, 1], rows=4, predict=refuse)[1]] == [503, 503]


def test_outputs_without_a_row_for_each_input_are_refused() -> None:
    async def one(_: Array) -> Mapping[str, Array]:
        return {"y": np.array([1.0])}

    assert [answer.status for answer in batches([1, 1], rows=2, predict=one)[1]] == [502, 502]


# --- HTTP -------------------------------------------------------------------------------------------------------------


class FakeServing:
    """Half plus two."""

    def __init__(self) -> None:
        self.ready = True
        self.go = asyncio.Event()
        self.go.set()

    async def model_input(self) -> Input:
        return FLOATS

    async def available(self) -> bool:
        return self.ready

    async def predict(self, rows: Array) -> Mapping[str, Array]:
        await self.go.wait()
        return {"y": rows / 2 + 2}


class Client:
    """Asks one server."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._client = AsyncHTTPClient(force_instance=True)

    async def fetch(self, path: str, body: bytes | None = None, *, in_chunks: bool = False) -> HTTPResponse:
        async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
            await write(body or b"")

        return await self._client.fetch(
            "http://{}:{}{}".format(*self.address, path),
            method="GET" if body is None else "POST",
            body=None if in_chunks else body,
            body_producer=produce if in_chunks else None,
            headers={"Content-Type": "application/json"},
            raise_error=False,
        )

    def close(self) -> None:
        self._client.close()


Story = Callable[[Gateway, FakeServing, Client], Awaitable[None]]


def serve(story: Story, settings: Settings) -> None:
    async def run() -> None:
        serving = FakeServing()
        gateway = Gateway(settings, cast("Serving", serving))
        server = HTTPServer(make_app(gateway), max_body_size=2**40)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        client = Client(sockets[0].getsockname())
        try:
            await story(gateway, serving, client)
        finally:
            server.stop()
            await server.close_all_connections()
            client.close()
            gateway.workers.shutdown()

    asyncio.run(run())


ROWS = b'{"instances": [1.0, 2.0, 5.0]}'


def test_a_request_is_answered_and_counted() -> None:
    async def story(gateway: Gateway, _: FakeServing, client: Client) -> None:
        answer = await client.fetch("/predict", ROWS)
        assert (answer.code, json.loads(answer.body)) == (200, {"predictions": [2.5, 3.0, 4.5]})
        assert gateway.running == 0
        assert b'gateway_requests_total{status="200"}' in (await client.fetch("/metrics")).body

    serve(story, Settings())


def test_what_the_model_cannot_take_is_the_clients_mistake() -> None:
    async def story(_: Gateway, __: FakeServing, client: Client) -> None:
        answer = await client.fetch("/predict", b"no")
        assert (answer.code, list(json.loads(answer.body))) == (400, ["error"])
        assert (await client.fetch("/predict")).code == 405

    serve(story, Settings())


def test_a_body_over_the_limit_is_refused_whether_its_size_is_announced_or_not() -> None:
    async def story(gateway: Gateway, _: FakeServing, client: Client) -> None:
        assert (await client.fetch("/predict", b"x" * 2000)).code == 413
        assert (await client.fetch("/predict", b"x" * 2000, in_chunks=True)).code == 413
        assert gateway.running == 0

    serve(story, Settings(max_body=1000))


def test_more_requests_than_allowed_are_refused_at_once() -> None:
    async def story(gateway: Gateway, serving: FakeServing, client: Client) -> None:
        serving.go.clear()
        first = asyncio.ensure_future(client.fetch("/predict", ROWS))
        while gateway.running == 0:
            await asyncio.sleep(0.001)
        second = await client.fetch("/predict", ROWS)
        assert (second.code, second.headers["Retry-After"]) == (503, "1")
        serving.go.set()
        assert (await first).code == 200
        assert (await client.fetch("/predict", ROWS)).code == 200

    serve(story, Settings(max_requests=1))


def test_health_and_readiness_differ_in_the_model() -> None:
    async def story(gateway: Gateway, serving: FakeServing, client: Client) -> None:
        assert [(await client.fetch(path)).code for path in ("/healthz", "/readyz")] == [200, 200]
        serving.ready = False
        assert [(await client.fetch(path)).code for path in ("/healthz", "/readyz")] == [200, 503]
        gateway.draining = True
        assert [(await client.fetch(path)).code for path in ("/healthz", "/readyz")] == [503, 503]
        assert (await client.fetch("/predict", ROWS)).code == 503

    serve(story, Settings())


def test_a_client_that_goes_in_the_middle_of_its_body_frees_its_place() -> None:
    async def story(gateway: Gateway, _: FakeServing, client: Client) -> None:
        host, port = client.address
        writer = (await asyncio.open_connection(host, port))[1]
        writer.write(b'POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"in\r\n')
        while gateway.running == 0:
            await asyncio.sleep(0.001)
        writer.close()
        end = asyncio.get_running_loop().time() + 5
        while gateway.running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.001)
        assert gateway.running == 0

    serve(story, Settings())
