"""The clients: what they put on the wire byte for byte, what they read back, and how they fail."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from serving_factory.smoke.answers import (
    ModelMetadata,
    ModelState,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient

from .fake_serving import MODEL, OLD, Behaviour, FakeServing

if TYPE_CHECKING:
    from collections.abc import Iterator


def field(number: int, *parts: bytes) -> bytes:
    """A length-delimited field, by the protobuf encoding's rules; short ones only."""
    payload = b"".join(parts)
    length = len(payload)
    return (
        bytes([number << 3 | 2])
        + (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7]))
        + payload
    )


# Written by hand from the field numbers of upstream's .proto files: tag = number << 3 | wire type.
PREDICT_REQUEST = (
    b"\x0a\x24"  # 1 model_spec, 36 bytes
    b"\x0a\x0dhalf_plus_two"  # 1 name
    b"\x12\x02\x08\x7b"  # 2 version: Int64Value { 1 value: 123 }
    b"\x1a\x0fserving_default"  # 3 signature_name
    b"\x12\x1b"  # 2 inputs, an entry of 27 bytes
    b"\x0a\x01x"  # 1 key
    b"\x12\x16"  # 2 value: TensorProto, 22 bytes
    b"\x08\x01"  # 1 dtype DT_FLOAT
    b"\x12\x04\x12\x02\x08\x03"  # 2 tensor_shape { 2 dim { 1 size: 3 } }
    b"\x2a\x0c\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\xa0\x40"  # 5 float_val, packed: 1, 2, 5
)
SPEC = field(1, field(1, b"half_plus_two"))
THREE = b"\x08\x01\x12\x04\x12\x02\x08\x03"  # DT_FLOAT [3]
FLOATS = struct.pack("<3f", 2.5, 3.0, 4.5)
TENSOR_FORMS = {
    "typed": THREE + field(5, FLOATS),
    "raw": THREE + field(4, FLOATS),
    "with-unknown-fields": THREE + field(5, FLOATS) + field(15, b"\x01"),
}
STATUS_RESPONSE = field(1, b"\x08\x7b\x10\x32", field(3, b"\x08\x05", field(2, b"no model"))) + field(
    1, b"\x08\x7c\x10\x1e", field(3)
)
METADATA_RESPONSE = field(1, field(1, b"half_plus_two"), field(2, b"\x08\x7b")) + field(
    2,
    field(1, b"signature_def"),
    field(
        2,
        field(1, b"type.googleapis.com/tensorflow.serving.SignatureDefMap"),
        field(
            2,
            field(
                1,
                field(1, b"serving_default"),
                field(
                    2,
                    field(1, field(1, b"x"), field(2, field(1, b"x:0"), b"\x10\x01", field(3, field(2, b"\x08\x03")))),
                    field(2, field(1, b"y"), field(2, field(1, b"y:0"), b"\x10\x01", field(3, b"\x18\x01"))),
                    field(3, b"tensorflow/serving/predict"),
                ),
            ),
        ),
    ),
)

EXPECTED_METADATA = ModelMetadata(
    MODEL,
    OLD,
    {
        "serving_default": Signature(
            "tensorflow/serving/predict",
            {"x": TensorSpec("DT_FLOAT", (-1, 1))},
            {"y": TensorSpec("DT_FLOAT", (-1, 1))},
        )
    },
)


@pytest.fixture
def server() -> Iterator[FakeServing]:
    with FakeServing() as fake:
        yield fake


@pytest.fixture
def rest(server: FakeServing) -> Iterator[RestClient]:
    with RestClient(server.rest_address, timeout=2) as client:
        yield client


@pytest.fixture
def grpc_client(server: FakeServing) -> Iterator[GrpcClient]:
    with GrpcClient(server.grpc_address, timeout=2) as client:
        yield client


