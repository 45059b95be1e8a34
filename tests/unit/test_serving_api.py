"""The clients: what they put on the wire byte for byte, what they read back, and how they fail."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc
from packaging.version import Version

from serving_factory.smoke import messages_pb2 as pb
from serving_factory.smoke import saved_model_pb2
from serving_factory.smoke.answers import (
    ModelMetadata,
    ServerAnswerError,
    ServerUnavailableError,
    Signature,
    VersionStatus,
)
from serving_factory.smoke.grpc_client import GrpcClient
from serving_factory.smoke.rest_client import RestClient

from .fake_serving import MODEL, OLD, Behaviour, FakeServing
from .matrices import ROOT

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
    b"\x0a\x20"  # 1 model_spec, 32 bytes
    b"\x0a\x0dhalf_plus_two"  # 1 name
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

EXPECTED_METADATA = ModelMetadata(OLD, {"serving_default": Signature({"x": "DT_FLOAT"}, {"y": "DT_FLOAT"})})


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
        client.predict(MODEL, [1.0, 2.0, 5.0])
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


def fields(message: Descriptor) -> dict[str, tuple[int, int, bool]]:
    """Name -> number, wire kind, whether it is repeated; an enum is an int32 on the wire."""
    kinds = {FieldDescriptor.TYPE_ENUM: FieldDescriptor.TYPE_INT32}
    return {
        field.name: (field.number, kinds.get(field.type, field.type), field.is_repeated) for field in message.fields
    }


def test_the_messages_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """The sample's files are upstream's, in part; messages_pb2 was generated from messages.proto as it is now."""
    sample = ROOT / "samples" / "model_server"
    arguments = ["protoc", f"-I{sample}", f"-I{ROOT / 'src'}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    arguments += ["--include_imports", f"--descriptor_set_out={tmp_path / 'set'}"]
    ours = {one.DESCRIPTOR.name: one.DESCRIPTOR for one in (pb, saved_model_pb2)}
    sources = [*ours, *(str(path.relative_to(sample)) for path in sample.glob("tensorflow*/**/*.proto"))]
    assert protoc.main([*arguments, *sources]) == 0
    files = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)

    for compiled in (file for file in files if file.name in ours):
        for compiled_message in (nested for each in compiled.message_type for nested in (each, *each.nested_type)):
            for one in compiled_message.field:
                one.ClearField("json_name")
        assert FileDescriptorProto.FromString(ours[compiled.name].serialized_pb) == compiled, "generate the code again"
    upstream = {name.rpartition(".")[2]: name for file in files for name in _names(file) if "tensorflow" in name}
    compared = set()
    for name, message in (pair for one in ours.values() for pair in one.message_types_by_name.items()):
        if name in upstream or message.file is pb.DESCRIPTOR:
            known = fields(pool.FindMessageTypeByName(upstream[name]))
            # The sample leaves out what it has no use for of a SavedModel.
            read = {
                field: kind
                for field, kind in fields(message).items()
                if field in known or message.file is pb.DESCRIPTOR
            }
            assert read.items() <= known.items(), name
            compared.add(name)
    assert compared >= {"SavedModel", "MetaGraphDef", "GraphDef", "NodeDef"}
    types = dict(pb.DataType.items())
    theirs_by_name = pool.FindEnumTypeByName("tensorflow.DataType").values_by_name
    assert types.items() >= {name: value.number for name, value in theirs_by_name.items() if name in types}.items()


def _names(file: FileDescriptorProto) -> list[str]:
    return [f"{file.package}.{message.name}" for message in file.message_type]


def test_the_generated_messages_work_with_the_oldest_protobuf_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = next(found[1] for each in project["dependencies"] if (found := re.fullmatch("protobuf>=(.+)", each)))
    for file in (pb.__file__, saved_model_pb2.__file__):
        assert file
        made = re.search("Protobuf Python Version: (.+)", Path(file).read_text())
        assert made
        assert Version(made[1]) <= Version(oldest)


def test_grpc_status_bytes() -> None:
    with canned("ModelService/GetModelStatus", STATUS_RESPONSE) as (client, seen):
        assert client.model_status(MODEL) == [
            VersionStatus(123, "END", "NOT_FOUND: no model"),
            VersionStatus(124, "AVAILABLE"),
        ]
    assert seen == [SPEC]


def test_grpc_metadata_bytes() -> None:
    with canned("PredictionService/GetModelMetadata", METADATA_RESPONSE) as (client, seen):
        metadata = client.metadata(MODEL)
    assert seen == [SPEC + field(2, b"signature_def")]
    assert metadata == EXPECTED_METADATA


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


def test_grpc_without_a_server() -> None:
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


def test_both_protocols_agree(rest: RestClient, grpc_client: GrpcClient) -> None:
    for client in (rest, grpc_client):
        assert client.model_status(MODEL) == [VersionStatus(OLD, "AVAILABLE")]
        assert client.metadata(MODEL) == EXPECTED_METADATA


def test_rest_error_carries_code_and_words(rest: RestClient) -> None:
    with pytest.raises(ServerAnswerError, match="HTTP 404: Could not find any versions"):
        rest.model_status("other")


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


def test_rest_without_a_server() -> None:
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