@contextmanager
def canned(method: str, answer: bytes | grpc.StatusCode) -> Iterator[tuple[GrpcClient, list[bytes]]]:
    """A client of a gRPC server that knows no messages: it keeps the bytes it gets and answers with the bytes given."""
    seen: list[bytes] = []

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(request)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "said so")
        return answer

    service, name = method.split("/")
    with ThreadPoolExecutor(max_workers=1) as pool:
        server = grpc.server(pool)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {name: grpc.unary_unary_rpc_method_handler(handle)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with GrpcClient(f"127.0.0.1:{port}", timeout=2) as client:
                yield client, seen
        finally:
            server.stop(0).wait()


def test_grpc_predict_request_has_upstreams_bytes() -> None:
    with canned("PredictionService/Predict", field(1, field(1, b"y"), field(2, TENSOR_FORMS["typed"]))) as (
        client,
        seen,
    ):
        client.predict(MODEL, [1.0, 2.0, 5.0], version=123)
    assert seen == [PREDICT_REQUEST]


@pytest.mark.parametrize("form", TENSOR_FORMS)
def test_grpc_predict_reads_every_form_of_a_tensor(form: str) -> None:
    with canned("PredictionService/Predict", field(1, field(1, b"y"), field(2, TENSOR_FORMS[form])) + SPEC) as (
        client,
        _,
    ):
        assert client.predict(MODEL, [1.0, 2.0, 5.0]) == [2.5, 3.0, 4.5]


def test_grpc_predict_repeats_a_single_value_to_fill_the_shape() -> None:
    answer = field(1, field(1, b"y"), field(2, THREE + field(5, struct.pack("<f", 7.0))))
    with canned("PredictionService/Predict", answer) as (client, _):
        assert client.predict(MODEL, [1.0, 2.0, 5.0]) == [7.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (b"\x08\x03\x12\x04\x12\x02\x08\x03", "DT_INT32"),
        (b"\x08\x63", "99"),
        (THREE + field(5, FLOATS[:8]), "2 values in a tensor for 3"),
        (THREE + field(4, FLOATS[:7]), "1 values in a tensor for 3"),
        (THREE, "0 values in a tensor for 3"),
    ],
)
def test_grpc_predict_refuses_a_tensor_that_is_not_the_answer(tensor: bytes, said: str) -> None:
    with (
        canned("PredictionService/Predict", field(1, field(1, b"y"), field(2, tensor))) as (client, _),
        pytest.raises(ServerAnswerError, match=said),
    ):
        client.predict(MODEL, [1.0, 2.0, 5.0])


def test_grpc_answer_that_is_no_message(caplog: pytest.LogCaptureFixture) -> None:
    with (
        canned("PredictionService/Predict", b"\xff\xff") as (client, _),
        pytest.raises(ServerAnswerError, match="malformed: 2 bytes that are no PredictResponse"),
    ):
        client.predict(MODEL, [1.0])
    assert not caplog.records


def test_grpc_predict_names_the_outputs_there_are() -> None:
    answer = field(1, field(1, b"z"), field(2, TENSOR_FORMS["raw"]))
    with (
        canned("PredictionService/Predict", answer) as (client, _),
        pytest.raises(ServerAnswerError, match=r"no output y, only \['z'\]"),
    ):
        client.predict(MODEL, [1.0])


def test_grpc_status_bytes() -> None:
    with canned("ModelService/GetModelStatus", STATUS_RESPONSE) as (client, seen):
        assert client.model_status(MODEL) == [
            VersionStatus(123, ModelState.END, "NOT_FOUND", "no model"),
            VersionStatus(124, ModelState.AVAILABLE, "OK", ""),
        ]
    assert seen == [SPEC]


def test_grpc_metadata_bytes() -> None:
    with canned("PredictionService/GetModelMetadata", METADATA_RESPONSE) as (client, seen):
        metadata = client.metadata(MODEL)
    assert seen == [SPEC + field(2, b"signature_def")]
    signature = Signature(
        "tensorflow/serving/predict", {"x": TensorSpec("DT_FLOAT", (3,))}, {"y": TensorSpec("DT_FLOAT", None)}
    )
    assert metadata == ModelMetadata(MODEL, 123, {"serving_default": signature})


def test_grpc_metadata_without_signatures_is_an_error() -> None:
    with (
        canned("PredictionService/GetModelMetadata", SPEC) as (client, _),
        pytest.raises(ServerAnswerError, match="metadata without signatures"),
    ):
        client.metadata(MODEL)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, ServerAnswerError),
        (grpc.StatusCode.INVALID_ARGUMENT, ServerAnswerError),
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailableError),
    ],
)
def test_grpc_statuses_become_errors(status: grpc.StatusCode, error: type[Exception]) -> None:
    with (
        canned("PredictionService/Predict", status) as (client, _),
        pytest.raises(error, match=f"{status.name}: said so"),
    ):
        client.predict(MODEL, [1.0])


def test_grpc_nobody_listens() -> None:
    with GrpcClient(f"127.0.0.1:{unused_port()}", timeout=2) as client, pytest.raises(ServerUnavailableError):
        client.model_status(MODEL)


def test_grpc_time_limit() -> None:
    with (
        silent_server() as port,
        GrpcClient(f"127.0.0.1:{port}", timeout=0.2) as client,
        pytest.raises(ServerUnavailableError, match="DEADLINE_EXCEEDED"),
    ):
        client.model_status(MODEL)


def test_grpc_ignores_a_proxy(server: FakeServing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with GrpcClient(server.grpc_address, timeout=2) as client:
        assert client.predict(MODEL, [1.0]) == [2.5]


def test_rest_predict_request_is_upstreams(server: FakeServing, rest: RestClient) -> None:
    assert rest.predict(MODEL, [1.0, 2.0, 5.0]) == [2.5, 3.0, 4.5]
    # Decimals also for whole numbers: servers before 1.11.0 refuse JSON integers for floats.
    assert server.requests == [("/v1/models/half_plus_two:predict", b'{"instances": [1.0, 2.0, 5.0]}')]


def test_rest_predict_with_version_and_signature(server: FakeServing, rest: RestClient) -> None:
    rest.predict(MODEL, [1], version=123, signature="regress_x_to_y")
    path, body = server.requests[0]
    assert path == "/v1/models/half_plus_two/versions/123:predict"
    assert json.loads(body) == {"instances": [1.0], "signature_name": "regress_x_to_y"}


def test_both_protocols_tell_the_same(rest: RestClient, grpc_client: GrpcClient) -> None:
    status = [VersionStatus(OLD, ModelState.AVAILABLE, "OK", "")]
    for client in (rest, grpc_client):
        assert client.model_status(MODEL) == status
        assert client.metadata(MODEL) == EXPECTED_METADATA


def test_rest_error_carries_code_and_words(rest: RestClient) -> None:
    with pytest.raises(ServerAnswerError, match="HTTP 404: Could not find any versions") as caught:
        rest.model_status("other")
    assert caught.value.code == "HTTP 404"
    assert caught.value.text.startswith("Could not find")


def test_rest_keeps_one_connection(server: FakeServing, rest: RestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    connect = http.client.HTTPConnection.connect

    def counted(connection: http.client.HTTPConnection) -> None:
        opened.append(connection.host)
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", counted)
    for _ in range(3):
        rest.predict(MODEL, [1.0])
    assert len(server.requests) == 3
    assert len(opened) == 1
    assert rest.reconnects == 0


def test_rest_asks_again_when_a_kept_connection_was_closed() -> None:
    with FakeServing(behaviour=Behaviour(drops_connections=True)) as server, RestClient(server.rest_address) as client:
        assert [client.predict(MODEL, [1.0]) for _ in range(3)] == [[2.5]] * 3
        assert client.reconnects == 2


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ServerAnswerError, "malformed: hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", ServerAnswerError, "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", ServerAnswerError, "malformed"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"predictions":["no"]}', ServerAnswerError, "malformed"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops", ServerAnswerError, "HTTP 502: oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", ServerUnavailableError, "IncompleteRead"),
        (b"SSH-2.0-OpenSSH\r\n", ServerUnavailableError, "SSH"),
        (b"", ServerUnavailableError, "closed connection without response"),
    ],
)
def test_rest_bad_answers(answer: bytes, error: type[Exception], said: str) -> None:
    with silent_server(answer) as port, RestClient(f"127.0.0.1:{port}") as client, pytest.raises(error, match=said):
        client.predict(MODEL, [1.0])


def test_rest_reads_nested_predictions() -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"predictions":[[2.5],[3]]}'
    with silent_server(answer) as port, RestClient(f"127.0.0.1:{port}") as client:
        assert client.predict(MODEL, [1.0, 2.0]) == [2.5, 3.0]


def test_rest_nobody_listens() -> None:
    with RestClient(f"127.0.0.1:{unused_port()}") as client, pytest.raises(ServerUnavailableError, match="refused"):
        client.model_status(MODEL)


def test_rest_time_limit() -> None:
    with (
        silent_server() as port,
        RestClient(f"127.0.0.1:{port}", timeout=0.1) as client,
        pytest.raises(ServerUnavailableError, match="timed out"),
    ):
        client.model_status(MODEL)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def silent_server(answer: bytes | None = None) -> Iterator[int]:
    """Accepts one connection; says nothing, or the bytes given after the request came, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(4096)
                while answer is not None and not request.endswith(b"}"):
                    # What is left unread turns the closing into a reset.
                    request += connection.recv(4096)
                if answer is None:
                    done.wait(5)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()
